"""What the inputs are made of: the golden streams, a small stream of our own, and documents built by hypothesis."""

from __future__ import annotations

import base64
import contextlib
import datetime
import io
import struct
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from swupd import archive, crypto, delta, envelope, heads, manifest, roots, tree
from swupd.agent.anchor import Floors, dump_floors
from swupd.lengths import Named
from swupd.manifest import Entry
from swupd.publickey import KeyHolder
from swupd.server import archiver
from tests import trees
from tests.conftest import DATA, GOLDEN

LARGEST = 300_000
"""Bytes of a seed: larger ones only cost time."""


@dataclass(frozen=True)
class Corpus:
    """Streams below a folder: the golden ones, and own/www of versions 10 and 20 with own/root-10."""

    base: Path

    def files(self, *patterns: str) -> list[bytes]:
        """The files of all streams that match, small ones first, each content once."""
        found = {f.read_bytes() for p in patterns for f in self.base.glob(f"*/www/{p}") if f.is_file()}
        return sorted((data for data in found if 0 < len(data) <= LARGEST), key=lambda data: (len(data), data))

    @property
    def www(self) -> Path:
        return self.base / "own/www"

    @property
    def root(self) -> Path:
        """The tree of version 10."""
        return self.base / "own/root-10"

    @cached_property
    def owned(self) -> tuple[Entry, ...]:
        """What is in that tree."""
        return manifest.parse((self.www / "10/Manifest.full").read_bytes(), "full").entries

    def packs(self) -> list[bytes]:
        """Packs as they are, and unpacked, where damage gets further."""
        return both(self.files("20/pack-*-from-*.tar", "10/pack-*-from-*.tar"))

    def deltas(self) -> list[tuple[str, bytes]]:
        """The deltas of our own packs with their names."""
        packs = [f.read_bytes() for f in sorted(self.www.glob("20/pack-*-from-10.*tar"))]
        members = ((m.name, b"".join(m.content)) for pack in packs for m in archive.members(io.BytesIO(pack), 2**30))
        return [(name[6:], data) for name, data in members if name.startswith("delta/") and data]

    def old(self, name: str) -> bytes:
        """The content that a delta of that name is for."""
        pair = delta.parse_name(name)
        found = next(e for e in self.owned if pair is not None and e.digest == pair[0])
        return (self.root / found.name[1:]).read_bytes()


def documents(_: Corpus) -> list[bytes]:
    """Signed documents: a root and a head, with one and with three signatures."""
    holders = [_holder(), _holder(), _holder()]
    return [
        envelope.serialize(_signed(envelope.Envelope(role, payload), some))
        for role in ("root", "head")
        for payload in payloads(_, role)
        for some in (holders[:1], holders)
    ]


def _signed(document: envelope.Envelope, holders: Iterable[KeyHolder]) -> envelope.Envelope:
    for holder in holders:
        document = document.signed_by(holder)
    return document


def _holder() -> KeyHolder:
    key = ed25519.Ed25519PrivateKey.generate()
    return KeyHolder(crypto.of(key.public_key()), crypto.raw_signer(key))


def payloads(_: Corpus, role: str) -> list[bytes]:
    """What a head or a root says."""
    when = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
    if role == "head":
        return [heads.payload(heads.Head(30, 20, "a" * 64, 100, when, when, "a/b", 10, {"percent": 10}))]
    keys = {h.public.id: h.public for h in (_holder(), _holder())}
    one = roots.Role(tuple(keys))
    delegation = roots.Delegation(("acme-*",), one, ("/opt/acme/",))
    named = dict.fromkeys(roots.ROLES, one)
    return [roots.payload(roots.Root(1, when, keys, named, some)) for some in ((), (delegation,))]


def floors(_: Corpus) -> list[bytes]:
    """What a device keeps."""
    seen = Floors(20, "a" * 64, 10**9, ("b" * 64,), {10: Named("c" * 64, 5)}, 10**9, "boot", 100)
    return [dump_floors(Floors()), dump_floors(seen)]


def tars(found: Corpus) -> list[bytes]:
    """Fullfiles, packed and not, and a tar with everything that our writer can say."""
    return [*both(found.files("20/files/*.tar")[::5]), _rich()]


def _rich() -> bytes:
    many = (
        tree.Node("/a", "F", 0o100755, 3_000_000, 3_000_000, 3, xattrs=(("security.x", b"\0\xff="), ("user.a", b"x"))),
        tree.Node("/b", "L", 0o120777, target="x" * 150),
        tree.folder_node("/c", 0o1777),
    )
    parts = [archiver.header(n.path[1:] * 120, n) + (b"abc".ljust(512, b"\0") if n.kind == "F" else b"") for n in many]
    return b"".join(parts) + bytes(1024)


def both(packed: Iterable[bytes]) -> list[bytes]:
    """The same archives as they are and without compression."""
    packed = list(packed)
    return [*packed, *unpacked(packed)]


def certificates(found: Corpus) -> list[bytes]:
    """The DER of certificates."""
    pems = (found.www.parent / "keys/release.pem", DATA / "Swupd_Root.pem")
    loaded = (x509.load_pem_x509_certificate(f.read_bytes()) for f in pems)
    return [c.public_bytes(serialization.Encoding.DER) for c in loaded]


def pem(der: bytes) -> bytes:
    """A certificate's text."""
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


def unpacked(packed: Iterable[bytes]) -> list[bytes]:
    """The same archives without compression, those of a sane size."""
    plain = (archive.Decompressed(io.BytesIO(data), 2**30).readall() for data in packed)
    return [data for data in plain if len(data) <= LARGEST]


def make(base: Path) -> Corpus:
    """Unpacks and publishes."""
    for name in GOLDEN:
        subprocess.run(["tar", "--numeric-owner", "-xJf", DATA / f"{name}.tar.xz", "-C", base], check=True)
    trees.two_versions(base / "own", signed=True)
    return Corpus(base)


def built(strategy: st.SearchStrategy[bytes], count: int, begin: int) -> list[bytes]:
    """So many examples of a strategy, the same for the same beginning."""
    found: list[bytes] = []

    @seed(begin)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def keep(data: bytes) -> None:
        found.append(data)

    keep()
    return found


_numbers = st.one_of(
    st.integers(0, 40).map(str),
    st.sampled_from(
        ["2147483647", "2147483648", "4294967296", "9223372036854775808", "+1", " 1", "1e3", "١", "-1", ""]
    ),
)
_digests = st.one_of(
    st.text("0123456789abcdef", min_size=64, max_size=64), st.text("0123456789abcdefABX \t", min_size=62, max_size=66)
)
_names = st.one_of(
    st.sampled_from(
        ["/usr/bin/a", "/usr/bin", "os-core", "/usr/../a", "/.swupd/x", "/a\0b", "/" + "a" * 4096, "..", ""]
    ),
    st.text(max_size=20),
)
_flags = st.one_of(
    st.sampled_from(["F...", "D...", "L...", "M...", ".d..", ".g..", "Fg..", "M.e."]), st.text(max_size=5)
)
_keys = st.sampled_from(["version", "previous", "minversion", "filecount", "timestamp", "contentsize", "includes", "x"])


@st.composite
def _manifests(draw: st.DrawFn) -> bytes:
    lines = [f"MANIFEST\t{draw(_numbers)}", f"version:\t{draw(_numbers)}"]
    lines += [f"{draw(_keys)}:\t{draw(_numbers)}" for _ in range(draw(st.integers(0, 5)))]
    lines += [""]
    lines += [
        f"{draw(_flags)}\t{draw(_digests)}\t{draw(_numbers)}\t{draw(_names)}" for _ in range(draw(st.integers(0, 4)))
    ]
    return "\n".join([*lines, ""]).encode("utf-8", "surrogatepass")


MANIFESTS = _manifests()
KEY_VALUES = st.lists(
    st.tuples(st.sampled_from(["VERSION_ID", "NAME", "url", "port", "format", "[global]", "[update]", "#"]), _numbers),
    max_size=6,
).map(lambda pairs: "".join(f"{key}={value}\n" for key, value in pairs).encode())
NUMBERS = st.lists(_numbers, max_size=3).map(lambda lines: "\n".join([*lines, ""]).encode())

_ODD = (
    "",
    "/etc/passwd",
    "a\0b",
    "x" * 5000,
    "../../escaped",
    "\udcff",
    "-1",
    "1e3",
    str(2**31),
    str(2**63),
    "+1",
    "0",
)
_RECORDS = ("path", "linkpath", "uid", "gid", "size", "mtime", "hdrcharset", "GNU.sparse.map", "GNU.sparse.major")
_XATTRS = ("user.a", "user.a\0b", "nonamespace", "security.capability", "", "user." + "x" * 300, "user.\udcff")
_records = st.dictionaries(
    st.one_of(
        st.sampled_from(_RECORDS),
        st.sampled_from(_XATTRS).map("SCHILY.xattr.".__add__),
        st.sampled_from(_XATTRS).map("LIBARCHIVE.xattr.".__add__),
    ),
    st.sampled_from(_ODD),
    max_size=3,
)


@st.composite
def _tars(draw: st.DrawFn) -> bytes:
    parts = []
    for _ in range(draw(st.integers(0, 3))):
        digest = draw(st.text("0123456789abcdef", min_size=64, max_size=64))
        info = tarfile.TarInfo(
            draw(st.sampled_from((f"staged/{digest}", f"delta/1-2-{digest}-{digest}", digest, *_ODD)))
        )
        info.type = draw(st.sampled_from(b"0012345670LKxgSV\0").map(lambda kind: bytes([kind])))
        info.linkname = draw(st.sampled_from(_ODD))
        content = draw(st.binary(max_size=40))
        info.size = draw(st.sampled_from((len(content), len(content), 2**31, 2**62))) if info.type == b"0" else 0
        form = draw(st.sampled_from((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)))
        head = _pax(draw(_records)) if form == tarfile.PAX_FORMAT else b""
        with contextlib.suppress(ValueError):
            parts += [head, info.tobuf(form, "utf-8", "surrogateescape"), content.ljust(512, b"\0") if content else b""]
    return b"".join(parts) + bytes(1024)


def _pax(records: dict[str, str]) -> bytes:
    body = b"".join(
        archiver._record(key.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape"))
        for key, value in records.items()
    )
    info = tarfile.TarInfo("PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, len(body)
    return (info.tobuf(tarfile.USTAR_FORMAT) + archiver._padded(body)) if records else b""


_lengths = st.one_of(
    st.integers(0, 1500),
    st.sampled_from([-1, -1000, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63)]),
)


@st.composite
def _deltas(draw: st.DrawFn) -> bytes:
    """A container of either form with lengths and control words that fit, or nearly."""
    triples = draw(st.lists(st.tuples(_lengths, _lengths, _lengths), max_size=4))
    control = b"".join(struct.pack("<qqq", *t) for t in triples)
    new = draw(st.one_of(st.just(sum(x + y for x, y, _ in triples) % 2**16), _lengths.map(lambda n: n % 2**16)))
    diff = bytes(max(0, min(5000, sum(x for x, _, _ in triples))))
    extra = bytes(max(0, min(5000, sum(y for _, y, _ in triples))))
    old, bits = draw(st.integers(0, 2000)), draw(st.sampled_from([1 | 1 << 5 | 1 << 10, 1, 0, 31, 0xFFFF, 1 << 4]))
    if draw(st.booleans()) and len(control) < 256:
        head = struct.pack(
            "<8sBBHHHHIIIH", b"BSDIFF4V", 32, len(control), len(diff), len(extra), old, new, 0, 0, 0, bits
        )
    else:
        sizes = (len(control), len(diff), len(extra), old, draw(st.sampled_from([new, 2**31, 2**32, 2**63])))
        head = struct.pack("<8sBIQQQQQIIIH", b"BSDIFF4U", 67, *sizes, 0, 0, 0, 0, bits)
    return head + control + diff + extra


TARS = _tars()
DELTAS = _deltas()
