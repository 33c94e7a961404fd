"""Where a stream comes from: the one place that opens sockets.

HTTP, HTTPS and file:// look alike to the rest. Every answer is bounded; a missing object is None, not an error. Nothing
that arrives here is believed: see trust.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from swupd import __version__
from swupd.errors import ApplyError, CertificateError, DownloadError, ServerUnreachable, SwupdError, write_error

if TYPE_CHECKING:
    import requests

CONNECT_SECONDS = 30
STALL_SECONDS = 60
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


class _Temporary(Exception):
    """A failure that a retry may mend."""

    def __init__(self, error: SwupdError, delay: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.delay = delay


class _TooLarge(DownloadError):
    """More bytes than allowed: what came is of no use."""


@dataclass(frozen=True)
class Transport:
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
        self._local = threading.local()
        self._lock = threading.Lock()
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
        url = f"{self.url}/{urllib.parse.quote(name)}"
        try:
            with _translated(url):
                wait = (CONNECT_SECONDS, STALL_SECONDS)
                answer = self._session().head(url, timeout=wait, allow_redirects=True)
        except _Temporary as e:
            raise e.error from e
        return _length(answer) if answer.status_code == 200 else None

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
            except _Temporary as e:
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
        url = f"{self.url}/{urllib.parse.quote(name)}"
        with _translated(url):
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            answer = self._session().get(url, stream=True, headers=headers, timeout=(CONNECT_SECONDS, STALL_SECONDS))
            with answer:
                _check_redirect(url, [a.url for a in (*answer.history, answer)])
                _check_status(url, answer)
                yield answer.status_code, self._chunks(url, answer, limit)

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

    def _chunks(self, url: str, answer: requests.Response, limit: int) -> Iterator[bytes]:
        """The body as it arrives, without waiting for full buffers: a trickle must be seen as one."""
        clock = self._transport.clock
        begin = clock()
        total = 0
        length = _length(answer)
        expected = limit if length is None else min(limit, length)
        deadline = max(self._transport.deadline, expected / DEADLINE_RATE)
        while chunk := answer.raw.read1(1 << 16, decode_content=False):
            total += len(chunk)
            with self._lock:
                self.received += len(chunk)
            lasted = clock() - begin
            slow = lasted > self._transport.grace and total < lasted * self._transport.minimum_rate
            if slow or lasted > deadline:
                raise _Temporary(
                    DownloadError(f"{url} arrives too slowly to be believed", "Try another mirror, or again later.")
                )
            yield chunk
        if length is not None and total != length:
            raise _Temporary(
                DownloadError(f"{url} was cut off after {total} of {length} bytes", "Run the command again to resume.")
            )

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = _new_session(self._transport)
        return session


def _new_session(transport: Transport) -> requests.Session:
    import requests  # noqa: PLC0415  0.18 s of start-up that file:// and offline commands do without
    from requests.adapters import HTTPAdapter  # noqa: PLC0415

    class Guarded(HTTPAdapter):
        """Holds the server's certificate against a fingerprint as well, and does not wait for answers forever."""

        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            if transport.tls_pin:
                kwargs["assert_fingerprint"] = transport.tls_pin
            super().init_poolmanager(*args, **kwargs)
            _watch(self.poolmanager, transport.answer)

        def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
            if transport.tls_pin:
                kwargs["assert_fingerprint"] = transport.tls_pin
            manager = super().proxy_manager_for(*args, **kwargs)
            _watch(manager, transport.answer)
            return manager

    class Session(requests.Session):
        """Believes the CA that it was told, whatever the environment names (requests prefers that)."""

        def merge_environment_settings(self, *args: Any, **kwargs: Any) -> Any:
            merged = super().merge_environment_settings(*args, **kwargs)
            return {**merged, "verify": str(transport.tls_ca)} if transport.tls_ca is not None else merged

    if transport.tls_ca is not None and not transport.tls_ca.is_file():
        raise CertificateError(f"there is no file {transport.tls_ca} with a certificate", "Correct --tls-ca.")
    session = Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, Guarded())
    session.headers.update({"User-Agent": f"swupd-py/{__version__}", "Accept-Encoding": "identity"})
    session.max_redirects = 5
    session.hooks["response"].append(_without_body)
    if transport.client_certificate is not None:
        session.cert = str(transport.client_certificate)
    return session


def _watch(manager: Any, seconds: float) -> None:
    """Has a pool manager's connections hung up where the head of an answer takes longer."""

    def watched(pool: Any) -> Any:
        class Connection(pool.ConnectionCls):  # type: ignore[misc]
            def getresponse(self) -> Any:
                late = threading.Event()
                timer = threading.Timer(seconds, _hang_up, (self.sock, late))
                timer.daemon = True
                timer.start()
                try:
                    answer = super().getresponse()
                finally:
                    timer.cancel()
                if late.is_set():
                    # A head that ends early is no error to http.client.
                    raise TimeoutError("its answer takes too long")
                return answer

        return type(pool.__name__, (pool,), {"ConnectionCls": Connection, "is_watched": True})

    pools = manager.pool_classes_by_scheme
    if not any(hasattr(pool, "is_watched") for pool in pools.values()):
        manager.pool_classes_by_scheme = {scheme: watched(pool) for scheme, pool in pools.items()}


def _hang_up(connection: socket.socket, late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(OSError):
        # Not that of a TLS socket, which would take itself apart under its reader.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _without_body(answer: requests.Response, **_: object) -> None:
    """Hangs up on a redirect: requests would read its body into memory, however much comes and however slowly."""
    if answer.is_redirect:
        answer.raw.close()


def _length(answer: requests.Response) -> int | None:
    """How long a body is said to be; None where that is no number."""
    text = answer.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _bounded(chunks: Iterator[bytes], limit: int, name: str) -> Iterator[bytes]:
    for chunk in chunks:
        limit -= len(chunk)
        if limit < 0:
            raise _TooLarge(
                f"{name} is larger than anything expected there", "Do not trust this server; use another mirror."
            )
        yield chunk


def _check_redirect(asked: str, came: Iterable[str]) -> None:
    if asked.lower().startswith("https:") and not all(url.lower().startswith("https:") for url in came):
        raise CertificateError(f"{asked} leads away from HTTPS", "Use another mirror.")


def _check_status(url: str, answer: requests.Response) -> None:
    status = answer.status_code
    if status in {200, 404, 206, 416}:
        return
    error = DownloadError(f"the server answered {status} {answer.reason} for {url}", "Try again later.")
    if status in _NO_RETRY:
        raise error
    wait = answer.headers.get("Retry-After", "")
    raise _Temporary(error, float(wait) if wait.isascii() and wait.isdigit() and len(wait) < 6 else None)


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    import requests  # noqa: PLC0415
    import urllib3  # noqa: PLC0415

    try:
        yield
    except requests.exceptions.SSLError as e:
        raise CertificateError(
            f"the TLS connection for {url} cannot be trusted: {_innermost(e)}", "Check the URL, the CA and the clock."
        ) from e
    except (requests.exceptions.ConnectionError, requests.exceptions.ConnectTimeout) as e:
        error = ServerUnreachable(
            f"no connection to {url}: {_innermost(e)}", "Check the network, the proxy and the URL."
        )
        if _was_refused(e):
            raise error from e
        raise _Temporary(error) from e
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as e:
        if isinstance(e, requests.exceptions.TooManyRedirects | ValueError):
            raise DownloadError(f"{url} cannot be fetched: {_innermost(e)}", "Check the URL.") from e
        raise _Temporary(DownloadError(f"{url} broke off: {_innermost(e)}", "Run the command again to resume.")) from e
    except ValueError as e:  # from urllib, for the address in a redirect
        raise DownloadError(f"{url} leads to a malformed address: {e}", "Use another mirror.") from e


def _was_refused(error: BaseException) -> bool:
    """Whether there was nobody at all: no address, no route, no listener. A retry would only cost time."""
    import urllib3  # noqa: PLC0415

    inner = error.args[0] if error.args else None
    reason = getattr(inner, "reason", inner)
    return isinstance(reason, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError)


def _innermost(error: BaseException) -> str:
    """The last sentence of what a library of many layers says."""
    inner = error
    while True:
        causes = (getattr(inner, "reason", None), *inner.args)
        deeper = next((cause for cause in causes if isinstance(cause, BaseException)), None)
        if deeper is None:
            break
        inner = deeper
    return str(inner).rsplit(": ", 1)[-1].strip("'\")") or type(error).__name__
