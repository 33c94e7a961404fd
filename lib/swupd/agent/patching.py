"""Deltas of a pack that are applied while the rest of the pack is read."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from typing import BinaryIO

from swupd import folding, stream
from swupd.archive import Member

_IN_MEMORY = 1 * stream.MIB
_WAITING = 8


class Patching:
    """Work by the digest that it makes, carried out in threads; few pieces wait at a time, since each holds a delta."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._room = threading.Semaphore(_WAITING)
        self._begun: dict[str, Future[None]] = {}
        self._failed: BaseException | None = None

    def begin(self, digest: str, work: Callable[[], None]) -> None:
        """Has work carried out, once there is room. Raises what earlier work raised."""
        self._room.acquire()
        if self._failed is not None:
            raise self._failed
        self._begun[digest] = self._pool.submit(self._carry_out, work)

    def settle(self, digest: str) -> None:
        """Waits for what makes this digest, where that was begun. Raises what it raises."""
        if digest in self._begun:
            self._begun.pop(digest).result()

    def finish(self) -> None:
        """Waits for all work. Raises what work raises."""
        for future in self._begun.values():
            future.result()
        self._begun.clear()

    def _carry_out(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as e:
            self._failed = e
            raise
        finally:
            self._room.release()


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
def unfolded(old: BinaryIO, patch: BinaryIO | bytes, folder: os.PathLike[str]) -> Iterator[BinaryIO]:
    """What a delta is to be applied to: a file, or its unfolded form. Raises ArchiveError."""
    if isinstance(patch, bytes):
        head = patch[: folding.HEAD_SIZE]
    else:
        patch.seek(0)
        head = patch.read(folding.HEAD_SIZE)
    fold = folding.parse(head)
    if fold is None:
        yield old
        return
    with tempfile.TemporaryFile(dir=folder) as file:
        file.writelines(folding.unfolded(old, fold))
        file.flush()
        yield file
