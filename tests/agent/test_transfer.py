"""Requests as they go over the wire: connections, redirects, proxies, TLS, and answers that are meant to hurt."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import http.client
import ipaddress
import os
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from swupd.agent import address, connection
from swupd.agent.source import Source, Transport
from swupd.errors import CertificateError, DownloadError, ServerUnreachable, SwupdError
from tests.agent.misbehaving import Answer, Handler, hangs_up, hears, says, server, serves, tunnels

DATA = bytes(range(256)) * 500
LIMIT = 2**20
ONCE = Transport(retries=0, answer=5.0)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def from_ports(seen: list[int], answer: Answer) -> Answer:
    """The same answer; the port of each request's connection is written down."""

    def counting(request: Handler) -> None:
        seen.append(request.client_address[1])
        answer(request)

    return counting


def leaves(answer: Answer) -> Answer:
    """The same answer, but the server hangs up after it without having said so."""

    def leaving(request: Handler) -> None:
        answer(request)
        request.close_connection = True

    return leaving


def raw(*pieces: bytes, forever: bytes = b"", leave: bool = True) -> Answer:
    """These bytes, and then others without end."""

    def answer(request: Handler) -> None:
        request.wfile.write(b"".join(pieces))
        while forever:
            request.wfile.write(forever)
        request.close_connection = leave

    return answer


OK = b"HTTP/1.1 200 OK\r\n"


# Connections


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_one_connection_serves_many_requests(tls: tuple[Path, Path], scheme: str) -> None:
    ports: list[int] = []
    with server(from_ports(ports, serves(DATA)), tls=tls if scheme == "https" else None) as told:
        source = Source(told.url, ONCE._replace(tls_ca=tls[0]))
        for name in ("a", "b", "c"):
            assert source.size(name) == len(DATA)
            assert source.read(name, LIMIT) == DATA
    assert len(ports) == 6 and len(set(ports)) == 1


def test_chunks_that_were_read_to_their_end_leave_the_connection_open() -> None:
    ports: list[int] = []
    chunks = raw(OK, b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nTrailer: x\r\n\r\n", leave=False)
    with server(from_ports(ports, chunks)) as told:
        source = Source(told.url, ONCE)
        assert [source.read("x", LIMIT) for _ in range(3)] == [b"hello"] * 3
    assert len(set(ports)) == 1


def test_each_thread_has_its_own_connection() -> None:
    ports: list[int] = []
    with server(from_ports(ports, serves(DATA))) as told:
        source = Source(told.url, ONCE)
        found = []

        def reads() -> None:
            found.extend([source.read("x", LIMIT), source.read("y", LIMIT)])

        threads = [threading.Thread(target=reads) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [DATA] * 6 and len(set(ports)) == 3


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_hung_up_meanwhile_is_asked_anew(tls: tuple[Path, Path], scheme: str) -> None:
    with server(leaves(serves(DATA)), tls=tls if scheme == "https" else None) as told:
        source = Source(told.url, ONCE._replace(tls_ca=tls[0]))
        for _ in range(3):
            assert source.read("x", LIMIT) == DATA
            time.sleep(0.02)
    assert len(told.requests) == 3


def test_a_server_that_hangs_up_on_new_connections_too_is_not_asked_for_ever() -> None:
    with server(serves(DATA), hangs_up) as told:
        source = Source(told.url, ONCE)
        assert source.read("x", LIMIT) == DATA
        with pytest.raises(ServerUnreachable, match="closed connection"):
            source.read("y", LIMIT)
    assert len(told.requests) == 3


def test_a_server_that_is_silent_on_a_kept_connection_is_not_asked_twice() -> None:
    silent = slowly(OK + b"X-Filler: ", b"x")
    with server(serves(DATA), silent) as told:
        source = Source(told.url, ONCE._replace(answer=0.3))
        assert source.read("x", LIMIT) == DATA
        with pytest.raises(DownloadError, match=r"takes too long|timed out"):
            source.read("y", LIMIT)
    assert len(told.requests) == 2


def test_an_unread_body_ends_its_connection() -> None:
    ports: list[int] = []
    with server(from_ports(ports, says(500, b"long story" * 1000)), from_ports(ports, serves(DATA))) as told:
        source = Source(told.url, ONCE._replace(retries=1, retry_delay=0.0))
        assert source.read("x", LIMIT) == DATA
    assert len(set(ports)) == 2


def test_only_a_few_connections_are_kept() -> None:
    with contextlib.ExitStack() as stack:
        told = [stack.enter_context(server(serves(DATA))) for _ in range(7)]
        hub = stack.enter_context(server(*[says(302, Location=f"{t.url}/x") for t in told]))
        source = Source(hub.url, ONCE)
        for _ in told:
            assert source.read("x", LIMIT) == DATA
        assert len(source._client()._kept()) <= 4


# Redirects


def hops(count: int, status: int = 302) -> list[Answer]:
    return [*[says(status, Location=f"/hop/{n}?a=b") for n in range(count)], serves(DATA)]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_five_redirects_are_followed_and_no_more(status: int, tmp_path: Path) -> None:
    with server(*hops(5, status)) as told:
        assert Source(told.url, ONCE).read("x", LIMIT) == DATA
    assert told.requests[-1][1] == "/hop/4?a=b"
    with server(*hops(5, status)) as told:
        assert Source(told.url, ONCE).size("x") == len(DATA)
    assert {r[0] for r in told.requests} == {"HEAD"}
    with server(*hops(5, status)) as told:
        (tmp_path / "part").write_bytes(DATA[:1000])
        assert Source(told.url, ONCE).download("x", tmp_path / "part", LIMIT, lambda _: None)
        assert (tmp_path / "part").read_bytes() == DATA
    assert {r[2] for r in told.requests} == {"bytes=1000-"}
    with server(*hops(6, status)) as told, pytest.raises(DownloadError, match="from one address to the next"):
        Source(told.url, ONCE._replace(retries=5)).read("x", LIMIT)
    assert len(told.requests) == 6


@pytest.mark.parametrize("answer", [says(300, Location="/y"), says(304, Location="/y"), says(302), says(307, b"x")])
def test_what_is_no_redirect_is_not_followed(answer: Answer) -> None:
    with server(answer, serves(DATA)) as told, pytest.raises(DownloadError, match="the server answered 30"):
        Source(told.url, ONCE).read("x", LIMIT)
    assert len(told.requests) == 1


def test_a_redirect_from_https_is_refused_before_anybody_else_is_asked(tls: tuple[Path, Path]) -> None:
    with server(serves(DATA)) as plain, server(says(302, Location=plain.url), tls=tls) as told:
        source = Source(told.url, ONCE._replace(tls_ca=tls[0]))
        with pytest.raises(CertificateError, match="leads away from HTTPS"):
            source.read("x", LIMIT)
        with pytest.raises(CertificateError, match="leads away from HTTPS"):
            source.asked_size("x")
    assert plain.requests == []


@pytest.mark.parametrize(
    "to", ["http://a..b/", "http://" + "a" * 300, "http://x:99999/", "http://a b/", "http://x\x7f/"]
)
def test_a_redirect_to_what_can_be_no_server_is_an_error(to: str) -> None:
    with server(says(302, Location=to)) as told, pytest.raises((DownloadError, ServerUnreachable)):
        Source(told.url, ONCE).read("x", LIMIT)


def test_a_redirect_smuggles_no_request() -> None:
    with server(says(302, Location="/a b\tHTTP/1.1 \xe9?x=%0d%0aHost:y"), serves(DATA)) as told:
        assert Source(told.url, ONCE).read("x", LIMIT) == DATA
    assert told.requests[1][1] == "/a%20b%09HTTP/1.1%20%E9?x=%0d%0aHost:y"


# Passwords


def basic(words: str) -> str:
    return "Basic " + base64.b64encode(words.encode()).decode()


def test_the_password_of_a_url_is_sent_and_stays_with_its_server() -> None:
    heard: list[http.client.HTTPMessage] = []
    strangers: list[http.client.HTTPMessage] = []
    with (
        server(hears(strangers, serves(DATA))) as other,
        server(hears(heard, says(302, Location="/same")), hears(heard, says(302, Location=f"{other.url}/x"))) as told,
    ):
        url = told.url.replace("http://", "http://me:s%40crt@")
        assert Source(url, ONCE).read("x", LIMIT) == DATA
    assert [h.get("Authorization") for h in heard] == [basic("me:s@crt")] * 2
    assert [h.get("Authorization") for h in strangers] == [None]
    assert "me:" not in str(heard[0]["Host"])


def test_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[http.client.HTTPMessage] = []
    (tmp_path / ".netrc").write_text("default login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    with server(hears(heard, serves(DATA))) as told:
        assert Source(told.url, ONCE).read("x", LIMIT) == DATA
    assert heard[0].get("Authorization") is None


def test_what_a_request_says_of_itself() -> None:
    heard: list[http.client.HTTPMessage] = []
    with server(hears(heard, serves(DATA))) as told:
        assert Source(told.url, ONCE).read("x", LIMIT) == DATA
    assert heard[0]["Host"] == told.url.removeprefix("http://")
    assert heard[0]["Accept-Encoding"] == "identity" and heard[0]["User-Agent"].startswith("swupd-py/")


# Addresses


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "server", "target"),
    [
        ("http://h", "http", "h", 80, "h", "/"),
        ("HTTPS://H/a", "https", "h", 443, "h", "/a"),
        ("https://h:80/a?b#c", "https", "h", 80, "h:80", "/a?b"),
        ("http://h:80", "http", "h", 80, "h", "/"),
        ("http://[::1]/x", "http", "::1", 80, "[::1]", "/x"),
        ("http://[::1]:8080/x", "http", "::1", 8080, "[::1]:8080", "/x"),
        ("http://u:p@h/%41 é", "http", "h", 80, "h", "/%41%20%C3%A9"),
        ("http://bücher.example/", "http", "xn--bcher-kva.example", 80, "xn--bcher-kva.example", "/"),
    ],
)
def test_urls_are_taken_apart(url: str, scheme: str, host: str, port: int, server: str, target: str) -> None:
    found = address.parse(url)
    assert (found.scheme, found.host, found.port, found.server, found.target) == (scheme, host, port, server, target)
    assert address.parse(found.url) == found._replace(login="")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "http:",
        "http://",
        "http:///x",
        "ftp://h",
        "file:///x",
        "http://h:x",
        "http://h:70000",
        "http://a b",
        "http://a\x7fb",
        "http://a\x01b",
        "http://[::",
    ],
)
def test_what_is_no_url_of_a_web_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        address.parse(url)
    if url:
        with pytest.raises(SwupdError):
            Source(url, ONCE).read("x", LIMIT)


def test_a_password_goes_from_http_to_https_of_the_same_host_only() -> None:
    begin = address.parse("http://u:p@h/x")
    for location, goes in {
        "y": True,
        "//h/y": True,
        "https://h/y": True,
        "http://h:81/y": False,
        "https://h:81/y": False,
        "http://other/y": False,
    }.items():
        assert bool(address.following(begin, location).login) is goes, location
    assert address.following(begin, "http://a:b@other/").login == basic("a:b")
    assert not address.following(address.parse("https://u:p@h/x"), "http://h/x").login


def test_an_ipv6_address_is_asked() -> None:
    try:
        listening = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("there is no IPv6")
    asked = []

    def once() -> None:
        with listening, listening.accept()[0] as one:
            asked.append(one.recv(65536))
            one.sendall(OK + b"Content-Length: 4\r\n\r\nbody")

    thread = threading.Thread(target=once)
    thread.start()
    port = listening.getsockname()[1]
    assert Source(f"http://[::1]:{port}", ONCE).read("x", LIMIT) == b"body"
    thread.join()
    assert f"Host: [::1]:{port}\r\n".encode() in asked[0]


# Answers that are meant to hurt


@pytest.mark.parametrize(
    "answer",
    [
        raw(OK, *[b"X-Filler: x\r\n"] * 200, b"\r\n"),
        raw(OK, forever=b"X-Filler: " + b"x" * 60_000 + b"\r\n"),
        raw(OK, b"X-Filler: ", forever=b"x" * 65_536),
        raw(b"HTTP/1.1 200 ", forever=b"x" * 65_536),
        raw(forever=b"\r\n"),
        raw(forever=b"HTTP/1.1 100 Continue\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
    ],
    ids=["flood", "endless flood", "endless line", "endless first line", "empty lines", "endless flood of 100s"],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_head_without_end_is_given_up_in_little_memory(answer: Answer, method: str) -> None:
    with server(answer) as told:
        source = Source(told.url, ONCE)
        tracemalloc.start()
        with pytest.raises((DownloadError, ServerUnreachable)):
            source.read("x", LIMIT) if method == "GET" else source.asked_size("x")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 40 * 2**20


def test_answers_that_say_wait_for_ever_are_given_up_in_time() -> None:
    begin = time.monotonic()
    waits = raw(forever=b"HTTP/1.1 100 Continue\r\n\r\n")
    with server(waits) as told, pytest.raises(DownloadError, match="takes too long"):
        Source(told.url, ONCE._replace(answer=0.3)).read("x", LIMIT)
    assert time.monotonic() - begin < 5


def slowly(begin: bytes, forever: bytes) -> Answer:
    """Bytes without end, each soon enough after the one before."""

    def answer(request: Handler) -> None:
        request.wfile.write(begin)
        while True:
            request.wfile.write(forever)
            request.wfile.flush()
            time.sleep(0.01)

    return answer


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "forever"),
    [
        (CHUNKED + b"0\r\n", b"X-Trailer: x\r\n"),
        (CHUNKED + b"5;", b"x"),
        (CHUNKED, b"0"),
        (CHUNKED + b"5\r\nhello\r\n", b""),
        (OK + b"Content-Length: 9\r\n\r\n", b""),
    ],
    ids=["trailer", "extension", "length", "no chunk", "no body"],
)
def test_a_body_that_does_not_come_forward_is_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch, begin: bytes, forever: bytes
) -> None:
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.3)
    start = time.monotonic()
    with server(slowly(begin, forever)) as told, pytest.raises(DownloadError, match="broke off"):
        Source(told.url, ONCE).read("x", LIMIT)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "chunk", [b"-5\r\nhello", b"x\r\n", b"\r\n", b"5\r\nhelloXX", b"0x5\r\nhel", b"f" * 5000 + b"\r\nx"]
)
def test_chunks_that_are_none_do_no_harm(chunk: bytes) -> None:
    with server(raw(CHUNKED, chunk)) as told, contextlib.suppress(DownloadError):
        assert len(Source(told.url, ONCE).read("x", LIMIT) or b"") < 20


@pytest.mark.parametrize(
    "scheme", [b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", b"Transfer-Encoding: CHUNKED\r\n"]
)
def test_chunks_go_before_a_length(scheme: bytes) -> None:
    with server(raw(OK, scheme, b"\r\n5\r\nhello\r\n0\r\n\r\n")) as told:
        assert Source(told.url, ONCE).read("x", LIMIT) == b"hello"
        assert Source(told.url, ONCE).size("x") is None


@pytest.mark.parametrize(("second", "size"), [("4", 4), ("5", None), ("x", None)])
def test_two_lengths_are_none_unless_they_agree(second: str, size: int | None) -> None:
    with server(raw(OK, f"Content-Length: 4\r\nContent-Length: {second}\r\n\r\nbody".encode())) as told:
        source = Source(told.url, ONCE)
        assert source.size("x") == size
        assert source.read("x", LIMIT) == b"body"


def test_what_comes_after_a_body_belongs_to_nobody() -> None:
    twice = raw(OK, b"Content-Length: 4\r\n\r\nbody", OK, b"Content-Length: 4\r\n\r\nevil", leave=False)
    with server(twice) as told:
        source = Source(told.url, ONCE)
        assert source.read("x", LIMIT) == b"body"
        assert source.read("y", LIMIT) in {b"body", b"evil"}, "it is verified by those who read it"


@pytest.mark.parametrize("status", [100, 101, 103, 199, 204, 206, 304, 999])
def test_odd_states_are_errors_or_empty(status: int) -> None:
    odd = raw(b"HTTP/1.1 %d Odd\r\nContent-Length: 4\r\n\r\nbody" % status)
    with server(odd) as told, contextlib.suppress(DownloadError, ServerUnreachable):
        assert Source(told.url, ONCE).read("x", LIMIT) == b"body"


def test_a_long_reason_is_cut() -> None:
    with server(raw(b"HTTP/1.1 500 " + b"x" * 60_000 + b"\r\n\r\n")) as told, pytest.raises(DownloadError) as e:
        Source(told.url, ONCE).read("x", LIMIT)
    assert len(e.value.problem) < 300


def test_a_server_that_takes_no_request_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(DownloadError, match="timed out"):
            Source(url, ONCE).read("x", LIMIT)


def test_a_handshake_that_does_not_come_forward_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"https://127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(DownloadError, match="timed out"):
            Source(url, ONCE).read("x", LIMIT)


def test_https_of_a_server_that_speaks_http_is_not_trusted() -> None:
    with server(serves(DATA)) as told, pytest.raises(CertificateError):
        Source(told.url.replace("http", "https"), ONCE).read("x", LIMIT)


# Proxies


@pytest.mark.parametrize(
    ("variable", "scheme"),
    [
        ("http_proxy", "http"),
        ("HTTP_PROXY", "http"),
        ("all_proxy", "http"),
        ("ALL_PROXY", "http"),
        ("https_proxy", "https"),
        ("HTTPS_PROXY", "https"),
        ("all_proxy", "https"),
    ],
)
def test_proxies_of_the_environment_are_asked(
    monkeypatch: pytest.MonkeyPatch, tls: tuple[Path, Path], variable: str, scheme: str
) -> None:
    heard: list[http.client.HTTPMessage] = []
    with (
        server(serves(DATA), tls=tls if scheme == "https" else None) as told,
        server(hears(heard, tunnels if scheme == "https" else serves(DATA))) as proxy,
    ):
        monkeypatch.setenv(variable, proxy.url.replace("http://", "http://me:s%40crt@"))
        source = Source(told.url, ONCE._replace(tls_ca=tls[0]))
        assert source.read("20/x", LIMIT) == DATA
        assert source.size("20/x") == len(DATA)
    place = told.url.partition("://")[2]
    assert heard[0]["Proxy-Authorization"] == basic("me:s@crt") and heard[0]["Host"] == place
    if scheme == "https":
        assert proxy.requests == [("CONNECT", place, None)], "one tunnel for both"
        assert [r[1] for r in told.requests] == ["/20/x"] * 2
    else:
        assert [r[1] for r in proxy.requests] == [f"{told.url}/20/x"] * 2 and told.requests == []


def test_the_origin_hears_nothing_of_the_password_for_the_proxy(
    monkeypatch: pytest.MonkeyPatch, tls: tuple[Path, Path]
) -> None:
    heard: list[http.client.HTTPMessage] = []
    inside: list[http.client.HTTPMessage] = []
    with server(hears(inside, serves(DATA)), tls=tls) as told, server(hears(heard, tunnels)) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url.replace("http://", "me:pw@"))
        url = told.url.replace("https://", "https://you:secret@")
        assert Source(url, ONCE._replace(tls_ca=tls[0])).read("x", LIMIT) == DATA
    assert inside[0].get("Proxy-Authorization") is None and inside[0]["Authorization"] == basic("you:secret")
    assert heard[0].get("Authorization") is None and heard[0]["Proxy-Authorization"] == basic("me:pw")


@pytest.mark.parametrize(
    ("excepted", "goes_past"),
    [
        ("127.0.0.1", True),
        ("*", True),
        ("other.example, 127.0.0.0/8", True),
        ("127.0.0.1:{port}", True),
        ("127.0.0.1:1", False),
        ("10.0.0.0/8,nonsense/99", False),
        ("0.0.1.127", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
def test_some_servers_are_asked_past_the_proxy(
    monkeypatch: pytest.MonkeyPatch, variable: str, excepted: str, goes_past: bool
) -> None:
    with server(serves(DATA)) as told, server(serves(DATA)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv(variable, excepted.format(port=told.url.rpartition(":")[2]))
        assert Source(told.url, ONCE).read("x", LIMIT) == DATA
    assert (len(told.requests), len(proxy.requests)) == ((1, 0) if goes_past else (0, 1))


@pytest.mark.parametrize("excepted", ["stream.example", ".example", "example"])
def test_a_name_past_the_proxy_covers_what_is_below_it(monkeypatch: pytest.MonkeyPatch, excepted: str) -> None:
    with server(serves(DATA)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", excepted)
        with pytest.raises(ServerUnreachable):
            Source("http://stream.example", ONCE).read("x", LIMIT)
        assert proxy.requests == []
        assert Source("http://streamexample.invalid", ONCE).read("x", LIMIT) == DATA


def test_an_empty_variable_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(serves(DATA)) as told:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("http_proxy", "")
        assert Source(told.url, ONCE).read("x", LIMIT) == DATA


@pytest.mark.parametrize("named", ["https://127.0.0.1:1", "socks5://127.0.0.1:1"])
def test_a_proxy_of_another_kind_is_not_taken_for_one(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("http_proxy", named)
    with pytest.raises(DownloadError, match=r"a proxy must be http|is no http"):
        Source("http://stream.example", ONCE).read("x", LIMIT)


def test_what_a_proxy_refuses_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(says(407)) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        with pytest.raises(ServerUnreachable, match="the proxy answered 407"):
            Source("https://stream.example", ONCE).read("x", LIMIT)


@pytest.mark.parametrize("named", ["https://127.0.0.1:1", "socks5://127.0.0.1:1", "http://", "http://x:y", "//"])
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("http_proxy", named)
    with server(serves(DATA)) as told, pytest.raises(SwupdError):
        Source(told.url, ONCE._replace(retries=3)).read("x", LIMIT)
    assert told.requests == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there_is_said_at_once(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
    with pytest.raises(ServerUnreachable, match="refused"):
        Source(f"{scheme}://stream.example", ONCE._replace(retries=3)).read("x", LIMIT)


@pytest.mark.parametrize(
    "answer",
    [
        says(407),
        says(502),
        hangs_up,
        raw(b"nonsense\r\n\r\n"),
        raw(OK, forever=b"X: y\r\n"),
        raw(OK, b"X-Filler: ", forever=b"x"),
        raw(OK, b"\r\nno TLS here", b"x" * 1000),
        raw(OK, b"Content-Length: 10\r\n\r\n0123456789"),
        says(302, Location="http://127.0.0.1:1/"),
    ],
    ids=["407", "502", "hangs up", "nonsense", "flood", "endless line", "no tls", "body", "redirect"],
)
def test_a_proxy_that_makes_no_tunnel_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tls: tuple[Path, Path], answer: Answer
) -> None:
    with server(serves(DATA), tls=tls) as told, server(answer) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        with pytest.raises((ServerUnreachable, DownloadError, CertificateError)):
            Source(told.url, ONCE._replace(tls_ca=tls[0], answer=0.5)).read("x", LIMIT)
    assert told.requests == [] and len(proxy.requests) == 1


def fingerprint(certificate: Path) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()


def test_ca_and_pin_hold_through_a_tunnel(monkeypatch: pytest.MonkeyPatch, tls: tuple[Path, Path]) -> None:
    believed = ONCE._replace(tls_ca=tls[0])
    with server(serves(DATA), tls=tls) as told, server(tunnels) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        assert Source(told.url, believed._replace(tls_pin=fingerprint(tls[0]))).read("x", LIMIT) == DATA
        told.requests.clear()
        for bad in (believed._replace(tls_pin="0" * 64), ONCE, ONCE._replace(tls_pin=fingerprint(tls[0]))):
            with pytest.raises(CertificateError):
                Source(told.url, bad).read("x", LIMIT)
    assert told.requests == [], "nothing was asked of a server that is not the right one"


# TLS


@pytest.fixture(scope="module")
def issue(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Path]]:
    """Makes a self-signed certificate for a name, and its key."""

    def made(name: str, common: str = "x", days: int = 30, password: bytes = b"") -> tuple[Path, Path]:
        place = tmp_path_factory.mktemp("certificate")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=40))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(True, None), True)
        )
        if name:
            general = x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
            builder = builder.add_extension(x509.SubjectAlternativeName([general]), False)
        (place / "c.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        (place / "k.pem").write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        return place / "c.pem", place / "k.pem"

    return made


@pytest.mark.parametrize(
    ("name", "common", "days"), [("other.example", "x", 30), ("", "127.0.0.1", 30), ("127.0.0.1", "x", -1)]
)
def test_a_certificate_of_another_name_or_time_is_refused(
    issue: Callable[..., tuple[Path, Path]], name: str, common: str, days: int
) -> None:
    made = issue(name, common, days)
    with server(serves(DATA), tls=made) as told, pytest.raises(CertificateError):
        Source(told.url, ONCE._replace(tls_ca=made[0])).read("x", LIMIT)
    assert told.requests == []


def test_a_name_that_is_no_alternative_name_does_not_count(issue: Callable[..., tuple[Path, Path]]) -> None:
    for made, good in ((issue("", common="localhost"), False), (issue("localhost"), True)):
        with server(serves(DATA), tls=made) as told:
            source = Source(told.url.replace("127.0.0.1", "localhost"), ONCE._replace(tls_ca=made[0]))
            if good:
                assert source.read("x", LIMIT) == DATA
                continue
            with pytest.raises(CertificateError):
                source.read("x", LIMIT)


def test_a_pinned_certificate_needs_no_name(issue: Callable[..., tuple[Path, Path]]) -> None:
    made = issue("other.example")
    with server(serves(DATA), tls=made) as told:
        pinned = ONCE._replace(tls_ca=made[0], tls_pin=fingerprint(made[0]).upper())
        assert Source(told.url, pinned).read("x", LIMIT) == DATA
        with pytest.raises(CertificateError, match="fingerprint"):
            Source(told.url, pinned._replace(tls_pin=fingerprint(issue("127.0.0.1")[0]))).read("x", LIMIT)
    assert len(told.requests) == 1


def test_the_system_s_cas_are_those_of_openssl_unless_others_are_named(
    monkeypatch: pytest.MonkeyPatch, issue: Callable[..., tuple[Path, Path]]
) -> None:
    made, other = issue("127.0.0.1"), issue("127.0.0.1")
    with server(serves(DATA), tls=made) as told:
        for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.setenv(variable, str(made[0]))
        with pytest.raises(CertificateError):
            Source(told.url, ONCE).read("x", LIMIT)
        monkeypatch.setenv("SSL_CERT_FILE", str(made[0]))
        assert Source(told.url, ONCE).read("x", LIMIT) == DATA
        with pytest.raises(CertificateError):
            Source(told.url, ONCE._replace(tls_ca=other[0])).read("x", LIMIT)


@contextlib.contextmanager
def demanding(tls: tuple[Path, Path], client: Path) -> Iterator[str]:
    """A server that serves nobody without a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*tls)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(client)

    def serve() -> None:
        while True:
            try:
                one, _ = listening.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), one, context.wrap_socket(one, server_side=True) as safe:
                safe.recv(65536)
                safe.sendall(OK + b"Content-Length: 4\r\n\r\nbody")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_client_certificate_is_shown(
    tls: tuple[Path, Path], issue: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    mine, other, secret = issue("device"), issue("device"), issue("device", password=b"secret")

    def both(pair: tuple[Path, Path], name: str) -> Path:
        file = tmp_path / name
        file.write_bytes(pair[1].read_bytes() + pair[0].read_bytes())
        return file

    with demanding(tls, mine[0]) as url:
        plain = ONCE._replace(tls_ca=tls[0])
        assert Source(url, plain._replace(client_certificate=both(mine, "mine"))).read("x", LIMIT) == b"body"
        for bad in (None, both(other, "other"), both(secret, "secret"), mine[0], tmp_path / "none"):
            with pytest.raises((CertificateError, ServerUnreachable)):
                Source(url, plain._replace(client_certificate=bad)).read("x", LIMIT)
        with pytest.raises(CertificateError):
            Source(url, plain._replace(client_certificate=both(secret, "secret"))).read("x", LIMIT)
