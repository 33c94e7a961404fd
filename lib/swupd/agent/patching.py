"""Deltas of a pack that are applied while the rest of the pack is read."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from typing import BinaryIO

from swupd import folding, stream
from swupd.archive import Member

_IN_MEMORY = 256 * stream.KIB
_HELD = 8
AHEAD = 2
"""How many small deltas are being applied at a time."""

Unfolding = Callable[[bytes, BinaryIO], AbstractContextManager[Iterator[bytes]]]
"""What unfolds a file as the header of a delta says."""


class Patching:
    """Deltas that are applied while their pack is read.

    Each is an iterator that asks for a delta to be applied, stops once, and then takes the answer. With small ones the
    reader of the pack is a few questions ahead of the answers; large ones have threads, and wait there in small number.
    """

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._room = threading.Semaphore(_HELD)
        self._small: OrderedDict[str, Iterator[None]] = OrderedDict()
        self._large: dict[str, Future[None]] = {}
        self._failed: BaseException | None = None

    def begin(self, digest: str, steps: Iterator[None], large: bool) -> None:
        """Begins to make a digest, once there is room. Raises what earlier ones raise."""
        if large:
            self._room.acquire()
            if self._failed is not None:
                raise self._failed
            self._large[digest] = self._pool.submit(self._carry_out, steps)
            return
        while len(self._small) >= AHEAD:
            _exhaust(self._small.popitem(last=False)[1])
        next(steps, None)
        self._small[digest] = steps

    def settle(self, digest: str) -> None:
        """Waits for what makes this digest, where that was begun. Raises what it raises."""
        if digest in self._small:
            _exhaust(self._small.pop(digest))
        if digest in self._large:
            self._large.pop(digest).result()

    def finish(self) -> None:
        """Waits for all. Raises what they raise."""
        for digest in (*self._small, *self._large):
            self.settle(digest)

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


@contextlib.contextmanager
def unfolded(
    old: BinaryIO, patch: BinaryIO | bytes, folder: os.PathLike[str], unfolding: Unfolding
) -> Iterator[BinaryIO]:
    """What a delta is to be applied to: a file, or its unfolded form. Raises ArchiveError."""
    if isinstance(patch, bytes):
        head = patch[: folding.HEAD_SIZE]
    else:
        patch.seek(0)
        head = patch.read(folding.HEAD_SIZE)
    if folding.parse(head) is None:
        yield old
        return
    with tempfile.TemporaryFile(dir=folder) as file:
        with unfolding(head, old) as chunks:
            file.writelines(chunks)
        file.flush()
        yield file
