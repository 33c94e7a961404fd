"""What commands load: those that scripts ask for often must not wait for libraries that they do not use."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.agent.conftest import Published
from tests.agent.devices import Device
from tests.agent.misbehaving import folder, server
from tests.trust.simulator import Trusting, publisher

HEAVY = ("requests", "http", "ssl", "cryptography", "asn1crypto", "bsdiff4", "tarfile", "lz4", "hdiffpatch")
UNUSED = ("hashlib", "hmac", "ctypes", "shutil")
"""What only commands that hash or change something need."""
COMPILING = ("dataclasses", "inspect", "ast")
"""What no command needs: values are named tuples (docs/adr/0016)."""
CHANGING = (
    *(f"swupd.agent.{name}" for name in ("changing", "fetch", "mirrors", "preparation", "transaction")),
    *("swupd.agent.unpacker", "swupd.agent.unpacking"),
    *("bsdiff4", "concurrent", "http", "json", "logging", "pickle", "shutil", "subprocess", "tarfile", "tempfile"),
)
"""What only commands that change something, unpack, or ask a server need."""
TRUST = ("swupd.agent.anchor", "swupd.agent.chain", "swupd.heads", "swupd.roots")
"""What only devices with a root of trust need."""
CHECKING = ("cryptography", "asn1crypto", "swupd.crypto", "swupd.signatures")
"""What only the process that checks signatures needs."""
PROGRAM = """
import sys
from swupd.agent.start import main

code = main(sys.argv[1:])
print("loaded", *sorted(sys.modules))
sys.exit(code)
"""


LATE = """
import os, sys

late = None

def heard(event, words):
    global late
    if event == "os.rename" and os.path.basename(os.fsencode(words[1])).startswith((b"commit.", b"back")):
        late = set()
    elif event == "import" and late is not None:
        late.add(words[0])

sys.addaudithook(heard)
from swupd.agent.start import main

code = main(sys.argv[1:])
print("late", late if late is None else sorted(late))
sys.exit(code)
"""


def loaded(*words: str) -> set[str]:
    """The modules that a command loads."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], check=True, stdout=subprocess.PIPE, text=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("words", [("info",), ("info", "--json-output"), ("info", "--verbose")])
def test_info_loads_nothing_that_reads_streams(installed: Device, words: tuple[str, ...]) -> None:
    found = loaded(*words, "--path", str(installed.root), *installed.options())
    assert "argparse" in found
    assert not found & {*HEAVY, *UNUSED, *COMPILING}


def test_help_loads_nothing_that_reads_streams() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "swupd.agent.start", "--help"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "bundle-add" in done.stdout
    assert not [name for name in HEAVY if f"| {name}\n" in done.stderr.replace("|   ", "| ")]


def test_an_update_over_http_loads_no_library_for_it(device: Device, published: Published) -> None:
    with server(folder(published.www)) as told:
        words = (*replace(device, url=told.url).options(), "--allow-insecure-http")
        found = loaded("update", "--path", str(device.root), *words)
    assert "http" in found and not found & {"requests", "urllib3", "idna", "certifi", *COMPILING}


def test_nothing_is_loaded_once_files_came_over_http_and_are_being_replaced(
    device: Device, published: Published
) -> None:
    with server(folder(published.www)) as told:
        words = ("--path", str(device.root), *replace(device, url=told.url).options(), "--allow-insecure-http")
        done = subprocess.run(
            [sys.executable, "-c", LATE, "update", *words], check=False, capture_output=True, text=True
        )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["late []"]), done


@pytest.mark.parametrize("json", [(), ("--json-output",)])
def test_nothing_is_loaded_once_files_are_being_replaced(device: Device, json: tuple[str, ...]) -> None:
    # From then on, what lies under a module's name may belong to another Python.
    words = ("--path", str(device.root), *device.options(), *json)
    for command in (
        "update",
        "rollback",
        "bundle-remove editors",
        "bundle-add editors",
        "update --version 20",
        "repair",
    ):
        if command == "repair":
            for file in device.root.glob("usr/bin/*"):
                file.unlink()
        done = subprocess.run(
            [sys.executable, "-c", LATE, *command.split(), *words], check=False, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["late []"]), (command, done)


@pytest.mark.parametrize("rooted", [False, True])
def test_whoever_checks_signatures_is_another_process(device: Device, tmp_path: Path, rooted: bool) -> None:
    if rooted:
        stream = publisher(tmp_path)
        stream.release(10)
        device = Trusting(tmp_path / "rooted", f"file://{stream.www}", Path(), "30", root_file=stream.root_file)
        device.ok("os-install", "--version", "10")
        stream.release(20)
    found = loaded("update", "--path", str(device.root), *device.options())
    assert "swupd.agent.checker" in found and not found & {*CHECKING}
    assert "20" in (device.root / "usr/lib/os-release").read_text()


@pytest.fixture
def away(published: Published, tmp_path: Path) -> Device:
    """A device whose server was there only until it was installed."""
    server = tmp_path / "server"
    server.symlink_to(published.www)
    device = Device(tmp_path / "device", f"file://{server}", published.certificate)
    device.ok("os-install", "--version", "10")
    server.unlink()
    return device


def test_who_only_looks_takes_the_manifests_of_the_cache(away: Device) -> None:
    assert "as it was published" in away.ok("diagnose").out
    assert "os-core" in away.ok("bundle-list", "--all").out
    for command in (("diagnose",), ("bundle-list", "--all"), ("bundle-info", "os-core")):
        found = loaded(*command, "--path", str(away.root), *away.options())
        assert "swupd.agent.checker" in found
        assert found & {*CHANGING, *TRUST, *CHECKING} == set(), command


def test_who_only_looks_believes_no_damaged_manifest_of_the_cache(away: Device) -> None:
    file = next(away.state.glob("cache/*/manifest/10/Manifest.os-core"))
    genuine = file.read_bytes()
    file.write_bytes(genuine.replace(b"\t/usr/", b"\t/usx/", 1))
    forged = file.read_bytes()
    done = away.run("diagnose")
    assert done.code != 0 and "is fetched again" in done.err
    assert file.read_bytes() == forged, "who only looks writes nothing"
