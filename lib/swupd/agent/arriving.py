"""Downloads that are read while they arrive."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import BinaryIO

_PIECE = 256 * 1024
_TICK = 0.2
"""Seconds after which is looked again in any case."""


class Arrival:
    """A download that is under way. place: the file that it fills, or appends to."""

    def __init__(
        self,
        pool: Executor,
        place: Path,
        download: Callable[[Callable[[int], None]], bool],
        progress: Callable[[int], None],
    ) -> None:
        """download: gives whether there is such a file, and tells the number of bytes as they arrive; so progress."""
        self.place = place
        self._news = threading.Event()
        self._progress = progress
        self._future = pool.submit(download, self._arrived)
        self._future.add_done_callback(lambda _: self._news.set())

    @property
    def ended(self) -> bool:
        """Whether it is over, well or not."""
        return self._future.done()

    def result(self) -> bool:
        """What the download gives, once it is over. Raises what it raises."""
        return self._future.result()

    @contextlib.contextmanager
    def reading(self) -> Iterator[BinaryIO]:
        """The file from its beginning, as it arrives. It ends early where the download fails or begins anew."""
        read_end, write_end = os.pipe()
        over = threading.Event()
        feeder = threading.Thread(target=self._feed, args=(write_end, over), daemon=True)
        feeder.start()
        try:
            with open(read_end, "rb") as file:
                yield file
        finally:
            over.set()
            self._news.set()
            feeder.join()

    def _arrived(self, count: int) -> None:
        self._progress(count)
        self._news.set()

    def _feed(self, write_end: int, over: threading.Event) -> None:
        at = 0
        # Whoever reads may have enough before the end.
        with contextlib.suppress(BrokenPipeError), open(write_end, "wb") as pipe:
            while not over.is_set():
                self._news.clear()
                ended = self.ended
                while data := self._piece(at):
                    pipe.write(data)
                    pipe.flush()
                    at += len(data)
                if data is None or ended:
                    return
                self._news.wait(_TICK)

    def _piece(self, at: int) -> bytes | None:
        """What there is from a place on, at most so much; None where the file has become shorter than that."""
        try:
            with self.place.open("rb") as file:
                if os.fstat(file.fileno()).st_size < at:
                    return None
                file.seek(at)
                return file.read(_PIECE)
        except FileNotFoundError:
            return None if at else b""
