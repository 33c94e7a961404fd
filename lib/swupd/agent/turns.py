"""Work that is shared with processes of one's own: each takes a number when it is free, and tells all at the end."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
import struct
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar, cast

from swupd.agent import confinement

_TURN = struct.Struct("=I")
T = TypeVar("T")


def shared(work: Callable[[int], T], count: int, helpers: int) -> Iterator[tuple[int | None, T]]:
    """What work gives for each number up to a count, with the number where it was done in this process."""
    left = set(range(count))
    with _turns(count) as turns, _helpers(turns, work, helpers) as answers:
        for number in _taken(turns):
            yield number, work(number)
            left.discard(number)
        for answer in answers:
            for number, found in _told(answer):
                yield None, found
                left.discard(number)
    # Of a process that was killed, or that met an error: it is met here again.
    for number in sorted(left):
        yield None, work(number)


@contextlib.contextmanager
def _turns(count: int) -> Iterator[int]:
    """A pipe with the numbers up to a count: who reads one has taken it."""
    read_end, write_end = os.pipe()
    try:
        with open(write_end, "wb") as pipe:
            # So few that they have room there.
            pipe.write(b"".join(map(_TURN.pack, range(count))))
        yield read_end
    finally:
        os.close(read_end)


def _taken(turns: int) -> Iterator[int]:
    while turn := os.read(turns, _TURN.size):
        yield int(_TURN.unpack(turn)[0])


@contextlib.contextmanager
def _helpers(turns: int, work: Callable[[int], Any], count: int) -> Iterator[list[BinaryIO]]:
    """Processes that take turns, too; gives what each of them answers. Fewer where there can be no more."""
    answers: list[BinaryIO] = []
    children: list[int] = []
    try:
        with contextlib.suppress(OSError):
            for _ in range(count):
                read_end, write_end = os.pipe()
                answers.append(open(read_end, "rb"))  # noqa: SIM115 - closed below
                with open(write_end, "wb") as answer:
                    children.append(_forked(turns, work, answer))
        yield answers
    finally:
        for file in answers:
            file.close()
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _forked(turns: int, work: Callable[[int], Any], answer: BinaryIO) -> int:
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        gc.disable()
        confinement.end_with(parent)
        # All at once: nobody listens before the last turn is taken.
        pickle.dump([(number, work(number)) for number in _taken(turns)], answer)
        answer.flush()
    finally:
        os._exit(0)


def _told(answer: BinaryIO) -> list[tuple[int, Any]]:
    """What a process of one's own answered; nothing where it did not come so far."""
    try:
        return cast(list[tuple[int, Any]], pickle.load(answer))
    except (EOFError, pickle.UnpicklingError):
        return []
