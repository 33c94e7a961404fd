"""What the agent keeps between runs: the lock, tracked bundles, the applied version, caches, staged objects.

Layout as swupd-client 7.0.0 has it (stream format, 6.2), without its "already verified" markers: whatever is read
from a cache is checked again by the one who reads it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from swupd import tree
from swupd.agent.objects import XattrRule, create, digests, finish, named, remove
from swupd.agent.writeback import Writeback
from swupd.errors import FolderError, HashMismatch, LockError, WriteError, write_error
from swupd.tree import Node, Root

_PRIVATE = ("staged", "download", "ahead")

_RESERVED = ".room."
_ROOM = 32 * 1024
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP}
"""What a link fails with to another file system, or on one that has none."""
_IN_THE_WAY = {errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST}
"""What renaming fails with where an object of another kind has the name."""


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
    with _writing(layout.left):
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
            _beside(file).unlink(missing_ok=True)
        for held in layout.data.glob(f"{_RESERVED}*"):
            held.unlink(missing_ok=True)
        self._place = layout.here / "staged"
        self._staged = Root(self._place)
        self._writeback = Writeback(self._place)
        self._written: dict[int, int] = {}
        # Of a run that was killed.
        for part in self._place.glob(".*"):
            remove(self._staged.fd, os.fsencode(part.name))
        empty(self.ahead)

    def close(self) -> None:
        """Closes the folder of staged objects."""
        self._writeback.close()
        self._staged.close()

    @property
    def ahead(self) -> Path:
        """An empty folder for what is linked ahead of a change."""
        return self.layout.here / "ahead"

    def write_cached(self, path: Path, data: bytes) -> None:
        """Keeps verified bytes."""
        make_folder(path.parent, 0o755)
        with _writing(path):
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
            with _writing(self.layout.data):
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
        with _writing(self.layout.tracking):
            for name in sorted(names):
                (self.layout.tracking / name).touch(0o600)

    def untrack(self, bundles: Iterable[str]) -> None:
        """Forgets bundles."""
        for name in bundles:
            (self.layout.tracking / name).unlink(missing_ok=True)

    def applied(self, version: int) -> None:
        """Writes down which version was applied; one that was left before is none any more."""
        with _writing(self.layout.version):
            write_file(self.layout.version, b"%d\n" % version)
            if left(self.layout) == version:
                self.layout.left.unlink(missing_ok=True)

    def keep(self, file: Path, data: bytes) -> None:
        """Writes one of the files of trust, so that it stays. Raises WriteError."""
        make_folder(file.parent, 0o700)
        with _writing(file):
            write_file(file, data)

    def part(self, name: str) -> Path:
        """Where an object of the stream is downloaded to."""
        return self.layout.here / "download" / name.replace("/", "_")

    def put(self, digest: str, node: Node, content: Iterable[bytes], rule: XattrRule) -> None:
        """Stages an object under its digest. Raises HashMismatch where it is another, DiskSpace, WriteError."""
        part = b".%s.%d" % (digest.encode(), os.getpid())
        folder = os.dup(self._staged.fd)
        try:
            with _writing(self._place):
                found = digests(node, create(folder, part, node, content), rule)
                covered = named(found, digest)
                finish(folder, part, covered)
                _put(folder, part, digest.encode())
                there = os.stat(digest, dir_fd=folder, follow_symlinks=False)
                self._written[there.st_ino] = there.st_ctime_ns
                self._writeback.wrote(there.st_size)
        except BaseException:
            with contextlib.suppress(OSError):
                remove(folder, part)
            raise
        finally:
            os.close(folder)

    def write_back(self) -> None:
        """Begins to write what is staged to the disk."""
        self._writeback.begin()

    def settle(self) -> None:
        """Waits for that. Raises OSError where data was lost."""
        self._writeback.settle()

    def staged(self, digest: str, rule: XattrRule) -> Node | None:
        """The object staged under a digest, hashed anew; None where it is missing or damaged."""
        node = self._staged.node("/" + digest, xattrs=rule is not XattrRule.IGNORED)
        if node is None:
            return None
        try:
            return named(digests(node, self._staged.chunks(node), rule), digest)
        except HashMismatch:
            return None

    def staged_node(self, digest: str) -> Node | None:
        """The object staged under a digest, not hashed yet."""
        return self._staged.node("/" + digest)

    def staged_file(self, node: Node) -> BinaryIO:
        """A staged file, opened."""
        return self._staged.file(node)

    def staged_content(self, digest: str) -> Iterator[bytes]:
        """The content of a staged file, which the reader hashes again."""
        return tree.read_chunks(self._staged.fd, digest.encode())

    def untouched(self, digest: str) -> bool:
        """Whether what is staged is as this run wrote and hashed it: its inode did not change since.

        So that nothing is read a second time. What an earlier run left has to be.
        """
        there = os.stat(digest, dir_fd=self._staged.fd, follow_symlinks=False)
        return self._written.get(there.st_ino) == there.st_ctime_ns

    def staged_link(self, digest: str, folder: int, name: bytes) -> bool:
        """Gives a staged file a name in an open folder, too. False where that cannot be, or where it has a second one.

        Two paths of a tree must not be names of one file: whoever wrote to the one would change the other.
        """
        staged = digest.encode()
        try:
            if os.stat(staged, dir_fd=self._staged.fd, follow_symlinks=False).st_nlink != 1:
                return False
            os.link(staged, name, src_dir_fd=self._staged.fd, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as e:
            if e.errno not in _NO_LINK:
                raise
            return False
        return True

    def staged_room(self, digest: str, device: int) -> tuple[int, bool]:
        """(bytes of a file that is staged, whether it can get a name on a file system, by all that looking tells)."""
        try:
            found = os.stat(digest, dir_fd=self._staged.fd, follow_symlinks=False)
        except FileNotFoundError:
            return 0, False
        if not stat.S_ISREG(found.st_mode):
            return 0, False
        return found.st_size, found.st_nlink == 1 and found.st_dev == device

    def clean(self, manifests: bool = False, others: bool = False) -> None:
        """Removes staged objects and downloads (manifests, caches of other URLs)."""
        with _writing(self.layout.here):
            for folder in _disposable(self.layout, manifests, others):
                if folder.is_dir():
                    empty(folder)


def empty(folder: Path) -> None:
    """Removes all that is in a folder. Raises OSError."""
    # One after another: a list of all would take room for each.
    with os.scandir(folder) as items:
        for item in items:
            if item.is_dir(follow_symlinks=False):
                _remove_folder(item.path)
            else:
                os.unlink(item)


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


def _put(folder: int, name: bytes, to: bytes) -> None:
    """Renames something to what may be taken, in a folder that is the agent's alone."""
    try:
        os.rename(name, to, src_dir_fd=folder, dst_dir_fd=folder)
        return
    except OSError as e:
        if e.errno not in _IN_THE_WAY:
            raise
    try:
        remove(folder, to)
    except OSError as e:
        if e.errno != errno.ENOTEMPTY:
            raise
        _remove_folder(to, folder)
    os.rename(name, to, src_dir_fd=folder, dst_dir_fd=folder)


def _remove_folder(name: str | bytes, folder: int | None = None) -> None:
    import shutil  # noqa: PLC0415  slow to load; whatever changes a tree has loaded it before

    shutil.rmtree(name, dir_fd=folder)


def write_file(path: Path, data: bytes) -> None:
    """Writes a file so that it is there whole or not at all, and stays."""
    beside = _beside(path)
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _beside(path: Path) -> Path:
    """Where a file is written before it takes its place; one name, so that the next write takes over what is left."""
    return path.with_name(f".{path.name}.new")


@contextlib.contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise write_error(place, e) from e
