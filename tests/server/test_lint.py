"""Each thing that lint finds, provoked by one change to a clean stream."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from swupd import hashing, manifest, signatures, stream, tree
from swupd.errors import FolderError
from swupd.manifest import Manifest
from swupd.server import archiver, lint
from tests import builders
from tests.builders import NOW, REST

Tamper = Callable[[Path], None]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with www (two signed releases) and the keys; not to be changed."""
    base = tmp_path_factory.mktemp("clean")
    signer = builders.keys(base)
    builders.keys(base, "stranger")
    content = {"os-core": REST, "a": ["/opt/a", "/opt/s"], "b": ["/opt/s"]}
    includes = {"a": ("b",)}
    for version in (10, 20):
        files = {"/opt": None, "/opt/a": f"a{version}", "/opt/s": "s", "/opt/old": "x"}
        builders.release(base, version, files, content, signer=signer, includes=includes, previous_versions=1)
    return base


def found(base: Path, now: datetime.datetime = NOW, deep: bool = True, key: str = "release") -> list[str]:
    trust = signatures.load_trust((base / f"{key}.pem").read_bytes(), NOW)
    return [f"{f.severity}: {f.place}: {f.message}" for f in lint.lint(base / "www", now, trust, deep)]


def test_a_clean_stream_has_no_findings(clean: Path) -> None:
    assert found(clean) == []


def test_there_must_be_a_stream(tmp_path: Path) -> None:
    with pytest.raises(FolderError):
        lint.lint(tmp_path / "none", NOW)
    assert "there is no release" in str(lint.lint(tmp_path, NOW))


def remove(name: str) -> Tamper:
    return lambda www: (www / name).unlink()


def write(name: str, data: bytes) -> Tamper:
    def tamper(www: Path) -> None:
        (www / name).parent.mkdir(exist_ok=True)
        (www / name).write_bytes(data)

    return tamper


def rewrite(version: int, bundle: str, change: Callable[[bytes], bytes]) -> Tamper:
    """Changes a manifest and all that depends on it, as a server with a mistake would have written it."""

    def tamper(www: Path) -> None:
        data = change((www / stream.manifest(version, bundle)).read_bytes())
        _store(www, version, bundle, data)
        if bundle != "MoM":
            mom = manifest.parse((www / stream.manifest(20, "MoM")).read_bytes(), "MoM")
            digests = {bundle: hashing.digest_manifest(data)}
            _store(www, 20, "MoM", manifest.serialize(_with_digests(mom, digests)))

    return tamper


def _with_digests(mom: Manifest, digests: dict[str, str]) -> Manifest:
    text = manifest.serialize(mom)
    for entry in mom.entries:
        if entry.name in digests:
            text = text.replace(entry.digest.encode(), digests[entry.name].encode())
    return manifest.parse(text, "MoM")


def _store(www: Path, version: int, bundle: str, data: bytes) -> None:
    (www / stream.manifest(version, bundle)).write_bytes(data)
    (www / stream.manifest_tar(version, bundle)).write_bytes(archiver.manifest_tar(f"Manifest.{bundle}", data))


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new)

    return change


def swapped(data: bytes) -> bytes:
    head, _, body = data.partition(b"\n\n")
    lines = body.splitlines(keepends=True)
    return head + b"\n\n" + b"".join([*lines[1:], lines[0]])


def doubled(data: bytes) -> bytes:
    return data + data.splitlines(keepends=True)[-1]


def first_file(www: Path) -> Path:
    return sorted((www / "20/files").iterdir())[0]


def damage_first_file(www: Path) -> None:
    first_file(www).write_bytes(archiver.fullfile(first_file(www).stem, tree.folder_node("/x", 0o700), b""))


def cut(name: str) -> Tamper:
    def tamper(www: Path) -> None:
        place = www / name
        place.write_bytes(place.read_bytes()[:-40])

    return tamper


def older_digest(data: bytes) -> bytes:
    """The changed file /opt/a claims the version of the release before."""
    return b"".join(
        line.replace(b"\t20\t", b"\t10\t") if line.endswith(b"\t/opt/a\n") else line for line in data.splitlines(True)
    )


def other_hash(data: bytes) -> bytes:
    return b"".join(
        line[:5] + b"e" * 64 + line[69:] if line.endswith(b"/opt/s\n") else line for line in data.splitlines(True)
    )


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (remove("version/format30/latest"), "error: version/format30/latest: is missing"),
        (remove("version/format30/latest.sig"), "error: version/format30/latest.sig: is missing"),
        (write("version/format30/latest", b"10"), "error: version/format30/latest: goes back"),
        (write("version/format30/latest", b"30"), "error: version/format30/latest: names 30, which is not there"),
        (write("version/format30/latest", b"soon"), "does not hold a version"),
        (write("version/format29/latest", b"20"), "error: version/format29/latest: names 20, which has another format"),
        (remove("version/latest_version"), "warning: version/latest_version: is missing"),
        (write("version/latest_version", b"10"), "error: version/latest_version: goes back"),
        (write(".new-30/x", b""), "warning: .new-30: is left"),
        (write("20/format", b"29"), "error: 20/format: says"),
        (remove("20/Manifest.MoM.tar"), "error: 20/Manifest.MoM.tar: is missing"),
        (remove("20/Manifest.MoM.sig"), "error: 20/Manifest.MoM.sig: is missing"),
        (write("20/Manifest.MoM.sig", b"x"), "error: 20/Manifest.MoM.sig: the signature is not a PKCS#7"),
        (remove("20/Manifest.a.tar"), "error: 20/Manifest.a.tar: is missing"),
        (cut("20/Manifest.a.tar"), "error: 20/Manifest.a.tar: the archive"),
        (rewrite(20, "MoM", replaced(b"version:\t20", b"version:\t21")), "error: 20/Manifest.MoM: manifest MoM says"),
        (rewrite(20, "MoM", replaced(b"timestamp", b"moment")), "error: 20/Manifest.MoM.sig: the signature is wrong"),
        (rewrite(20, "a", replaced(b"version:\t20", b"version:\t19")), "says version 19 where 20 was asked for"),
        (write("20/Manifest.a", b"MANIFEST\t30\n"), "error: 20/Manifest.a: is not what the MoM promises"),
        (rewrite(20, "a", replaced(b"includes:\tb", b"includes:\tc")), "error: 20/Manifest.a: wants the bundle c"),
        (rewrite(20, "a", swapped), "warning: 20/Manifest.a: its entries are not ordered"),
        (rewrite(20, "a", doubled), "lists /opt/a twice"),
        (rewrite(20, "a", replaced(b"\t20\t/opt/a", b"\t21\t/opt/a")), "which is yet to come"),
        (rewrite(20, "a", older_digest), "/opt/a changed, but its version did not grow"),
        (rewrite(20, "a", replaced(b"\t/opt/a", b"\topt/a")), "is not allowed: it does not begin with /"),
        (rewrite(20, "MoM", replaced(b"\tos-core", b"\tcore")), "error: 20/Manifest.MoM: has no bundle os-core"),
        (lambda www: first_file(www).unlink(), "is missing or empty, but"),
        (damage_first_file, "is another object"),
        (cut("20/pack-a-from-0.tar"), "error: 20/pack-a-from-0.tar: the archive"),
        (remove("20/pack-a-from-0.tar"), "warning: 20/pack-a-from-0.tar: is missing"),
        (
            lambda www: shutil.copy(www / "20/pack-os-core-from-0.tar", www / "20/pack-a-from-0.tar") and None,
            "which Manifest.a does not list",
        ),
        (
            lambda www: shutil.copy(www / "20/pack-a-from-10.tar", www / "20/pack-a-from-0.tar") and None,
            "error: 20/pack-a-from-0.tar: lacks",
        ),
        (lambda www: shutil.rmtree(www / "10"), "warning: 20: devices at 10 cannot update"),
        (
            rewrite(20, "MoM", replaced(b"previous:\t10\n", b"previous:\t10\nminversion:\t20\n")),
            "is older than the minv",
        ),
    ],
)
def test_each_damage_is_found(tmp_path: Path, clean: Path, tamper: Tamper, expected: str) -> None:
    base = shutil.copytree(clean, tmp_path / "base")
    tamper(base / "www")
    assert any(expected in line for line in found(base)), found(base)


def test_two_bundles_that_disagree_are_found(tmp_path: Path) -> None:
    content = {"os-core": REST, "a": ["/opt/s"], "b": ["/opt/s"]}
    builders.release(tmp_path, 20, {"/opt": None, "/opt/s": "s"}, content)
    rewrite(20, "b", other_hash)(tmp_path / "www")
    assert "differs from that in a" in str(lint.lint(tmp_path / "www", NOW))


def test_signatures_of_strangers_are_found(clean: Path) -> None:
    assert any(line.startswith("error: 20/Manifest.MoM.sig") for line in found(clean, key="stranger"))


def test_certificates_are_looked_at_before_they_end(clean: Path) -> None:
    ends = builders.BEGINS + datetime.timedelta(days=5000)
    soon = found(clean, ends - datetime.timedelta(days=59))
    assert soon
    assert all(line.startswith("warning: ") and "expires on 2033-09-09" in line for line in soon)
    assert any("expired on 2033-09-09" in line for line in found(clean, ends + datetime.timedelta(days=1)))
    assert found(clean, ends - datetime.timedelta(days=61)) == []
