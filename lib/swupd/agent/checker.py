"""Checks signatures in a process that has no privileges (docs/adr/0015).

It is forked before a command is loaded, and loads the libraries meanwhile: neither their time nor their memory is the
agent's. What it says is believed.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, cast

from swupd.agent import confinement
from swupd.errors import SignatureError
from swupd.publickey import PublicKey

if TYPE_CHECKING:
    from swupd.agent.trust import Checks

_TRUST_FILE, _SIGNED, _KEY, _VERIFY, _SIGNERS = b"trust-file", b"signed", b"key", b"verify", b"signers"
_RIGHT, _WRONG = b"right", b"wrong"
_COUNT, _SIZE = struct.Struct("<H"), struct.Struct("<I")
_PATIENCE = 60.0
"""Seconds that it may take for an answer."""
_MEMORY = 256 << 20
_LONGEST = 4096
"""Bytes in a word of an answer: a sentence, or a key."""
_ANY = 1 << 32


class Checker:
    """Checks in another process. Safe to use from several threads; to be made while there is one."""

    def __init__(self) -> None:
        """Raises OSError where there can be no process."""
        self._lock = threading.Lock()
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(_PATIENCE)
        self._answers = cast(BinaryIO, self._channel.makefile("rb"))
        try:
            with theirs:
                self._process = confinement.forked(theirs, lambda: _answer(theirs))
        except OSError:
            self._hang_up()
            raise

    def trust_file(self, pem: bytes, now: datetime.datetime) -> None:
        """As trust.Here.trust_file."""
        self._ask(_TRUST_FILE, pem, _moment(now))

    def signed(self, data: bytes, signature: bytes, pem: bytes, now: datetime.datetime) -> None:
        """As trust.Here.signed."""
        self._ask(_SIGNED, data, signature, pem, _moment(now))

    def key(self, der: bytes) -> PublicKey:
        """As crypto.from_der; the key has its signatures checked here, too."""
        self._ask(_KEY, der)
        return PublicKey(der, self._verifies)

    def signers(self, data: bytes, signature: bytes, keys: Mapping[str, PublicKey]) -> frozenset[str]:
        """As signatures.signers."""
        found = set(self._ask(_SIGNERS, data, signature, *(key.der for key in keys.values())))
        return frozenset(name for name, key in keys.items() if key.der in found)

    def close(self) -> None:
        """Ends the process, and waits until it is gone."""
        self._hang_up()
        # Not asked to end: one that was taken over would not.
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._process, signal.SIGKILL)
            os.waitpid(self._process, 0)

    def _hang_up(self) -> None:
        self._answers.close()
        self._channel.close()

    def _verifies(self, der: bytes, signature: bytes, data: bytes) -> bool:
        return bool(self._ask(_VERIFY, der, signature, data))

    def _ask(self, *words: bytes) -> list[bytes]:
        """What it finds. Raises SignatureError, also where it gives no answer."""
        with self._lock:
            try:
                self._channel.sendall(_packed(words))
                answer = _received(self._answers, _LONGEST)
            except (OSError, EOFError) as e:
                raise _silence() from e
        match answer:
            case [found, *rest] if found == _RIGHT:
                return rest
            case [found, problem, hint] if found == _WRONG:
                raise SignatureError(problem.decode("utf-8", "replace"), hint.decode("utf-8", "replace"))
            case _:
                raise _silence()


@contextlib.contextmanager
def started() -> Iterator[Checks | None]:
    """Who checks signatures for the time of a command: another process, None where there can be none."""
    try:
        made = None if confinement.pretending() else Checker()
    except OSError:
        made = None
    if made is None:
        yield None
        return
    try:
        yield made
    finally:
        made.close()


def _silence() -> SignatureError:
    return SignatureError(
        "the process that checks signatures gave no answer", "Run the command again; free some memory."
    )


def _moment(now: datetime.datetime) -> bytes:
    return now.isoformat().encode("ascii")


def _packed(words: tuple[bytes, ...]) -> bytes:
    sized = (part for word in words for part in (_SIZE.pack(len(word)), word))
    return b"".join((_COUNT.pack(len(words)), *sized))


def _received(file: BinaryIO, longest: int) -> list[bytes]:
    """The words of a message, each of at most so many bytes. Raises EOFError."""
    (count,) = _COUNT.unpack(_exactly(file, _COUNT.size))
    words = []
    for _ in range(count):
        (size,) = _SIZE.unpack(_exactly(file, _SIZE.size))
        words.append(_exactly(file, size, longest))
    return words


def _exactly(file: BinaryIO, size: int, longest: int = _ANY) -> bytes:
    data = file.read(size) if size <= longest else b""
    if len(data) != size:
        raise EOFError
    return data


def _answer(channel: socket.socket) -> None:
    """In the process: answers until nobody asks any more."""
    find = _ways()
    confinement.confine(_MEMORY, "swupd-check")
    with channel.makefile("rwb") as file:
        while True:
            what, *words = _received(cast(BinaryIO, file), _ANY)
            try:
                answer: tuple[bytes, ...] = (_RIGHT, *find[what](*words))
            except SignatureError as e:
                answer = (_WRONG, *(text.encode("utf-8", "replace")[:_LONGEST] for text in (e.problem, e.hint)))
            file.write(_packed(answer))
            file.flush()


def _ways() -> Mapping[bytes, Callable[..., list[bytes]]]:
    """What finds the answer to each question; all that it takes is loaded."""
    from swupd import crypto, signatures  # noqa: PLC0415  the agent shall not have to
    from swupd.agent.rehearsal import rehearse  # noqa: PLC0415

    rehearse()
    # The same trust file is given with each signature.
    load_trust = functools.lru_cache(2)(signatures.load_trust)

    def trust_file(pem: bytes, now: bytes) -> list[bytes]:
        load_trust(pem, _when(now))
        return []

    def signed(data: bytes, signature: bytes, pem: bytes, now: bytes) -> list[bytes]:
        signatures.verify(data, signature, load_trust(pem, _when(now)), _when(now))
        return []

    def key(der: bytes) -> list[bytes]:
        crypto.from_der(der)
        return []

    def verify(der: bytes, signature: bytes, data: bytes) -> list[bytes]:
        return [der] if crypto.verifies(der, signature, data) else []

    def signers(data: bytes, signature: bytes, *ders: bytes) -> list[bytes]:
        keys = {found.id: found for found in map(crypto.from_der, ders)}
        return [keys[name].der for name in signatures.signers(data, signature, keys)]

    return {_TRUST_FILE: trust_file, _SIGNED: signed, _KEY: key, _VERIFY: verify, _SIGNERS: signers}


def _when(moment: bytes) -> datetime.datetime:
    return datetime.datetime.fromisoformat(moment.decode("ascii"))
