"""Calls that Python lacks: exchanging two names, making one file system durable, one heap for all threads."""

from __future__ import annotations

import ctypes
import errno
import os
import sys

NOWHERE = -100
"""AT_FDCWD, in place of a folder: the name is a whole path."""
_EXCHANGE = 2
"""RENAME_EXCHANGE of linux/fs.h."""
_RENAMEAT2 = {"x86_64": 316, "i686": 353, "aarch64": 276, "riscv64": 276, "armv7l": 382, "ppc64le": 357, "s390x": 347}
"""The number of renameat2, for C libraries that do not know it."""
_ARENA_MAX = -8
"""M_ARENA_MAX of glibc's malloc.h."""
_libc = ctypes.CDLL(None, use_errno=True)


def exchange(first_dir: int, first: bytes, second_dir: int, second: bytes) -> None:
    """Makes each of two names that of the other's object, in one step. Raises OSError.

    ENOSYS or EINVAL: kernel or file system cannot do it. EXDEV, EBUSY: they are not on one file system, or one is a
    mount point.
    """
    call = getattr(_libc, "renameat2", None)
    if call is not None:
        result = call(first_dir, first, second_dir, second, _EXCHANGE)
    elif os.uname().machine in _RENAMEAT2:
        result = _libc.syscall(_RENAMEAT2[os.uname().machine], first_dir, first, second_dir, second, _EXCHANGE)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    _check(result)


def syncfs(fd: int) -> None:
    """Makes all that was written to the file system of an open file durable. Raises OSError (EIO: data was lost)."""
    _check(_libc.syncfs(fd))


def share_heap() -> None:
    """Has all threads take memory from one heap, before there are any: what one frees, others can use.

    Each has its own in glibc, and keeps what it has: 8 of 78 MB of a large update. Other C libraries have one.
    """
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)


def _check(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def main(words: list[str]) -> None:
    """Exchanges two paths, for recovery/swupd-recover on systems with no other program that does it in one step."""
    first, second = map(os.fsencode, words)
    exchange(NOWHERE, first, NOWHERE, second)


if __name__ == "__main__":
    main(sys.argv[1:])
