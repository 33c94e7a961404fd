"""Bad inputs, each a bug that some updater once had, through the whole agent and over HTTP.

test_attacks has the attacks with a story; of the same list it has: objects swapped between check and use, packs with
objects that nobody lists, with devices, pipes, hard links and names that climb out, signatures of 0, 1, 63 and 65 bytes
of the MoM, bundle names and paths that lead out, the endless MoM, the line of the MoM that disagrees with the manifest,
and what was tampered with in the cache. test_source has the trickle, and tests/power the cut between saving and
verifying. Per-bundle keys, which may not ship security.* attributes, do not exist yet.
"""

from __future__ import annotations

import io
import lzma
import struct
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from backports import zstd

from swupd import archive, delta, paths, tree
from swupd.errors import ManifestError
from swupd.manifest import Entry
from swupd.server import archiver, signing, xz
from tests import builders, trees
from tests.agent.conftest import Published
from tests.agent.devices import Device, Done
from tests.agent.misbehaving import Answer, Handler, Told, folder, server
from tests.agent.spoiling import Bench, Change, field, header, replaced
from tests.agent.test_attacks import EVIL, info, refused, tar
from tests.test_delta import container, triples

HTTP = ("--allow-insecure-http", "--max-retries", "0")
TOOL = "/usr/bin/tool"
Spoil = Callable[[Bench], None]
_KEPT = frozenset({3, 10, 17, 25})
"""Refusals of a release that is signed and of one piece: it stays in the cache until a new version replaces it."""


@dataclass(frozen=True)
class Case:
    """seen: the bug's number or program. code: of the refusal; 0 where it must not matter. says: part of the error."""

    seen: str
    name: str
    spoil: Spoil
    code: int
    says: str = ""

    def __str__(self) -> str:
        return f"{self.seen}: {self.name}"[:120]


@pytest.fixture(scope="session")
def clean(installed: Device, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The tree of version 20 as nobody disturbs it."""
    device = installed.copy(tmp_path_factory.mktemp("clean"))
    device.ok("update")
    return device.tree()


@pytest.fixture
def bench(www: Path, published: Published, tmp_path: Path) -> Bench:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    return Bench(www, published.signer, outside)


@dataclass
class Site:
    """A device, and the server that it follows."""

    device: Device
    told: Told

    def update(self, *words: str) -> Done:
        return self.device.run("update", *HTTP, *words)


@pytest.fixture
def site(device: Device, www: Path) -> Iterator[Site]:
    with server(folder(www)) as told:
        yield Site(replace(device, url=told.url), told)


def elsewhere(bench: Bench) -> list[str]:
    """All that neither device nor state nor server own."""
    names = [str(f) for f in bench.outside.parent.iterdir()]
    return [*sorted(names), *trees.listing(bench.outside)]


def check(case: Case, bench: Bench, site: Site, published: Published, clean: list[str]) -> None:
    """The input is refused or passed over, nothing is written elsewhere, and the honest server's update works."""
    case.spoil(bench)
    before, around = site.device.tree(), elsewhere(bench)
    done = site.update()
    assert "Traceback" not in done.err
    if case.code:
        error = refused(done, case.code, site.device, before)
        assert case.says in error
    else:
        assert done.code == 0, done
        assert case.says in done.err
        assert site.device.tree() == clean
    assert elsewhere(bench) == around
    assert not Path("/escaped").exists()
    site.told.answers[:] = [folder(published.www)]
    if case.code in _KEPT:
        site.device.ok("clean", "--all", *HTTP)
    assert site.update().code == 0
    assert site.device.tree() == clean


def set_mom(change: Change) -> Spoil:
    return lambda bench: bench.mom(change)


def set_bundle(change: Change) -> Spoil:
    return lambda bench: bench.bundle(change)


def set_pack(change: Change) -> Spoil:
    return lambda bench: bench.packs(change)


def set_fullfiles(change: Change) -> Spoil:
    return lambda bench: bench.fullfiles(change)


SIZES = (2**31 - 1, 2**31, 2**32, 2**63)
RAUC = "CVE-2026-34155"
LARGE = [
    *(
        Case(RAUC, f"{key} {n} of a manifest", set_bundle(header(key, b"%d" % n)), 14)
        for key in ("version:", "MANIFEST")
        for n in SIZES[1:2]
    ),
    *(
        Case(RAUC, f"{key} {n} of the MoM", set_mom(header(key, b"%d" % n)), 4)
        for key in ("version:", "MANIFEST")
        for n in SIZES[1:]
    ),
    *(
        Case(RAUC, f"contentsize {n}", set_bundle(header("contentsize:", b"%d" % n)), code)
        for n, code in ((2**31, 0), (2**62, 25), (2**63, 14), (2**64, 14))
    ),
    *(
        Case(RAUC, f"timestamp {n}", set_bundle(header("timestamp:", b"%d" % n)), 14 if n == 2**63 else 0)
        for n in SIZES
    ),
    *(
        Case(RAUC, f"version {n} of an entry", set_bundle(field(TOOL, 2, b"%d" % n)), 0 if n == 2**31 - 1 else 14)
        for n in SIZES
    ),
    *(
        Case(RAUC, f"version {n} of a bundle", set_mom(field("docs", 2, b"%d" % n)), 0 if n == 2**31 - 1 else 4)
        for n in SIZES
    ),
    *(Case(RAUC, f"latest is {n}", lambda b, n=n: b.latest(b"%d\n" % n), 4 if n == 2**31 - 1 else 16) for n in SIZES),
    *(
        Case(RAUC, f"a pack's member of {n} bytes", set_pack(lambda data, n=n: _promising("staged/" + "0" * 64, n)), 0)
        for n in (*SIZES[:3], 2**62)
    ),
    *(
        Case(
            RAUC,
            f"a wanted member of {n} bytes",
            lambda b, n=n: b.packs(lambda _: _promising("staged/" + b.digest(TOOL), n)),
            0,
        )
        for n in (*SIZES[:3], 2**62)
    ),
    *(
        Case(RAUC, f"a file of {n} bytes", lambda b, n=n: b.fullfiles(lambda _: _promising(b.digest(TOOL), n)), 18)
        for n in (*SIZES[:3], 2**62)
    ),
    Case(
        RAUC,
        "bytes behind the signed MoM",
        lambda b: _unsigned(b, lambda data: data + b"F...\n"),
        21,
        "does not verify",
    ),
    Case(
        RAUC, "bytes before the signed MoM", lambda b: _unsigned(b, lambda data: b"x\n" + data), 21, "does not verify"
    ),
    Case(
        RAUC,
        "bytes behind the signed latest",
        lambda b: _append(b.www / "version/format30/latest", b"30\n"),
        21,
        "does not verify",
    ),
]


def _promising(name: str, size: int) -> bytes:
    """A tar of a few bytes whose member claims many."""
    made = tarfile.TarInfo(name)
    made.size, made.mode = size, 0o755
    return made.tobuf(tarfile.GNU_FORMAT) + EVIL.ljust(512, b"\0") + bytes(1024)


def _unsigned(bench: Bench, change: Change) -> None:
    """Changes the MoM under the old signature."""
    data = change((bench.release / "Manifest.MoM").read_bytes())
    bench.tar("MoM", lambda _: archiver.manifest_tar("Manifest.MoM", data))


def _append(file: Path, data: bytes) -> None:
    file.write_bytes(file.read_bytes() + data)


MENDER = "CVE-2025-67903"


def _sign_latest(signature: bytes) -> Spoil:
    return lambda bench: bench.www.joinpath("version/format30/latest.sig").write_bytes(signature) and None


def _sign_inside(*signatures: bytes) -> Spoil:
    """A MoM with these signatures in its archive, and none beside it."""

    def spoil(bench: Bench) -> None:
        data = (bench.release / "Manifest.MoM").read_bytes()
        (bench.release / "Manifest.MoM.sig").unlink()
        members = [("Manifest.MoM.sig", signature) for signature in signatures]
        bench.tar("MoM", lambda _: archiver.manifest_tar("Manifest.MoM", data, members))

    return spoil


SIGNATURES = [
    *(Case(MENDER, f"latest signed by {n} bytes", _sign_latest(b"\x30" * n), 21) for n in (0, 1, 63, 65)),
    *(Case(MENDER, f"MoM signed in its archive by {n} bytes", _sign_inside(b"\x30" * n), 21) for n in (0, 1, 63, 65)),
    Case("CVE-2016-1252", "two signed blocks", _sign_inside(b"\x30", b"\x30"), 21),
    Case(MENDER, "latest signed by 65 KiB", _sign_latest(b"\x30" * (65 << 10)), 17, "larger"),
    Case(MENDER, "an empty latest", lambda b: b.latest(b""), 16, "names no version"),
    Case(MENDER, "an empty MoM", set_mom(lambda data: b""), 4),
    Case(MENDER, "an empty manifest", set_bundle(lambda data: b""), 14),
    Case(MENDER, "a MoM without os-core", set_mom(replaced(b"\tos-core\n", b"\tos-gone\n")), 4, "no bundle os-core"),
]

NAMES = [
    b"",
    b"..",
    b".",
    b"a/b",
    b"/",
    b"../../escaped",
    b"a\0b",
    b"a\nb",
    b"a\tb",
    b" docs",
    b"docs ",
    b"x" * 201,
    b".new",
    b"\xff",
    "дocs".encode(),
]
BUNDLES = [
    *(Case("Mender", f"the MoM names a bundle {n[:20]!r}", set_mom(field("docs", 3, n)), 4) for n in NAMES),
    *(
        Case("Mender", f"a manifest includes {n[:20]!r}", lambda b, n=n: b.bundle(header("includes:", n), "editors"), 3)
        for n in NAMES[::4]
        if b"\n" not in n
    ),
    Case(
        "Mender",
        "a bundle twice",
        set_mom(lambda data: data + next(x for x in data.splitlines(True) if x.endswith(b"\tdocs\n"))),
        4,
        "twice",
    ),
]

ODD_NUMBERS = [
    b"",
    b"+1",
    b"-1",
    b"0",
    b" 1",
    b"1 ",
    b"1e3",
    b"0x14",
    b"1_0",
    b"20.0",
    b"\xd9\xa2\xd9\xa0",
    b"\xb2\xb0",
    b"9" * 5000,
    b"0" * 5000 + b"20",
]
NUMBERS = [
    *(
        Case(
            "CVE-2026-28525", f"latest is {n[:12]!r}", lambda b, n=n: b.latest(n[:4000] + b"\n"), 16, "names no version"
        )
        for n in ODD_NUMBERS
        if n.strip() == n
    ),
    *(
        Case("CVE-2026-28525", f"the MoM's version is {n[:12]!r}", set_mom(header("version:", n)), 4, "cannot be read")
        for n in ODD_NUMBERS
    ),
    *(
        Case("CVE-2026-28525", f"a manifest's version is {n[:12]!r}", set_bundle(header("version:", n)), 14)
        for n in ODD_NUMBERS[::4]
    ),
    *(
        Case("CVE-2026-28525", f"an entry's version is {n[:12]!r}", set_bundle(field(TOOL, 2, n)), 14)
        for n in ODD_NUMBERS[1::4]
    ),
]

GOOD = b"0123456789abcdef" * 4
HASHES = {
    "leading blank": b" " + GOOD[1:], "blank and all": b" " + GOOD, "tab": b"\t" + GOOD[1:], "upper case": GOOD.upper(),
    "short": GOOD[1:], "long": GOOD + b"0", "0x": b"0x" + GOOD[2:], "empty": b"", "trailing blank": GOOD[1:] + b" ",
    "unicode digits": "٣".encode() * 64, "NUL": GOOD[:32] + b"\0" + GOOD[33:], "sixty-four dots": b"." * 64,
}  # fmt: skip
DIGESTS = [
    *(Case("CVE-2020-7982", f"hash of a file: {n}", set_bundle(field(TOOL, 1, h)), 14) for n, h in HASHES.items()),
    *(
        Case("CVE-2020-7982", f"hash of a bundle: {n}", set_mom(field("docs", 1, h)), 4)
        for n, h in [*HASHES.items()][::3]
    ),
    Case("CVE-2020-7982", "hash of a file: zeros", set_bundle(field(TOOL, 1, b"0" * 64)), 17, TOOL),
]


def _path(path: bytes) -> Spoil:
    return set_bundle(field("/usr/share/demo/empty", 3, path))


PATHS = [
    Case("apk-tools", "a path of 4,097 bytes", _path(b"/usr/" + b"a/" * 2045 + b"aa"), 14, "longer than 4096"),
    Case("apk-tools", "a name of 4,091 bytes", _path(b"/usr/" + b"a" * 4091), 14, "longer than 255"),
    Case("apk-tools", "a name of 256 bytes", _path(b"/usr/" + b"a" * 256), 14, "longer than 255"),
    Case("apk-tools", "a line of 9,000 bytes", _path(b"/usr/" + b"a" * 9000), 14),
    Case("apk-tools", "the agent's own folder", _path(b"/.swupd/new/1"), 14, "own folder"),
    Case("apk-tools", "the agent's own folder, further down", _path(b"/usr/.swupd"), 14, "own folder"),
    Case("apk-tools", "NUL in a path", _path(b"/usr/a\0b"), 14, "control character"),
    Case("apk-tools", "newline in a path", _path(b"/usr/a\nb"), 14),
    Case("apk-tools", "tab in a path", _path(b"/usr/a\tb"), 14, "control character"),
    Case("apk-tools", "nothing but the root", _path(b"/"), 14),
]


def _changed(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 0xFF]) + data[len(data) // 2 + 1 :]


FRAMES: dict[str, Change] = {
    "an xz frame cut off": lambda data: data[: len(data) // 2],
    "a zstd frame cut off": lambda data: zstd.compress(lzma.decompress(data))[:-5],
    "a zstd frame with another head": lambda data: zstd.compress(lzma.decompress(data))[:4] + b"\xff" * 50,
    "a changed byte": _changed,
    "an empty file": lambda data: b"",
    "the head of a frame": lambda data: b"\xfd7zXZ\0",
    "a page": lambda data: b"<html>Please log in</html>" * 100,
}
HARMLESS_FRAMES: dict[str, Change] = {
    "another frame behind it": lambda data: data + xz.compress(bytes(2048)),
    "an empty frame before it": lambda data: lzma.compress(b"") + data,
    "zstd instead": lambda data: zstd.compress(lzma.decompress(data)),
    "two zstd frames": lambda data: (
        zstd.compress(lzma.decompress(data)[:512]) + zstd.compress(lzma.decompress(data)[512:])
    ),
    "an xz frame without its end": lambda data: data[:-12],
    "zeros behind it": lambda data: data + bytes(4096),
}


DPKG = "CVE-2026-2219"
ARCHIVES = [
    *(Case(DPKG, f"{what} of a pack", set_pack(f), 0) for what, f in (FRAMES | HARMLESS_FRAMES).items()),
    *(Case(DPKG, f"{what} of the files", set_fullfiles(f), 18) for what, f in FRAMES.items()),
    *(Case(DPKG, f"{what} of the files", set_fullfiles(f), 0) for what, f in [*HARMLESS_FRAMES.items()][:2]),
    *(Case(DPKG, f"{what} of the MoM", lambda b, f=f: b.tar("MoM", f), 4) for what, f in FRAMES.items()),
    *(Case(DPKG, f"{what} of the MoM", lambda b, f=f: b.tar("MoM", f), 0) for what, f in HARMLESS_FRAMES.items()),
    *(Case(DPKG, f"{what} of a manifest", lambda b, f=f: b.tar("os-core", f), 14) for what, f in FRAMES.items()),
    *(
        Case(DPKG, f"{what} of a manifest", lambda b, f=f: b.tar("os-core", f), 0)
        for what, f in [*HARMLESS_FRAMES.items()][2:4]
    ),
    Case(DPKG, "garbage behind a pack", set_pack(lambda data: data + b"garbage" * 999), 0),
    Case(
        "CVE-2022-1664",
        "a manifest under another name",
        lambda b: b.tar("os-core", lambda _: tar([info("../Manifest.os-core", content=b"x")])),
        14,
        "not in its archive",
    ),
    Case(
        "CVE-2022-1664",
        "a symlink for a manifest",
        lambda b: b.tar("os-core", lambda _: tar([info("Manifest.os-core", tarfile.SYMTYPE, target="/etc/passwd")])),
        14,
        "not in its archive",
    ),
]


def _two_packs(bench: Bench) -> None:
    """A symlink from the first pack, which the second wants to write through."""
    digest = bench.digest(TOOL)
    first = tar([info("staged/" + digest, tarfile.SYMTYPE, target=str(bench.outside))])
    second = tar([info(f"staged/{digest}/escaped", content=EVIL), info("staged/" + digest, content=EVIL)])
    packs = sorted(bench.release.glob("pack-*-from-10.*tar"))
    assert len(packs) > 1
    for number, pack in enumerate(packs):
        pack.write_bytes(second if number else first)


def _with_records(kind: bytes = tarfile.REGTYPE, **records: str) -> Spoil:
    def spoil(bench: Bench) -> None:
        member, content = info("staged/" + bench.digest(TOOL), kind, EVIL if kind == tarfile.REGTYPE else b"", "x")
        member.pax_headers = {key.replace("__", "."): value for key, value in records.items()}
        bench.packs(lambda _: tar([(member, content)]))

    return spoil


def _xattrs(*keys: str) -> Spoil:
    """Files with these attributes, in this order, of which no hash tells."""

    def change(data: bytes) -> bytes:
        found = archive.members(io.BytesIO(data), 2**30)
        ((name, node, content),) = ((m.name, m.node, b"".join(m.content)) for m in found)
        records = b"".join(archiver._record(b"SCHILY.xattr." + key.encode(), b"x") for key in keys)
        pax = tarfile.TarInfo("x")
        pax.type, pax.size = tarfile.XHDTYPE, len(records)
        head = pax.tobuf(tarfile.USTAR_FORMAT) + records.ljust(-(-len(records) // 512) * 512, b"\0")
        return head + archiver.header(name, node) + content + bytes(-len(content) % 512 + 1024)

    return set_fullfiles(change)


TARS = [
    Case("CVE-2025-4517", "a symlink from one pack, used by the next", _two_packs, 0),
    Case("CVE-2025-45582", "a symlink with NUL in its target", _with_records(tarfile.SYMTYPE, linkpath="a\0b"), 0),
    Case("CVE-2025-4330", "a symlink to a path of 5,000 bytes", _with_records(tarfile.SYMTYPE, linkpath="x" * 5000), 0),
    Case(
        "CVE-2025-4138",
        "an attribute with NUL in its name",
        _with_records(SCHILY__xattr__user__a="x", **{"SCHILY.xattr.a\0b": "x"}),
        0,
    ),
    Case("CVE-2025-4138", "an attribute of no name space", _with_records(SCHILY__xattr__odd="x"), 0),
    Case(
        "GNU tar",
        "a block device",
        lambda b: b.packs(lambda _: tar([info("staged/" + b.digest(TOOL), tarfile.BLKTYPE)])),
        0,
    ),
    Case(
        "GNU tar",
        "a file of another type",
        lambda b: b.packs(lambda _: tar([info("staged/" + b.digest(TOOL), b"V")])),
        0,
    ),
    Case(
        "GNU tar",
        "a device for a file",
        lambda b: b.fullfiles(lambda _: tar([info(b.digest(TOOL), tarfile.CHRTYPE)])),
        18,
    ),
    Case(
        "GNU tar",
        "a hard link for a file",
        lambda b: b.fullfiles(
            lambda _: tar([info(b.digest(TOOL), tarfile.LNKTYPE, target=str(b.outside / "precious"))])
        ),
        18,
    ),
    Case("OSTree", "attributes that the hash does not cover", _xattrs("user.a"), 30),
    Case("OSTree", "attributes twice", _xattrs("user.a", "user.a"), 30),
    Case("OSTree", "unsorted attributes", _xattrs("user.b", "user.a"), 30),
    Case("OSTree", "a capability", _xattrs("security.capability"), 30),
    Case(
        "OSTree", "a pack of a few bytes that unpacks to 2 GiB", set_pack(lambda data: _bomb("staged/" + "0" * 64)), 0
    ),
    Case(
        "OSTree",
        "a file of a few bytes that unpacks to 2 GiB",
        lambda b: b.fullfiles(lambda _: _bomb(b.digest(TOOL))),
        18,
    ),
]
_GIANT: dict[str, bytes] = {}


def _bomb(name: str) -> bytes:
    """A member of 2 GiB of zeros, as a frame of zstd repeats them."""
    if name not in _GIANT:
        made = tarfile.TarInfo(name)
        made.size, made.mode = 2**31, 0o755
        block = zstd.compress(bytes(2**24))
        _GIANT[name] = zstd.compress(made.tobuf(tarfile.GNU_FORMAT)) + block * 128
    return _GIANT[name]


CONTROLS = {
    "negative diff": (triples((-1, 11, 0)), 10), "negative extra": (triples((11, -1, 0)), 10),
    "overlapping": (triples((-5, 0, 5), (15, 0, -5)), 10), "before the old file": (triples((5, 0, -6), (5, 0, 0)), 10),
    "beyond the old file": (triples((5, 0, 2**40), (5, 0, 0)), 10), "beyond the new file": (triples((2**40, 0, 0)), 10),
    "a sum beyond 64 bits": (triples((2**62, 2**62, 0), (2**62, 2**62, 0)), 10), "no control": (b"", 10),
    "a new file of 2 GiB": (triples((2**31, 0, 0)), 2**31), "a new file of 2**63": (triples((2**62, 0, 0)), 2**63),
}  # fmt: skip


def _file_delta(control: bytes, new: int) -> Spoil:
    def spoil(bench: Bench) -> None:
        old = (bench.www.parent / "mine/device/usr/bin/tool").stat().st_size
        name = delta.name(10, 20, bench.digest(TOOL, 10), bench.digest(TOOL))
        made = container(control, bytes(20), bytes(20), old=old, new=new)
        bench.packs(lambda _: tar([info("delta/" + name, content=made)]))

    return spoil


def _manifest_delta(control: bytes, new: int) -> Spoil:
    def spoil(bench: Bench) -> None:
        old = len((bench.www / "10/Manifest.os-core").read_bytes())
        made = container(control, struct.pack("<Q", 2**31), b"", old, new, how=("none", "none", "none"))
        bench.deltas(lambda _: made)

    return spoil


BSPATCH = "CVE-2014-9862"
DELTAS = [
    *(Case(BSPATCH, f"a file's delta: {n}", _file_delta(c, new), 0) for n, (c, new) in CONTROLS.items()),
    *(
        Case(BSPATCH, f"a manifest's delta: {n}", _manifest_delta(c, new), 0)
        for n, (c, new) in [*CONTROLS.items()][::3]
    ),
    Case(BSPATCH, "a control block that begins outside", lambda b: b.deltas(lambda d: d[:8] + b"\xff" + d[9:]), 0),
    Case(BSPATCH, "deltas cut off", lambda b: b.deltas(lambda d: d[:-1]), 0),
]


@pytest.mark.parametrize(
    "case", [*LARGE, *SIGNATURES, *BUNDLES, *NUMBERS, *DIGESTS, *PATHS, *ARCHIVES, *TARS, *DELTAS], ids=str
)
def test_a_bad_input_is_refused_or_passed_over(
    case: Case, bench: Bench, site: Site, published: Published, clean: list[str]
) -> None:
    check(case, bench, site, published, clean)


def test_a_mom_and_its_signature_by_a_stranger_in_the_cache_are_dropped_and_fetched_anew(
    bench: Bench, site: Site, clean: list[str], tmp_path: Path
) -> None:
    # OSTree #1523: the two agree with each other, and with nobody else.
    site.update("--download")
    kept = site.device.cache / "manifest/20"
    data = (kept / "Manifest.MoM").read_bytes().replace(b"\tdocs\n", b"\tevil\n")
    (kept / "Manifest.MoM").write_bytes(data)
    (kept / "Manifest.MoM.sig").write_bytes(signing.sign(data, builders.keys(tmp_path / "stranger")))
    done = site.update()
    assert done.code == 0 and "does not verify; it is fetched again" in done.err
    assert site.device.tree() == clean
    assert b"evil" not in (kept / "Manifest.MoM").read_bytes()


def test_a_release_that_was_mended_and_signed_anew_is_not_held_against_its_old_mom(
    bench: Bench, site: Site, published: Published, clean: list[str]
) -> None:
    bench.bundle(field(TOOL, 1, b"bad"))
    assert site.update().code == 14
    site.told.answers[:] = [folder(published.www)]
    assert site.update().code == 0 and site.device.tree() == clean


def _redirecting(www: Path, to: str) -> Answer:
    """Sends whoever asks for the MoM elsewhere; to: {self} is the very address."""

    def answer(request: Handler) -> None:
        if request.path == "/20/Manifest.MoM.tar":
            request.send(302, Location=to.format(self=request.path))
        else:
            folder(www)(request)

    return answer


@pytest.mark.parametrize(
    ("to", "codes"),
    [
        ("/20/Manifest.MoM.tar%0aSet-Cookie:x", {4}),
        ("/20/%2e%2e/%2e%2e/etc/passwd", {4}),
        ("file:///etc/passwd", {17}),
        ("ftp://127.0.0.1/x", {17}),
        ("data:text/plain,x", {17}),
        ("javascript:x", {17}),
        ("{self}", {17}),
        ("http://127.0.0.1:1/x", {16}),
        ("http://[", {17}),
        ("http://127.0.0.1:99999/x", {16, 17}),
        ("", {4, 17}),
    ],
)
def test_a_redirect_to_nowhere_is_refused(  # CVE-2019-3462
    site: Site, bench: Bench, published: Published, clean: list[str], to: str, codes: set[int]
) -> None:
    site.told.answers[:] = [_redirecting(bench.www, to)]
    before, around = site.device.tree(), elsewhere(bench)
    done = site.update()
    assert done.code in codes, done
    refused(done, done.code, site.device, before)
    assert elsewhere(bench) == around and len(site.told.requests) < 20
    site.told.answers[:] = [folder(published.www)]
    assert site.update().code == 0 and site.device.tree() == clean


def test_a_redirect_to_another_host_is_believed_no_more_than_this_one(
    site: Site, bench: Bench, published: Published, clean: list[str]
) -> None:
    _unsigned(bench, lambda data: data + b"F...\n")
    before = site.device.tree()
    with server(folder(bench.www)) as evil:
        site.told.answers[:] = [_redirecting(published.www, evil.url + "/20/Manifest.MoM.tar")]
        refused(site.update(), 21, site.device, before)
    with server(folder(published.www)) as honest:
        site.told.answers[:] = [_redirecting(published.www, honest.url + "/20/Manifest.MoM.tar")]
        assert site.update().code == 0
    assert site.device.tree() == clean


@pytest.mark.parametrize("length", [2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**30])
def test_an_answer_that_promises_more_than_comes_is_refused(
    site: Site, bench: Bench, published: Published, clean: list[str], length: int
) -> None:
    def promising(request: Handler) -> None:
        if request.path == "/20/Manifest.MoM.tar":
            request.send(200, b"x", length)
        else:
            folder(bench.www)(request)

    site.told.answers[:] = [promising]
    before = site.device.tree()
    done = site.update()
    assert done.code in {4, 17}
    refused(done, done.code, site.device, before)
    site.told.answers[:] = [folder(published.www)]
    assert site.update().code == 0 and site.device.tree() == clean


@pytest.mark.parametrize("status", [204, 206, 416])
@pytest.mark.parametrize("what", ["/20/pack-", "/20/files/", "/20/Manifest.", "/version/"])
def test_an_odd_status_is_refused_or_passed_over(
    site: Site, bench: Bench, published: Published, clean: list[str], status: int, what: str
) -> None:
    def odd(request: Handler) -> None:
        if request.path.startswith(what):
            request.send(status)
        else:
            folder(bench.www)(request)

    if what == "/20/files/":
        bench.packs(lambda data: b"")
    site.told.answers[:] = [odd]
    before = site.device.tree()
    done = site.update()
    assert "Traceback" not in done.err
    if what == "/20/pack-":
        assert done.code == 0 and site.device.tree() == clean
    else:
        assert done.code in {4, 14, 16, 17, 18, 21}, done
        refused(done, done.code, site.device, before)
    site.told.answers[:] = [folder(published.www)]
    assert site.update().code == 0 and site.device.tree() == clean


def test_an_old_latest_does_not_take_the_device_back(site: Site, bench: Bench, clean: list[str]) -> None:
    # swupd 7.0.0: the signed latest of an earlier day, replayed.
    assert site.update().code == 0
    bench.latest(b"10\n")
    done = site.update()
    assert "Traceback" not in done.err
    assert site.device.tree() == clean


@pytest.mark.parametrize("url", ["{url}/%s%n%x", "{url}/%", "{url}/%00", "{url}/%2e%2e", "{url}/%zz", "{url}/{{0}}"])
def test_a_percent_sign_in_a_url_file_is_just_a_character(device: Device, www: Path, url: str) -> None:
    with server(folder(www)) as told:
        defaults = device.root / "usr/share/defaults/swupd"
        for name in ("versionurl", "contenturl"):
            (defaults / name).write_text(url.format(url=told.url) + "\n")
        before = device.tree()
        done = replace(device, url="").run("update", *HTTP)
    refused(done, 16, device, before)
    assert device.follow(www).run("update").code == 0


def test_a_missing_versionstamp_stops_nothing(site: Site, clean: list[str]) -> None:
    (site.device.root / paths.VERSIONSTAMP[1:]).unlink()
    assert site.update().code == 0
    assert site.device.tree() == clean


@pytest.mark.parametrize("stamp", ["99999999999", "4294967296", "2147483648"])
def test_a_build_of_the_far_future_finds_certificates_expired(
    site: Site, published: Published, clean: list[str], stamp: str
) -> None:
    file = site.device.root / paths.VERSIONSTAMP[1:]
    right = file.read_bytes()
    file.write_text(stamp)
    before = site.device.tree()
    assert "expired" in refused(site.update(), 21, site.device, before)
    file.write_bytes(right)
    assert site.update().code == 0 and site.device.tree() == clean


def test_a_clock_in_the_far_future_is_named(site: Site, clean: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before, now = site.device.tree(), time.time
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: now() + 50 * 365 * 86400)
        assert "check the clock" in refused(site.update(), 21, site.device, before)
    assert site.update().code == 0 and site.device.tree() == clean


@pytest.mark.parametrize("path", ["/var2/x", "/homes/x", "/running", "/tmpfiles", "/systems/x", "/device", "/rooted/x"])
def test_a_sibling_of_a_state_folder_is_not_in_it(path: str) -> None:
    # fwupd: /boot/efi2 is not below /boot/efi. (/data and /lost+found are prefixes, as in swupd-client.)
    assert not paths.is_state(path)


@pytest.mark.parametrize(
    "path", ["/etcetera/x", "/etc2", "/boot2/x", "/bootloader", "/usr/lib/modules2/x", "/usr/srcs/x"]
)
def test_a_sibling_of_another_folder_is_not_in_it(path: str) -> None:
    assert not (paths.is_config(path) or paths.is_boot(path) or paths.is_state(path))


@pytest.mark.parametrize("name", ["/.swupd2/x", "/usr/x.swupd", "/usr/.swupd-new/x", "/.swup"])
def test_a_name_like_the_agents_own_is_not_its_own(name: str) -> None:
    assert paths.problem(name) is None


@pytest.mark.parametrize("size", [2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63])
def test_sizes_of_objects_have_an_end(size: int) -> None:
    if size < 2**63:
        assert tree.file_node("/x", 0o644, size).size == size
    else:
        with pytest.raises(ValueError, match="out of range"):
            tree.file_node("/x", 0o644, size)


@pytest.mark.parametrize("owner", [2**32 - 1, 2**32, -1])
def test_what_chown_takes_for_nobody_is_no_owner(owner: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        tree.file_node("/x", 0o644, 0, uid=owner)


def test_a_hash_is_never_none() -> None:
    for hash_ in HASHES.values():
        with pytest.raises(ManifestError, match="is not a hash"):
            Entry("F", hash_.decode(), 10, "/x")
