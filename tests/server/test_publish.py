"""Whole releases from real folders: what is in the stream, that it is reproducible, and never half there."""

from __future__ import annotations

import dataclasses
import functools
import gc
import http.server
import io
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from swupd import archive, delta, hashing, manifest, patches, signatures, stream, tree
from swupd.errors import InvalidFile, InvalidOption, LockError, ManifestError, SignatureError, SwupdError
from swupd.manifest import Manifest
from swupd.server import fullfiles, history, lint, packs, publish, rootfs, writer
from swupd.server.history import FolderStore, Trusted, UrlStore
from tests import builders
from tests.builders import NOW, REST, File, Folder, Link

noise = random.Random(7).randbytes
BIG, LARGE = noise(30_000), noise(200_000)
TEXT = "".join(f"a line of text, number {i}\n" for i in range(2000))
FILES: dict[str, builders.Spec] = {
    "/usr/bin/big": File(BIG, 0o755),
    "/usr/bin/link": Link("big"),
    "/usr/bin/suid": File("suid", 0o4755, 5, 7),
    "/usr/lib/large": LARGE,
    "/usr/lib/kernel/k1": TEXT,
    "/usr/lib/libed.so.1": TEXT,
    "/usr/share/a file": "with a space",
    "/usr/share/\udcff": "not UTF-8",
    "/usr/share/ünï": b"",
    "/usr/share/gone/x": "x",
    "/var/tmp": Folder(0o1777),
    "/opt": Folder(),
    "/opt/ed": "editor",
    "/opt/shared": "shared",
}
CONTENT = {"os-core": REST, "editor": ["/opt/ed", "/opt/shared", "/usr/lib/libed.so.1"], "other": ["/opt/shared"]}
CHANGED: dict[str, builders.Spec] = {
    **{p: s for p, s in FILES.items() if p not in {"/usr/lib/libed.so.1", "/usr/share/gone/x", "/usr/lib/kernel/k1"}},
    "/usr/bin/big": File(BIG[:9000] + b"patched" + BIG[9000:], 0o755),
    "/usr/lib/libed.so.2": TEXT + "more",
    "/usr/lib/large": File(LARGE, 0o600),
    "/usr/share/moved": noise(500),
}
CHANGED_CONTENT = {**CONTENT, "editor": ["/opt/ed", "/opt/shared", "/usr/lib/libed.so.2"]}


def two_releases(base: Path, **options: object) -> Path:
    builders.release(base, 10, FILES, CONTENT, **options)
    builders.release(base, 20, CHANGED, CHANGED_CONTENT, previous_versions=1, **options)
    return base / "www"


def second_job(www: Path, rootfs: Path) -> publish.Job:
    files = builders.os_tree(20, CHANGED)
    return builders.job(www, 20, rootfs, files, CHANGED_CONTENT, previous_versions=1)


def digest_of_all(www: Path) -> dict[str, tuple[int, bytes]]:
    found = sorted(www.rglob("*"))
    return {str(p.relative_to(www)): (p.stat().st_mode, p.read_bytes() if p.is_file() else b"") for p in found}


def read(www: Path, version: int, bundle: str) -> Manifest:
    return manifest.parse((www / stream.manifest(version, bundle)).read_bytes(), bundle, version)


def members(place: Path) -> dict[str, tuple[tree.Node, bytes]]:
    opened = archive.members(io.BytesIO(place.read_bytes()), stream.MAX_PACK)
    return {m.name.rstrip("/"): (m.node, b"".join(m.content)) for m in opened}


def errors(www: Path) -> list[str]:
    found = lint.lint(www, NOW, deep=True)
    return [str(f) for f in found if f.severity == lint.ERROR]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Releases 10 and 20, unsigned; not to be changed."""
    return two_releases(tmp_path_factory.mktemp("published"))


def test_every_object_of_every_release_is_there_and_right(published: Path) -> None:
    assert errors(published) == []
    assert (published / "version/format30/latest").read_bytes() == b"20"
    assert (published / "version/latest_version").read_bytes() == b"20"
    assert (published / "20/format").read_bytes() == b"30"


def test_an_installation_from_fullfiles_is_the_published_tree(published: Path) -> None:
    root = tree.Root(published.parent / "root-20")
    shipped = {}
    for name in ("os-core", "editor", "other"):
        for entry in (e for e in read(published, 20 if name != "other" else 10, name).entries if e.present):
            packed = (published / stream.fullfile(entry.version, entry.digest)).read_bytes()
            shipped[entry.name] = history.unpacked_object(packed, entry.digest)
    with root:
        for node in tree.scan(root):
            found, content = shipped.pop(node.path)
            assert found._replace(path=node.path, mode=node.mode if node.kind == "L" else found.mode) == node
            assert content == b"".join(root.chunks(node) if node.kind == "F" else ())
    folders = {"/usr/share/clear/bundles"}
    assert set(shipped) - folders == {f"/usr/share/clear/bundles/{n}" for n in ("os-core", "editor", "other")}


def test_unchanged_bundles_are_not_written_again(published: Path) -> None:
    assert not (published / "20/Manifest.other").exists()
    assert {e.name: e.version for e in read(published, 20, "MoM").entries} == {"other": 10, "editor": 20, "os-core": 20}


def test_only_what_is_new_gets_a_fullfile(published: Path) -> None:
    wanted = {
        e.digest
        for name in ("os-core", "editor")
        for e in read(published, 20, name).entries
        if e.present and e.version == 20
    }
    assert {p.name for p in (published / "20/files").iterdir()} == {f"{digest}.tar" for digest in wanted}


def test_a_zero_pack_holds_the_whole_bundle(published: Path) -> None:
    for name in ("os-core", "editor"):
        digests = {e.digest for e in read(published, 20, name).entries if e.present}
        found = members(published / stream.pack(name, 20, 0))
        assert set(found) == {"delta", "staged"} | {f"staged/{digest}" for digest in digests}


def test_a_delta_pack_makes_every_new_object(published: Path) -> None:
    old = {e.digest: e for e in read(published, 10, "os-core").entries if e.present}
    wanted = {e.digest for e in read(published, 20, "os-core").entries if e.version == 20 and e.present}
    made = set()
    for name, (node, content) in members(published / stream.pack("os-core", 20, 10)).items():
        folder, _, rest = name.partition("/")
        pair = delta.parse_name(rest)
        if folder == "staged" and rest:
            made.add(hashing.digest(node, [content]))
        elif pair is not None:
            packed = (published / stream.fullfile(old[pair[0]].version, pair[0])).read_bytes()
            patched = patches.apply(content, history.unpacked_object(packed, pair[0])[1])
            new = tree.Node("/x", "F", patched.mode, patched.uid, patched.gid, len(patched.content))
            assert hashing.digest(new, [patched.content]) == pair[1]
            made.add(pair[1])
    assert made == wanted


def test_a_renamed_library_is_a_delta(published: Path) -> None:
    found = members(published / stream.pack("editor", 20, 10))
    assert [name.partition("/")[0] for name in found] == ["delta", "staged", "delta"]


def test_old_formats_have_no_deltas_across_names(tmp_path: Path) -> None:
    builders.release(tmp_path, 10, FILES, CONTENT, stream_format=4)
    builders.release(tmp_path, 20, CHANGED, CHANGED_CONTENT, stream_format=4, previous_versions=1)
    found = members(tmp_path / "www" / stream.pack("editor", 20, 10))
    assert [name.partition("/")[0] for name in found] == ["delta", "staged", "staged"]


def test_no_delta_where_xattrs_differ(tmp_path: Path) -> None:
    with_xattr = File(BIG, xattrs=(("user.a", b"1"),))
    builders.release(tmp_path, 10, {"/x": with_xattr}, {"os-core": REST})
    builders.release(tmp_path, 20, {"/x": BIG + b"more"}, {"os-core": REST}, previous_versions=1)
    assert not [n for n in members(tmp_path / "www" / stream.pack("os-core", 20, 10)) if n.startswith("delta/")]


def test_xattrs_are_carried_unless_they_are_not_wanted(tmp_path: Path) -> None:
    tagged = {"/x": File("x", xattrs=(("user.a", b"1"), ("user.b", b"")))}
    for name, wanted in (("with", True), ("without", False)):
        builders.release(tmp_path / name, 10, tagged, {"os-core": REST}, xattrs=wanted)
        mom = read(tmp_path / name / "www", 10, "MoM")
        assert mom.header("xattrs") == ("hashed" if wanted else "ignored")
        entry = next(e for e in read(tmp_path / name / "www", 10, "os-core").entries if e.name == "/x")
        packed = (tmp_path / name / "www" / stream.fullfile(10, entry.digest)).read_bytes()
        node, _ = history.unpacked_object(packed, entry.digest)
        assert node.xattrs == ((("user.a", b"1"), ("user.b", b"")) if wanted else ())


def test_access_lists_are_warned_of(tmp_path: Path) -> None:
    """swupd-client unpacks none, and refuses what its manifest promises with one."""
    nobody = 2**32 - 1
    entries = ((1, 6, nobody), (2, 4, 0), (4, 4, nobody), (16, 4, nobody), (32, 4, nobody))
    words = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    listed = File("x", xattrs=(("system.posix_acl_access", words),))
    try:
        root = builders.make_tree(tmp_path / "root", builders.os_tree(10, {"/usr/share/listed": listed}, 30))
    except OSError:
        pytest.skip("the file system has no access lists")
    for xattrs in (True, False):
        ear = Ear()
        rootfs.scan(root, (), xattrs, ear)
        assert [w for w in ear.warnings if "'/usr/share/listed'" in w and "setfacl" in w] == ear.warnings
        assert bool(ear.warnings) == xattrs


def test_manifest_deltas_lead_from_one_manifest_to_the_next(published: Path) -> None:
    made = patches.apply(
        (published / stream.manifest_delta(20, "os-core", 10)).read_bytes(),
        (published / stream.manifest(10, "os-core")).read_bytes(),
    )
    assert made.content == (published / stream.manifest(20, "os-core")).read_bytes()
    assert (made.mode, made.uid, made.gid) == (0o100644, 0, 0)


def test_the_same_input_gives_the_same_bytes_in_any_folder_with_any_number_of_jobs(
    tmp_path: Path, published: Path
) -> None:
    base = tmp_path / "some" / "other" / "place"
    old_umask = os.umask(0o077)
    try:
        for version, files, content in ((10, FILES, CONTENT), (20, CHANGED, CHANGED_CONTENT)):
            rootfs = builders.make_tree(base / f"r{version}", builders.os_tree(version, files))
            todo = builders.job(base / "www", version, rootfs, builders.os_tree(version, files), content)
            builders.run(dataclasses.replace(todo, previous_versions=version // 20), jobs=1 + 3 * (version // 20))
    finally:
        os.umask(old_umask)
    assert digest_of_all(base / "www") == digest_of_all(published)


def test_signed_releases_verify(tmp_path: Path) -> None:
    signer, build = builders.keys(tmp_path), builders.keys(tmp_path, "build")
    www = two_releases(tmp_path, signer=signer, manifest_signer=build)
    trust = signatures.load_trust((tmp_path / "release.pem").read_bytes(), NOW)
    build_trust = signatures.load_trust((tmp_path / "build.pem").read_bytes(), NOW)
    for name in ("20/Manifest.MoM", "version/format30/latest", "version/latest_version"):
        signatures.verify((www / name).read_bytes(), (www / f"{name}.sig").read_bytes(), trust, NOW)
    data = (www / "20/Manifest.os-core").read_bytes()
    signatures.verify(data, (www / "20/Manifest.os-core.sig").read_bytes(), build_trust, NOW)
    assert list(members(www / "20/Manifest.MoM.tar")) == ["Manifest.MoM", "Manifest.MoM.sig"]
    assert lint.lint(www, NOW, trust, deep=True) == ()


def test_an_expired_certificate_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    expired = builders.keys(tmp_path, days=10)
    with pytest.raises(SignatureError, match="expired on 2020-01-11"):
        builders.release(tmp_path, 10, FILES, CONTENT, signer=expired)
    assert not (tmp_path / "www").exists()


@pytest.mark.parametrize("version", [5, 20])
def test_versions_only_grow(tmp_path: Path, published: Path, version: int) -> None:
    www = shutil.copytree(published, tmp_path / "www")
    before = digest_of_all(www)
    with pytest.raises(InvalidOption, match=f"version {version} is not greater than the last one, 20"):
        builders.release(tmp_path, version, FILES, CONTENT)
    assert digest_of_all(www) == before


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"/usr/lib/os-release": "VERSION_ID=9\n"}, "says VERSION_ID=9, but the release is 10"),
        ({"/usr/lib/os-release": 'VERSION_ID="12"\n'}, "says VERSION_ID=12"),
        ({"/usr/share/defaults/swupd/format": "29"}, "says '29', but the stream's format is 30"),
        ({"/usr/share/clear/bundles/os-core": Folder()}, "must be a regular file"),
    ],
)
def test_a_tree_that_contradicts_the_release_is_refused(
    tmp_path: Path, files: dict[str, builders.Spec], message: str
) -> None:
    with pytest.raises(InvalidFile, match=message):
        builders.release(tmp_path, 10, FILES | files, CONTENT)
    assert not (tmp_path / "www").exists()


class Ear:
    """A report that remembers warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def phase(self, name: str, done: int, total: int) -> None: ...

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_what_a_stream_cannot_carry_is_left_out_with_a_warning(tmp_path: Path) -> None:
    files = builders.os_tree(10, {"/dev/x": None, "/a\tb/c": "tab", "/tmp/skipped/x": "", "/keep.pyc": ""})
    rootfs = builders.make_tree(tmp_path / "root", files)
    os.mkfifo(rootfs / "dev/pipe")
    ear = Ear()
    listed = {**files, "/dev/pipe": None}
    todo = builders.job(tmp_path / "www", 10, rootfs, listed, {"os-core": REST}, exclude=("/tmp/skipped", "*.pyc"))
    builders.run(todo, report=ear)
    names = {e.name for e in read(tmp_path / "www", 10, "os-core").entries}
    assert "/dev/x" in names
    assert not {n for n in names if n.startswith(("/tmp/skipped", "/dev/pipe", "/a\t", "/keep"))}
    assert [w for w in ear.warnings if "/dev/pipe" in w]
    assert [w for w in ear.warnings if "TAB" in w]


def test_the_timestamp_comes_from_the_job_the_stamp_or_the_newest_file(tmp_path: Path) -> None:
    builders.release(tmp_path / "a", 10, {}, {"os-core": REST})
    builders.release(tmp_path / "b", 10, {}, {"os-core": REST}, timestamp=5)
    tree_without = {"/x": "x", "/y": "y"}
    rootfs = builders.make_tree(tmp_path / "c/root", tree_without)
    os.utime(rootfs / "x", (77, 77))
    os.utime(rootfs / "y", (99, 99))
    builders.run(builders.job(tmp_path / "c/www", 10, rootfs, tree_without, {"os-core": REST}))
    stamps = [read(tmp_path / n / "www", 10, "MoM").timestamp for n in "abc"]
    assert stamps == [builders.STAMP + 10, 5, 99]


def test_a_failure_leaves_the_stream_as_it_was(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    www = shutil.copytree(published, tmp_path / "www")
    before = digest_of_all(www)
    with monkeypatch.context() as patch:
        patch.setattr(writer.Staging, "commit", lambda _: (_ for _ in ()).throw(SwupdError("no")))
        with pytest.raises(SwupdError):
            builders.release(tmp_path, 30, FILES, CONTENT)
    assert digest_of_all(www) == before


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
from pathlib import Path
from swupd.server import writer
from tests import builders
from tests.server import test_publish as t
seen = 0
def dying(function):
    def wrapper(*args, **kwargs):
        global seen
        seen += 1
        if seen == {count}:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapper
{point} = dying({point})
builders.run(t.second_job(Path({www!r}), Path({root!r})))
"""


@pytest.mark.parametrize(
    ("point", "count", "published_already"),
    [
        ("writer.put", 3, False),
        ("writer.put", 20, False),
        ("writer.Staging.commit", 1, False),
        ("writer.announce", 1, False),
        ("writer.announce", 3, False),
        ("os.replace", 9999, True),
    ],
)
def test_a_killed_publish_leaves_the_old_latest_and_can_be_run_again(
    tmp_path: Path, published: Path, point: str, count: int, published_already: bool
) -> None:
    www = tmp_path / "www"
    shutil.copytree(published / "10", www / "10")
    (www / "version/format30").mkdir(parents=True)
    (www / "version/format30/latest").write_bytes(b"10")
    (www / "version/latest_version").write_bytes(b"10")
    here = Path(__file__).parents[2]
    code = KILLED.format(
        path=[str(here), str(here / "lib")],
        point=point,
        count=count,
        www=str(www),
        root=str(published.parent / "root-20"),
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == (0 if published_already else -signal.SIGKILL), done.stderr.decode()
    assert (www / "version/format30/latest").read_bytes() == (b"20" if published_already else b"10")
    if not published_already:
        builders.run(second_job(www, published.parent / "root-20"))
    assert {k: v[1] for k, v in digest_of_all(www).items()} == {k: v[1] for k, v in digest_of_all(published).items()}


def test_two_publishers_keep_out_of_each_others_way(tmp_path: Path) -> None:
    with writer.locked(tmp_path / "www"), pytest.raises(LockError, match="another publish"):
        builders.release(tmp_path, 10, FILES, CONTENT)


def test_a_stream_that_lost_its_latest_is_not_overwritten(tmp_path: Path, published: Path) -> None:
    www = shutil.copytree(published, tmp_path / "www")
    shutil.rmtree(www / "version")
    with pytest.raises(InvalidOption, match="holds release 20, but no version/format30/latest"):
        builders.release(tmp_path, 10, FILES, CONTENT)


def test_minversion_needs_nothing_older(tmp_path: Path) -> None:
    builders.release(tmp_path, 10, FILES, CONTENT)
    builders.release(tmp_path, 20, CHANGED, CHANGED_CONTENT, minversion=20, previous_versions=1)
    www = tmp_path / "www"
    entries = [e for n in CONTENT for e in read(www, 20, n).entries if e.present]
    assert {e.version for e in entries} == {20}
    assert read(www, 20, "MoM").minversion == 20
    assert errors(www) == []
    # What devices have already is renewed in the manifest only.
    assert not (www / stream.pack("other", 20, 10)).exists()


def bump(base: Path, **options: object) -> Path:
    """10 and 20 in format 30, then 40 in format 31 without the bundle `other`."""
    two_releases(base)
    content = {name: files for name, files in CHANGED_CONTENT.items() if name != "other"}
    builders.release(base, 40, CHANGED, content, stream_format=31, previous_versions=2, **options)
    return base / "www"


def test_a_change_of_format_makes_an_interim_release(tmp_path: Path) -> None:
    www = bump(tmp_path)
    assert (www / "version/format30/latest").read_bytes() == b"39"
    assert (www / "version/format31/latest").read_bytes() == b"40"
    interim, last = read(www, 39, "MoM"), read(www, 40, "MoM")
    assert (interim.format, interim.previous, last.format, last.previous) == (30, 20, 31, 20)
    assert last.minversion == 40
    emptied = read(www, 39, "other")
    assert not [e for e in emptied.entries if e.present]
    assert [e.name for e in last.entries] == ["editor", "os-core"]
    assert not [e for n in ("os-core", "editor") for e in read(www, 40, n).entries if not e.present]
    assert (www / stream.pack("os-core", 39, 20)).exists()
    assert {p.name for p in (www / "40").glob("pack-*.tar")} == {f"pack-{n}-from-0.tar" for n in ("editor", "os-core")}
    assert errors(www) == []


def test_a_change_of_format_that_was_killed_between_its_two_releases_goes_on(tmp_path: Path) -> None:
    whole = bump(tmp_path / "whole")
    torn = shutil.copytree(whole, tmp_path / "torn/www", symlinks=True)
    shutil.rmtree(torn / "version/format31")
    (torn / "version/latest_version").write_bytes(b"20")
    content = {name: files for name, files in CHANGED_CONTENT.items() if name != "other"}
    builders.release(tmp_path / "torn", 40, CHANGED, content, stream_format=31)
    assert digest_of_all(torn) == digest_of_all(whole)
    shutil.rmtree(torn / "version/format31")
    (torn / "version/latest_version").write_bytes(b"39")
    with pytest.raises(InvalidOption, match="interim one before release 40"):
        builders.release(tmp_path / "torn", 50, CHANGED, content, stream_format=31)


def test_after_a_change_of_format_the_stream_goes_on_in_the_new_one(tmp_path: Path) -> None:
    www = bump(tmp_path)
    content = {name: files for name, files in CHANGED_CONTENT.items() if name != "other"}
    builders.release(tmp_path, 50, FILES, CONTENT | content | {"editor": ["/opt/ed"]}, stream_format=31)
    assert read(www, 50, "MoM").previous == 40
    with pytest.raises(InvalidOption, match="at format 31 already"):
        builders.release(tmp_path, 60, FILES, CONTENT, stream_format=30)


def test_an_interim_release_needs_room(tmp_path: Path) -> None:
    builders.release(tmp_path, 10, FILES, CONTENT)
    with pytest.raises(InvalidOption, match="interim release between 10 and 11"):
        builders.release(tmp_path, 11, FILES, CONTENT, stream_format=31)


@pytest.fixture
def served(published: Path) -> Iterator[str]:
    """The URL of a folder that holds the stream as `www`."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    handler = functools.partial(Handler, directory=str(published))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_release_can_follow_one_that_is_only_at_a_url(tmp_path: Path, published: Path, served: str) -> None:
    local = shutil.copytree(published, tmp_path / "local/www")
    for base, previous in ((tmp_path / "local", None), (tmp_path / "far", UrlStore(served))):
        builders.release(base, 30, FILES, CONTENT, previous=previous, previous_versions=2)
    far = digest_of_all(tmp_path / "far/www")
    assert {name.split("/")[0] for name in far} == {"30", "version"}
    near = digest_of_all(local)
    assert far == {name: near[name] for name in far}
    assert "30/pack-os-core-from-20.tar" in far
    assert "30/pack-os-core-from-10.tar" in far


def test_a_release_before_with_a_wrong_signature_is_refused(tmp_path: Path) -> None:
    signer = builders.keys(tmp_path)
    builders.keys(tmp_path, "stranger")
    builders.release(tmp_path, 10, FILES, CONTENT, signer=signer)
    stranger = signatures.load_trust((tmp_path / "stranger.pem").read_bytes(), NOW)
    with pytest.raises(SignatureError):
        builders.release(tmp_path, 20, CHANGED, CHANGED_CONTENT, trust=stranger)


def test_a_damaged_release_before_is_refused(tmp_path: Path, published: Path) -> None:
    www = shutil.copytree(published, tmp_path / "www")
    place = www / "20/Manifest.os-core"
    place.write_bytes(place.read_bytes().replace(b"/usr/bin/big", b"/usr/bin/bad"))
    with pytest.raises(SwupdError, match="not what its MoM promises"):
        builders.release(tmp_path, 30, FILES, CONTENT)


def test_a_missing_old_fullfile_costs_a_delta_and_nothing_else(tmp_path: Path, published: Path) -> None:
    www = shutil.copytree(published, tmp_path / "www")
    for place in (www / "20/files").iterdir():
        place.write_bytes(b"damaged")
    builders.release(tmp_path, 30, FILES, CONTENT, previous_versions=1)
    found = members(www / stream.pack("os-core", 30, 20))
    assert f"staged/{next(e.digest for e in read(www, 30, 'os-core').entries if e.name == '/usr/bin/big')}" in found


def test_a_folder_becomes_a_file_only_when_that_is_allowed(tmp_path: Path) -> None:
    builders.release(tmp_path, 10, {"/d/x": "x"}, {"os-core": ["/d/x"]})
    files = {"/d": "file"}
    with pytest.raises(InvalidFile, match="the folder /d of release 10 becomes a file"):
        builders.release(tmp_path, 20, files, {"os-core": ["/d"]})
    shutil.rmtree(tmp_path / "root-20")
    builders.release(tmp_path, 20, files, {"os-core": ["/d"]}, allow_folder_replacement=True)
    assert [f.severity for f in lint.lint(tmp_path / "www", NOW, deep=True)] == ["warning"]


def test_deltas_can_be_asked_for_by_version(tmp_path: Path) -> None:
    www = two_releases(tmp_path)
    builders.release(tmp_path, 30, FILES, CONTENT, delta_from=(10,))
    assert sorted(p.name for p in (www / "30").glob("pack-os-core-*.tar")) == [
        f"pack-os-core-from-{n}.tar" for n in (0, 10)
    ]
    with pytest.raises(InvalidOption, match="no release 35"):
        builders.release(tmp_path, 40, FILES, CONTENT, delta_from=(35,))
    shutil.rmtree(tmp_path / "root-40", ignore_errors=True)
    with pytest.raises(SwupdError, match=r"has no 15/Manifest\.MoM"):
        builders.release(tmp_path, 40, FILES, CONTENT, delta_from=(15,))


def test_a_pruned_manifest_of_an_old_release_costs_deltas_and_nothing_else(tmp_path: Path) -> None:
    www = two_releases(tmp_path)
    for name in ("Manifest.os-core", "Manifest.os-core.tar"):
        (www / "10" / name).unlink()
    with pytest.raises(ManifestError, match=r"has no 10/Manifest\.os-core"):
        builders.release(tmp_path, 30, FILES, CONTENT, delta_from=(10,))
    assert not (www / "30").exists()
    shutil.rmtree(tmp_path / "root-30")
    builders.release(tmp_path, 30, FILES | {"/usr/lib/libed.so.1": TEXT + "third"}, CONTENT, previous_versions=2)
    assert {p.name for p in (www / "30").glob("pack-*-from-[12]0.tar")} == {
        "pack-os-core-from-20.tar",
        "pack-editor-from-20.tar",
        "pack-editor-from-10.tar",
    }
    assert [p.name for p in (www / "30").glob("Manifest-os-core-delta-from-*")] == ["Manifest-os-core-delta-from-20"]


def test_of_the_releases_that_deltas_are_made_from_one_manifest_is_held_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in range(7010, 7070, 10):
        builders.release(tmp_path, version, FILES | {"/usr/bin/big": BIG + b"%d" % version}, {"os-core": REST})
    held: list[int] = []  # other tests have left manifests, too, of other versions
    make = fullfiles.make_delta

    def counting(task: fullfiles.DeltaTask) -> fullfiles.DeltaSizes:
        held.extend(o.version for o in gc.get_objects() if type(o) is Manifest and o.name == "os-core")
        return make(task)

    monkeypatch.setattr(fullfiles, "make_delta", counting)
    builders.release(tmp_path, 7070, FILES | {"/usr/bin/big": BIG + b"last"}, {"os-core": REST}, previous_versions=6)
    assert len(list((tmp_path / "www/7070").glob("pack-os-core-from-*[0-9].tar"))) == 7
    # The last one and the new one are there as a whole.
    assert {7060, 7070} <= set(held) and not set(held) & {7010, 7020, 7030, 7040}


def test_a_release_says_which_ones_came_before(published: Path) -> None:
    release = Trusted(FolderStore(published)).release(20)
    assert sorted(release.manifests) == ["editor", "os-core", "other"]
    assert [r.version for r in Trusted(FolderStore(published)).before(release, 5)] == [20, 10]
    assert [e.flags for e in release.manifests["os-core"].entries if e.name == "/usr/lib/kernel/k1"] == [".g.."]


def test_what_a_zero_pack_takes_over_is_what_it_would_have_made(tmp_path: Path) -> None:
    small: builders.Tree = {f"/usr/share/{i}": f"{i} " * 9000 for i in range(300)}
    content = {"os-core": builders.REST}
    names = ("with", "without", "damaged", "index damaged", "index wrong", "index missing")
    for name in names:
        builders.release(tmp_path / name, 10, small, content)
        pack = tmp_path / name / "www/10/pack-os-core-from-0.tar"
        if name == "damaged":
            data = bytearray(pack.read_bytes())
            data[len(data) // 2] ^= 1
            pack.write_bytes(data)
        index = pack.with_suffix(".index")
        lines = index.read_text().splitlines()
        if name == "index damaged":
            index.write_text("nonsense\n")
        if name == "index wrong":
            # Each group is said to lie where another does.
            places = [line.rsplit("\t", 3) for line in lines]
            moved = places[1:] + places[:1]
            index.write_text("".join(f"{m[0]}\t{m[1]}\t{p[2]}\t{p[3]}\n" for p, m in zip(places, moved, strict=True)))
        if name == "index missing":
            index.unlink()
        versions = 0 if name == "without" else 1
        files = small | {"/usr/share/7": "other"}
        builders.release(tmp_path / name, 20, files, content, previous_versions=versions)
    made = {(tmp_path / n / "www/20/pack-os-core-from-0.tar").read_bytes() for n in names}
    assert len(made) == 1


def test_a_zero_pack_compresses_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small: builders.Tree = {f"/usr/share/{i}": f"{i} " * 9000 for i in range(600)}
    content = {"os-core": builders.REST}
    builders.release(tmp_path, 10, small, content)
    sizes: list[int] = []
    compress = packs.compress
    monkeypatch.setattr(packs, "compress", lambda data, *how: (sizes.append(len(data)), compress(data, *how))[1])
    builders.release(tmp_path, 20, small | {"/usr/share/7": "other"}, content, previous_versions=1)
    assert sum(sizes) < sum(len(str(text)) for text in small.values()) / 2
    # What says which release it is changes in each, and takes no others with it.
    sizes.clear()
    builders.release(tmp_path, 30, small | {"/usr/share/7": "other"}, content, previous_versions=1)
    assert 0 < sum(sizes) < 20_000
