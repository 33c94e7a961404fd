"""One HTTP connection: a socket, with TLS and through a proxy where that is asked for, and one request at a time.

The agent opens connections nowhere else. This knows no URLs, follows nothing, keeps nothing for later (see transfer),
and waits for nobody for ever.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping
from pathlib import Path

from swupd.agent.address import Address

CONNECT_SECONDS = 30.0
STALL_SECONDS = 60.0
"""Within which a piece of a body must arrive, and a request be taken."""
FAULTS = (OSError, http.client.HTTPException)
"""What a connection raises that breaks."""
Response = http.client.HTTPResponse


class Unreachable(OSError):
    """There is nobody at all: no address, no route, no listener. A retry would only cost time."""


class Untrusted(OSError):
    """The other side is not, or cannot be shown to be, who it should be."""


class Tls:
    """Whom to believe."""

    def __init__(self, ca: Path | None = None, pin: str = "", client: Path | None = None) -> None:
        """ca: PEM file with the CA, or the server's own certificate, to believe instead of the system's CAs.

        pin: SHA-256 of the server's certificate in hex, or "": then that must be it, whatever names are in it.
        client: PEM file with key and certificate to show, or None.
        """
        self.ca, self.pin, self.client = ca, pin, client

    @functools.cached_property
    def context(self) -> ssl.SSLContext:
        """What OpenSSL is told. Raises Untrusted."""
        if self.ca is not None and not self.ca.is_file():
            raise Untrusted(f"there is no file {self.ca} with a certificate")
        try:
            context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.check_hostname = not self.pin
            context.hostname_checks_common_name = False
            context.set_alpn_protocols(["http/1.1"])
            if self.client is not None:
                # A key with a password must not ask for it at a terminal.
                context.load_cert_chain(str(self.client), password="")
                context.post_handshake_auth = True
        except OSError as e:
            raise Untrusted(reason(e)) from e
        return context

    def secured(self, plain: socket.socket, host: str) -> ssl.SSLSocket:
        """The socket with TLS, the other side known. Raises Untrusted, and OSError where it breaks."""
        try:
            made = self.context.wrap_socket(plain, server_hostname=host)
        except ssl.SSLError as e:
            raise Untrusted(reason(e)) from e
        certificate = made.getpeercert(binary_form=True) or b""
        if self.pin and hashlib.sha256(certificate).hexdigest() != self.pin.lower():
            made.close()
            raise Untrusted("the certificate is not the one whose fingerprint is known")
        return made


class Connection:
    """A way to one server. To be closed by its owner."""

    def __init__(self, to: Address, tls: Tls, proxy: Address | None, answer: float) -> None:
        """answer: seconds within which the head of an answer must have arrived: each byte of it begins a wait anew.

        Raises Unreachable, Untrusted, and one of FAULTS where a proxy gives no way.
        """
        self._answer = answer
        self._until = 0.0
        self._through = proxy if to.scheme == "http" else None
        self._socket = _connected(proxy or to)
        if to.scheme == "http":
            return
        try:
            if proxy is not None:
                self._tunnel(to, proxy)
            self._socket.settimeout(CONNECT_SECONDS)
            self._socket = tls.secured(self._socket, to.host)
        except BaseException:
            self._socket.close()
            raise

    def ask(self, method: str, to: Address, headers: Mapping[str, str]) -> Response:
        """Sends a request; gives the answer once its head is there. Raises Untrusted, one of FAULTS."""
        if self._through is None:
            return self._asked(method, to.target, {"Host": to.server, **headers})
        login = {"Proxy-Authorization": self._through.login} if self._through.login else {}
        return self._asked(method, to.url, {"Host": to.server, **login, **headers})

    def piece(self, response: Response) -> bytes:
        """The next bytes of a body, as soon as there are some; none at its end. Raises one of FAULTS."""
        self._until = time.monotonic() + STALL_SECONDS
        return response.read1(1 << 16)

    def close(self) -> None:
        """Hangs up."""
        self._socket.close()

    def makefile(self, mode: str) -> io.BufferedReader:
        """What an answer is read from."""
        return io.BufferedReader(_Reader(self))

    def received(self, buffer: memoryview) -> int:
        """Takes what has arrived. Raises TimeoutError, also where much arrives too slowly."""
        left = self._until - time.monotonic()
        try:
            if left > 0:
                self._socket.settimeout(min(left, STALL_SECONDS))
                return self._socket.recv_into(buffer)
        except TimeoutError:
            if time.monotonic() < self._until:
                raise
        raise TimeoutError("its answer takes too long")

    def _asked(self, method: str, target: str, headers: Mapping[str, str]) -> Response:
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        self._socket.settimeout(STALL_SECONDS)
        self._until = time.monotonic() + self._answer
        try:
            self._socket.sendall("\r\n".join(lines).encode("ascii"))
            response = Response(self, method=method)  # type: ignore[arg-type]  # it needs no more than makefile
            response.begin()
        except ssl.SSLError as e:
            # A client certificate that is missed is missed only now.
            raise Untrusted(reason(e)) from e
        return response

    def _tunnel(self, to: Address, proxy: Address) -> None:
        place = f"{to.named_host}:{to.port}"
        login = {"Proxy-Authorization": proxy.login} if proxy.login else {}
        response = self._asked("CONNECT", place, {"Host": place, **login})
        if not 200 <= response.status < 300:
            raise ConnectionError(f"the proxy answered {response.status} {response.reason[:80]}")


class _Reader(io.RawIOBase):
    """A connection as a file. Closing it does not hang up."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._connection.received(buffer)


def is_over(response: Response) -> bool:
    """Whether an answer was read to its end, and its connection is good for another."""
    # length: what is still to come.
    return not response.will_close and (response.isclosed() if response.chunked else response.length == 0)


def reason(error: BaseException) -> str:
    """Why it broke, without the ornaments of the libraries."""
    text = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error)
    return str(text)[:200] or type(error).__name__


def _connected(to: Address) -> socket.socket:
    try:
        made = socket.create_connection((to.host, to.port), CONNECT_SECONDS)
    except OSError as e:
        raise Unreachable(reason(e)) from e
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
