"""Unpacks archives and applies deltas in processes that have no privileges.

A process that is forked while the agent has one thread waits and forks workers; each worker gives up what it can (see
confinement), gets open files and answers with what is in them. Its answers are hostile input: it may have been taken
over by what it read.
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
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import BinaryIO, Protocol, cast

from swupd import archive, folding, patches
from swupd.agent import confinement
from swupd.agent.patching import AHEAD
from swupd.archive import Member
from swupd.errors import ArchiveError
from swupd.patches import Patched
from swupd.stream import MAX_DELTA_RESULT, MIB
from swupd.tree import Node

_COUNT = struct.Struct("<B")
"""How many requests follow: first all their heads, then their input."""
_REQUEST = struct.Struct("<cBQQQ")
"""What to do, which inputs are files that come along (bits), the most bytes to give, and how long the inputs are."""
_MAX_FILES = 253
"""The kernel's limit for one message (SCM_MAX_FD)."""
_FRAME = struct.Struct("<cI")
_UNPACK, _PATCH, _UNFOLD = b"U", b"P", b"F"
_MEMBER, _CONTENT, _END, _ERROR = b"M", b"C", b"E", b"X"
_MAX_MEMBER = 16 * MIB
_MAX_ERROR = 4096
_CHUNK = 256 * 1024
_PIECE = 256 * 1024
_READERS = 4
_PATCHERS = 2
_READER_MEMORY = 512 * MIB
_PATIENCE = 900.0
"""Seconds that a worker may be silent: the largest delta takes some."""
_TYPES = {"F": stat.S_IFREG, "D": stat.S_IFDIR, "L": stat.S_IFLNK}


Delta = tuple[BinaryIO | bytes, BinaryIO | bytes]
"""A delta, and the file to apply it to."""
Answer = Callable[[], Member]


class Unpacks(Protocol):
    """Whoever opens what came from a server. Sources are bytes, or files of the system.

    patchers: how many large deltas are to be applied at a time, beside patching.AHEAD groups of small ones.
    """

    @property
    def patchers(self) -> int: ...

    def members(self, source: BinaryIO | bytes, limit: int) -> AbstractContextManager[Iterator[Member]]: ...
    def patching(self, deltas: Sequence[Delta], limit: int) -> AbstractContextManager[Iterator[Answer]]: ...
    def unfolding(self, head: bytes, old: BinaryIO) -> AbstractContextManager[Iterator[bytes]]: ...
    def apply(self, patch: bytes, old: bytes, limit: int = ...) -> Patched: ...
    def rest(self) -> None: ...


class Here:
    """Unpacks in this process, for where there can be no other."""

    patchers = 1

    @contextlib.contextmanager
    def members(self, source: BinaryIO | bytes, limit: int) -> Iterator[Iterator[Member]]:
        """As archive.members."""
        yield archive.members(_opened(source), limit)

    @contextlib.contextmanager
    def patching(self, deltas: Sequence[Delta], limit: int) -> Iterator[Iterator[Answer]]:
        """Has deltas applied. Gives what waits for the files that they make, each of at most limit bytes.

        Each is to be asked, and the file to be read, before the next; one that raises ArchiveError does not keep those
        behind it from being made. Raises ArchiveError itself where none can be made.
        """
        yield (partial(_patched, _opened(patch), _opened(old), limit) for patch, old in deltas)

    @contextlib.contextmanager
    def unfolding(self, head: bytes, old: BinaryIO) -> Iterator[Iterator[bytes]]:
        """The old file of a folded delta, unfolded as the delta's header says. Raises ArchiveError."""
        yield iter(_unfolded(head, old).content)

    def apply(self, patch: bytes, old: bytes, limit: int = MAX_DELTA_RESULT) -> Patched:
        """As patches.apply."""
        return patches.apply(patch, old, limit)

    def rest(self) -> None:
        """Nobody to send home."""


class Unpacker:
    """Unpacks in other processes. Safe to use from several threads; to be made while there is one."""

    patchers = min(_PATCHERS, os.cpu_count() or 1)

    def __init__(self, reader_memory: int = _READER_MEMORY) -> None:
        """Raises OSError where there can be no process."""
        self._lock = threading.Lock()
        self._slots = {
            _UNPACK: threading.Semaphore(min(_READERS, os.cpu_count() or 1)),
            _PATCH: threading.Semaphore(self.patchers + AHEAD),
        }
        self._idle: dict[bytes, list[_Worker]] = {_UNPACK: [], _PATCH: []}
        self._control, control = socket.socketpair()
        try:
            self._parent = confinement.forked(control, lambda: _breed(control, reader_memory))
        except OSError:
            self._control.close()
            raise
        finally:
            control.close()
        # The first is there by the time that there is something to unpack.
        with contextlib.suppress(ArchiveError):
            self._idle[_UNPACK].append(self._new(_UNPACK))

    @contextlib.contextmanager
    def members(self, source: BinaryIO | bytes, limit: int) -> Iterator[Iterator[Member]]:
        """As archive.members, with the same errors; members are read within the context."""
        with self._worker(_UNPACK) as worker:
            worker.ask(_UNPACK, limit, [(source, b"")])
            yield worker.members(limit)

    @contextlib.contextmanager
    def patching(self, deltas: Sequence[Delta], limit: int) -> Iterator[Iterator[Answer]]:
        """As Here.patching."""
        with self._worker(_PATCH) as worker:
            worker.ask(_PATCH, limit, deltas)
            yield worker.files(min(limit, MAX_DELTA_RESULT))

    @contextlib.contextmanager
    def unfolding(self, head: bytes, old: BinaryIO) -> Iterator[Iterator[bytes]]:
        """As Here.unfolding. Here, too, since it takes memory: blocks are large."""
        with self._worker(_PATCH) as worker:
            worker.ask(_UNFOLD, MAX_DELTA_RESULT, [(head, old)])
            for answer in worker.files(MAX_DELTA_RESULT):
                yield iter(answer().content)

    def apply(self, patch: bytes, old: bytes, limit: int = MAX_DELTA_RESULT) -> Patched:
        """As patches.apply, with the same errors."""
        with self.patching([(patch, old)], limit) as answers:
            for answer in answers:
                made = answer()
                content = b"".join(made.content)
        return Patched(content, made.node.mode, made.node.uid, made.node.gid)

    def rest(self) -> None:
        """Ends the workers; the next request starts new ones."""
        with self._lock:
            idle = [worker for workers in self._idle.values() for worker in workers]
            for workers in self._idle.values():
                workers.clear()
        for worker in idle:
            worker.close()

    def close(self) -> None:
        """Ends all processes, and waits until they are gone."""
        self.rest()
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._parent, 0)

    @contextlib.contextmanager
    def _worker(self, kind: bytes) -> Iterator[_Worker]:
        """A worker, which is kept for the next request where it did this one well."""
        with self._slots[kind]:
            with self._lock:
                worker = self._idle[kind].pop() if self._idle[kind] else None
            worker = worker or self._new(kind)
            try:
                yield worker
            finally:
                if worker.done:
                    with self._lock:
                        self._idle[kind].append(worker)
                else:
                    worker.close()

    def _new(self, kind: bytes) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [kind], [theirs.fileno()])
            except OSError as e:
                ours.close()
                raise _ended() from e
        return _Worker(ours)


def _only_file(found: Iterator[Member]) -> Member:
    made = next(found, None)
    if made is None or made.node.kind != "F":
        raise _malformed()
    return made


class _Worker:
    """The agent's side of a worker. done: whether it has said all that there is."""

    def __init__(self, channel: socket.socket) -> None:
        channel.settimeout(_PATIENCE)
        self._channel = channel
        self._answer = cast(BinaryIO, channel.makefile("rb", _PIECE))
        self._next = (b"", 0)
        self._due = 0
        self._lost = False

    @property
    def done(self) -> bool:
        return not self._due

    def ask(self, what: bytes, limit: int, inputs: Sequence[tuple[BinaryIO | bytes, BinaryIO | bytes]]) -> None:
        """Sends requests, which are answered one after another. Raises ArchiveError."""
        self._due = len(inputs)
        heads, inline, files = [_COUNT.pack(len(inputs))], [], []
        for pair in inputs:
            held = [source if isinstance(source, bytes) else b"" for source in pair]
            opened = [0 if isinstance(source, bytes) else 1 << n for n, source in enumerate(pair)]
            heads.append(_REQUEST.pack(what, sum(opened), limit, *map(len, held)))
            inline += held
            files += [source.fileno() for source in pair if not isinstance(source, bytes)]
        message = b"".join((*heads, *inline))
        try:
            sent = socket.send_fds(self._channel, [message], files)
            if sent < len(message):
                self._channel.sendall(memoryview(message)[sent:])
        except OSError as e:
            raise _ended() from e

    def files(self, limit: int) -> Iterator[Answer]:
        """The one file that each request is answered with, each to be read before the next. Raises ArchiveError."""
        for _ in range(self._due):
            found = self.members(limit)
            yield partial(_only_file, found)
            # Nothing waits where an error was told.
            if self._next[0]:
                for _ in found:
                    raise _malformed()

    def members(self, limit: int) -> Iterator[Member]:
        """What a request is answered with: members whose contents have together at most limit bytes.

        Raises ArchiveError, which may be what the worker itself reports: then there may be further answers.
        """
        if self._lost:
            raise _ended()
        self._lost = True
        budget = [limit]
        count = 0
        self._advance()
        while self._next[0] == _MEMBER:
            count += 1
            if self._next[1] > _MAX_MEMBER or count > limit // 512 + 2:
                raise _malformed()
            name, node = parsed(self._bytes(self._next[1]))
            self._advance()
            content = self._content(budget)
            yield Member(name, node, content)
            for _ in content:
                continue
        if self._next != (_END, 0):
            raise self._problem()
        self._due -= 1
        self._lost = False

    def _content(self, budget: list[int]) -> Iterator[bytes]:
        while self._next[0] == _CONTENT:
            size = self._next[1]
            budget[0] -= size
            if not 0 < size <= _CHUNK or budget[0] < 0:
                self._next = (b"", 0)
                raise _malformed()
            yield self._bytes(size)
            self._advance()
        if self._next[0] not in {_MEMBER, _END}:
            raise self._problem()

    def _problem(self) -> ArchiveError:
        """The error that a worker reports, or that its answer is."""
        tag, size = self._next
        self._next = (b"", 0)
        if tag != _ERROR or size > _MAX_ERROR:
            return _malformed()
        problem = self._bytes(size).decode("utf-8", "replace")
        self._lost = False
        return ArchiveError(problem)

    def _advance(self) -> None:
        self._next = (b"", 0)
        tag, size = _FRAME.unpack(self._bytes(_FRAME.size))
        self._next = (tag, size)

    def _bytes(self, count: int) -> bytes:
        try:
            data = self._answer.read(count)
        except OSError as e:
            self._next = (b"", 0)
            raise _ended() from e
        if len(data) != count:
            self._next = (b"", 0)
            raise _ended()
        return data

    def close(self) -> None:
        """Sends the worker home."""
        self._answer.close()
        self._channel.close()


@contextlib.contextmanager
def started() -> Iterator[Unpacks]:
    """What unpacks for the time of a command: other processes, or this one where there can be none."""
    try:
        made = Unpacker() if not confinement.pretending() else None
    except OSError:
        made = None
    if made is None:
        yield Here()
        return
    try:
        yield made
    finally:
        made.close()


def parsed(data: bytes) -> tuple[str, Node]:
    """A member's name and node, out of a worker's words. Raises ArchiveError."""
    try:
        name, kind, mode, uid, gid, size, target, xattrs = json.loads(data)
        numbers = (mode, uid, gid, size)
        if not all(type(n) is int for n in numbers) or not all(type(t) is str for t in (name, kind, target)):
            raise _malformed()
        if stat.S_IFMT(mode) != _TYPES[kind] or mode != stat.S_IFMT(mode) | stat.S_IMODE(mode):
            raise _malformed()
        pairs = tuple((str(key), bytes.fromhex(value)) for key, value in xattrs)
        return name, Node("/" + name, kind, mode, uid, gid, size, target, pairs)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as e:
        raise _malformed() from e


def _malformed() -> ArchiveError:
    return ArchiveError("the process that unpacks it gave an answer that makes no sense")


def _ended() -> ArchiveError:
    return ArchiveError("the process that unpacks it was ended by it")


def _breed(control: socket.socket, reader_memory: int) -> None:
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
    answer = cast(BinaryIO, channel.makefile("wb", _PIECE))
    while True:
        head, fds, _, _ = socket.recv_fds(channel, _COUNT.size, _MAX_FILES)
        if not head:
            return
        with contextlib.ExitStack() as opened:
            files = iter([opened.enter_context(os.fdopen(fd, "rb")) for fd in fds])
            heads = _received(channel, _REQUEST.size * _COUNT.unpack(head)[0])
            # All is read before anything is said: the agent does not listen before it has said all.
            requests = [
                (what, limit, *_inputs(channel, files, which, sizes))
                for what, which, limit, *sizes in _REQUEST.iter_unpack(heads)
            ]
            for request in requests:
                _answer(answer, *request)
        answer.flush()


def _inputs(channel: socket.socket, files: Iterator[BinaryIO], which: int, sizes: Sequence[int]) -> list[BinaryIO]:
    """What a request is about: the next of the files that came along where `which` has a bit, else what is sent."""
    return [next(files) if which >> n & 1 else io.BytesIO(_received(channel, size)) for n, size in enumerate(sizes)]


def _answer(answer: BinaryIO, what: bytes, limit: int, first: BinaryIO, second: BinaryIO) -> None:
    try:
        if what == _UNPACK:
            for member in archive.members(first, limit):
                _tell(answer, member)
        elif what == _UNFOLD:
            _tell(answer, _unfolded(first.read(), second))
        else:
            _tell(answer, _patched(first, second, limit))
        _send(answer, _END)
    except ArchiveError as e:
        _send(answer, _ERROR, e.problem.encode("utf-8", "replace")[:_MAX_ERROR])
    except MemoryError:
        _send(answer, _ERROR, b"it needs more memory than is allowed")


def _opened(source: BinaryIO | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _patched(patch: BinaryIO, old: BinaryIO, limit: int) -> Member:
    """old: unfolded, where the delta is folded."""
    # A file that was sent has its sender's position.
    patch.seek(0)
    fold = folding.parse(patch.read(folding.HEAD_SIZE))
    if fold is None:
        made = patches.opened(patch, _size(patch), old, _size(old), limit)
    elif fold.size > limit:
        raise ArchiveError("the delta makes a file that is too large")
    else:
        made = patches.opened(patch, _size(patch), old, _size(old), MAX_DELTA_RESULT, folding.HEAD_SIZE)
    mode = stat.S_IFREG | stat.S_IMODE(made.mode)
    try:
        node = Node("/", "F", mode, made.uid, made.gid, made.size if fold is None else fold.size)
    except ValueError as e:
        raise ArchiveError(f"the delta makes something impossible: {e}") from e
    return Member("", node, made.chunks if fold is None else folding.folded(made.chunks, fold.new_start, fold.new_end))


def _unfolded(head: bytes, old: BinaryIO) -> Member:
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
    _send(answer, _MEMBER, json.dumps(words).encode("ascii"))
    for chunk in member.content:
        for at in range(0, len(chunk), _CHUNK):
            _send(answer, _CONTENT, chunk[at : at + _CHUNK])


def _send(answer: BinaryIO, tag: bytes, data: bytes = b"") -> None:
    answer.write(_FRAME.pack(tag, len(data)))
    answer.write(data)


def _received(channel: socket.socket, size: int) -> bytes:
    """So many bytes. Raises EOFError."""
    data = bytearray()
    while len(data) < size:
        piece = channel.recv(min(size - len(data), _PIECE))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)
