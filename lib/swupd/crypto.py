"""Keys and signatures over plain bytes, by cryptography: what documents of trust are signed with.

Ed25519, ECDSA with SHA-256, RSA (PKCS #1 v1.5, SHA-256, 2048 bits at least): all of them an HSM or a command can make.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from swupd.errors import SignatureError
from swupd.publickey import KeyHolder, PublicKey

_MIN_RSA_BITS = 2048


def verifies(der: bytes, signature: bytes, data: bytes) -> bool:
    """Whether the key of a SubjectPublicKeyInfo made a signature of some bytes."""
    try:
        key = _load(der)
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        else:
            key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, SignatureError):
        return False
    return True


def from_der(der: bytes) -> PublicKey:
    """A key from its SubjectPublicKeyInfo. Raises SignatureError for what is no acceptable key."""
    _load(der)
    return PublicKey(der, verifies)


def from_pem(pem: bytes, what: str) -> PublicKey:
    """The key in a PEM file: a public key, the first certificate's, or that of a private key. Raises SignatureError."""
    try:
        if b"-----BEGIN CERTIFICATE" in pem:
            key: Any = x509.load_pem_x509_certificate(pem).public_key()
        elif b"PRIVATE KEY-----" in pem:
            key = serialization.load_pem_private_key(pem, password=None).public_key()
        else:
            key = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise SignatureError(
            f"{what} holds no key that can be read: {e}", "Give a PEM certificate, public key or unencrypted key."
        ) from e
    return of(key)


def of(key: Any) -> PublicKey:
    """The key as a value. Raises SignatureError for a kind or size that is not accepted."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return from_der(der)


def holder(pem: bytes, what: str) -> KeyHolder:
    """Who signs with an unencrypted PEM private key. Raises SignatureError."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise SignatureError(
            f"{what} is no key that can be read: {e}",
            "Give an unencrypted PEM private key, or a command that signs (--signer, --head-signer).",
        ) from e
    return KeyHolder(of(key.public_key()), raw_signer(key))


def raw_signer(key: Any) -> Callable[[bytes], bytes]:
    """What signs bytes with a private key of cryptography's."""

    def sign(data: bytes) -> bytes:
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return key.sign(data)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key.sign(data, ec.ECDSA(hashes.SHA256()))
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        raise SignatureError("the signing key is of a kind that is not accepted", "Use Ed25519, ECDSA or RSA.")

    return sign


def _load(der: bytes) -> ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise SignatureError(f"a public key cannot be read: {e}", "Give a PEM public key or certificate.") from e
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        raise SignatureError(f"an RSA key of {key.key_size} bits is too short", f"Use {_MIN_RSA_BITS} or more.")
    if not isinstance(key, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise SignatureError("a public key is of a kind that is not accepted", "Use Ed25519, ECDSA or RSA.")
    return key
