"""What commands load: those that scripts ask for often must not wait for libraries that they do not use."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.agent.devices import Device

HEAVY = ("requests", "urllib3", "ssl", "cryptography", "asn1crypto", "bsdiff4", "tarfile", "lz4", "hdiffpatch")
PROGRAM = """
import sys
from swupd.agent.cli import main

code = main(sys.argv[1:])
print("loaded", *sorted(name for name in sys.modules if "." not in name))
sys.exit(code)
"""


def loaded(*words: str) -> set[str]:
    """The modules that a command loads."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], check=True, stdout=subprocess.PIPE, text=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("words", [("info",), ("info", "--json-output"), ("info", "--verbose")])
def test_info_loads_nothing_that_reads_streams(installed: Device, words: tuple[str, ...]) -> None:
    found = loaded(*words, "--path", str(installed.root), *installed.options())
    assert found & {"argparse", "hashlib"}
    assert not found & set(HEAVY)


def test_help_loads_nothing_that_reads_streams() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "swupd.agent.cli", "--help"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "bundle-add" in done.stdout
    assert not [name for name in HEAVY if f"| {name}\n" in done.stderr.replace("|   ", "| ")]
