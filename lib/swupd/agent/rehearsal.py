"""All that checking a signature takes, gone through once: for a process that can load nothing later."""

from __future__ import annotations

import base64
import contextlib
import datetime
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from swupd import crypto, signatures

_SIGNATURE = base64.b64decode(
    "MIICNAYJKoZIhvcNAQcCoIICJTCCAiECAQExDzANBglghkgBZQMEAgEFADALBgkqhkiG9w0BBwGgggFhMIIBXTCCAQSgAwIBAgIUTXyzfW4J"
    "O1lNzy4bpTubSn80oy4wCgYIKoZIzj0EAwIwFDESMBAGA1UEAwwJcmVoZWFyc2FsMCAXDTAwMDEwMTAwMDAwMFoYDzIxMDAwMTAxMDAwMDAw"
    "WjAUMRIwEAYDVQQDDAlyZWhlYXJzYWwwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAR2tcSRjVNfQYxPtqrKxwcwXnDM0+8E2ZeWmm7cpRIc"
    "H8mJPoSW8EdYLXnplEk4nLnctXWe8xJEHwIPMPpQJl1+ozIwMDAPBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBQd1Wpm+R3gdpqSdRkpJ+SP"
    "Ju4+2zAKBggqhkjOPQQDAgNHADBEAiA8q1cs4bCN4wZcMWGAGsPRMBe/MNUxfcB1qzrLuX4gNQIgYjIMDVYsjd998jjihiz1hTihi5qR42uB"
    "t2Q0F+hhqwQxgZgwgZUCAQEwLDAUMRIwEAYDVQQDDAlyZWhlYXJzYWwCFE18s31uCTtZTc8uG6U7m0p/NKMuMA0GCWCGSAFlAwQCAQUAMAoG"
    "CCqGSM49BAMCBEcwRQIhAL1ENEGNpbddvLchFgLJi/7SSFuMvyxJfQUYcWDvJg92AiADPoRMM+fe2wL7xtgblWlSU5qvlhnGxWIg+juDx8GK"
    "xA=="
)
"""Of no bytes, by a certificate that is in it: P-256, self-signed, valid from 2000 to 2100. Its key is gone."""
_WITHIN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
_AFTER = datetime.datetime(2101, 1, 1, tzinfo=datetime.UTC)


def rehearse() -> None:
    """Goes through it. What the library cannot do is passed over."""
    parts: tuple[Callable[[], Any], ...] = (
        _check_signature,
        signatures.embedded(_SIGNATURE)[0].public_key,
        lambda: ed25519.Ed25519PublicKey.from_public_bytes(bytes(32)),
        # Nobody has its private half.
        lambda: rsa.RSAPublicNumbers(65537, (1 << 2047) + 1).public_key(),
    )
    for part in parts:
        with contextlib.suppress(Exception):
            public = part()
            if public is not None:
                crypto.of(public).verifies(bytes(256), b"")


def _check_signature() -> None:
    pem = b"".join(c.public_bytes(Encoding.PEM) for c in signatures.embedded(_SIGNATURE))
    signatures.verify(b"", _SIGNATURE, signatures.load_trust(pem, _WITHIN), _WITHIN)
    signatures.load_trust(pem, _AFTER)
