"""The operations of a journal, carried out and undone. Each looks first whether it is done, so none harms twice.

recovery/swupd-recover does the same with the tools of a shell.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat

from swupd import paths
from swupd.agent import syscalls
from swupd.agent.journal import Op
from swupd.errors import ApplyError
from swupd.tree import Root

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOTHING = (FileNotFoundError, NotADirectoryError)


def do(root: Root, op: Op) -> None:
    """Carries an operation out, unless it is done. Raises OSError, ApplyError where the tree is not the one it knew."""
    if op.kind in {"add", "put"}:
        _put_once(_place(root, op.new), root, op.path)
    elif op.kind == "drop":
        if not root.names(op.path):
            _drop(root, op.path, _place(root, op.old))
    elif op.kind == "swap":
        _swap_in(root, op, _place(root, op.new), _place(root, op.old))
    elif op.kind in {"meta", "xattr"}:
        _describe(root, op, _halves(op)[0])


def undo(root: Root, op: Op) -> None:
    """Undoes an operation, unless that is done or it never was carried out. Raises as `do`."""
    new, old = _place(root, op.new), _place(root, op.old)
    if op.kind == "add":
        if _inode(new) is None:
            _take(root, op.path, new)
    elif op.kind == "put":
        if _inode(old) is not None:
            put(old, root, op.path)
            with contextlib.suppress(FileNotFoundError):
                # Where both names were of one object, rename did nothing.
                os.unlink(old)
    elif op.kind == "drop":
        if _inode(old) is not None and inode_at(root, op.path) is None:
            put(old, root, op.path)
    elif op.kind == "swap":
        _swap_out(root, op, new, old)
    elif op.kind in {"meta", "xattr"}:
        _describe(root, op, _halves(op)[1])


def put(source: bytes, root: Root, path: str) -> None:
    """Renames an object of the agent's folder to a path of the tree."""
    fd, name = root.parent(path)
    os.rename(source, name, dst_dir_fd=fd)


def _put_once(new: bytes, root: Root, path: str) -> None:
    try:
        put(new, root, path)
    except FileNotFoundError:
        if _inode(new) is not None:
            raise


def inode_at(root: Root, path: str) -> int | None:
    """The inode number of what is at a path, None for nothing."""
    try:
        fd, name = root.parent(path)
        return os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
    except _NOTHING:
        return None


def _place(root: Root, path: str) -> bytes:
    return os.fsencode(root.path) + paths.encode(path)


def _inode(place: bytes) -> int | None:
    try:
        return os.lstat(place).st_ino
    except _NOTHING:
        return None


def _drop(root: Root, path: str, old: bytes) -> None:
    """Moves what is at a path, which is no folder with something in it, to where it is kept."""
    try:
        if _inode(old) is None:
            _take(root, path, old)
            return
    except OSError as e:
        fd, name = root.parent(path)
        if e.errno != errno.EXDEV or not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            raise
        _copy_folder(fd, name, old)
    # An overlay cannot rename folders of its lower file system: its twin is there, it goes.
    with contextlib.suppress(*_NOTHING):
        fd, name = root.parent(path)
        os.rmdir(name, dir_fd=fd)


def _copy_folder(fd: int, name: bytes, to: bytes) -> None:
    beside = to + b".part"
    with contextlib.suppress(FileExistsError):
        os.mkdir(beside, 0o700)
    shutil.copystat(b"/proc/self/fd/%d/%s" % (fd, name), beside)
    found = os.stat(name, dir_fd=fd)
    os.chown(beside, found.st_uid, found.st_gid)
    os.chmod(beside, stat.S_IMODE(found.st_mode))
    os.rename(beside, to)


def _take(root: Root, path: str, to: bytes) -> None:
    """Moves what is at a path, if anything, into the agent's folder; what is a mount point stays."""
    try:
        fd, name = root.parent(path)
        os.rename(name, to, src_dir_fd=fd)
    except _NOTHING:
        return
    except OSError as e:
        if e.errno != errno.EBUSY:
            raise


def _swap_in(root: Root, op: Op, new: bytes, old: bytes) -> None:
    at, wanted = _known(root, op, new, old)
    if at is None:
        put(new, root, op.path)
    elif at != wanted:
        _exchange(root, op.path, new, park=old)
    if _inode(new) is not None:
        os.rename(new, old)


def _swap_out(root: Root, op: Op, new: bytes, old: bytes) -> None:
    at, wanted = _known(root, op, new, old)
    if at is None:
        put(old, root, op.path)
    elif at == wanted:
        if _inode(new) is not None:
            os.rename(new, old)
        _exchange(root, op.path, old, park=new)
    if _inode(old) == wanted:
        os.rename(old, new)


def _known(root: Root, op: Op, new: bytes, old: bytes) -> tuple[int | None, int]:
    """(inode number at the path, that of the new object), the latter being somewhere."""
    at, wanted = inode_at(root, op.path), int(op.words[1])
    if wanted not in {at, _inode(new), _inode(old)}:
        raise ApplyError(
            f"{op.path} is not the one that was changed: the tree was copied since",
            f"Move the folder /{paths.RESERVED} of the tree away, then run: swupd repair",
        )
    return at, wanted


def _exchange(root: Root, path: str, with_: bytes, park: bytes) -> None:
    """Exchanges a path with an object of the agent's folder; in two steps by way of `park` where one is too much."""
    fd, name = root.parent(path)
    try:
        syscalls.exchange(syscalls.NOWHERE, with_, fd, name)
    except OSError as e:
        if e.errno not in {errno.ENOSYS, errno.EINVAL}:
            raise
        os.rename(name, park, src_dir_fd=fd)
        os.rename(with_, name, dst_dir_fd=fd)


def _halves(op: Op) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words for a folder's new metadata, and those for the old."""
    if op.kind == "meta":
        return op.words[:2], op.words[2:]
    return op.words[:2], (op.words[0], op.words[2])


def _describe(root: Root, op: Op, words: tuple[str, ...]) -> None:
    """Sets a folder's mode and owner, or one attribute; a folder that is gone needs neither."""
    try:
        fd, name = root.parent(op.path)
        folder = os.open(name, _FOLDER, dir_fd=fd)
    except _NOTHING:
        return
    try:
        if op.kind == "meta":
            uid, _, gid = words[1].partition(":")
            os.fchown(folder, int(uid), int(gid))
            os.fchmod(folder, int(words[0], 8))
        else:
            _set_xattr(folder, *words)
    finally:
        os.close(folder)


def _set_xattr(folder: int, name: str, value: str) -> None:
    if value != "-":
        os.setxattr(folder, name, bytes.fromhex(value.removeprefix("0x")))
        return
    try:
        os.removexattr(folder, name)
    except OSError as e:
        if e.errno != errno.ENODATA:
            raise
