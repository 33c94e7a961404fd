"""A disk that remembers each write and each flush in order: a file in a FUSE file system of our own, for a loop device.

The kernel's file system driver writes to the loop device, that to the file, and the file's server is this module, which
speaks the kernel's protocol itself (linux/fuse.h, as of 7.31), so that nothing has to be installed.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_MAX_WRITE = 1 << 20
_FILE = 2
_LOOKUP, _FORGET, _GETATTR, _SETATTR, _OPEN, _READ, _WRITE, _STATFS, _RELEASE, _FSYNC = (
    1,
    2,
    3,
    4,
    14,
    15,
    16,
    17,
    18,
    20,
)
_FLUSH, _INIT, _OPENDIR, _RELEASEDIR, _DESTROY, _INTERRUPT, _BATCH_FORGET = 25, 26, 27, 29, 38, 36, 42
_ENTRY = struct.Struct("<QQ")
"""In the log: offset, length; then the bytes. A flush is all ones and 0."""
_FLUSHED = (2**64 - 1, 0)
PIECE = 4096
"""What a disk writes whole or not at all."""


@dataclass(frozen=True)
class Entry:
    """A write; data None for a flush."""

    offset: int
    data: bytes | None


class Disk:
    """A disk that is served by a process of its own. folder: for log and mount point; image: what is on it at first."""

    def __init__(self, image: Path, folder: Path) -> None:
        self._log = folder / "log"
        self._place = folder / "fuse"
        self._place.mkdir(parents=True, exist_ok=True)
        self._count = mmap.mmap(-1, 8)
        fuse = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
        if _libc.mount(b"powercut", os.fsencode(self._place), b"fuse", 6, options):
            code = ctypes.get_errno()
            os.close(fuse)
            raise OSError(code, f"no FUSE here: {os.strerror(code)}")
        self._server = os.fork()
        if self._server == 0:
            with suppress(BaseException):
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                _Server(fuse, image, self._log, self._count).serve()
            os._exit(0)
        os.close(fuse)

    @property
    def file(self) -> Path:
        """What a loop device is put on."""
        return self._place / "disk"

    def position(self) -> int:
        """How many writes and flushes there were so far."""
        return int.from_bytes(self._count[:8], "little")

    def close(self) -> tuple[Entry, ...]:
        """Ends the server; gives all that was written."""
        _libc.umount2(os.fsencode(self._place), 0)
        with suppress(ProcessLookupError):
            os.kill(self._server, signal.SIGTERM)
        os.waitpid(self._server, 0)
        return tuple(_entries(self._log.read_bytes()))


def _entries(log: bytes) -> Iterator[Entry]:
    at = 0
    while at < len(log):
        offset, length = _ENTRY.unpack_from(log, at)
        at += _ENTRY.size
        yield Entry(0, None) if (offset, length) == _FLUSHED else Entry(offset, log[at : at + length])
        at += length


class _Server:
    """Answers the kernel's questions about the one file."""

    def __init__(self, fuse: int, image: Path, log: Path, count: mmap.mmap) -> None:
        self._fuse, self._count = fuse, count
        self._size = image.stat().st_size
        self._data = mmap.mmap(-1, self._size)
        with image.open("rb") as file:
            at = 0
            while at < self._size:
                try:
                    at = os.lseek(file.fileno(), at, os.SEEK_DATA)
                except OSError:
                    break
                end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
                self._data[at:end] = os.pread(file.fileno(), end - at, at)
                at = end
        self._log = log.open("wb", 0)

    def serve(self) -> None:
        """Until it is unmounted."""
        while True:
            try:
                request = os.read(self._fuse, _MAX_WRITE + 8192)
            except OSError as e:
                if e.errno in {errno.EINTR, errno.ENOENT, errno.EAGAIN}:
                    continue
                return
            _, operation, unique, node = struct.unpack_from("<IIQQ", request)
            if operation in {_FORGET, _BATCH_FORGET, _INTERRUPT}:
                continue
            code, answer = self._answer(operation, node, memoryview(request)[40:])
            os.write(self._fuse, struct.pack("<IiQ", 16 + len(answer), -code, unique) + answer)
            if operation == _DESTROY:
                return

    def _answer(self, operation: int, node: int, body: memoryview) -> tuple[int, bytes]:
        if operation == _WRITE:
            _, offset, size = struct.unpack_from("<QQI", body)
            data = bytes(body[40 : 40 + size])
            self._data[offset : offset + size] = data
            self._note(offset, data)
            return 0, struct.pack("<II", size, 0)
        if operation == _READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return 0, self._data[offset : offset + size]
        if operation == _FSYNC:
            self._note(*_FLUSHED)
            return 0, b""
        return self._manners(operation, node, body)

    def _note(self, offset: int, data: bytes | int) -> None:
        body = data if isinstance(data, bytes) else b""
        self._log.write(_ENTRY.pack(offset, len(body)) + body)
        self._count[:8] = (int.from_bytes(self._count[:8], "little") + 1).to_bytes(8, "little")

    def _manners(self, operation: int, node: int, body: memoryview) -> tuple[int, bytes]:
        if operation == _INIT:
            return 0, struct.pack("<IIIIHHIIHHI28x", 7, 31, 1 << 17, 1 << 5, 16, 12, _MAX_WRITE, 1, 0, 0, 0)
        if operation == _LOOKUP and bytes(body).rstrip(b"\0") == b"disk":
            return 0, struct.pack("<QQQQII", _FILE, 0, 3600, 3600, 0, 0) + self._attributes(_FILE)
        if operation in {_GETATTR, _SETATTR}:
            return 0, struct.pack("<QII", 3600, 0, 0) + self._attributes(node)
        if operation in {_OPEN, _OPENDIR}:
            return 0, struct.pack("<QII", 1, 2, 0)
        if operation in {_FLUSH, _RELEASE, _RELEASEDIR, _DESTROY, _STATFS}:
            return 0, bytes(80) if operation == _STATFS else b""
        return errno.ENOENT if operation == _LOOKUP else errno.ENOSYS, b""

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFREG | 0o600 if node == _FILE else stat.S_IFDIR | 0o700
        size = self._size if node == _FILE else 0
        return struct.pack("<QQQQQQIIIIIIIIII", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
