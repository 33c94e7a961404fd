"""What the agent keeps between runs: the lock, tracked bundles, the applied version, caches, what is staged.

Layout as swupd-client 7.0.0 has it (stream format, 6.2), without its "already verified" markers: whatever is read
from a cache is checked again by the one who reads it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from swupd.agent.folders import beside, empty, make_folder, write_file, writing
from swupd.agent.staging import Staged
from swupd.errors import LockError, WriteError

_PRIVATE = ("staged", "download", "ahead")

_RESERVED = ".room."
_ROOM = 32 * 1024


class Layout(NamedTuple):
    """Where things lie. url: content URL, part of the cache's name as in 6.2."""

    data: Path
    cache: Path
    url: str

    @property
    def here(self) -> Path:
        """The cache of this URL."""
        return self.cache / "cache" / re.sub("[:/]", "_", self.url)

    @property
    def lock(self) -> Path:
        """The lock file."""
        return self.data / "swupd_lock"

    @property
    def tracking(self) -> Path:
        """One empty file for each bundle that the user asked for."""
        return self.data / "bundles"

    @property
    def version(self) -> Path:
        """The last version that an update applied."""
        return self.data / "version"

    @property
    def left(self) -> Path:
        """The version from which one went back."""
        return self.data / "left"

    @property
    def root(self) -> Path:
        """The newest root of trust that was believed."""
        return self.data / "trust" / "root"

    @property
    def floors(self) -> Path:
        """What this device has seen and does not go back behind."""
        return self.data / "trust" / "floors"

    def manifest(self, version: int, name: str) -> Path:
        """A cached manifest (or its .sig)."""
        return self.here / "manifest" / str(version) / f"Manifest.{name}"


@contextlib.contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Holds the lock of a data folder. Raises LockError where another process does."""
    make_folder(layout.data, 0o755)
    try:
        fd = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as e:
        raise WriteError(f"cannot open {layout.lock}: {e.strerror}", "Run the command as root.") from e
    try:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise LockError("another swupd is running", "Wait until it has ended, then run the command again.") from e
        os.ftruncate(fd, 0)
        os.pwrite(fd, struct.pack("=i", os.getpid()), 0)
        yield
    finally:
        os.close(fd)


def tracked(layout: Layout) -> frozenset[str]:
    """The bundles that the user asked for; empty where nothing was ever written down."""
    try:
        return frozenset(f.name for f in layout.tracking.iterdir() if f.is_file() and not f.name.startswith("."))
    except OSError:
        return frozenset()


def applied(layout: Layout) -> int:
    """The last version that an update applied, 0 if none is written down."""
    return _number(layout.version)


def left(layout: Layout) -> int:
    """The version from which one went back, 0 for none."""
    return _number(layout.left)


def leave(layout: Layout, version: int) -> None:
    """Writes down that one went back from a version: it is not to be installed again by itself. Raises WriteError."""
    make_folder(layout.data, 0o755)
    with writing(layout.left):
        write_file(layout.left, b"%d\n" % version)


def _number(file: Path) -> int:
    try:
        text = file.read_bytes().decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return 0
    return int(text) if text.isdigit() and len(text) < 11 else 0


class Cache:
    """What there is from earlier runs, for those who write nothing: what they would keep is forgotten."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def read_cached(self, path: Path, limit: int) -> bytes | None:
        """A cached file's bytes, which are to be verified; None where there is none of a sane size."""
        try:
            with path.open("rb") as file:
                data = file.read(limit + 1)
        except OSError:
            return None
        return data if len(data) <= limit else None

    def write_cached(self, path: Path, data: bytes) -> None:
        """Keeps verified bytes."""

    def forget_cached(self, path: Path) -> None:
        """Drops what proved wrong."""

    def keep(self, file: Path, data: bytes) -> None:
        """Writes one of the files of trust, so that it stays. Raises WriteError."""


class State(Cache):
    """Writes below data and cache folder. Made once the lock is held."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        make_folder(layout.here, 0o755)
        for name in _PRIVATE:
            make_folder(layout.here / name, 0o700)
        for file in (layout.version, layout.left, layout.root, layout.floors):
            # A write that was cut short, which nobody may ever repeat.
            beside(file).unlink(missing_ok=True)
        for held in layout.data.glob(f"{_RESERVED}*"):
            held.unlink(missing_ok=True)
        self.staged = Staged(layout.here / "staged")
        empty(self.ahead)

    def close(self) -> None:
        """Closes the folder of staged objects."""
        self.staged.close()

    @property
    def ahead(self) -> Path:
        """An empty folder for what is linked ahead of a change."""
        return self.layout.here / "ahead"

    def write_cached(self, path: Path, data: bytes) -> None:
        """Keeps verified bytes."""
        make_folder(path.parent, 0o755)
        with writing(path):
            write_file(path, data)

    def forget_cached(self, path: Path) -> None:
        """Drops what proved wrong."""
        path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def reserved(self, files: int) -> Iterator[None]:
        """Holds room back for what is written down after a change: so many files. Raises DiskSpace, WriteError.

        A change that was made must not fail for want of a block for its version.
        """
        held = [self.layout.data / f"{_RESERVED}{number}" for number in range(files)]
        try:
            with writing(self.layout.data):
                # No zeros: some file systems store those in no room at all.
                held[0].write_bytes(os.urandom(_ROOM))
                for file in held[1:]:
                    file.touch(0o600)
            yield
        finally:
            for file in held:
                file.unlink(missing_ok=True)

    def track(self, bundles: Iterable[str], installed: Iterable[str]) -> None:
        """Writes down bundles that the user asked for; before the first, those that were there already."""
        make_folder(self.layout.tracking, 0o755)
        names = set(bundles) if tracked(self.layout) else {*bundles, *installed}
        with writing(self.layout.tracking):
            for name in sorted(names):
                (self.layout.tracking / name).touch(0o600)

    def untrack(self, bundles: Iterable[str]) -> None:
        """Forgets bundles."""
        for name in bundles:
            (self.layout.tracking / name).unlink(missing_ok=True)

    def applied(self, version: int) -> None:
        """Writes down which version was applied; one that was left before is none any more."""
        with writing(self.layout.version):
            write_file(self.layout.version, b"%d\n" % version)
            if left(self.layout) == version:
                self.layout.left.unlink(missing_ok=True)

    def keep(self, file: Path, data: bytes) -> None:
        """Writes one of the files of trust, so that it stays. Raises WriteError."""
        make_folder(file.parent, 0o700)
        with writing(file):
            write_file(file, data)

    def part(self, name: str) -> Path:
        """Where an object of the stream is downloaded to."""
        return self.layout.here / "download" / name.replace("/", "_")

    def clean(self, manifests: bool = False, others: bool = False) -> None:
        """Removes staged objects and downloads (manifests, caches of other URLs)."""
        with writing(self.layout.here):
            for folder in _disposable(self.layout, manifests, others):
                if folder.is_dir():
                    empty(folder)


def _disposable(layout: Layout, manifests: bool, others: bool) -> tuple[Path, ...]:
    own = tuple(layout.here / name for name in (*_PRIVATE, *(("manifest",) if manifests else ())))
    caches = layout.here.parent
    rest = (
        (f for f in caches.iterdir() if f != layout.here and not f.is_symlink()) if caches.is_dir() and others else ()
    )
    return (*own, *rest)


def cached_bytes(layout: Layout, manifests: bool = False, others: bool = False) -> int:
    """How much `State.clean` frees."""
    found = (f for folder in _disposable(layout, manifests, others) for f in folder.rglob("*"))
    return sum(f.lstat().st_size for f in found if f.is_symlink() or f.is_file())
