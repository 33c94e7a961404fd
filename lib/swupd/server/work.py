"""How work is spread over an executor, and who is told how far it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Report(Protocol):
    """Whoever is told what happens while a release is made."""

    def phase(self, name: str, done: int, total: int) -> None:
        """Done of total steps of a phase are finished."""

    def warn(self, text: str) -> None:
        """Something to know, which stops nothing."""


class Silent:
    """A report that nobody reads."""

    def phase(self, name: str, done: int, total: int) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""


def _each(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    return [function(item) for item in items]


@dataclass(frozen=True)
class Crew:
    """An executor, and how many tasks may be under way in it: that bounds memory."""

    executor: Executor
    ahead: int = 8

    def map(self, function: Callable[[Item], Result], items: Iterable[Item], batch: int = 1) -> Iterator[Result]:
        """Results in the order of the items, which are drawn only as fast as work gets done.

        batch: how many items are one task, where most are so small that the task itself would cost more.
        """
        running: deque[Future[list[Result]]] = deque()
        rest = iter(items)
        try:
            while together := list(islice(rest, batch)):
                if len(running) >= self.ahead:
                    yield from running.popleft().result()
                running.append(self.executor.submit(_each, function, together))
            while running:
                yield from running.popleft().result()
        finally:
            for future in running:
                future.cancel()
            # Nobody works on in a folder that is about to be removed.
            wait(running)
