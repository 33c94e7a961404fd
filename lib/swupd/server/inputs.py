"""What a command line names: files and numbers, read with bounds."""

from __future__ import annotations

import itertools
from pathlib import Path

from swupd import stream
from swupd.errors import InvalidFile, InvalidOption

_MAX_LIST = 512 * stream.MIB


def read(name: str | Path) -> bytes:
    """A file's bytes. Raises InvalidFile."""
    try:
        with open(name, "rb") as file:
            # Not one read of so much: that would reserve it.
            data = b"".join(itertools.islice(iter(lambda: file.read(stream.MIB), b""), _MAX_LIST // stream.MIB + 1))
    except OSError as e:
        raise InvalidFile(f"cannot read {name}: {e.strerror}", "Check the path and its permissions.") from e
    except ValueError as e:
        raise InvalidFile(f"{name!r} is not the name of a file", "Check the path.") from e
    if len(data) > _MAX_LIST:
        raise InvalidFile(f"{name} is larger than {_MAX_LIST} bytes", "Is it the right file?")
    return data


def number(text: str, option: str, least: int) -> int:
    """A whole number. Raises InvalidOption."""
    if not text.isascii() or not text.isdigit() or len(text) > 10 or not least <= int(text) <= stream.MAX_VERSION:
        raise InvalidOption(f"{option} {text[:80]!r} is not a number", f"Give a whole number from {least} on.")
    return int(text)
