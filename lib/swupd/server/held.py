"""Releases that were made but not announced yet: a mark beside each, so that nobody takes them for lost ones."""

from __future__ import annotations

from pathlib import Path

from swupd.server import writer

_MARK = ".held-"


def mark(www: Path, version: int) -> None:
    """Says that a release is held."""
    writer.announce(www, f"{_MARK}{version}", b"")


def unmark(www: Path, version: int) -> None:
    """Says that it is not, or not any more."""
    if (www / f"{_MARK}{version}").exists():
        writer.announce(www, f"{_MARK}{version}", None)


def versions(www: Path) -> frozenset[int]:
    """The releases that are held."""
    names = (p.name.removeprefix(_MARK) for p in www.glob(f"{_MARK}*"))
    return frozenset(int(n) for n in names if n.isascii() and n.isdigit())
