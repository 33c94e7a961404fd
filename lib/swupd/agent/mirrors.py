"""Several servers of one stream: asked in random order, each skipped once it was to blame for something.

Decides whom to ask; source does the asking. Nothing here believes what arrives: whoever finds that it does not verify
says so with `blame`, and gets it from another mirror.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from swupd.agent.source import Source, Transport
from swupd.errors import CertificateError, DownloadError, ServerUnreachable, SwupdError

T = TypeVar("T")
_FAULTS = (DownloadError, ServerUnreachable, CertificateError)


class _Mirror:
    """blamed: nothing more is asked of it while there are others. failed: names that it did not give or gave wrong."""

    def __init__(self, hasty: Source, patient: Source) -> None:
        """hasty: gives up at the first failure. patient: the same server, asked again and again."""
        self.hasty, self.patient = hasty, patient
        self.blamed = False
        self.failed: set[str] = set()


class Mirrors:
    """Reads objects from any of several URLs. Safe to use from several threads."""

    def __init__(
        self, urls: Sequence[str], transport: Transport, rng: random.Random, warn: Callable[[str], None]
    ) -> None:
        """urls: the one that the cache is named after first; that has no other meaning."""
        hasty = transport._replace(retries=0)
        self._mirrors = [_Mirror(Source(url, hasty), Source(url, transport)) for url in dict.fromkeys(urls)]
        self.url = self._mirrors[0].hasty.url
        self._order = rng.sample(self._mirrors, len(self._mirrors))
        self._warn = warn
        self._lock = threading.Lock()
        self._came: dict[str, _Mirror | None] = {}
        """From which mirror a name came; None where it is made of parts from several."""

    @property
    def received(self) -> int:
        """Bytes of bodies that came over the wire."""
        return sum(m.hasty.received + m.patient.received for m in self._mirrors)

    def read(self, name: str, limit: int) -> bytes | None:
        """An object as bytes, or None where no mirror has one. Raises DownloadError and its siblings."""
        return self._first(name, lambda source: source.read(name, limit))

    def download(self, name: str, to: Path, limit: int, advance: Callable[[int], None]) -> bool:
        """As Source.download; what one mirror began another may complete."""

        def ask(source: Source) -> bool | None:
            begun = to.is_file() and to.stat().st_size > 0
            return begun if source.download(name, to, limit, advance) else None

        mixed = self._first(name, ask)
        if mixed:
            with self._lock:
                self._came[name] = None
        return mixed is not None

    def size(self, name: str) -> int | None:
        """How many bytes an object has, or None where that is unknown or there is none."""
        for mirror in self._candidates(name):
            try:
                found = mirror.hasty.asked_size(name)
            except _FAULTS as e:
                self._skip(mirror, "", e.problem)
            else:
                if found is not None:
                    return found
        return None

    def blame(self, name: str, reason: str) -> bool:
        """Skips the mirror that a name came from, since it does not verify; whether another may have it."""
        with self._lock:
            if name not in self._came:
                return False
            mirror = self._came.pop(name)
        if mirror is not None:
            self._skip(mirror, name, reason)
        with self._lock:
            return any(name not in m.failed for m in self._usable())

    def skip(self, url: str, reason: str) -> None:
        """Skips a mirror for the rest of the run."""
        for mirror in self._mirrors:
            if mirror.hasty.url == url:
                self._skip(mirror, "", reason)

    def survey(self, ask: Callable[[Source], T]) -> list[tuple[str, T]]:
        """Asks each mirror that is not skipped: the URL and the answer of those that have one.

        The rest are skipped from here on; where nobody has an answer, the error of the first is raised.
        """
        with self._lock:
            asked = self._usable()
        found: list[tuple[str, T]] = []
        errors: dict[str, SwupdError] = {}
        with ThreadPoolExecutor(len(asked)) as pool:
            waiting = [(m, pool.submit(ask, m.hasty if len(asked) > 1 else m.patient)) for m in asked]
            for mirror, future in waiting:
                try:
                    found.append((mirror.hasty.url, future.result()))
                except SwupdError as e:
                    errors[mirror.hasty.url] = e
                    self._skip(mirror, "", e.problem)
        if not found:
            raise next(errors[m.hasty.url] for m in self._mirrors if m.hasty.url in errors)
        return found

    def _usable(self) -> list[_Mirror]:
        """Those that are not skipped; all of them where nobody is left."""
        return [m for m in self._order if not m.blamed] or list(self._order)

    def _candidates(self, name: str) -> list[_Mirror]:
        """Whom to ask for a name, best first."""
        with self._lock:
            usable = self._usable()
            return [m for m in usable if name not in m.failed] or usable

    def _first(self, name: str, ask: Callable[[Source], T | None]) -> T | None:
        """The first answer of a mirror; only the last one is asked with patience."""
        with self._lock:
            self._came.pop(name, None)
        tried: list[_Mirror] = []
        error: SwupdError | None = None
        while left := [m for m in self._candidates(name) if m not in tried]:
            mirror = left[0]
            tried.append(mirror)
            try:
                found = ask(mirror.hasty if len(left) > 1 else mirror.patient)
            except _FAULTS as e:
                error = e
                self._skip(mirror, name, e.problem)
                continue
            with self._lock:
                if found is not None:
                    self._came[name] = mirror
                    self._order.remove(mirror)
                    self._order.insert(0, mirror)
                    return found
                mirror.failed.add(name)
        if error is not None:
            raise error
        return None

    def _skip(self, mirror: _Mirror, name: str, reason: str) -> None:
        with self._lock:
            known, mirror.blamed = mirror.blamed, True
            mirror.failed.add(name)
        if not known:
            self._warn(f"Mirror {mirror.hasty.url} is skipped: {reason}")
