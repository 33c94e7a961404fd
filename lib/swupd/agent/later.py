"""An unpacker that is there once it is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from swupd.agent.unpacker import Answer, Unpacker, Unpacks
from swupd.archive import Member
from swupd.delta import Patched
from swupd.stream import MAX_DELTA_RESULT


class Later:
    """Has an unpacker made by the first request: for commands with one thread, since that forks."""

    def __init__(self, start: Callable[[], Unpacks]) -> None:
        self._start = start
        self._made: Unpacks | None = None

    patchers = Unpacker.patchers

    def members(self, source: BinaryIO | bytes, limit: int) -> AbstractContextManager[Iterator[Member]]:
        """As archive.members."""
        return self._unpacker().members(source, limit)

    def patching(self, patch: BinaryIO | bytes, old: BinaryIO | bytes, limit: int) -> AbstractContextManager[Answer]:
        """As Here.patching."""
        return self._unpacker().patching(patch, old, limit)

    def apply(self, patch: bytes, old: bytes, limit: int = MAX_DELTA_RESULT) -> Patched:
        """As delta.apply."""
        return self._unpacker().apply(patch, old, limit)

    def rest(self) -> None:
        """Sends workers home, where there are any."""
        if self._made is not None:
            self._made.rest()

    def _unpacker(self) -> Unpacks:
        if self._made is None:
            self._made = self._start()
        return self._made
