"""What the agent asks for objects of a stream, whoever that is: one Source, or Mirrors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from swupd.agent.source import Source
from swupd.errors import SwupdError

T = TypeVar("T")


class Origin(Protocol):
    """Where a stream comes from: one Source, or Mirrors."""

    @property
    def url(self) -> str: ...
    @property
    def received(self) -> int: ...
    def read(self, name: str, limit: int) -> bytes | None: ...
    def download(self, name: str, to: Path, limit: int, advance: Callable[[int], None]) -> bool: ...
    def size(self, name: str) -> int | None: ...
    def blame(self, name: str, reason: str) -> bool: ...
    def skip(self, url: str, reason: str) -> None: ...
    def survey(self, ask: Callable[[Source], T]) -> list[tuple[str, T]]: ...


def verified(origin: Origin, name: str, obtain: Callable[[], T]) -> T:
    """What obtain gives, asked of one mirror after another until it does not raise; else the first error.

    obtain: reads the object called name from the origin, and verifies it.
    """
    problems: list[SwupdError] = []
    while not problems or origin.blame(name, problems[-1].problem):
        try:
            return obtain()
        except SwupdError as e:
            problems.append(e)
    raise problems[0]
