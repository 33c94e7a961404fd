"""Writes what is staged to the disk while more arrives: what is on the disk already, no commit has to wait for."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from swupd.agent import syscalls
from swupd.stream import MIB

EACH = 32 * MIB
"""After so many bytes it is worth while to begin."""


class Writeback:
    """A thread that makes one file system durable, again and again while objects are staged on it.

    Safe to use from several threads. Nobody waits for it before `settle`.
    """

    def __init__(self, folder: Path) -> None:
        # One descriptor for all of it: the system tells each descriptor once about data that was lost.
        self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._changed = threading.Condition()
        self._waiting = 0
        self._wanted = False
        self._ended = False
        self._lost: OSError | None = None
        self._thread: threading.Thread | None = None

    def wrote(self, count: int) -> None:
        """So many bytes more were written."""
        with self._changed:
            self._waiting += count
            if self._waiting >= EACH:
                self._begin()

    def begin(self) -> None:
        """Begins to write what is not on the disk yet."""
        with self._changed:
            self._begin()

    def _begin(self) -> None:
        self._waiting = 0
        self._wanted = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="writeback", daemon=True)
            self._thread.start()
        self._changed.notify()

    def settle(self) -> None:
        """Waits until what was begun is over. Raises OSError where data was lost on the way to the disk."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._ended = False
        if self._lost is not None:
            raise self._lost

    def close(self) -> None:
        """Ends it, whatever became of the data."""
        try:
            with contextlib.suppress(OSError):
                self.settle()
        finally:
            os.close(self._fd)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._ended)
                if not self._wanted:
                    return
                self._wanted = False
            try:
                syscalls.syncfs(self._fd)
            except OSError as e:
                self._lost = e
