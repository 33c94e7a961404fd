"""Where a stream comes from: the one place of the agent that asks servers.

HTTP, HTTPS and file:// look alike to the rest. Every answer is bounded; a missing object is None, not an error. Nothing
that arrives here is believed: see trust.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from swupd.errors import ApplyError, DownloadError, ServerUnreachable, SwupdError, Temporary, write_error

if TYPE_CHECKING:
    from swupd.agent.transfer import Answer, Client

GRACE_SECONDS = 30.0
MINIMUM_RATE = 256
"""Bytes a second that a transfer must reach on average once it has lasted GRACE_SECONDS."""
ANSWER_SECONDS = 120.0
"""Within which the head of an answer must have arrived: each byte of it would begin STALL_SECONDS anew."""
DEADLINE_SECONDS = 3600.0
DEADLINE_RATE = 1024
"""A transfer ends within DEADLINE_SECONDS, or within the time that its size takes at so many bytes a second."""
MAX_DELAY = 60.0
T = TypeVar("T")
_NO_RETRY = frozenset({400, 401, 403, 404, 405, 410, 414, 451})


class _TooLarge(DownloadError):
    """More bytes than allowed: what came is of no use."""


class Transport(NamedTuple):
    """How to reach a server.

    retries: how often a failed request is repeated; retry_delay: seconds before the first, doubled each time.
    tls_ca: PEM file with the CA, or the server's own certificate, to believe instead of the system's CAs.
    tls_pin: SHA-256 of the server's certificate in hex, or "".
    client_certificate: PEM with key and certificate that the device shows, or None.
    answer: seconds for the head of an answer.
    minimum_rate: bytes a second on average, once grace seconds are over. deadline: seconds that a small transfer may
    last; a large one (size / DEADLINE_RATE) seconds.
    """

    retries: int = 3
    retry_delay: float = 10.0
    tls_ca: Path | None = None
    tls_pin: str = ""
    client_certificate: Path | None = None
    answer: float = ANSWER_SECONDS
    minimum_rate: int = MINIMUM_RATE
    grace: float = GRACE_SECONDS
    deadline: float = DEADLINE_SECONDS
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


class Source:
    """Reads objects below one URL. Safe to use from several threads."""

    def __init__(self, url: str, transport: Transport) -> None:
        self.url = url.rstrip("/")
        self._transport = transport
        self._lock = threading.Lock()
        self._made: Client | None = None
        self.received = 0
        """Bytes of bodies that came over the wire."""

    def read(self, name: str, limit: int) -> bytes | None:
        """An object as bytes, or None where the server has none. Raises DownloadError and its siblings."""

        def attempt() -> bytes | None:
            with self._open(name, 0, limit) as (status, chunks):
                return None if status == 404 else b"".join(_bounded(chunks, limit, name))

        return self._retried(attempt)

    def download(self, name: str, to: Path, limit: int, advance: Callable[[int], None]) -> bool:
        """Appends what is missing of an object to a file, which may hold its beginning; False where there is none.

        advance: told the number of bytes as they arrive.
        """

        def attempt() -> bool:
            have = to.stat().st_size if to.exists() else 0
            with self._open(name, have, limit) as (status, chunks):
                if status == 404:
                    return False
                if status == 416 and not have:
                    raise DownloadError(f"the server says that {name} has no beginning", "Use another mirror.")
                if status == 416:
                    return True
                resumed = status == 206
                with to.open("ab" if resumed else "wb") as file:
                    for chunk in _bounded(chunks, limit - (have if resumed else 0), name):
                        file.write(chunk)
                        advance(len(chunk))
            return True

        try:
            return self._retried(attempt)
        except _TooLarge:
            to.unlink(missing_ok=True)
            raise
        except OSError as e:
            raise write_error(to, e) from e

    def size(self, name: str) -> int | None:
        """How many bytes an object has, or None where that is unknown or there is none."""
        with contextlib.suppress(SwupdError):
            return self.asked_size(name)
        return None

    def asked_size(self, name: str) -> int | None:
        """The same, but raises ServerUnreachable and its siblings where nobody answers."""
        if self.url.startswith("file://"):
            try:
                return self._file(name).stat().st_size
            except OSError:
                return None
        try:
            with self._client().ask("HEAD", self._place(name)) as answer:
                return answer.length if answer.status == 200 else None
        except Temporary as e:
            raise e.error from e

    def blame(self, name: str, reason: str) -> bool:
        """Whether another server may have a name right that does not verify: there is none."""
        return False

    def skip(self, url: str, reason: str) -> None:
        """Nobody else could be asked instead."""

    def survey(self, ask: Callable[[Source], T]) -> list[tuple[str, T]]:
        """The URL and the answer of each server: here, of the only one."""
        return [(self.url, ask(self))]

    def _retried(self, attempt: Callable[[], T]) -> T:
        delay = self._transport.retry_delay
        for left in range(self._transport.retries, -1, -1):
            try:
                return attempt()
            except Temporary as e:
                if left == 0:
                    raise e.error from e
                self._transport.sleep(min(MAX_DELAY, e.delay if e.delay is not None else delay))
                delay *= 2
        raise ApplyError("no attempt was made")

    @contextlib.contextmanager
    def _open(self, name: str, offset: int, limit: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        if self.url.startswith("file://"):
            yield self._open_file(name, offset)
            return
        url = self._place(name)
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._client().ask("GET", url, headers) as answer:
            _check_status(url, answer)
            yield answer.status, self._chunks(url, answer, limit)

    def _open_file(self, name: str, offset: int) -> tuple[int, Iterator[bytes]]:
        path = self._file(name)
        try:
            file = path.open("rb")
        except (FileNotFoundError, NotADirectoryError):
            if not Path(urllib.parse.unquote(self.url[len("file://") :])).is_dir():
                raise ServerUnreachable(f"{self.url} is no folder", "Check the URL.") from None
            return 404, iter(())
        except OSError as e:
            raise DownloadError(f"{path} cannot be read: {e.strerror}", "Check its permissions.") from e
        file.seek(offset)

        def chunks() -> Iterator[bytes]:
            with file:
                while chunk := file.read(1 << 16):
                    with self._lock:
                        self.received += len(chunk)
                    yield chunk

        return 206 if offset else 200, chunks()

    def _file(self, name: str) -> Path:
        return Path(urllib.parse.unquote(self.url[len("file://") :])) / name

    def _place(self, name: str) -> str:
        return f"{self.url}/{urllib.parse.quote(name)}"

    def _chunks(self, url: str, answer: Answer, limit: int) -> Iterator[bytes]:
        """The body, unless it takes too long."""
        clock = self._transport.clock
        begin = clock()
        total = 0
        expected = limit if answer.length is None else min(limit, answer.length)
        deadline = max(self._transport.deadline, expected / DEADLINE_RATE)
        for chunk in answer.chunks():
            total += len(chunk)
            with self._lock:
                self.received += len(chunk)
            lasted = clock() - begin
            slow = lasted > self._transport.grace and total < lasted * self._transport.minimum_rate
            if slow or lasted > deadline:
                raise Temporary(
                    DownloadError(f"{url} arrives too slowly to be believed", "Try another mirror, or again later.")
                )
            yield chunk

    def _client(self) -> Client:
        with self._lock:
            if self._made is None:
                self._made = _new_client(self._transport)
            return self._made


def load(url: str) -> None:
    """Loads what asking takes, for those who have to wait for something else anyway."""
    if not url.startswith("file://"):
        importlib.import_module("swupd.agent.transfer")


def _new_client(transport: Transport) -> Client:
    from swupd.agent.connection import Tls  # noqa: PLC0415  start-up time that file:// and offline commands do without
    from swupd.agent.transfer import Client  # noqa: PLC0415

    return Client(Tls(transport.tls_ca, transport.tls_pin, transport.client_certificate), transport.answer)


def _bounded(chunks: Iterator[bytes], limit: int, name: str) -> Iterator[bytes]:
    for chunk in chunks:
        limit -= len(chunk)
        if limit < 0:
            raise _TooLarge(
                f"{name} is larger than anything expected there", "Do not trust this server; use another mirror."
            )
        yield chunk


def _check_status(url: str, answer: Answer) -> None:
    if answer.status in {200, 404, 206, 416}:
        return
    error = DownloadError(f"the server answered {answer.status} {answer.reason} for {url}", "Try again later.")
    if answer.status in _NO_RETRY:
        raise error
    wait = answer.header("Retry-After")
    raise Temporary(error, float(wait) if wait.isascii() and wait.isdigit() and len(wait) < 6 else None)
