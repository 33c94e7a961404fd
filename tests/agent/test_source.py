from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from swupd.agent.source import Source, Transport
from swupd.errors import CertificateError, DiskSpace, DownloadError, ServerUnreachable, WriteError
from tests.agent.conftest import Published
from tests.agent.devices import Device
from tests.agent.misbehaving import Answer, Handler, folder, hangs_up, says, server, serves

DATA = random.Random(9).randbytes(300_000)
LIMIT = 2**20


class Waits:
    """Collects how long somebody would have slept."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def transport(waits: Waits) -> Transport:
    return Transport(retries=3, retry_delay=10.0, sleep=waits)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}:
            monkeypatch.delenv(name)


def nobody(count: int) -> None:
    """Hears progress."""


def test_an_object_is_read_whole(transport: Transport) -> None:
    with server(serves(DATA)) as told:
        source = Source(told.url + "//", transport)
        assert source.read("20/a b%", LIMIT) == DATA
        assert source.received == len(DATA)
        assert source.size("20/a b%") == len(DATA)
    assert told.requests[0] == ("GET", "/20/a%20b%25", None)
    assert told.agents[0].startswith("swupd-py/")


@pytest.mark.parametrize("status", [404])
def test_what_is_missing_is_none_at_once(transport: Transport, waits: Waits, tmp_path: Path, status: int) -> None:
    with server(says(status, b"<html>")) as told:
        source = Source(told.url, transport)
        assert source.read("x", LIMIT) is None
        assert source.download("x", tmp_path / "part", LIMIT, nobody) is False
        assert source.size("x") is None
    assert waits.slept == [] and not (tmp_path / "part").exists()


@pytest.mark.parametrize("status", [400, 401, 403, 405, 410, 451])
def test_some_answers_are_final(transport: Transport, waits: Waits, status: int) -> None:
    with server(says(status)) as told, pytest.raises(DownloadError, match=str(status)):
        Source(told.url, transport).read("x", LIMIT)
    assert waits.slept == [] and len(told.requests) == 1


@pytest.mark.parametrize(
    "bad", [says(500), says(502), says(503), says(429), hangs_up], ids=["500", "502", "503", "429", "hangs"]
)
def test_a_server_that_recovers_is_asked_again_after_growing_waits(
    transport: Transport, waits: Waits, bad: Answer
) -> None:
    with server(bad, bad, serves(DATA)) as told:
        assert Source(told.url, transport).read("x", LIMIT) == DATA
    assert waits.slept == [10.0, 20.0]


def test_a_server_that_stays_broken_is_given_up(transport: Transport, waits: Waits) -> None:
    with server(says(500)) as told, pytest.raises(DownloadError, match="500"):
        Source(told.url, transport._replace(retries=5)).read("x", LIMIT)
    assert waits.slept == [10.0, 20.0, 40.0, 60.0, 60.0]
    assert len(told.requests) == 6


@pytest.mark.parametrize(
    ("wanted", "waited"), [("7", 7.0), ("99999", 60.0), ("-1", 10.0), ("soon", 10.0), ("9" * 400, 10.0), ("", 10.0)]
)
def test_the_server_may_say_when_to_come_back(transport: Transport, waits: Waits, wanted: str, waited: float) -> None:
    with server(says(503, Retry_After=wanted), serves(DATA)) as told:
        assert Source(told.url, transport).read("x", LIMIT) == DATA
    assert waits.slept == [waited]


def test_a_download_that_breaks_off_is_resumed(transport: Transport, tmp_path: Path) -> None:
    arrived: list[int] = []
    with server(serves(DATA, 100_000)) as told:
        assert Source(told.url, transport).download("x", tmp_path / "part", LIMIT, arrived.append)
    assert (tmp_path / "part").read_bytes() == DATA
    assert sum(arrived) == len(DATA)
    assert [r[2] for r in told.requests] == [None, "bytes=100000-", "bytes=200000-"]


def test_a_download_of_an_earlier_run_is_resumed(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(DATA[:1234])
    with server(serves(DATA)) as told:
        source = Source(told.url, transport)
        assert source.download("x", tmp_path / "part", LIMIT, nobody)
        assert source.download("x", tmp_path / "part", LIMIT, nobody), "a whole one too"
    assert (tmp_path / "part").read_bytes() == DATA
    assert source.received == len(DATA) - 1234


def test_a_server_without_ranges_sends_it_all_again(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"something else")
    with server(says(200, DATA)) as told:
        assert Source(told.url, transport).download("x", tmp_path / "part", LIMIT, nobody)
    assert (tmp_path / "part").read_bytes() == DATA


def test_what_arrived_stays_for_the_next_run(transport: Transport, tmp_path: Path) -> None:
    with server(serves(DATA, 1000)) as told, pytest.raises(DownloadError, match=r"of \d+ bytes|broke off"):
        Source(told.url, transport).download("x", tmp_path / "part", LIMIT, nobody)
    assert (tmp_path / "part").read_bytes() == DATA[:4000]


def test_a_body_shorter_than_promised_is_not_taken(transport: Transport) -> None:
    with server(says(200, b"short", 500)) as told, pytest.raises(DownloadError):
        Source(told.url, transport).read("x", LIMIT)
    assert len(told.requests) == 4


def test_a_body_longer_than_promised_is_cut_by_http_itself(transport: Transport) -> None:
    with server(says(200, b"0123456789", 5)) as told:
        assert Source(told.url, transport).read("x", LIMIT) == b"01234"


@pytest.mark.parametrize("length", ["-1", "x", "99999999999999999999"])
def test_an_odd_length_is_an_error_or_does_not_matter(transport: Transport, length: str) -> None:
    def answer(request: Handler) -> None:
        request.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\nbody".encode())
        request.close_connection = True

    with server(answer) as told:
        with contextlib.suppress(DownloadError, ServerUnreachable):
            assert Source(told.url, transport).read("x", LIMIT) == b"body"
        assert Source(told.url, transport).size("x") in {None, int(length) if length.isdigit() else None}


def test_chunks_are_read(transport: Transport) -> None:
    def answer(request: Handler) -> None:
        request.wfile.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
        )

    with server(answer) as told:
        assert Source(told.url, transport).read("x", LIMIT) == b"hello world"


def test_chunks_without_an_end_are_not_taken(transport: Transport) -> None:
    def answer(request: Handler) -> None:
        request.wfile.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\nff\r\nx"
        )
        request.close_connection = True

    with server(answer) as told, pytest.raises(DownloadError):
        Source(told.url, transport).read("x", LIMIT)


@pytest.mark.parametrize(
    "line", [b"nonsense\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b"\0" * 100, b"HTTP/1.1 200 " + b"x" * 70_000]
)
def test_what_is_no_http_is_an_error(transport: Transport, line: bytes) -> None:
    def answer(request: Handler) -> None:
        request.wfile.write(line)
        request.close_connection = True

    with server(answer) as told, pytest.raises((DownloadError, ServerUnreachable)):
        Source(told.url, transport).read("x", LIMIT)


def test_an_encoding_that_nobody_asked_for_is_not_unpacked(transport: Transport) -> None:
    with server(says(200, b"\x1f\x8bnot gzip", Content_Encoding="gzip")) as told:
        assert Source(told.url, transport).read("x", LIMIT) == b"\x1f\x8bnot gzip"


def endless(request: Handler) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    for _ in range(1000):
        request.wfile.write(bytes(65536))
    request.close_connection = True


def test_an_endless_body_is_given_up_at_its_limit(transport: Transport, tmp_path: Path) -> None:
    with server(endless) as told:
        source = Source(told.url, transport)
        with pytest.raises(DownloadError, match="larger than anything expected"):
            source.read("x", LIMIT)
        with pytest.raises(DownloadError, match="larger"):
            source.download("x", tmp_path / "part", LIMIT, nobody)
        assert source.received < 3 * LIMIT
    assert not (tmp_path / "part").exists()
    assert len(told.requests) == 2


def test_a_resumed_download_has_the_same_limit(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(DATA[:200_000])
    with server(serves(DATA)) as told, pytest.raises(DownloadError, match="larger"):
        Source(told.url, transport).download("x", tmp_path / "part", 250_000, nobody)


def test_a_trickle_is_given_up(transport: Transport, waits: Waits) -> None:
    ticks = itertools.count(0, 100)
    slow = transport._replace(retries=1, clock=lambda: float(next(ticks)))

    def trickle(request: Handler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            request.wfile.write(b"x")
            request.wfile.flush()

    with server(trickle) as told, pytest.raises(DownloadError, match="too slowly"):
        Source(told.url, slow).read("x", LIMIT)
    assert waits.slept == [10.0]


@pytest.mark.parametrize("length", ["²", "9" * 5000, "-1", "1e3", "x"])
def test_a_length_that_is_no_number_is_none(transport: Transport, tmp_path: Path, length: str) -> None:
    def odd(request: Handler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n" % length.encode("latin-1"))
        request.wfile.write(DATA if request.command == "GET" else b"")
        request.close_connection = True

    with server(odd) as told:
        source = Source(told.url, transport)
        assert source.size("x") is None
        assert source.read("x", LIMIT) == DATA
        assert source.download("x", tmp_path / "part", LIMIT, nobody)


def test_a_wait_that_is_no_number_is_none(transport: Transport, waits: Waits) -> None:
    with server(says(503, Retry_After="²"), serves(DATA)) as told:
        assert Source(told.url, transport).read("x", LIMIT) == DATA
    assert waits.slept == [10.0]


def test_a_file_without_a_beginning_is_no_download(transport: Transport, tmp_path: Path) -> None:
    with server(says(416)) as told:
        with pytest.raises(DownloadError, match="no beginning"):
            Source(told.url, transport).download("x", tmp_path / "part", LIMIT, nobody)
        (tmp_path / "part").write_bytes(DATA)
        assert Source(told.url, transport).download("x", tmp_path / "part", LIMIT, nobody)


def redirects(to: str, status: int = 302) -> Answer:
    return says(status, Location=to)


def test_a_redirect_is_followed(transport: Transport) -> None:
    with server(redirects("/other"), serves(DATA)) as told:
        assert Source(told.url, transport).read("x", LIMIT) == DATA
    assert told.requests[1][1] == "/other"


@pytest.mark.parametrize("chunked", [False, True])
def test_the_body_of_a_redirect_is_not_read(transport: Transport, chunked: bool) -> None:
    sent = []

    def endless(request: Handler) -> None:
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {2**40}"
        request.wfile.write(f"HTTP/1.1 302 Found\r\nLocation: /other\r\n{length}\r\n\r\n".encode())
        while len(sent) < 2000:
            request.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n" if chunked else bytes(65536))
            sent.append(65536)

    with server(endless, serves(DATA)) as told:
        assert Source(told.url, transport).read("x", LIMIT) == DATA
    assert len(sent) < 1000


@pytest.mark.parametrize("to", ["/x", "file:///etc/passwd", "gopher://x", "http://", "//", "/a\x0bb", "http://[::bad"])
def test_redirects_in_a_loop_or_to_nowhere_are_errors(transport: Transport, to: str) -> None:
    with server(redirects(to)) as told, pytest.raises((DownloadError, ServerUnreachable)):
        Source(told.url, transport).read("x", LIMIT)
    assert len(told.requests) < 40


def test_nobody_there_is_said_at_once(transport: Transport, waits: Waits) -> None:
    with server(says(200)) as told:
        pass
    for url in (told.url, "http://name.invalid"):
        with pytest.raises(ServerUnreachable, match="no connection"):
            Source(url, transport).read("x", LIMIT)
        assert Source(url, transport).size("x") is None
    assert waits.slept == []


def test_a_server_that_hangs_up_is_said_so_in_plain_words(transport: Transport) -> None:
    with server(hangs_up) as told, pytest.raises(ServerUnreachable) as e:
        Source(told.url, transport._replace(retries=0)).read("x", LIMIT)
    assert e.value.problem == f"no connection to {told.url}/x: Remote end closed connection without response"


def test_a_proxy_of_the_environment_is_used(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(serves(DATA)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert Source("http://stream.example", transport).read("20/x", LIMIT) == DATA
    assert proxy.requests[0][1] == "http://stream.example/20/x"


def fingerprint(certificate: Path) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()


def test_an_unknown_certificate_is_refused_at_once(transport: Transport, waits: Waits, tls: tuple[Path, Path]) -> None:
    with server(serves(DATA), tls=tls) as told, pytest.raises(CertificateError, match="cannot be trusted"):
        Source(told.url, transport).read("x", LIMIT)
    assert told.requests == [] and waits.slept == []


def test_a_certificate_that_was_named_is_believed(transport: Transport, tls: tuple[Path, Path]) -> None:
    with server(serves(DATA), tls=tls) as told:
        assert Source(told.url, transport._replace(tls_ca=tls[0])).read("x", LIMIT) == DATA


def test_the_environment_cannot_replace_the_certificate_that_was_named(
    transport: Transport, tls: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes((Path(__file__).parents[1] / "data/golden/Swupd_Root.pem").read_bytes())
    with server(serves(DATA), tls=tls) as told:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tls[0]))
        with pytest.raises(CertificateError):
            Source(told.url, transport._replace(tls_ca=other)).read("x", LIMIT)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))
        assert Source(told.url, transport._replace(tls_ca=tls[0])).read("x", LIMIT) == DATA


def test_a_pin_is_held_against_the_certificate_as_well(transport: Transport, tls: tuple[Path, Path]) -> None:
    pinned = transport._replace(tls_ca=tls[0])
    with server(serves(DATA), tls=tls) as told:
        assert Source(told.url, pinned._replace(tls_pin=fingerprint(tls[0]))).read("x", LIMIT) == DATA
        with pytest.raises(CertificateError):
            Source(told.url, pinned._replace(tls_pin="0" * 64)).read("x", LIMIT)
        with pytest.raises(CertificateError):
            Source(told.url, transport._replace(tls_pin=fingerprint(tls[0]))).read("x", LIMIT)


def test_a_redirect_away_from_https_is_refused_even_where_it_comes_back(
    transport: Transport, tls: tuple[Path, Path]
) -> None:
    with server(serves(DATA)) as plain, server(redirects(plain.url), tls=tls) as told:
        for url in (told.url, told.url.replace("https", "HTTPS")):
            with pytest.raises(CertificateError, match="leads away from HTTPS"):
                Source(url, transport._replace(tls_ca=tls[0])).read("x", LIMIT)
    with (
        server(serves(DATA), tls=tls) as safe,
        server(redirects(safe.url + "/y")) as plain,
        server(redirects(plain.url), tls=tls) as told,
        pytest.raises(CertificateError),
    ):
        Source(told.url, transport._replace(tls_ca=tls[0])).read("x", LIMIT)


def test_a_folder_is_read_like_a_server(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "w w").mkdir()
    (tmp_path / "w w/x").write_bytes(DATA)
    source = Source(f"file://{tmp_path}/w%20w/", transport)
    assert source.read("x", LIMIT) == DATA
    assert source.read("none", LIMIT) is None
    assert source.read("x/below", LIMIT) is None
    assert source.size("x") == len(DATA) and source.size("none") is None
    (tmp_path / "part").write_bytes(DATA[:1000])
    assert source.download("x", tmp_path / "part", LIMIT, nobody)
    assert (tmp_path / "part").read_bytes() == DATA
    assert not source.download("none", tmp_path / "none", LIMIT, nobody)
    with pytest.raises(DownloadError, match="larger"):
        source.read("x", 1000)
    (tmp_path / "w w/folder").mkdir()
    with pytest.raises(DownloadError):
        source.read("folder", LIMIT)


@pytest.mark.parametrize("url", ["file:///no/such/folder", "file://relative"])
def test_a_folder_that_is_not_there_is_no_server(
    transport: Transport, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ServerUnreachable):
        Source(url, transport).read("x", LIMIT)


def test_a_folder_in_the_way_of_a_download_is_said_so(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    with server(serves(DATA)) as told, pytest.raises(WriteError, match="part"):
        Source(told.url, transport).download("x", tmp_path / "part", LIMIT, nobody)


def test_a_full_disk_is_said_so(transport: Transport) -> None:
    with server(serves(DATA)) as told, pytest.raises(DiskSpace, match="is full"):
        Source(told.url, transport).download("x", Path("/dev/full"), LIMIT, nobody)


@pytest.fixture
def over_http(device: Device, published: Published) -> Callable[[str], Device]:
    def follow(url: str) -> Device:
        return replace(device, url=url)

    return follow


def test_a_device_updates_over_http_that_breaks_off_all_the_time(
    over_http: Callable[[str], Device], published: Published
) -> None:
    def breaks(request: Handler) -> None:
        many = "/pack-" in request.path or "/files/" in request.path
        folder(published.www, 300 if many else None)(request)

    with server(breaks) as told:
        device = over_http(told.url)
        device.ok("update", "--allow-insecure-http", "--max-retries", "40")
        assert "Version 20 is up to date" in device.ok("update", "--allow-insecure-http").out
    assert any(r[2] for r in told.requests)
    assert replace(device, url=f"file://{published.www}").run("diagnose", "--picky").code == 0


def test_an_interrupted_update_goes_on_where_it_stopped(
    over_http: Callable[[str], Device], published: Published
) -> None:
    packs = [f"/20/{p.name}" for p in (published.www / "20").glob("pack-os-core-from-10.*tar")]

    def breaks(request: Handler) -> None:
        size = 300 if request.path in packs else None
        if "/files/" in request.path:
            request.send(403)
        else:
            folder(published.www, size)(request)

    with server(breaks) as told:
        device = over_http(told.url)
        before = device.tree()
        done = device.run("update", "--allow-insecure-http", "--max-retries", "0")
        assert done.code == 17 and device.tree() == before
        told.answers[:] = [folder(published.www)]
        told.requests.clear()
        device.ok("update", "--allow-insecure-http")
    assert [r[2] for r in told.requests if r[1] in packs and r[0] == "GET"] == ["bytes=300-"]


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (says(200, b"<html>Please log in</html>"), 16, "names no version"),
        (says(404, b"<html>"), 16, "has no version/format30/latest"),
        (says(403), 17, "403"),
        (hangs_up, 16, "connection"),
    ],
    ids=["captive portal", "not found", "forbidden", "hangs up"],
)
def test_a_server_that_is_no_stream_is_said_so(
    over_http: Callable[[str], Device], answer: Answer, code: int, said: str
) -> None:
    with server(answer) as told:
        device = over_http(told.url)
        before = device.tree()
        done = device.run("update", "--allow-insecure-http", "--nosigcheck-latest", "--max-retries", "0")
    assert done.code == code and said in done.err and len(done.err.splitlines()) == 1
    assert device.tree() == before


def test_tls_options_of_the_command_line(
    over_http: Callable[[str], Device], published: Published, tls: tuple[Path, Path]
) -> None:
    with server(folder(published.www), tls=tls) as told:
        device = over_http(told.url)
        assert device.run("check-update").code == 24
        assert device.run("check-update", "--tls-ca", str(tls[0])).code == 0
        assert device.run("check-update", "--tls-ca", "/etc/passwd").code == 24
        pin = fingerprint(tls[0]).upper()
        colons = ":".join(pin[at : at + 2] for at in range(0, 64, 2))
        assert device.run("check-update", "--tls-ca", str(tls[0]), "--tls-pin", colons).code == 0
        assert device.run("check-update", "--tls-ca", str(tls[0]), "--tls-pin", "0" * 64).code == 24
        assert device.run("check-update", "--tls-ca", str(tls[0]), "--tls-pin", "0" * 40).code == 12
        assert device.run("check-update", "--tls-ca", "/nonexistent").code == 24
        device.ok("update", "--tls-ca", str(tls[0]))
