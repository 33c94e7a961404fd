"""Files and folders that are the agent's own: written whole or not at all, emptied, and removed."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from swupd.errors import FolderError, write_error


def make_folder(folder: Path, mode: int) -> None:
    """Makes a folder and those above it; a wrong mode is corrected, what is no folder is left alone."""
    try:
        folder.mkdir(0o755, parents=True, exist_ok=True)
        if stat.S_IMODE(folder.stat().st_mode) != mode:
            folder.chmod(mode)
    except FileExistsError as e:
        raise FolderError(f"{folder} is in the way: it is no folder", "Move it away.") from e
    except OSError as e:
        raise FolderError(f"cannot create {folder}: {e.strerror}", "Check permissions and disk.") from e


def empty(folder: Path) -> None:
    """Removes all that is in a folder. Raises OSError."""
    # One after another: a list of all would take room for each.
    with os.scandir(folder) as items:
        for item in items:
            if item.is_dir(follow_symlinks=False):
                remove_folder(item.path)
            else:
                os.unlink(item)


def remove_folder(name: str | bytes, folder: int | None = None) -> None:
    """Removes a folder, by its name in an open one, and all that is in it. Raises OSError."""
    import shutil  # noqa: PLC0415  slow to load; whatever changes a tree has loaded it before

    shutil.rmtree(name, dir_fd=folder)


def write_file(path: Path, data: bytes) -> None:
    """Writes a file so that it is there whole or not at all, and stays."""
    new = beside(path)
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def beside(path: Path) -> Path:
    """Where a file is written before it takes its place; one name, so that the next write takes over what is left."""
    return path.with_name(f".{path.name}.new")


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Raises DiskSpace or WriteError where something within it fails."""
    try:
        yield
    except OSError as e:
        raise write_error(place, e) from e
