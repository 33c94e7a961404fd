"""A web server on 127.0.0.1 that does what a test tells it, for each request anew."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


class Handler(http.server.BaseHTTPRequestHandler):
    """One request. Answers are functions of it."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        told = self.server.told
        told.requests.append((self.command, self.path, self.headers.get("Range")))
        told.agents.append(self.headers.get("User-Agent", ""))
        answer = told.answers.pop(0) if len(told.answers) > 1 else told.answers[0]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
            answer(self)

    do_HEAD = do_GET
    do_CONNECT = do_GET

    def send(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        """An answer; length: what it claims to have."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if length is not None and length != len(body):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to standard error."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    told: Told

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""


Answer = Callable[[Handler], None]


@dataclass
class Told:
    """What the server is to do, and what it was asked. The last answer is repeated."""

    url: str
    answers: list[Answer]
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)


@contextlib.contextmanager
def server(*answers: Answer, tls: tuple[Path, Path] | None = None) -> Iterator[Told]:
    """Runs the server; tls: its certificate and key."""
    made = _Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        made.socket = context.wrap_socket(made.socket, server_side=True)
    made.told = Told(f"http{'s' if tls else ''}://127.0.0.1:{made.server_address[1]}", list(answers))
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made.told
    finally:
        made.shutdown()
        thread.join()
        made.server_close()


def says(status: int, body: bytes = b"", length: int | None = None, **headers: str) -> Answer:
    """The same answer to everything."""
    return lambda request: request.send(status, body, length, **headers)


def serves(data: bytes, at_most: int | None = None) -> Answer:
    """Data with support for ranges; breaks off after so many bytes."""

    def answer(request: Handler) -> None:
        asked = request.headers.get("Range")
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if begin >= len(data) and begin:
            request.send(416)
            return
        body = data[begin:]
        cut = body if at_most is None else body[:at_most]
        headers = {"Content_Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"} if asked else {}
        request.send(206 if asked else 200, cut, len(body), **headers)

    return answer


def folder(www: Path, at_most: int | None = None) -> Answer:
    """The files of a folder; each answer breaks off after so many bytes."""

    def answer(request: Handler) -> None:
        file = www / request.path.lstrip("/")
        if file.is_file():
            serves(file.read_bytes(), at_most)(request)
        else:
            request.send(404)

    return answer


def hangs_up(request: Handler) -> None:
    """No answer at all."""
    request.close_connection = True
    request.connection.close()


def tunnels(request: Handler) -> None:
    """What a proxy does for CONNECT: bytes go to and fro, whatever they are."""
    host, _, port = request.path.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port))) as far:
        request.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        ends = {request.connection: far, far: request.connection}
        while True:
            for ready in select.select(list(ends), [], [])[0]:
                data = ready.recv(65536)
                if not data:
                    request.close_connection = True
                    return
                ends[ready].sendall(data)


def hears(heard: list[http.client.HTTPMessage], answer: Answer) -> Answer:
    """The same answer; the headers of each request are written down."""

    def listening(request: Handler) -> None:
        heard.append(request.headers)
        answer(request)

    return listening
