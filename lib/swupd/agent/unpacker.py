"""Unpacks archives and applies deltas in processes that have no privileges.

A process that is forked while the agent has one thread waits and forks workers; each worker gives up what it can (see
confinement), gets open files and answers with what is in them. Its answers are hostile input: it may have been taken
over by what it read.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import BinaryIO, Protocol, cast

from swupd import archive, patches
from swupd.agent import confinement, syscalls, unpacking
from swupd.agent.patching import AHEAD
from swupd.archive import Member
from swupd.errors import ArchiveError
from swupd.patches import Patched
from swupd.stream import MAX_DELTA_RESULT, MIB
from swupd.tree import Node

_MAX_MEMBER = 16 * MIB
_READERS = 4
_PATCHERS = 4
_PATCHER_MEMORY = 128 * MIB
"""Of a device's memory for each of them: it takes a sixth of that, and other programs are there, too."""
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
        yield archive.members(unpacking.opened(source), limit)

    @contextlib.contextmanager
    def patching(self, deltas: Sequence[Delta], limit: int) -> Iterator[Iterator[Answer]]:
        """Has deltas applied. Gives what waits for the files that they make, each of at most limit bytes.

        Each is to be asked, and the file to be read, before the next; one that raises ArchiveError does not keep those
        behind it from being made. Raises ArchiveError itself where none can be made.
        """
        yield (
            partial(unpacking.patched, unpacking.opened(patch), unpacking.opened(old), limit) for patch, old in deltas
        )

    @contextlib.contextmanager
    def unfolding(self, head: bytes, old: BinaryIO) -> Iterator[Iterator[bytes]]:
        """The old file of a folded delta, unfolded as the delta's header says. Raises ArchiveError."""
        yield iter(unpacking.unfolded(head, old).content)

    def apply(self, patch: bytes, old: bytes, limit: int = MAX_DELTA_RESULT) -> Patched:
        """As patches.apply."""
        return patches.apply(patch, old, limit)

    def rest(self) -> None:
        """Nobody to send home."""


class Unpacker:
    """Unpacks in other processes. Safe to use from several threads; to be made while there is one."""

    def __init__(self, reader_memory: int = _READER_MEMORY) -> None:
        """Raises OSError where there can be no process."""
        syscalls.share_heap()
        processors = len(os.sched_getaffinity(0))
        self.patchers = _patchers(processors, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        self._lock = threading.Lock()
        self._slots = {
            unpacking.UNPACK: threading.Semaphore(min(_READERS, processors)),
            unpacking.PATCH: threading.Semaphore(self.patchers + AHEAD),
        }
        self._idle: dict[bytes, list[_Worker]] = {unpacking.UNPACK: [], unpacking.PATCH: []}
        self._control, control = socket.socketpair()
        try:
            self._parent = confinement.forked(control, lambda: unpacking.breed(control, reader_memory))
        except OSError:
            self._control.close()
            raise
        finally:
            control.close()
        # The first is there by the time that there is something to unpack.
        with contextlib.suppress(ArchiveError):
            self._idle[unpacking.UNPACK].append(self._new(unpacking.UNPACK))

    @contextlib.contextmanager
    def members(self, source: BinaryIO | bytes, limit: int) -> Iterator[Iterator[Member]]:
        """As archive.members, with the same errors; members are read within the context."""
        with self._worker(unpacking.UNPACK) as worker:
            worker.ask(unpacking.UNPACK, limit, [(source, b"")])
            yield worker.members(limit)

    @contextlib.contextmanager
    def patching(self, deltas: Sequence[Delta], limit: int) -> Iterator[Iterator[Answer]]:
        """As Here.patching."""
        with self._worker(unpacking.PATCH) as worker:
            worker.ask(unpacking.PATCH, limit, deltas)
            yield worker.files(min(limit, MAX_DELTA_RESULT))

    @contextlib.contextmanager
    def unfolding(self, head: bytes, old: BinaryIO) -> Iterator[Iterator[bytes]]:
        """As Here.unfolding. Here, too, since it takes memory: blocks are large."""
        with self._worker(unpacking.PATCH) as worker:
            worker.ask(unpacking.UNFOLD, MAX_DELTA_RESULT, [(head, old)])
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


def _patchers(processors: int, memory: int) -> int:
    """How many there are, on a device with so many bytes of memory."""
    return max(1, min(_PATCHERS, processors, memory // _PATCHER_MEMORY))


class _Worker:
    """The agent's side of a worker. done: whether it has said all that there is."""

    def __init__(self, channel: socket.socket) -> None:
        channel.settimeout(_PATIENCE)
        self._channel = channel
        self._answer = cast(BinaryIO, channel.makefile("rb", unpacking.PIECE))
        self._next = (b"", 0)
        self._due = 0
        self._lost = False

    @property
    def done(self) -> bool:
        return not self._due

    def ask(self, what: bytes, limit: int, inputs: Sequence[tuple[BinaryIO | bytes, BinaryIO | bytes]]) -> None:
        """Sends requests, which are answered one after another. Raises ArchiveError."""
        self._due = len(inputs)
        heads, inline, files = [unpacking.COUNT.pack(len(inputs))], [], []
        for pair in inputs:
            held = [source if isinstance(source, bytes) else b"" for source in pair]
            opened = [0 if isinstance(source, bytes) else 1 << n for n, source in enumerate(pair)]
            heads.append(unpacking.REQUEST.pack(what, sum(opened), limit, *map(len, held)))
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
        while self._next[0] == unpacking.MEMBER:
            count += 1
            if self._next[1] > _MAX_MEMBER or count > limit // 512 + 2:
                raise _malformed()
            name, node = parsed(self._bytes(self._next[1]))
            self._advance()
            content = self._content(budget)
            yield Member(name, node, content)
            for _ in content:
                continue
        if self._next != (unpacking.END, 0):
            raise self._problem()
        self._due -= 1
        self._lost = False

    def _content(self, budget: list[int]) -> Iterator[bytes]:
        while self._next[0] == unpacking.CONTENT:
            size = self._next[1]
            budget[0] -= size
            if not 0 < size <= unpacking.CHUNK or budget[0] < 0:
                self._next = (b"", 0)
                raise _malformed()
            yield self._bytes(size)
            self._advance()
        if self._next[0] not in {unpacking.MEMBER, unpacking.END}:
            raise self._problem()

    def _problem(self) -> ArchiveError:
        """The error that a worker reports, or that its answer is."""
        tag, size = self._next
        self._next = (b"", 0)
        if tag != unpacking.ERROR or size > unpacking.MAX_ERROR:
            return _malformed()
        problem = self._bytes(size).decode("utf-8", "replace")
        self._lost = False
        return ArchiveError(problem)

    def _advance(self) -> None:
        self._next = (b"", 0)
        tag, size = unpacking.FRAME.unpack(self._bytes(unpacking.FRAME.size))
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
