"""Which programs take part, and in which versions."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess

import swupd

_ASKED = {
    "ostree": ("--version",),
    "casync": ("--version",),
    "rauc": ("--version",),
    "rsync": ("--version",),
    "xdelta3": ("-V",),
    "zstd": ("--version",),
    "xz": ("--version",),
    "mksquashfs": ("-version",),
}
_NUMBER = re.compile(r"\d+(?:\.\d+)*")


def versions() -> dict[str, str]:
    """By name, those that are there; a program that says no version counts as "there"."""
    found = {"this project": swupd.__version__, "Python": platform.python_version()}
    for name, words in _ASKED.items():
        if shutil.which(name):
            done = subprocess.run([name, *words], check=False, capture_output=True, text=True, errors="replace")
            number = _NUMBER.search(done.stdout + done.stderr)
            found[name] = number[0] if number else "there"
    if shutil.which("bsdiff"):
        found["bsdiff"] = "there"
    return found
