"""The command: results as text and JSON, and one clear sentence for each thing that is wrong."""

from __future__ import annotations

import datetime
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from swupd import signatures
from swupd.server import cli
from tests import builders

HERE = Path(__file__).parents[2]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A root file system for version 10, lists of two bundles, keys."""
    builders.make_tree(tmp_path / "root", builders.os_tree(10, {"/opt": None, "/opt/a": "a"}))
    (tmp_path / "core.txt").write_text("/usr/lib/os-release\n/opt\n")
    (tmp_path / "a.txt").write_text("/opt/a\n")
    return tmp_path


def publish(base: Path, *more: str, version: str = "10") -> list[str]:
    return [
        "publish", "--www", f"{base}/www", "--version", version, "--rootfs", f"{base}/root",
        "--content", f"os-core={base}/core.txt", "--content", f"a={base}/a.txt", *more,
    ]  # fmt: skip


def test_keys_publish_lint_and_why(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keygen", f"{base}/keys", "--name", "Test"]) == 0
    signed = ["--signing-key", f"{base}/keys/release.key", "--certificate", f"{base}/keys/release.pem"]
    signed += ["--manifest-key", f"{base}/keys/manifest.key", "--manifest-certificate", f"{base}/keys/manifest.pem"]
    assert cli.main(publish(base, *signed, "--also-add", "os-core=a", "--jobs", "1")) == 0
    said = capsys.readouterr().out
    assert "Published version 10 in format 30" in said
    (base / "root/usr/lib/os-release").write_text("VERSION_ID=20\n")
    (base / "root/opt/a").write_text("b")
    assert cli.main(publish(base, *signed, "--json", "--previous-versions", "1", version="20")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["version"] == 20
    assert result["bundles"]["a"] == {"version": 20, "entries": 2, "changed": 1}
    assert set(result["packs"]) >= {"20/pack-a-from-0.tar", "20/pack-a-from-10.tar"}
    assert result["seconds"] > 0
    assert result["warnings"] == []
    assert cli.main(["lint", "--www", f"{base}/www", "--deep", "--certificate", f"{base}/keys/Swupd_Root.pem"]) == 0
    assert capsys.readouterr().out == "The stream is clean.\n"
    assert cli.main(["why", "--www", f"{base}/www", "10", "20", "a"]) == 0
    assert "/opt/a  (content: 1 bytes differ)" in capsys.readouterr().out
    assert cli.main(["why", "--www", f"{base}/www", "10", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["causes"][0]["by"] == "fullfile"


def test_delta_packs_for_this_projects_agent_alone(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (base / "root/opt/a").write_text("".join(f"line {n}\n" for n in range(3000)))
    assert cli.main(publish(base)) == 0
    (base / "root/usr/lib/os-release").write_text("VERSION_ID=20\n")
    (base / "root/opt/a").write_text("".join(f"line {n}\n" for n in range(3001)))
    own = ("--delta-packs", "own", "--previous-versions", "1", "--json")
    capsys.readouterr()
    assert cli.main(publish(base, *own, version="20")) == 0
    packs = json.loads(capsys.readouterr().out)["packs"]
    # In os-core there is nothing that a delta would pay for: its pack has another name all the same.
    zero, deltas = ({f"20/pack-{bundle}-from-{old}.tar" for bundle in ("a", "os-core")} for old in ("0", "10.runs"))
    assert set(packs) == zero | deltas
    assert cli.main(["lint", "--www", f"{base}/www", "--deep"]) == 0
    assert cli.main(["why", "--www", f"{base}/www", "10", "20", "a", "--json"]) == 0
    assert '"delta"' in capsys.readouterr().out


def test_keys_are_private_and_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keygen", f"{tmp_path}/k"]) == 0
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "k").iterdir()}
    assert modes == {
        "release.key": 0o600, "manifest.key": 0o600, "root.key": 0o600, "head.key": 0o600, "1.root": 0o644,
        "root.pub.pem": 0o644, "head.pub.pem": 0o644,
        "release.pem": 0o644, "manifest.pem": 0o644, "Swupd_Root.pem": 0o644,
    }  # fmt: skip
    before = (tmp_path / "k/release.key").read_bytes()
    assert cli.main(["keygen", f"{tmp_path}/k"]) == 15
    assert "never overwritten" in capsys.readouterr().err
    assert (tmp_path / "k/release.key").read_bytes() == before
    now = datetime.datetime.now(datetime.UTC)
    signatures.load_trust((tmp_path / "k/Swupd_Root.pem").read_bytes(), now)


def test_lint_says_what_is_wrong_and_fails(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(publish(base, "--quiet")) == 0
    (base / "www/10/Manifest.a.tar").unlink()
    assert cli.main(["lint", "--www", f"{base}/www"]) == 1
    assert "error: 10/Manifest.a.tar: is missing\n1 errors, 0 warnings\n" in capsys.readouterr().out
    assert cli.main(["lint", "--www", f"{base}/www", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["clean"] is False


def test_the_time_of_a_release_can_be_given(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "12345")
    assert cli.main(publish(base, "--quiet")) == 0
    assert "timestamp:\t12345\n" in (base / "www/10/Manifest.MoM").read_text()


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("more", "code", "sentence"),
    [
        (["--version", "0"], 15, "'0' is not a version"),
        (["--version", "1e3"], 15, "'1e3' is not a version"),
        (["--version", "2147483648"], 15, "is not a version"),
        (["--version", "11"], 38, "says VERSION_ID=10, but the release is 11"),
        (["--format", "x"], 15, "--format 'x' is not a number"),
        (["--jobs", "0"], 15, "--jobs '0' is not a number"),
        (["--rootfs", "/nonexistent"], 19, "cannot open /nonexistent"),
        (["--content", "b"], 15, "'b' is not of the form BUNDLE=FILE"),
        (["--content", "b=/nonexistent"], 38, "cannot read /nonexistent: No such file"),
        (["--content", "MoM=/dev/null"], 15, "'MoM' cannot be the name of a bundle"),
        (["--content", "a=/dev/null"], 15, "the bundle a is defined twice"),
        (["--include", "a=none"], 15, "the bundle a wants none, which does not exist"),
        (["--include", "none=a"], 15, "there is no bundle 'none'"),
        (["--include", "a=a"], 15, "bundles include each other: a -> a"),
        (["--signing-key", "/nonexistent"], 15, "--certificate is missing"),
        (["--certificate", "/nonexistent"], 15, "--signing-key is missing"),
        (["--manifest-key", "x", "--manifest-certificate", "y"], 38, "cannot read x: No such file"),
        (["--signing-key", "/dev/null", "--certificate", "/dev/null"], 21, "certificate file is not PEM"),
        (["--exclude", "/nonexistent"], 38, "cannot read /nonexistent"),
        (["--previous-url", "ftp://x/"], 15, "is not the URL of a stream"),
        (["--previous-url", "file:///nonexistent"], 15, "/nonexistent is not a folder"),
        (["--delta-from", "5"], 15, "no release to make deltas from"),
        (["--delta-from", "5,x"], 15, "'x' is not a version"),
        (["--minversion", "11"], 15, "minversion 11 is newer than the release 10"),
        (["--previous-certificate", "/dev/null"], 21, "the trust file"),
    ],
)
def test_bad_input_gets_one_sentence_and_changes_nothing(
    base: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, sentence: str
) -> None:
    assert cli.main(publish(base, *more)) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert lines[0].startswith("swupd-server: error: ")
    assert sentence in lines[0]
    assert not (base / "www").exists()


def test_a_url_where_nobody_answers(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(publish(base, "--previous-url", f"http://127.0.0.1:{closed_port()}/")) == 16
    assert "cannot read http://127.0.0.1" in capsys.readouterr().err


def test_a_path_that_is_not_there_is_named(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (base / "a.txt").write_text("/opt/a\n/opt/none\n")
    assert cli.main(publish(base)) == 38
    assert "a.txt, line 2: /opt/none is not in the root file system" in capsys.readouterr().err


def test_a_stream_that_is_half_there(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(publish(base, "--quiet")) == 0
    (base / "root/usr/lib/os-release").write_text("VERSION_ID=20\n")
    for name, code in (("Manifest.a", 14), ("Manifest.MoM", 4)):
        (base / "www/10" / name).unlink()
        (base / "www/10" / f"{name}.tar").unlink()
        assert cli.main(publish(base, version="20")) == code
        assert f"the stream has no 10/{name}" in capsys.readouterr().err
    (base / "www/version/format30/latest").write_text("ten")
    assert cli.main(publish(base, version="20")) == 38
    assert "does not hold a version but b'ten'" in capsys.readouterr().err


def test_a_stream_that_cannot_be_written(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (base / "www").write_text("a file")
    assert cli.main(publish(base)) == 32
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (base / "small").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", f"{base}/small"], check=False)
    if mounted.returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        assert cli.main(publish(base, "--www", f"{base}/small/www")) == 25
        assert "the disk is full" in capsys.readouterr().err
        assert not list((base / "small").glob("www/.new-*"))
    finally:
        subprocess.run(["umount", f"{base}/small"], check=True)


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["publish"], ["publish", "--wwww"], ["why", "--www", "x"], ["keygen"]]
)
def test_wrong_usage_is_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_the_version_and_a_reader_that_leaves(base: Path) -> None:
    assert cli.main(publish(base, "--quiet")) == 0
    environment = {**os.environ, "PYTHONPATH": str(HERE / "lib")}
    code = "import sys; from swupd.server.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"], check=True, capture_output=True, text=True, env=environment
    )
    assert done.stdout.startswith("swupd-server ")
    left = subprocess.run(
        f"'{sys.executable}' -c '{code}' lint --www '{base}/www' --json | true",
        shell=True, check=False, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert left.stderr == ""


def test_an_interrupted_publish_says_so_in_one_line(
    base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "publish", interrupted)
    assert cli.main(publish(base)) == 130
    assert capsys.readouterr().err == "swupd-server: interrupted; what was published before is untouched\n"


def test_the_program_ends_with_the_code_of_its_command() -> None:
    line = [sys.executable, "-c", "from swupd.server.cli import run; run()", "lint", "--www", "/nowhere"]
    done = subprocess.run(line, capture_output=True, check=False)
    assert done.returncode not in {0, 1} and b"Traceback" not in done.stderr
    with open("/dev/full", "w") as full:
        assert subprocess.run(line, stdout=full, stderr=full, check=False).returncode != 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("buffered", [True, False])
def test_an_output_that_cannot_be_written_is_an_error_in_words(base: Path, buffered: bool) -> None:
    assert cli.main(publish(base, "--quiet")) == 0
    line = [sys.executable, *([] if buffered else ["-u"]), "-c", "from swupd.server.cli import run; run()"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*line, "lint", "--www", base / "www"], stdout=full, stderr=subprocess.PIPE, check=False, text=True
        )
        silent = subprocess.run([*line, "lint", "--www", base / "www"], stdout=full, stderr=full, check=False)
    assert done.returncode == silent.returncode == 32
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
