"""Where the work of a publish is done: threads of this process, or the workers of a dask scheduler.

Most of the work is hashing and compressing, in libraries that let other threads run, so threads use all processors of
one machine. A scheduler's workers may be on other machines that see the same folders under the same names.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from swupd.errors import InvalidOption
from swupd.server.work import Crew

_AHEAD = 2
"""Tasks under way for each worker: while one is done, the next is there."""
_PATIENCE = 10
"""Seconds to wait for a scheduler."""


@contextlib.contextmanager
def crew(jobs: int, scheduler: str) -> Iterator[Crew]:
    """A crew for the time of a publish. scheduler: its address, "" for threads. Raises InvalidOption."""
    if not scheduler:
        with ThreadPoolExecutor(jobs) as threads:
            yield Crew(threads, _AHEAD * jobs)
        return
    with _workers(scheduler) as (executor, number):
        yield Crew(executor, _AHEAD * number)


@contextlib.contextmanager
def _workers(scheduler: str) -> Iterator[tuple[Executor, int]]:
    """(an executor, its number of threads over all workers)."""
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError as e:
        raise InvalidOption(
            "--scheduler needs dask.distributed, which is not installed", "Install it (pip install distributed)."
        ) from e
    try:
        client = distributed.Client(scheduler, timeout=_PATIENCE)
    except (OSError, ValueError) as e:
        raise InvalidOption(
            f"there is no dask scheduler at {scheduler}: {e}", "Start one (dask scheduler), and workers for it."
        ) from e
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise InvalidOption(f"the scheduler at {scheduler} has no workers", "Start some: dask worker ADDRESS.")
        yield client.get_executor(pure=False), threads
