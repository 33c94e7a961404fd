"""Deltas of a pack that are applied while the rest of the pack is read."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from typing import BinaryIO, NamedTuple

from swupd import folding, payloads, stream
from swupd.archive import Member
from swupd.tree import Node

_IN_MEMORY = 256 * stream.KIB
_HELD = 8
AHEAD = 2
"""How many groups of small deltas are being applied at a time."""
GROUP = 8
"""How many small deltas are asked for at once: each question and each answer costs a change of process."""
_GROUP_SIZE = 2 * stream.MIB

Unfolding = Callable[[bytes, BinaryIO], AbstractContextManager[Iterator[bytes]]]
"""What unfolds a file as the header of a delta says."""


class Job(NamedTuple):
    """A delta that shall be applied.

    digest: of what it makes. old: what to apply it to, with its size and xattrs in source. opened: closes both files.
    """

    digest: str
    patch: BinaryIO | bytes
    old: BinaryIO
    source: Node
    opened: AbstractContextManager[object]


Apply = Callable[[Sequence[Job]], Iterator[None]]
"""Asks for deltas to be applied, stops once, and then takes the answers."""


class Patching:
    """Deltas that are applied while their pack is read.

    Those that are soon done go in groups, and the reader of the pack is a few groups ahead of the answers; slow ones
    have threads, and wait there in small number.
    """

    def __init__(self, pool: Executor, apply: Apply) -> None:
        self._pool, self._apply = pool, apply
        self._room = threading.Semaphore(_HELD)
        self._gathered: list[Job] = []
        self._small: deque[tuple[frozenset[str], Iterator[None]]] = deque()
        self._slow: dict[str, Future[None]] = {}
        self._failed: BaseException | None = None

    def begin(self, job: Job, slow: bool) -> None:
        """Takes a delta, and begins to apply it once there is room. Raises what earlier ones raise."""
        if slow:
            self._room.acquire()
            if self._failed is not None:
                raise self._failed
            self._slow[job.digest] = self._pool.submit(self._carry_out, self._apply((job,)))
            return
        self._gathered.append(job)
        if len(self._gathered) == GROUP or sum(each.source.size for each in self._gathered) > _GROUP_SIZE:
            self._ask()

    def settle(self, digest: str) -> None:
        """Waits for what makes this digest, where that was begun. Raises what it raises."""
        if any(job.digest == digest for job in self._gathered):
            self._ask()
        while any(digest in digests for digests, _ in self._small):
            self._take()
        if digest in self._slow:
            self._slow.pop(digest).result()

    def finish(self) -> None:
        """Waits for all. Raises what they raise."""
        self._ask()
        while self._small:
            self._take()
        for digest in tuple(self._slow):
            self.settle(digest)

    def _ask(self) -> None:
        jobs, self._gathered = tuple(self._gathered), []
        while len(self._small) >= AHEAD:
            self._take()
        if jobs:
            steps = self._apply(jobs)
            next(steps, None)
            self._small.append((frozenset(job.digest for job in jobs), steps))

    def _take(self) -> None:
        _exhaust(self._small.popleft()[1])

    def _carry_out(self, steps: Iterator[None]) -> None:
        try:
            _exhaust(steps)
        except BaseException as e:
            self._failed = e
            raise
        finally:
            self._room.release()


def _exhaust(steps: Iterator[None]) -> None:
    for _ in steps:
        continue


def held(member: Member, folder: os.PathLike[str]) -> AbstractContextManager[BinaryIO | bytes]:
    """A member's content: in memory where it is small, else in a file without a name in a folder."""
    if member.node.size <= _IN_MEMORY:
        return contextlib.nullcontext(b"".join(member.content))
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - whoever applies the delta closes it
    try:
        file.writelines(member.content)
        file.flush()
    except BaseException:
        file.close()
        raise
    return file


def is_folded(patch: BinaryIO | bytes) -> bool:
    """Whether a delta makes something that has to be compressed, which takes long."""
    return payloads.of_mark(_head(patch)[: payloads.MARK_SIZE]) is not None


def _head(patch: BinaryIO | bytes) -> bytes:
    if isinstance(patch, bytes):
        return patch[: folding.HEAD_SIZE]
    patch.seek(0)
    return patch.read(folding.HEAD_SIZE)


@contextlib.contextmanager
def unfolded(
    old: BinaryIO, patch: BinaryIO | bytes, folder: os.PathLike[str], unfolding: Unfolding
) -> Iterator[BinaryIO]:
    """What a delta is to be applied to: a file, or its unfolded form. Raises ArchiveError."""
    head = _head(patch)
    fold = folding.parse(head)
    if fold is None:
        yield old
        return
    with tempfile.TemporaryFile(dir=folder) as file:
        with unfolding(head[: fold.length], old) as chunks:
            file.writelines(chunks)
        file.flush()
        yield file
