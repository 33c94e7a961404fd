"""Requests to web servers: redirects, connections that are kept for the next request, and what broke in plain words.

What arrives is bounded by those who read it, and believed by nobody.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping

from swupd import __version__
from swupd.agent import address, connection, proxies
from swupd.agent.address import Address
from swupd.agent.connection import FAULTS, Connection, Response, Tls, Unreachable, Untrusted, reason
from swupd.errors import CertificateError, DownloadError, ServerUnreachable, SwupdError, Temporary

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_KEPT = 4
"""So many connections to different servers are kept by each thread."""
_HEADERS = {"User-Agent": f"swupd-py/{__version__}", "Accept-Encoding": "identity", "Accept": "*/*"}
_RESUME = "Run the command again to resume."


class Answer:
    """What a server said. length: bytes of the body, None where that is unknown."""

    def __init__(self, url: str, way: Connection, response: Response) -> None:
        self._url, self._way, self._response = url, way, response
        self.status = response.status
        self.reason = response.reason[:80]
        self.length = _length(response)

    def header(self, name: str) -> str:
        """A header, "" where there is none."""
        return self._response.headers.get(name, "")

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives, without waiting for full buffers: a trickle must be seen as one. Raises Temporary."""
        total = 0
        while True:
            try:
                chunk = self._way.piece(self._response)
            except FAULTS as e:
                raise _broke_off(self._url, e) from e
            if not chunk:
                break
            total += len(chunk)
            yield chunk
        if self.length is not None and total != self.length:
            raise Temporary(DownloadError(f"{self._url} was cut off after {total} of {self.length} bytes", _RESUME))


class Client:
    """Asks servers. Safe to use from several threads, each of which has its own connections."""

    def __init__(self, tls: Tls, answer: float) -> None:
        """answer: seconds within which the head of an answer must have arrived."""
        self._tls = tls
        self._answer = answer
        self._local = threading.local()

    @contextlib.contextmanager
    def ask(self, method: str, url: str, headers: Mapping[str, str] | None = None) -> Iterator[Answer]:
        """Sends GET or HEAD and follows redirects; bodies of those are not read.

        Raises Temporary where a retry may help, else CertificateError, ServerUnreachable or DownloadError.
        """
        to = _parsed(url)
        for _ in range(MAX_REDIRECTS + 1):
            with _said(url):
                way, response = self._asked(method, to, {**_HEADERS, **(headers or {})})
            try:
                location = response.headers.get("Location") if response.status in _REDIRECTS else None
                if not location:
                    yield Answer(url, way, response)
                    return
            finally:
                self._part(to, way, response)
            to = _next(url, to, location)
        raise DownloadError(f"{url} cannot be fetched: it leads from one address to the next", "Check the URL.")

    def _asked(self, method: str, to: Address, headers: Mapping[str, str]) -> tuple[Connection, Response]:
        headers = {**headers, "Authorization": to.login} if to.login else headers
        kept = self._kept().pop(to.origin, None)
        if kept is not None:
            try:
                return _first(kept, method, to, headers)
            except TimeoutError:
                raise
            except FAULTS:
                pass  # The server has hung up since.
        return _first(Connection(to, self._tls, proxies.find(to), self._answer), method, to, headers)

    def _part(self, to: Address, way: Connection, response: Response) -> None:
        """Keeps a connection for the next request, or hangs up."""
        over = connection.is_over(response)
        response.close()
        if not over:
            way.close()
            return
        kept = self._kept()
        if len(kept) >= _KEPT:
            kept.pop(next(iter(kept))).close()
        kept[to.origin] = way

    def _kept(self) -> dict[tuple[str, str, int], Connection]:
        kept: dict[tuple[str, str, int], Connection] | None = getattr(self._local, "kept", None)
        if kept is None:
            kept = self._local.kept = {}
        return kept


def _first(way: Connection, method: str, to: Address, headers: Mapping[str, str]) -> tuple[Connection, Response]:
    """Asks; hangs up where there is no answer."""
    try:
        return way, way.ask(method, to, headers)
    except BaseException:
        way.close()
        raise


def _parsed(url: str) -> Address:
    try:
        return address.parse(url)
    except ValueError as e:
        raise DownloadError(f"{url} cannot be fetched: {e}", "Check the URL.") from e


def _next(url: str, before: Address, location: str) -> Address:
    """Where a redirect leads to. Raises DownloadError, CertificateError."""
    try:
        to = address.following(before, location.strip())
    except ValueError as e:
        raise DownloadError(f"{url} leads to a malformed address: {e}", "Use another mirror.") from e
    if before.scheme == "https" and to.scheme != "https":
        raise CertificateError(f"{url} leads away from HTTPS", "Use another mirror.")
    return to


def _length(response: Response) -> int | None:
    """How long a body is said to be; None where that is no number, or not one number."""
    said = set(response.headers.get_all("Content-Length", ()))
    text = said.pop() if len(said) == 1 and not response.chunked else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


@contextlib.contextmanager
def _said(url: str) -> Iterator[None]:
    """What breaks before there is an answer, in plain words."""
    try:
        yield
    except Untrusted as e:
        raise CertificateError(
            f"the TLS connection for {url} cannot be trusted: {e}", "Check the URL, the CA and the clock."
        ) from e
    except Unreachable as e:
        raise _no_connection(url, e) from e
    except TimeoutError as e:
        raise _broke_off(url, e) from e
    except FAULTS as e:
        raise Temporary(_no_connection(url, e)) from e
    except ValueError as e:  # for a name that cannot be one, or a proxy
        raise DownloadError(f"{url} cannot be fetched: {e}", "Check the URL.") from e


def _no_connection(url: str, error: BaseException) -> SwupdError:
    return ServerUnreachable(f"no connection to {url}: {reason(error)}", "Check the network, the proxy and the URL.")


def _broke_off(url: str, error: BaseException) -> Temporary:
    return Temporary(DownloadError(f"{url} broke off: {reason(error)}", _RESUME))
