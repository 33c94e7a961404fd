"""Work that is shared with processes of one's own: each takes a number when it is free, and tells all at the end."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator
from typing import TypeVar

from swupd.agent.aside import aside

_TURN = struct.Struct("=I")
T = TypeVar("T")


def shared(work: Callable[[int], T], count: int, helpers: int) -> Iterator[tuple[int | None, T]]:
    """What work gives for each number up to a count, with the number where it was done in this process."""
    left = set(range(count))
    with _turns(count) as turns, contextlib.ExitStack() as running:
        answers = [
            running.enter_context(aside(lambda: [(number, work(number)) for number in _taken(turns)]))
            for _ in range(helpers)
        ]
        for number in _taken(turns):
            yield number, work(number)
            left.discard(number)
        for answer in answers:
            for number, found in answer() or ():
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
