"""Whether signatures are right: detached PKCS#7 as swupd-client wants it (stream format, section 8).

The CMS structure is read with asn1crypto, keys and certificates are cryptography's (docs/adr/0002).
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from asn1crypto import cms
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from swupd.errors import SignatureError
from swupd.publickey import PublicKey

_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
_MAX_CHAIN = 8


class Trust(NamedTuple):
    """The certificates that a device believes in; the first is searched first for the signer."""

    certificates: tuple[x509.Certificate, ...]

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """Those that are self-signed: every chain must end at one of them."""
        return tuple(c for c in self.certificates if c.subject == c.issuer)


def load_trust(pem: bytes, now: datetime.datetime) -> Trust:
    """Reads a trust file. Raises SignatureError unless its first certificate chains to a valid root in it."""
    with _reading("the trust file holds a certificate that is malformed"):
        trust = Trust(certificates(pem, "the trust file"))
        if not trust.roots:
            raise SignatureError(
                "the trust file holds no self-signed root certificate", "Append the root certificate to it."
            )
        _check_chain(trust.certificates[0], trust.certificates, trust, now)
    return trust


@contextlib.contextmanager
def _reading(problem: str) -> Iterator[None]:
    """asn1crypto and cryptography read lazily and raise whatever they stumble over; it becomes a SignatureError."""
    try:
        yield
    except SignatureError:
        raise
    except Exception as e:
        raise SignatureError(problem) from e


def certificates(pem: bytes, what: str) -> tuple[x509.Certificate, ...]:
    """Those of a PEM file; what: what it is. Raises SignatureError."""
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError as e:
        raise SignatureError(f"{what} is not PEM: {e}", "Give a file with BEGIN CERTIFICATE in it.") from e


def verify(data: bytes, signature: bytes, trust: Trust, now: datetime.datetime) -> x509.Certificate:
    """Checks a detached signature; gives the signer's certificate. Raises SignatureError.

    All signers must be right, each with a chain to a root of trust that is valid now. SHA-2 only.
    """
    with _reading("the signature is not a PKCS#7 structure"):
        signed, signers, given = parse(signature)
    content = signed["encap_content_info"]["content"].native
    if content is not None and content != data:
        raise SignatureError("the signature is for other bytes")
    signer = None
    for info in signers:
        with _reading("the signature holds a certificate that is malformed"):
            signer = _signer_certificate(info, trust.certificates[:1] + given)
            _check_signer(info, data, signer)
            _check_chain(signer, given, trust, now)
    if signer is None:
        raise SignatureError("the signature has no signer")
    return signer


def signers(data: bytes, signature: bytes | None, keys: Mapping[str, PublicKey]) -> frozenset[str]:
    """The ids of those keys that made a detached signature, if there is one. Certificates in it count for nothing.

    Raises SignatureError for what is no PKCS#7.
    """
    if not signature:
        return frozenset()
    with _reading("the signature is not a PKCS#7 structure"):
        signed, infos, _ = parse(signature)
        content = signed["encap_content_info"]["content"].native
        if content is not None and content != data:
            return frozenset()
        covered = [(info["signature"].native, _signed_bytes(info, data)[0]) for info in infos]
    return frozenset(
        name
        for name, key in keys.items()
        for value, of in covered
        if isinstance(value, bytes) and key.verifies(value, of)
    )


def embedded(signature: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates in a signature, which may be anybody's. Raises SignatureError."""
    with _reading("the signature is not a PKCS#7 structure"):
        return parse(signature)[2]


def parse(signature: bytes) -> tuple[Any, list[Any], tuple[x509.Certificate, ...]]:
    """(CMS SignedData, its signers, its certificates) of a signature.

    Raises SignatureError, and whatever asn1crypto and cryptography stumble over.
    """
    info = cms.ContentInfo.load(signature)
    if info["content_type"].native != "signed_data":
        raise SignatureError("the signature is not PKCS#7 signed data")
    signed = info["content"]
    signed.native  # noqa: B018  forces the lazy parser through everything, so that damage shows here
    if signed["encap_content_info"]["content_type"].native != "data":
        raise SignatureError("the signature is not over plain data")
    certificates = signed["certificates"]
    chosen = [] if certificates.native is None else [c.chosen for c in certificates]
    given = tuple(x509.load_der_x509_certificate(c.dump()) for c in chosen)
    return signed, list(signed["signer_infos"]), given


def _signer_certificate(info: Any, candidates: Sequence[x509.Certificate]) -> x509.Certificate:
    if info["sid"].name != "issuer_and_serial_number":
        raise SignatureError("the signer is not named by issuer and serial number")
    wanted = info["sid"].chosen
    issuer, serial = wanted["issuer"].dump(), wanted["serial_number"].native
    for certificate in candidates:
        if certificate.serial_number == serial and certificate.issuer.public_bytes() == issuer:
            return certificate
    raise SignatureError("the signer's certificate is neither embedded nor trusted")


def _signed_bytes(info: Any, data: bytes) -> tuple[bytes, hashes.HashAlgorithm]:
    """What a signer's signature covers, and the algorithm of the digest. Raises SignatureError."""
    name = info["digest_algorithm"]["algorithm"].native
    if name not in _HASHES:
        raise SignatureError(f"the signature uses {name}, which is not accepted", "Sign with SHA-256.")
    algorithm = _HASHES[name]()
    signed = data
    if info["signed_attrs"].native is not None and len(info["signed_attrs"]):
        attributes = {a["type"].native: a["values"] for a in info["signed_attrs"]}
        if attributes.get("content_type") is None or attributes["content_type"][0].native != "data":
            raise SignatureError("the signature's attributes name another content type")
        digest = hashes.Hash(algorithm)
        digest.update(data)
        expected = attributes.get("message_digest")
        if expected is None or expected[0].native != digest.finalize():
            raise SignatureError("the signature is for other bytes")
        # The signature covers the attributes as a SET, not under their tag in the message (RFC 5652, 5.4).
        signed = b"\x31" + info["signed_attrs"].dump()[1:]
    return signed, algorithm


def _check_signer(info: Any, data: bytes, certificate: x509.Certificate) -> None:
    signed, algorithm = _signed_bytes(info, data)
    key = certificate.public_key()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(info["signature"].native, signed, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(info["signature"].native, signed, ec.ECDSA(algorithm))
        else:
            raise SignatureError("the signer's key is neither RSA nor ECDSA")
    except InvalidSignature as e:
        raise SignatureError("the signature is wrong") from e


def _check_chain(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], trust: Trust, now: datetime.datetime
) -> None:
    """Follows issuers from a certificate to a root of trust, each valid now. Raises SignatureError."""
    at = leaf
    for _ in range(_MAX_CHAIN):
        _check_validity(at, now)
        if at in trust.roots:
            return
        at = _issuer(at, (*trust.certificates, *others))
    raise SignatureError("the signer's chain of certificates is too long")


def _issuer(certificate: x509.Certificate, candidates: Sequence[x509.Certificate]) -> x509.Certificate:
    for candidate in candidates:
        if candidate == certificate or candidate.subject != certificate.issuer or not _may_issue(candidate):
            continue
        try:
            certificate.verify_directly_issued_by(candidate)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return candidate
    raise SignatureError(
        f"nobody who is trusted vouches for {certificate.subject.rfc4514_string()}",
        "Check that the trust file is the one that belongs to this stream.",
    )


def _may_issue(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _check_validity(certificate: x509.Certificate, now: datetime.datetime) -> None:
    # The properties with time zones came with cryptography 42.
    utc = datetime.UTC
    begins = getattr(certificate, "not_valid_before_utc", None) or certificate.not_valid_before.replace(tzinfo=utc)
    ends = expires(certificate)
    name = certificate.subject.rfc4514_string()
    if now > ends:
        raise SignatureError(
            f"the certificate {name} expired on {ends:%Y-%m-%d}",
            "Renew it, or check the clock if that date is in the future.",
        )
    if now < begins:
        raise SignatureError(
            f"the certificate {name} is valid from {begins:%Y-%m-%d} on", "Check the clock of this machine."
        )


def expires(certificate: x509.Certificate) -> datetime.datetime:
    """When a certificate ends, with time zone."""
    ends: datetime.datetime | None = getattr(certificate, "not_valid_after_utc", None)
    return ends or certificate.not_valid_after.replace(tzinfo=datetime.UTC)
