"""What unpacks archives and applies deltas in a process that has no privileges, and what is said to it and by it.

A request is its head (REQUEST), what it is about (inline, or files that come along), and several are sent at a time,
after their number (COUNT). The answer is frames (FRAME): members with their contents, then an end or an error.
"""

from __future__ import annotations

import codecs
import contextlib
import gc
import importlib
import io
import json
import os
import signal
import socket
import stat
import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO, cast

from swupd import archive, folding, patches
from swupd.agent import confinement
from swupd.archive import Member
from swupd.errors import ArchiveError
from swupd.stream import MAX_DELTA_RESULT
from swupd.tree import Node

COUNT = struct.Struct("<B")
"""How many requests follow: first all their heads, then their input."""
REQUEST = struct.Struct("<cBQQQ")
"""What to do, which inputs are files that come along (bits), the most bytes to give, and how long the inputs are."""
FRAME = struct.Struct("<cI")
"""What it is, and how many bytes follow."""
UNPACK, PATCH, UNFOLD = b"U", b"P", b"F"
MEMBER, CONTENT, END, ERROR = b"M", b"C", b"E", b"X"
MAX_ERROR = 4096
CHUNK = 256 * 1024
"""Bytes of content in a frame at most."""
PIECE = 256 * 1024
"""Bytes that are read or written at a time."""
_MAX_FILES = 253
"""The kernel's limit for one message (SCM_MAX_FD)."""


def breed(control: socket.socket, reader_memory: int) -> None:
    """In the first child: forks a worker for each channel that it is sent, until there is nobody to send one."""
    gc.freeze()
    gc.disable()
    os.chdir("/")
    # What a worker could not load any more.
    for encoding in ("ascii", "latin-1", "utf-8"):
        with contextlib.suppress(LookupError, OSError):
            codecs.lookup(encoding)
    for names in (("compression.zstd", "backports.zstd"), ("lz4.block",)):
        for name in names:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
                break
    workers: list[int] = []
    while True:
        kind, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not kind or not fds:
            break
        workers = [pid for pid in workers if os.waitpid(pid, os.WNOHANG)[0] == 0]
        channel = socket.socket(fileno=fds[0])
        with contextlib.suppress(OSError):
            pid = confinement.forked(channel, lambda channel=channel: _work(channel, reader_memory))  # type: ignore[misc]
            workers.append(pid)
        channel.close()
    # Not asked to end: one that was taken over would not.
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    for pid in workers:
        os.waitpid(pid, 0)


def _work(channel: socket.socket, memory: int) -> None:
    """In a worker: answers requests until there are no more."""
    parent = os.getppid()
    confinement.confine(memory, "swupd-unpack")
    # Once more: a change of owner has revoked it.
    confinement.end_with(parent)
    answer = cast(BinaryIO, channel.makefile("wb", PIECE))
    while True:
        head, fds, _, _ = socket.recv_fds(channel, COUNT.size, _MAX_FILES)
        if not head:
            return
        with contextlib.ExitStack() as stack:
            files = iter([stack.enter_context(os.fdopen(fd, "rb")) for fd in fds])
            heads = _received(channel, REQUEST.size * COUNT.unpack(head)[0])
            # All is read before anything is said: the agent does not listen before it has said all.
            requests = [
                (what, limit, *_inputs(channel, files, which, sizes))
                for what, which, limit, *sizes in REQUEST.iter_unpack(heads)
            ]
            for request in requests:
                _answer(answer, *request)
        answer.flush()


def _inputs(channel: socket.socket, files: Iterator[BinaryIO], which: int, sizes: Sequence[int]) -> list[BinaryIO]:
    """What a request is about: the next of the files that came along where `which` has a bit, else what is sent."""
    return [next(files) if which >> n & 1 else io.BytesIO(_received(channel, size)) for n, size in enumerate(sizes)]


def _answer(answer: BinaryIO, what: bytes, limit: int, first: BinaryIO, second: BinaryIO) -> None:
    try:
        if what == UNPACK:
            for member in archive.members(first, limit):
                _tell(answer, member)
        elif what == UNFOLD:
            _tell(answer, unfolded(first.read(), second))
        else:
            _tell(answer, patched(first, second, limit))
        _send(answer, END)
    except ArchiveError as e:
        _send(answer, ERROR, e.problem.encode("utf-8", "replace")[:MAX_ERROR])
    except MemoryError:
        _send(answer, ERROR, b"it needs more memory than is allowed")


def opened(source: BinaryIO | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def patched(patch: BinaryIO, old: BinaryIO, limit: int) -> Member:
    """old: unfolded, where the delta is folded."""
    # A file that was sent has its sender's position.
    patch.seek(0)
    fold = folding.parse(patch.read(folding.HEAD_SIZE))
    if fold is None:
        made = patches.opened(patch, _size(patch), old, _size(old), limit)
    elif fold.size > limit:
        raise ArchiveError("the delta makes a file that is too large")
    else:
        made = patches.opened(patch, _size(patch), old, _size(old), MAX_DELTA_RESULT, fold.length)
    mode = stat.S_IFREG | stat.S_IMODE(made.mode)
    try:
        node = Node("/", "F", mode, made.uid, made.gid, made.size if fold is None else fold.size)
    except ValueError as e:
        raise ArchiveError(f"the delta makes something impossible: {e}") from e
    return Member("", node, made.chunks if fold is None else folding.folded(made.chunks, fold))


def unfolded(head: bytes, old: BinaryIO) -> Member:
    """A file without a name, whose size nobody has counted."""
    fold = folding.parse(head)
    if fold is None:
        raise ArchiveError("the delta does not say how to unfold")
    return Member("", Node("/", "F", stat.S_IFREG), folding.unfolded(old, fold))


def _size(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


def _tell(answer: BinaryIO, member: Member) -> None:
    node = member.node
    xattrs = [(key, value.hex()) for key, value in node.xattrs]
    words = (member.name, node.kind, node.mode, node.uid, node.gid, node.size, node.target, xattrs)
    _send(answer, MEMBER, json.dumps(words).encode("ascii"))
    for chunk in member.content:
        for at in range(0, len(chunk), CHUNK):
            _send(answer, CONTENT, chunk[at : at + CHUNK])


def _send(answer: BinaryIO, tag: bytes, data: bytes = b"") -> None:
    answer.write(FRAME.pack(tag, len(data)))
    answer.write(data)


def _received(channel: socket.socket, size: int) -> bytes:
    """So many bytes. Raises EOFError."""
    data = bytearray()
    while len(data) < size:
        piece = channel.recv(min(size - len(data), PIECE))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)
