"""Bad input: one sentence with the cause and the next step, the right exit code, no traceback, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from swupd import hashing, signatures
from swupd.agent import start
from swupd.server import signing
from tests import builders, trees


@dataclass
class Device:
    """A device at version 10 of a signed stream that has a version 20."""

    base: Path
    extra: list[str] = field(default_factory=list)

    @property
    def tree(self) -> Path:
        """Its root."""
        return self.base / "device"

    @property
    def www(self) -> Path:
        """Its stream."""
        return self.base / "www"

    def words(self, command: str, *words: str, url: str = "", certificate: str = "keys/release.pem") -> list[str]:
        """A command line."""
        place = [str(self.tree)] if command == "os-install" else ["-p", str(self.tree)]
        trust = ["-C", str(self.base / certificate)]
        where = ["-u", url or f"file://{self.www}", "-F", "30", "-S", str(self.base / "state")]
        return [command, *place, *trust, *where, "--no-scripts", "--no-progress", "-r", "0", *words]

    def run(self, command: str, *words: str, **more: str) -> int:
        """Runs a command."""
        return start.main(self.words(command, *words, **more))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stream and an installed device, copied by each test."""
    base = tmp_path_factory.mktemp("made")
    trees.two_versions(base, signed=True)
    device = Device(base)
    assert device.run("os-install", "-V", "10", "-B", "editors") == 0
    return base


@pytest.fixture
def device(made: Path, tmp_path: Path) -> Device:
    subprocess.run(["cp", "-a", f"{made}/.", str(tmp_path)], check=True)
    shutil.rmtree(tmp_path / "state/cache")
    return Device(tmp_path)


def truncated_tar(device: Device) -> None:
    for tar in (device.www / "20/files").iterdir():
        tar.write_bytes(tar.read_bytes()[:-40])
    remove_packs(device)


def remove_packs(device: Device) -> None:
    for pack in device.www.glob("20/pack-*"):
        pack.unlink()


def wrong_hash(device: Device) -> None:
    """Every object under another's name."""
    files = sorted((device.www / "20/files").iterdir())
    contents = [f.read_bytes() for f in files]
    for file, content in zip(files, contents[1:] + contents[:1], strict=True):
        file.write_bytes(content)
    remove_packs(device)


def missing_fullfiles(device: Device) -> None:
    shutil.rmtree(device.www / "20/files")
    remove_packs(device)


def missing_manifest(device: Device) -> None:
    (device.www / "20/Manifest.os-core.tar").unlink()
    for delta in device.www.glob("20/Manifest-*-delta-*"):
        delta.unlink()


def half_written_manifest(device: Device) -> None:
    tar = device.www / "20/Manifest.MoM.tar"
    tar.write_bytes(tar.read_bytes()[:50])


def tampered_mom(device: Device) -> None:
    from swupd.server import archiver  # noqa: PLC0415

    plain = (device.www / "20/Manifest.MoM").read_bytes().replace(b"version:\t20", b"version:\t20 ")
    signature = (device.www / "20/Manifest.MoM.sig").read_bytes()
    tar = archiver.manifest_tar("Manifest.MoM", plain, [("Manifest.MoM.sig", signature)])
    (device.www / "20/Manifest.MoM.tar").write_bytes(tar)


def unsigned_latest(device: Device) -> None:
    (device.www / "version/format30/latest.sig").unlink()


def nonsense_latest(device: Device) -> None:
    (device.www / "version/format30/latest").write_text("<html>welcome</html>")


def no_os_release(device: Device) -> None:
    (device.tree / "usr/lib/os-release").unlink()


def odd_os_release(device: Device) -> None:
    (device.tree / "usr/lib/os-release").write_text("VERSION_ID=twelve\n")


def binary_os_release(device: Device) -> None:
    (device.tree / "usr/lib/os-release").write_bytes(b"\xff\xfe\0VERSION_ID")


def version_0(device: Device) -> None:
    (device.tree / "usr/lib/os-release").write_text("VERSION_ID=0\n")


def no_stream(device: Device) -> None:
    shutil.rmtree(device.www)


def nothing(device: Device) -> None:
    """The command line alone is bad."""


Case = tuple[str, Callable[[Device], None], str, int, str]
CASES: list[Case] = [
    ("truncated tar", truncated_tar, "update", 18, "damaged"),
    ("wrong hash", wrong_hash, "update", 18, "something else"),
    ("missing fullfiles", missing_fullfiles, "update", 17, "the server lacks"),
    ("missing manifest", missing_manifest, "update", 14, "lacks the manifest of bundle os-core"),
    ("half-written stream", half_written_manifest, "update", 4, "damaged"),
    ("wrong signature", tampered_mom, "update", 21, "does not verify"),
    ("unsigned latest", unsigned_latest, "update", 21, "not signed"),
    ("nonsense latest", nonsense_latest, "update --nosigcheck", 16, "names no version"),
    ("no os-release", no_os_release, "update", 20, "has no VERSION_ID"),
    ("odd os-release", odd_os_release, "bundle-add docs", 20, "'twelve'"),
    ("binary os-release", binary_os_release, "update", 20, "has no VERSION_ID"),
    ("version 0", version_0, "update", 15, "development image"),
    ("no stream", no_stream, "update", 16, "is no folder"),
    ("unknown bundle", nothing, "bundle-add nonsense", 3, "no bundle nonsense"),
    ("unknown bundle to remove", nothing, "bundle-remove nonsense", 3, "'nonsense'"),
    ("os-core removed", nothing, "bundle-remove os-core", 2, "os-core"),
    ("bundle not installed", nothing, "bundle-remove docs", 13, "not installed"),
    ("nonsense option", nothing, "update --nonsense", 15, "--nonsense"),
    ("nonsense version", nothing, "update --version 1e3", 15, "1e3"),
    ("version too large", nothing, "update --version 2147483648", 15, "2147483648"),
    ("older version", nothing, "update --version 5", 15, "older"),
    ("version that is not there", nothing, "repair --force --version 15", 4, "does not have version 15"),
    ("repair to another version", nothing, "repair --version 20", 15, "--force"),
    ("odd number", nothing, "update --max-retries=-1", 15, "--max-retries"),
    ("odd format", nothing, "update --format thirty", 12, "'thirty'"),
    ("odd port", nothing, "update --port 70000", 12, "port"),
    ("state in /usr", nothing, "update --statedir /usr", 12, "state folder"),
    ("relative state", nothing, "update --statedir state", 12, "state folder"),
    ("plain HTTP", nothing, "update --url http://127.0.0.1", 12, "--allow-insecure-http"),
    ("odd scheme", nothing, "update --url gopher://127.0.0.1", 12, "gopher"),
    ("missing certificate", nothing, "update --certpath /nonexistent.pem", 21, "cannot be read"),
    ("certificate that is none", nothing, "update --certpath /etc/passwd", 21, "PEM"),
    ("file that no bundle ships", nothing, "diagnose --file /usr/bin/nonsense", 26, "no installed bundle"),
    ("odd regular expression", nothing, "diagnose --picky --picky-whitelist (", 15, "regular expression"),
    ("file to hash that is not there", nothing, "hashdump /nonexistent", 38, "no file"),
    ("mirror without URL", nothing, "mirror --set", 15, "URL"),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_bad_input_gives_one_clear_sentence_and_loses_nothing(
    device: Device, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    _, damage, line, code, said = case
    damage(device)
    before = trees.listing(device.tree)
    assert device.run(*line.split()) == code
    captured = capsys.readouterr()
    errors = [text for text in captured.err.splitlines() if text.startswith("Error: ")]
    assert len(errors) == 1 and said in errors[0], captured.err
    assert "Traceback" not in captured.err
    assert trees.listing(device.tree) == before


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_bad_input_gives_valid_json_too(device: Device, case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    _, damage, line, code, _ = case
    damage(device)
    assert device.run(*line.split(), "--json-output") == code
    messages = json.loads(capsys.readouterr().out)
    assert messages[-1]["type"] == "end" and messages[-1]["status"] == code
    assert sum(m["type"] == "error" for m in messages) == 1


@pytest.mark.parametrize("case", [c for c in CASES if c[1] in {truncated_tar, wrong_hash, missing_fullfiles}])
def test_the_next_run_works_once_the_cause_is_gone(device: Device, made: Path, case: Case) -> None:
    case[1](device)
    assert device.run("update") == case[3]
    shutil.rmtree(device.www)
    shutil.copytree(made / "www", device.www)
    assert device.run("update") == 0
    assert device.run("diagnose", "--picky") == 0


def test_an_expired_certificate_is_refused(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    builders.keys(device.base / "keys", "expired", days=30)
    assert device.run("update", certificate="keys/expired.pem") == 21
    assert "expired on 2020-01-31" in capsys.readouterr().err


def test_a_signature_of_another_key_is_refused(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    builders.keys(device.base / "keys", "other")
    assert device.run("update", certificate="keys/other.pem") == 21
    assert "does not verify" in capsys.readouterr().err


def test_no_network_is_said_so(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    assert device.run("update", "--allow-insecure-http", url=f"http://127.0.0.1:{port}") == 16
    assert "no connection to http://127.0.0.1" in capsys.readouterr().err
    assert device.run("update", "--allow-insecure-http", url="http://nonexistent.invalid") == 16


def test_two_bundles_that_disagree_stop_an_update(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    release = builders.release(
        device.base / "odd", 10, {"/usr/bin/a": "a"}, {"os-core": builders.REST, "one": ["/usr/bin/a"]}
    )
    assert release.version == 10
    from swupd import manifest  # noqa: PLC0415
    from swupd.server import archiver  # noqa: PLC0415

    www = device.base / "odd/www"
    one = manifest.parse((www / "10/Manifest.one").read_bytes(), "one")
    core = manifest.parse((www / "10/Manifest.os-core").read_bytes(), "os-core")
    other = manifest.Entry("F", "1" * 64, 10, "/usr/bin/a")
    changed = manifest.Manifest("os-core", 30, 10, timestamp=1, entries=(*core.entries, other))
    data = manifest.serialize(changed)
    mom = manifest.parse((www / "10/Manifest.MoM").read_bytes(), "MoM")
    lines = (
        manifest.Entry("M", hashing.digest_manifest(data), 10, "os-core"),
        manifest.Entry("M", hashing.digest_manifest(manifest.serialize(one)), 10, "one"),
    )
    mom_data = manifest.serialize(manifest.Manifest("MoM", 30, 10, timestamp=1, entries=lines))
    assert mom.version == 10
    (www / "10/Manifest.os-core.tar").write_bytes(archiver.manifest_tar("Manifest.os-core", data))
    (www / "10/Manifest.MoM.tar").write_bytes(archiver.manifest_tar("Manifest.MoM", mom_data))
    words = ["os-install", str(device.base / "new"), "-u", f"file://{www}", "-F", "30", "-n", "-B", "one"]
    assert start.main([*words, "-S", str(device.base / "new-state")]) == 14
    error = capsys.readouterr().err
    assert "one and os-core disagree about /usr/bin/a" in error


def test_a_full_disk_changes_nothing_and_the_next_run_works(
    device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "none", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        shutil.copytree(device.tree, small / "device", symlinks=True)
        subprocess.run(["cp", "-a", f"{device.tree}/.", f"{small}/device"], check=True)
        full = Device(device.base)
        words = [w.replace(str(device.tree), f"{small}/device") for w in full.words("update")]
        before = trees.listing(small / "device")
        filler = small / "filler"
        filler.write_bytes(b"x" * (os.statvfs(small).f_bavail * os.statvfs(small).f_frsize - 100_000))
        assert start.main(words) == 25
        assert "Free some space" in capsys.readouterr().err
        assert trees.listing(small / "device") == before
        filler.unlink()
        assert start.main(words) == 0
    finally:
        subprocess.run(["umount", str(small)], check=True)


HOLDER = """
import fcntl, sys
lock = open(sys.argv[1], "a")
fcntl.lockf(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_swupd_waits_for_nobody_and_says_so(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    words = [sys.executable, "-c", HOLDER, str(device.base / "state/swupd_lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        assert device.run("update") == 9
        assert "another swupd is running" in capsys.readouterr().err
        holder.communicate()
    assert device.run("update") == 0


def test_only_root_may_change_a_device(
    device: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for command in ("update", "bundle-add docs", "bundle-remove editors", "repair", "clean"):
        assert device.run(*command.split()) == 1
        assert "must be run as root" in capsys.readouterr().err
    assert device.run("update", "--dry-run") == 0


def test_the_format_bump_is_crossed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    www, certificate = trees.format_bump(tmp_path)
    common = ["-u", f"file://{www}", "-C", str(certificate), "--no-scripts", "-S", str(tmp_path / "s")]
    device = tmp_path / "device"
    assert start.main(["os-install", str(device), "-V", "10", "-F", "30", *common]) == 0
    capsys.readouterr()
    assert start.main(["update", "-p", str(device), "-j", *common]) == 0
    json.loads(capsys.readouterr().out)
    assert "VERSION_ID=30" in (device / "usr/lib/os-release").read_text()
    assert start.main(["diagnose", "--picky", "-p", str(device), *common]) == 0


def test_generated_keys_are_good_for_the_agent() -> None:
    key, certificate = signing.generate("x", builders.BEGINS, 4000)
    trust = signatures.load_trust(certificate, builders.NOW)
    signatures.verify(b"data", signing.sign(b"data", signing.load_signer(key, certificate)), trust, builders.NOW)


def test_hashdump_hashes_below_a_prefix_and_without_xattrs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builders.make_tree(tmp_path / "tree", {"/usr/a": builders.File(xattrs=(("user.a", b"x"),))})
    assert start.main(["hashdump", "-n", "-p", str(tmp_path / "tree"), "/usr/a"]) == 0
    plain = capsys.readouterr().out.strip()
    assert plain == "28cb7c6cad23920f344157f48ae353caca34e9a2f5cff934a4fdaaf7509f2062"
    assert start.main(["hashdump", str(tmp_path / "tree/usr/a")]) == 0
    assert capsys.readouterr().out.strip() != plain


def test_the_program_ends_at_once_and_says_all(installed: Device) -> None:
    line = [sys.executable, "-m", "swupd.agent.start", "info", "--path", str(installed.root), *installed.options()]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert "10" in done.stdout and not done.stderr


def test_a_program_that_cannot_say_it_all_does_not_end_well(installed: Device) -> None:
    line = [sys.executable, "-m", "swupd.agent.start", "info", "--path", str(installed.root), *installed.options()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode != 0
