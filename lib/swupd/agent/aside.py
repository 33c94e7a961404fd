"""Work that is done aside: by a process of one's own, which tells at its end what came of it."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar, cast

from swupd.agent import confinement

T = TypeVar("T")


@contextlib.contextmanager
def aside(work: Callable[[], T]) -> Iterator[Callable[[], T | None]]:
    """Has work done aside. Gives what waits for its result, to be asked once.

    That is None where the process was killed, met an error, or could not be made. It ends with the context.
    """
    read_end, write_end = os.pipe()
    child = 0
    with open(read_end, "rb") as answer:
        with open(write_end, "wb") as told, contextlib.suppress(OSError):
            child = _forked(work, told)
        try:
            yield lambda: cast("T | None", _result(answer))
        finally:
            if child:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def _forked(work: Callable[[], object], answer: BinaryIO) -> int:
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        gc.disable()
        confinement.end_with(parent)
        # All at once: perhaps nobody listens yet.
        pickle.dump(work(), answer)
        answer.flush()
    finally:
        os._exit(0)


def _result(answer: BinaryIO) -> object:
    """What a process of one's own answered; None where it did not come so far."""
    try:
        return cast(object, pickle.load(answer))
    except (EOFError, pickle.UnpicklingError):
        return None
