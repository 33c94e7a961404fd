"""Signatures are checked in a process without privileges, which finds what this process would."""

from __future__ import annotations

import datetime
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from swupd import crypto, signatures
from swupd.agent import checker, rehearsal
from swupd.agent.checker import Checker
from swupd.agent.trust import HERE, Checks
from swupd.errors import SignatureError
from swupd.server import signing
from tests.agent.devices import Device
from tests.agent.test_unpacker import children, gone, status_of
from tests.test_signing import DATA, DAY, NOW, World, pem
from tests.trust.simulator import holder

_world = World()
SIGNED = signing.sign(DATA, _world.signer("deep", "leaf", _world.middle))
ROOT = pem(_world.root)
DEVICE = ed25519.Ed25519PrivateKey.generate()
SHORT = rsa.generate_private_key(65537, 1024)
HOLDERS = [holder(), holder("ecdsa"), holder()]
RELEASE = crypto.of(_world.keys["leaf"].public_key())


@pytest.fixture(scope="module")
def made() -> Iterator[Checker]:
    checks = Checker()
    yield checks
    checks.close()


def said(ask: Callable[[], object]) -> object:
    """What is found, or the words in which it is refused."""
    try:
        return ask()
    except SignatureError as e:
        return "refused", e.problem, e.hint


def der(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return crypto.of(key.public_key()).der if key is not SHORT else signing._spki(key.public_key())


QUESTIONS: dict[str, Callable[[Checks], object]] = {
    "a trust file": lambda c: c.trust_file(ROOT, NOW),
    "a trust file that has expired": lambda c: c.trust_file(ROOT, NOW + 99 * DAY),
    "a trust file before its time": lambda c: c.trust_file(ROOT, NOW - 99 * DAY),
    "a trust file that is none": lambda c: c.trust_file(b"nonsense", NOW),
    "a trust file without a root": lambda c: c.trust_file(pem(_world.leaf), NOW),
    "an empty trust file": lambda c: c.trust_file(b"", NOW),
    "in another time zone": lambda c: c.trust_file(ROOT, NOW.astimezone(datetime.timezone(3 * DAY / 72))),
    "a signature": lambda c: c.signed(DATA, SIGNED, ROOT, NOW),
    "of other bytes": lambda c: c.signed(DATA + b"x", SIGNED, ROOT, NOW),
    "of nothing": lambda c: c.signed(b"", SIGNED, ROOT, NOW),
    "a damaged one": lambda c: c.signed(DATA, SIGNED[:-1] + b"x", ROOT, NOW),
    "half of one": lambda c: c.signed(DATA, SIGNED[: len(SIGNED) // 2], ROOT, NOW),
    "no signature": lambda c: c.signed(DATA, b"", ROOT, NOW),
    "a stranger's": lambda c: c.signed(DATA, SIGNED, pem(_world.stranger), NOW),
    "too late": lambda c: c.signed(DATA, SIGNED, ROOT, NOW + 99 * DAY),
    "much that is signed": lambda c: c.signed(DATA * 100_000, SIGNED, ROOT, NOW),
    "an Ed25519 key": lambda c: c.key(der(DEVICE)),
    "an ECDSA key": lambda c: c.key(der(ec.generate_private_key(ec.SECP256R1()))) and "taken",
    "an RSA key": lambda c: c.key(RELEASE.der),
    "a short RSA key": lambda c: c.key(der(SHORT)),
    "no key": lambda c: c.key(b"\x30\x00"),
    "a right signature of each kind": lambda c: [
        c.key(h.public.der).verifies(h.sign(b"x"), b"x") for h in (*HOLDERS, _release())
    ],
    "a wrong signature of each kind": lambda c: [
        c.key(h.public.der).verifies(h.sign(b"x"), b"y") for h in (*HOLDERS, _release())
    ],
    "no signature of each kind": lambda c: [c.key(h.public.der).verifies(b"", b"y") for h in (*HOLDERS, _release())],
    "who signed": lambda c: c.signers(DATA, SIGNED, {"a": c.key(HOLDERS[0].public.der), "b": c.key(RELEASE.der)}),
    "two names of who signed": lambda c: c.signers(DATA, SIGNED, {n: c.key(RELEASE.der) for n in "ab"}),
    "who signed other bytes": lambda c: c.signers(b"other", SIGNED, {"b": c.key(RELEASE.der)}),
    "who signed among nobody": lambda c: c.signers(DATA, SIGNED, {}),
    "who signed what is no PKCS#7": lambda c: c.signers(DATA, b"x", {"b": c.key(RELEASE.der)}),
}


def _release() -> crypto.KeyHolder:
    return crypto.KeyHolder(RELEASE, crypto.raw_signer(_world.keys["leaf"]))


@pytest.mark.parametrize("question", QUESTIONS)
def test_it_finds_what_this_process_would(made: Checker, question: str) -> None:
    ask = QUESTIONS[question]
    assert said(lambda: ask(made)) == said(lambda: ask(HERE))


def test_both_right_and_wrong_are_among_what_is_asked(made: Checker) -> None:
    found = {name: said(lambda: ask(made)) for name, ask in QUESTIONS.items()}  # noqa: B023 - called at once
    assert found["a signature"] is None and found["who signed"] == {"b"}
    assert found["two names of who signed"] == {"a", "b"}
    assert found["a right signature of each kind"] == [True] * 4
    assert found["a wrong signature of each kind"] == found["no signature of each kind"] == [False] * 4
    refused = {name for name, words in found.items() if isinstance(words, tuple)}
    assert refused >= {"of other bytes", "a stranger's", "too late", "a short RSA key", "an empty trust file"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to lose")
def test_it_has_no_privileges(made: Checker) -> None:
    made.trust_file(ROOT, NOW)
    found = status_of(made._process)
    assert found["Name"] == ["swupd-check"]
    assert found["Uid"] == ["65534"] * 4 and found["Groups"] == [] and found["NoNewPrivs"] == ["1"]
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[name][0], 16) == 0, name
    assert os.listdir(f"/proc/{made._process}/root/") == []
    assert len(os.listdir(f"/proc/{made._process}/fd")) == 1


def test_what_it_checks_with_was_all_loaded_before(made: Checker) -> None:
    # It has no files any more: what is loaded late would be an error in another place than in the table above.
    for name in sorted(QUESTIONS, reverse=True):
        said(lambda: QUESTIONS[name](made))  # noqa: B023 - called at once
    assert made.key(RELEASE.der) == RELEASE


@pytest.mark.parametrize(
    "lacking", ["ec.generate_private_key", "ed25519.Ed25519PrivateKey.generate", "rsa.RSAPublicNumbers"]
)
def test_what_the_library_cannot_do_hinders_nothing_else(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    def lack(*_: object, **__: object) -> None:
        raise UnsupportedAlgorithm("not here")

    with monkeypatch.context() as patched:
        patched.setattr(f"cryptography.hazmat.primitives.asymmetric.{lacking}", lack)
        checks = Checker()
        checks.signed(DATA, SIGNED, ROOT, NOW)
    checks.close()


def test_long_and_odd_words_arrive_as_far_as_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise SignatureError("x" * 9000, "\udcff")

    monkeypatch.setattr(signatures, "verify", refuse)
    checks = Checker()
    with pytest.raises(SignatureError) as e:
        checks.signed(DATA, SIGNED, ROOT, NOW)
    assert (len(e.value.problem), e.value.hint) == (4096, "?")
    checks.close()


def test_many_threads_ask(made: Checker) -> None:
    def ask(number: int) -> bool:
        one = HOLDERS[number % 3]
        return made.key(one.public.der).verifies(one.sign(b"%d" % number), b"%d" % (number | 1))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(40))) == [number % 2 == 1 for number in range(40)]


def test_where_nobody_answers_nothing_is_believed() -> None:
    checks = Checker()
    checks.trust_file(ROOT, NOW)
    os.kill(checks._process, signal.SIGKILL)
    for ask in (lambda: checks.signed(DATA, SIGNED, ROOT, NOW), lambda: checks.key(RELEASE.der)):
        with pytest.raises(SignatureError, match="gave no answer") as e:
            ask()
        assert "Run the command again" in e.value.hint
    checks.close()


def test_where_nobody_answers_in_time_nothing_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "_PATIENCE", 0.3)
    checks = Checker()
    os.kill(checks._process, signal.SIGSTOP)
    for _ in range(2):
        with pytest.raises(SignatureError, match="gave no answer"):
            checks.trust_file(ROOT, NOW)
    checks.close()
    assert gone(checks._process)


def words(*found: bytes) -> bytes:
    return checker._packed(found)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"x",
        words(),
        words(b""),
        words(b"yes"),
        words(b"wrong"),
        words(b"wrong", b"problem"),
        words(b"wrong", b"problem", b"hint", b"more"),
        words(b"right")[:-1],
        words(b"right", bytes(5000)),
        b"\x01\0\xff\xff\xff\xff",
        b"\xff\xff" + words(b"right")[2:],
    ],
)
def test_an_answer_that_is_none_is_no_consent(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    def talk(channel: socket.socket) -> None:
        channel.recv(1 << 20)
        channel.sendall(answer)

    monkeypatch.setattr(checker, "_answer", talk)
    checks = Checker()
    with pytest.raises(SignatureError, match="gave no answer"):
        checks.trust_file(ROOT, NOW)
    checks.close()


def test_a_refusal_in_odd_words_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "_answer", lambda channel: channel.sendall(words(b"wrong", b"\xff\n", b"")))
    checks = Checker()
    with pytest.raises(SignatureError):
        checks.trust_file(ROOT, NOW)
    checks.close()


@pytest.mark.parametrize("when", ["verify", "load_trust"])
def test_an_update_whose_checker_dies_changes_nothing(
    device: Device, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    before = device.tree()
    with monkeypatch.context() as patched:
        # It is forked from here.
        patched.setattr(rehearsal, "rehearse", lambda: None)
        patched.setattr(signatures, when, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        done = device.run("update")
    assert done.code == SignatureError.exit_code and "gave no answer" in done.err
    assert device.tree() == before
    device.ok("update")


def test_what_goes_wrong_in_it_is_no_consent(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(signatures, "verify", stumble)
        patched.setattr(rehearsal, "rehearse", lambda: None)
        done = device.run("update")
    assert done.code == SignatureError.exit_code


def test_a_command_leaves_no_process_behind(device: Device) -> None:
    there = {*children(os.getpid())}
    device.ok("update")
    device.ok("diagnose")
    assert not {*children(os.getpid())} - there


def test_it_ends_with_the_agent(tmp_path: Path) -> None:
    program = f"""
import sys, time
sys.path[:0] = {sys.path!r}
from swupd.agent.checker import Checker
made = Checker()
print(made._process, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        assert not threading.Event().wait(0.2) and status_of(pid)
        agent.kill()
    assert gone(pid)


@pytest.mark.parametrize("name", ["PSEUDO_PREFIX", "FAKEROOTKEY"])
def test_where_root_is_only_played_nothing_is_forked(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "/usr")
    with checker.started() as made:
        assert made is None
    monkeypatch.delenv(name)
    with checker.started() as made:
        assert isinstance(made, Checker)


def test_where_no_process_can_be_made_this_one_checks(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(11, "no more processes")

    before = device.tree()
    monkeypatch.setattr(os, "fork", refuse)
    with checker.started() as made:
        assert made is None
    device.ok("update")
    assert device.tree() != before
