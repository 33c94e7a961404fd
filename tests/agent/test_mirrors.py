"""Mirrors: one that attacks costs time and is named; what arrives is right or does not arrive."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from swupd.agent.mirrors import Mirrors
from swupd.agent.origin import verified
from swupd.agent.source import Source, Transport
from swupd.errors import DownloadError, HashMismatch, ServerUnreachable
from swupd.server import signing
from tests.agent.conftest import Published
from tests.agent.devices import Device, Done, agent, clone
from tests.agent.misbehaving import Answer, Handler, Told, folder, hangs_up, says, server, serves

DATA = random.Random(4).randbytes(100_000)
LIMIT = 2**20
QUICK = Transport(retries=0, retry_delay=0.0, grace=0.2, minimum_rate=100_000)


class InOrder(random.Random):
    """No chance: the order is that of the configuration."""

    def sample(self, population, k, *, counts=None):  # type: ignore[no-untyped-def]
        return list(population)[:k]


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mirrors are asked in the order in which they are named: the worst one first."""
    monkeypatch.setattr("random.SystemRandom", InOrder)
    monkeypatch.setattr(
        "swupd.agent.session.Transport", functools.partial(Transport, grace=0.2, minimum_rate=100_000, answer=0.5)
    )


def flips(answer: Answer) -> Answer:
    """The same with a byte in the middle of each body changed."""

    def flipped(request: Handler) -> None:
        plain = request.send

        def send(status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
            at = len(body) // 2
            plain(status, body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :] if body else body, length, **headers)

        request.send = send  # type: ignore[method-assign]
        answer(request)

    return flipped


def endless(request: Handler) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    for _ in range(2000):
        request.wfile.write(bytes(65536))
    request.close_connection = True


def trickles(request: Handler) -> None:
    if request.command == "HEAD":
        request.send(200)
        return
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n")
    for _ in range(1000):
        request.wfile.write(b"x")
        request.wfile.flush()
        time.sleep(0.02)


def trickles_its_head(request: Handler) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Filler: ")
    for _ in range(1000):
        request.wfile.write(b"x")
        request.wfile.flush()
        time.sleep(0.02)


def cuts_off(request: Handler) -> None:
    request.send(200, b"x", 4000)


ATTACKS: dict[str, Callable[[Path], Answer]] = {
    "flips bytes": lambda www: flips(folder(www)),
    "is endless": lambda www: endless,
    "trickles": lambda www: trickles,
    "trickles its head": lambda www: trickles_its_head,
    "cuts off": lambda www: cuts_off,
    "has nothing": lambda www: says(404),
    "fails": lambda www: says(500),
    "forbids": lambda www: says(403),
    "hangs up": lambda www: hangs_up,
    "answers with a portal": lambda www: says(200, b"<html>Please log in</html>"),
}


def late(attack: Answer, www: Path) -> Answer:
    """Behaves until objects are asked for."""

    def answer(request: Handler) -> None:
        (attack if "/pack-" in request.path or "/files/" in request.path else folder(www))(request)

    return answer


def between(attack: Answer, www: Path) -> Answer:
    """Attacks with manifests only."""

    def answer(request: Handler) -> None:
        (attack if "/Manifest" in request.path else folder(www))(request)

    return answer


def update(device: Device, first: str, *others: str) -> Done:
    words = [word for url in others for word in ("--mirror-url", url)]
    return replace(device, url=first).run("update", "--allow-insecure-http", *words)


@contextlib.contextmanager
def servers(*answers: Answer) -> Iterator[list[Told]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(server(answer)) for answer in answers]


@pytest.fixture(scope="module")
def expected(published: Published, installed: Device, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The tree after an update that nobody disturbed."""
    clean = installed.copy(tmp_path_factory.mktemp("clean"))
    clean.ok("update")
    return clean.tree()


@pytest.mark.parametrize("attack", ATTACKS)
def test_malicious_mirror_of_three_is_named_and_the_others_serve(
    in_order: None, device: Device, published: Published, expected: list[str], attack: str
) -> None:
    good = folder(published.www)
    with servers(ATTACKS[attack](published.www), good, good) as (bad, second, third):
        done = update(device, bad.url, second.url, third.url)
    assert done.code == 0, done
    assert device.tree() == expected
    assert done.err.count("is skipped") == 1 and f"Mirror {bad.url} is skipped" in done.err
    assert not [r for r in bad.requests if "latest" not in r[1]], "nothing more is asked of it"


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("when", [between, late])
def test_malicious_mirror_that_attacks_later_is_named_and_the_others_serve(
    in_order: None,
    device: Device,
    published: Published,
    expected: list[str],
    attack: str,
    when: Callable[[Answer, Path], Answer],
) -> None:
    good = folder(published.www)
    with servers(when(ATTACKS[attack](published.www), published.www), good) as (bad, second):
        done = update(device, bad.url, second.url)
    assert done.code == 0, done
    assert device.tree() == expected
    if attack != "has nothing":
        assert f"Mirror {bad.url} is skipped" in done.err
    assert second.url not in done.err


@pytest.mark.parametrize("attack", ["flips bytes", "answers with a portal"])
def test_malicious_mirror_of_single_files_is_named_and_the_others_serve(
    in_order: None, device: Device, www: Path, expected: list[str], attack: str
) -> None:
    for pack in www.glob("*/pack-*"):
        pack.unlink()
    good = folder(www)
    with servers(late(ATTACKS[attack](www), www), late(ATTACKS[attack](www), www), good) as told:
        done = update(device, *(t.url for t in told))
    assert done.code == 0, done
    assert device.tree() == expected
    assert all((f"Mirror {t.url} is skipped" in done.err) == (t is not told[2]) for t in told)


def test_malicious_mirror_that_replays_an_old_latest_is_named_and_the_others_serve(
    in_order: None, device: Device, published: Published, expected: list[str], tmp_path: Path
) -> None:
    old = clone(published.www, tmp_path / "old") / "version/format30/latest"
    old.write_bytes(b"10\n")
    old.with_name("latest.sig").write_bytes(signing.sign(b"10\n", published.signer))
    good = folder(published.www)
    with servers(folder(tmp_path / "old"), good, good) as (bad, second, third):
        done = update(device, bad.url, second.url, third.url)
    assert done.code == 0 and device.tree() == expected
    assert f"Mirror {bad.url} is skipped: it lists version 10 as the latest" in done.err


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        ("flips bytes", 21),
        ("is endless", 17),
        ("trickles", 17),
        ("trickles its head", 17),
        ("cuts off", 17),
        ("has nothing", 16),
        ("fails", 17),
        ("hangs up", 16),
        ("answers with a portal", 21),
    ],
)
def test_malicious_mirrors_only_change_nothing(
    in_order: None, device: Device, published: Published, attack: str, code: int
) -> None:
    before = device.tree()
    with servers(*[ATTACKS[attack](published.www)] * 3) as told:
        done = update(device, *(t.url for t in told))
    assert done.code == code and done.err.count("Error: ") == 1
    assert all(f"Mirror {t.url} is skipped" in done.err for t in told)
    assert device.tree() == before


@pytest.mark.parametrize(("when", "codes"), [(between, {4, 21}), (late, {18, 30})])
def test_malicious_mirrors_that_all_flip_bytes_later_change_nothing(
    in_order: None,
    device: Device,
    published: Published,
    when: Callable[[Answer, Path], Answer],
    codes: set[int],
) -> None:
    before = device.tree()
    with servers(*[when(flips(folder(published.www)), published.www)] * 3) as told:
        done = update(device, *(t.url for t in told))
    assert done.code in codes and done.err.count("Error: ") == 1
    assert all(f"Mirror {t.url} is skipped" in done.err for t in told)
    assert device.tree() == before


def test_malicious_mirror_is_not_always_the_first_one_asked(transport: Transport) -> None:
    firsts = set()
    for seed in range(40):
        warned: list[str] = []
        with contextlib.suppress(ServerUnreachable):
            Mirrors(
                ["file:///none/a", "file:///none/b", "file:///none/c"], transport, random.Random(seed), warned.append
            ).read("x", 9)
        firsts.add(warned[0].split()[1])
        assert len(warned) == 3
    assert len(firsts) == 3


def test_slow_retrieval_ends_at_the_total_deadline(tmp_path: Path) -> None:
    ticks = itertools.count(0, 100)
    patient = QUICK._replace(minimum_rate=0, deadline=3000.0, clock=lambda: float(next(ticks)))
    with server(trickles) as told, pytest.raises(DownloadError, match="too slowly"):
        Source(told.url, patient).read("x", LIMIT)


def test_slow_retrieval_of_something_large_may_last_longer(tmp_path: Path) -> None:
    ticks = itertools.count(0, 1)
    patient = QUICK._replace(minimum_rate=0, deadline=1.0, clock=lambda: float(next(ticks)))
    with server(serves(DATA)) as told:
        assert Source(told.url, patient).read("x", LIMIT) == DATA


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_slow_retrieval_by_a_head_without_end_is_given_up(tls: tuple[Path, Path], scheme: str) -> None:
    begin = time.monotonic()
    with server(trickles_its_head, tls=tls if scheme == "https" else None) as told:
        source = Source(told.url, QUICK._replace(answer=0.3, tls_ca=tls[0]))
        with pytest.raises((DownloadError, ServerUnreachable)):
            source.read("x", LIMIT)
        assert source.size("x") is None
    assert time.monotonic() - begin < 10


@pytest.fixture
def transport() -> Transport:
    return QUICK


@pytest.fixture
def warned() -> list[str]:
    return []


def mirrors(told: list[Told], warned: list[str], transport: Transport = QUICK) -> Mirrors:
    return Mirrors([t.url for t in told], transport, InOrder(), warned.append)


def nobody(count: int) -> None:
    """Hears progress."""


def test_the_mirror_that_works_is_preferred(warned: list[str]) -> None:
    with servers(says(404), serves(DATA)) as told:
        made = mirrors(told, warned)
        assert [made.read(str(n), LIMIT) for n in range(5)] == [DATA] * 5
    assert [len(t.requests) for t in told] == [1, 5] and warned == []
    assert made.received == 5 * len(DATA) and made.url == told[0].url


def test_what_no_mirror_has_is_none(warned: list[str], tmp_path: Path) -> None:
    with servers(says(404), says(404)) as told:
        made = mirrors(told, warned)
        assert made.read("x", LIMIT) is None and made.size("x") is None
        assert made.download("x", tmp_path / "part", LIMIT, nobody) is False
        assert not made.blame("x", "it is not there")
    assert warned == []


def test_only_the_last_mirror_is_asked_with_patience(warned: list[str]) -> None:
    slept: list[float] = []
    with servers(says(500), says(500)) as told, pytest.raises(DownloadError, match="500"):
        mirrors(told, warned, QUICK._replace(retries=3, retry_delay=7.0, sleep=slept.append)).read("x", LIMIT)
    assert [len(t.requests) for t in told] == [1, 4] and slept == [7.0, 14.0, 28.0]


def test_a_download_goes_on_at_another_mirror(warned: list[str], tmp_path: Path) -> None:
    with servers(serves(DATA, 30_000), serves(DATA)) as told:
        made = mirrors(told, warned)
        assert made.download("x", tmp_path / "part", LIMIT, nobody)
        assert (tmp_path / "part").read_bytes() == DATA
        assert told[1].requests[0][2] == "bytes=30000-"
        assert made.blame("x", "bad") and len(warned) == 1, "who was it? It is fetched whole from one of them"


def test_a_download_of_parts_that_do_not_fit_is_fetched_whole_and_then_the_mirror_is_to_blame(
    warned: list[str], tmp_path: Path
) -> None:
    part = tmp_path / "part"
    with servers(serves(bytes(len(DATA))), serves(DATA)) as told:
        made = mirrors(told, warned)
        part.write_bytes(b"from an earlier run")

        def obtain() -> bytes:
            assert made.download("x", part, LIMIT, nobody)
            data = part.read_bytes()
            part.unlink()
            if data != DATA:
                raise HashMismatch("wrong")
            return data

        assert verified(made, "x", obtain) == DATA
        assert warned == [f"Mirror {told[0].url} is skipped: wrong"]
    assert [len(t.requests) for t in told] == [2, 1]


def test_the_first_error_is_the_one_to_tell(warned: list[str]) -> None:
    with servers(serves(DATA), says(404)) as told:
        made = mirrors(told, warned)

        def obtain() -> bytes:
            if made.read("x", LIMIT) is None:
                raise HashMismatch("not there")
            raise HashMismatch("wrong")

        with pytest.raises(HashMismatch, match="wrong"):
            verified(made, "x", obtain)


def test_where_all_are_to_blame_all_are_still_asked_for_the_rest(warned: list[str]) -> None:
    with servers(serves(DATA), serves(DATA)) as told:
        made = mirrors(told, warned)
        for more in (True, False):
            assert made.read("x", LIMIT) == DATA
            assert made.blame("x", "wrong") is more
        assert made.read("y", LIMIT) == DATA
    assert len(warned) == 2


def test_many_threads_blame_a_mirror_once(warned: list[str], tmp_path: Path) -> None:
    with servers(says(500), serves(DATA)) as told, ThreadPoolExecutor(8) as pool:
        made = mirrors(told, warned)
        found = pool.map(lambda n: made.download(str(n), tmp_path / str(n), LIMIT, nobody), range(40))
        assert all(found)
    assert all(f.read_bytes() == DATA for f in tmp_path.iterdir())
    assert len(warned) == 1 and made.received == 40 * len(DATA)


def test_mirrors_are_named_in_a_file_of_the_device(
    in_order: None, device: Device, published: Published, expected: list[str]
) -> None:
    defaults, own = (device.root / p for p in ("usr/share/defaults/swupd", "etc/swupd"))
    with servers(says(500), folder(published.www)) as (bad, good):
        for place, urls in ((defaults, "https://not.asked/"), (own, f"# ours\n\n{good.url}/ # near\n")):
            place.mkdir(parents=True, exist_ok=True)
            (place / "mirrors").write_text(urls)
        (own / "mirror_versionurl").write_text(bad.url)
        (own / "mirror_contenturl").write_text(bad.url)
        words = device.options()[2:]
        assert f"{good.url} ({own}/mirrors, line 3)" in agent("info", "--path", str(device.root)).out
        done = run(device, *words, "--allow-insecure-http")
        assert done.code == 0 and f"Mirror {bad.url} is skipped" in done.err and len(bad.requests) == 1
        refused = run(device, *words)
        assert refused.code == 12 and "plain HTTP" in refused.err
        (own / "mirrors").write_text(f"https://fine\n{good.url}\n")
        for kind in ("version", "content"):
            (own / f"mirror_{kind}url").write_text("https://x.invalid")
        refused = run(device, *words)
        assert refused.code == 12 and f"{own}/mirrors, line 2: {good.url} is plain HTTP" in refused.err
        (own / "mirrors").write_text("gopher://x\n")
        refused = run(device, *words)
        assert refused.code == 12 and f"{own}/mirrors, line 1: 'gopher://x' is no https://" in refused.err


def run(device: Device, *words: str) -> Done:
    return agent("update", "--path", str(device.root), *words)


def test_mirrors_are_named_in_a_configuration_file(
    in_order: None, device: Device, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    monkeypatch.setattr("swupd.agent.settings.CONFIG_FILES", (str(config),))
    with servers(says(500), folder(published.www)) as (bad, good):
        config.write_text(f"[update]\nmirror_url=https://x.invalid {good.url}\nallow_insecure_http=true\n")
        done = update(device, bad.url)
        assert done.code == 0 and f"Mirror {bad.url} is skipped" in done.err
        config.write_text("mirror_url=gopher://x\n")
        done = update(device, bad.url)
        assert done.code == 12 and "--mirror-url: 'gopher://x'" in done.err
