"""Who signs: a private key in a file, or a command that stands for an HSM or another machine."""

from __future__ import annotations

import shlex
import subprocess
from functools import partial

from swupd import crypto
from swupd.errors import InvalidOption, SignatureError
from swupd.publickey import KeyHolder, PublicKey
from swupd.server import inputs, signing

_SECONDS = 120


def by_command(command: str, public: PublicKey) -> KeyHolder:
    """Whoever answers a command: it gets the bytes on its standard input and writes the raw signature to its output.

    PKCS #1 v1.5 with SHA-256, ECDSA with SHA-256 in DER, or Ed25519. Each signature is checked at once.
    """
    try:
        words = shlex.split(command)
    except ValueError as e:
        raise InvalidOption(f"the signing command cannot be split into words: {e}", "Correct its quotes.") from e
    if not words:
        raise InvalidOption("the signing command is empty", "Name a program and its arguments.")
    return KeyHolder(public, partial(_sign, words, public))


def _sign(words: list[str], public: PublicKey, data: bytes) -> bytes:
    try:
        done = subprocess.run(words, input=data, capture_output=True, check=False, timeout=_SECONDS)
    except OSError as e:
        raise SignatureError(
            f"the signing command {words[0]} cannot be started: {e.strerror}", "Check its name."
        ) from e
    except subprocess.TimeoutExpired as e:
        raise SignatureError(f"the signing command {words[0]} took more than {_SECONDS} s", "Does it wait?") from e
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()[-300:]
        raise SignatureError(f"the signing command {words[0]} ended with {done.returncode}: {said}", "See its message.")
    if not public.verifies(done.stdout, data):
        raise SignatureError(
            f"what the signing command {words[0]} wrote is not a signature by the key {public.id[:16]}",
            "It must sign standard input with SHA-256 and write the bare signature.",
        )
    return done.stdout


def holder(key: str | None, command: str | None, public: str | None) -> KeyHolder | None:
    """Who signs a document: files of a private key, or a command and its public key; None where none is named."""
    if command:
        if not public:
            raise InvalidOption("the public key of the signing command is missing", "Give its PEM file as well.")
        return by_command(command, crypto.from_pem(inputs.read(public), public))
    return crypto.holder(inputs.read(key), key) if key else None


def signer(key: str | None, command: str | None, certificate: str | None, what: str) -> signing.Signer | None:
    """Who signs as the C client wants it; None where nobody is named. what: the option's name without dashes."""
    if not key and not command and not certificate:
        return None
    if not certificate or not (key or command):
        other = "certificate" if what == "signing-key" else f"{what.removesuffix('-key')}-certificate"
        missing = other if not certificate else what
        raise InvalidOption(f"--{missing} is missing", f"Give both --{what} and --{other}, or neither.")
    if command:
        pem = inputs.read(certificate)
        return signing.held(by_command(command, crypto.from_pem(pem, certificate)), pem)
    return signing.load_signer(inputs.read(key or ""), inputs.read(certificate))
