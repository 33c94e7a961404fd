"""What finishes or undoes a change where Python cannot run: a shell script, and where there is one a static busybox.

Both are copied beside the journal, so that they are not part of what they recover.
"""

from __future__ import annotations

import contextlib
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path

_SCRIPT = Path(__file__).parent / "recovery/swupd-recover"
_BUSYBOX = ("/usr/lib/swupd/busybox", "/usr/bin/busybox.static", "/usr/bin/busybox", "/bin/busybox")
_HEADER = 64
_INTERPRETER = 3
"""PT_INTERP of elf.h."""


def install(root: Path, folder: Path) -> None:
    """Puts the helper into a folder. Raises OSError."""
    shutil.copyfile(_SCRIPT, folder / "recover")
    (folder / "recover").chmod(0o700)
    box = static_program(root, _BUSYBOX)
    if box is not None:
        shutil.copyfile(box, folder / "busybox")
        (folder / "busybox").chmod(0o700)


def static_program(root: Path, names: Iterable[str]) -> Path | None:
    """The first of some programs of a tree that runs without any library."""
    for name in names:
        place = root / name[1:]
        with contextlib.suppress(OSError, struct.error):
            if place.is_file() and not needs_interpreter(place.read_bytes()):
                return place
    return None


def needs_interpreter(program: bytes) -> bool:
    """Whether a program is not ELF, or names a dynamic linker. Raises struct.error where it ends too early."""
    if not program.startswith(b"\x7fELF") or len(program) < _HEADER:
        return True
    wide, order = program[4] == 2, "<" if program[5] == 1 else ">"
    (table,) = struct.unpack_from(order + ("Q" if wide else "I"), program, 32 if wide else 28)
    size, count = struct.unpack_from(order + "HH", program, 54 if wide else 42)
    kinds = {struct.unpack_from(order + "I", program, table + n * size)[0] for n in range(count)}
    return _INTERPRETER in kinds
