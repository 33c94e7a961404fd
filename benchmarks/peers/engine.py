"""hdiffpatch by itself: python engine.py make|apply LIST, where a line of LIST is old, new and patch, tabs between."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import hdiffpatch


def make(old: Path, new: Path, patch: Path) -> None:
    """A difference, compressed by LZMA2 at level 9 and tried at once."""
    patch.write_bytes(hdiffpatch.diff(old.read_bytes(), new.read_bytes(), compression=hdiffpatch.Lzma2Config(level=9)))


def apply(old: Path, new: Path, patch: Path) -> None:
    """The new file again, hashed and written beside the patch."""
    made = hdiffpatch.apply(old.read_bytes(), patch.read_bytes())
    hashlib.sha256(made).digest()
    patch.with_suffix(".new").write_bytes(made)


if __name__ == "__main__":
    step = {"make": make, "apply": apply}[sys.argv[1]]
    for line in os.fsdecode(Path(sys.argv[2]).read_bytes()).splitlines():
        step(*map(Path, line.split("\t")))
