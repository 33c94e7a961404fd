"""How far a download is, and the unpacking behind it: told by several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence

from swupd.agent.arriving import Arrival
from swupd.agent.report import Steps


class Unpacking:
    """Tells how far the unpacking is, once all packs are there: some deltas take longer than they arrive."""

    def __init__(self, steps: Steps, missing: Collection[str], coming: Sequence[Arrival]) -> None:
        """missing: what has to come out of the packs; gets fewer."""
        self._steps, self._missing, self._coming = steps, missing, coming
        self._lock = threading.Lock()
        self._left = 0
        self._progress: Callable[[int, int, str], None] | None = None

    def tell(self) -> None:
        """One object more is unpacked."""
        if not (self._missing or self._progress) or not all(arrival.ended for arrival in self._coming):
            return
        with self._lock:
            if self._progress is None:
                self._left = len(self._missing)
                self._progress = self._steps.begin("extract_packs")
        self._progress(self._left - len(self._missing), self._left, "files")


class Counter:
    """Adds up bytes from several threads and tells the sum."""

    def __init__(self, progress: Callable[[int, int, str], None], total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def advance(self, count: int) -> None:
        """So many bytes more."""
        self._done += count
        self._progress(self._done, max(self._total, self._done), "bytes")
