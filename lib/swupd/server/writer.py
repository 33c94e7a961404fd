"""Writing a stream: a release is staged beside its place, then renamed; what points to it is replaced last."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from swupd.errors import DiskSpace, LockError, WriteError


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turns what the system says about a place into WriteError or DiskSpace."""
    try:
        yield
    except OSError as e:
        if e.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskSpace(f"the disk is full: cannot write {place}", "Make room and publish again.") from e
        raise WriteError(f"cannot write {place}: {e.strerror}", "Check the folder and its permissions.") from e


@contextlib.contextmanager
def locked(www: Path) -> Iterator[None]:
    """Makes the stream's folder and keeps other publishers out of it. Raises LockError, WriteError."""
    with writing(www):
        made = not www.exists()
        www.mkdir(parents=True, exist_ok=True)
        if made:
            www.chmod(0o755)
        fd = os.open(www, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as e:
        raise LockError(f"another publish is writing to {www}", "Wait until it is done.") from e
    finally:
        os.close(fd)
        if made:
            # A publish that was refused leaves no empty folder behind.
            with contextlib.suppress(OSError):
                www.rmdir()


def put(place: Path, pieces: Iterable[bytes]) -> int:
    """Writes a file, 0644 whatever the umask; gives its size. Whoever looks sees all of it or nothing."""
    # Several threads may write the same content to the same place.
    beside = place.with_name(f".{place.name}.{os.getpid()}-{threading.get_ident()}")
    size = 0
    with writing(place):
        with open(beside, "wb") as file:
            for piece in pieces:
                size += file.write(piece)
            os.fchmod(file.fileno(), 0o644)
        os.replace(beside, place)
    return size


def announce(www: Path, name: str, data: bytes | None) -> None:
    """Replaces one of the small files that point to a release, durably; None removes it."""
    place = www / name
    with writing(place):
        for folder in reversed(place.relative_to(www).parents[:-1]):
            _make_folder(www / folder)
        if data is None:
            place.unlink(missing_ok=True)
        else:
            beside = place.with_name(f".{place.name}.new")
            with open(beside, "wb") as file:
                file.write(data)
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            os.replace(beside, place)
        _sync_folder(place.parent)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir()
        folder.chmod(0o755)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Staging:
    """A release that is being written: all of it is in .new-<version> until `commit`.

    Leaving the context without that takes it away. work: a folder for what is needed on the way and not published.
    """

    def __init__(self, www: Path, version: int) -> None:
        self._www = www
        self.version = version
        self.folder = www / f".new-{version}"
        self.files = self.folder / "files"
        self.work = self.folder / ".work"
        with writing(self.folder):
            if self.folder.exists():
                shutil.rmtree(self.folder)
            for folder in (self.folder, self.files, self.work):
                folder.mkdir()
                folder.chmod(0o755)

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def place(self, name: str) -> Path:
        """Where something of the release is; name is relative to the stream."""
        return self.folder / name.removeprefix(f"{self.version}/")

    def write(self, name: str, pieces: Iterable[bytes]) -> int:
        """Adds a file to the release; gives its size."""
        return put(self.place(name), pieces)

    def adopt(self, name: str, source: Path) -> None:
        """Adds a file that another release being written has too."""
        place = self.place(name)
        with writing(place):
            try:
                os.link(source, place)
            except OSError:
                shutil.copyfile(source, place)
                place.chmod(0o644)

    def sizes(self) -> dict[str, int]:
        """Bytes of each file of the release so far, by its name in the release's folder."""
        return {
            str(p.relative_to(self.folder)): p.stat().st_size
            for p in self.folder.rglob("*")
            if p.is_file() and self.work not in p.parents
        }

    def usage(self) -> tuple[int, int]:
        """(files, bytes) of the release so far."""
        sizes = self.sizes()
        return len(sizes), sum(sizes.values())

    def commit(self) -> None:
        """Puts the release at its place, durably. What a killed publish left there is replaced."""
        place = self._www / str(self.version)
        with writing(place):
            shutil.rmtree(self.work)
            if place.exists():
                shutil.rmtree(place)
            os.sync()
            os.rename(self.folder, place)
            _sync_folder(self._www)
