"""Making signatures: detached PKCS#7 as swupd-client wants it (stream format, section 8).

The CMS structure is built with asn1crypto, keys and certificates are cryptography's (docs/adr/0002). There are no
signed attributes, so an RSA signature of the same bytes is the same bytes.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from asn1crypto import algos, cms
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from swupd import crypto, signatures
from swupd.errors import SignatureError
from swupd.publickey import KeyHolder, PublicKey


@dataclass(frozen=True)
class Signer:
    """A private key, or who holds it, with its certificate, and the certificates between that and the root."""

    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | KeyHolder
    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...] = ()


def load_signer(key: bytes, certificate: bytes) -> Signer:
    """Reads a PEM key and its PEM certificate (further ones are intermediates). Raises SignatureError."""
    certificates = signatures.certificates(certificate, "the signer's certificate file")
    try:
        # Whether its numbers are primes takes longer than all else; it is the owner's, and has to fit the certificate.
        private = serialization.load_pem_private_key(key, password=None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise SignatureError(
            f"the signing key cannot be read: {e}",
            "Give an unencrypted PEM private key, or a command that signs (--signer).",
        ) from e
    if not isinstance(private, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise SignatureError("the signing key is neither RSA nor ECDSA", "Make one with: swupd-server keygen DIR")
    if _spki(private.public_key()) != _spki(certificates[0].public_key()):
        raise SignatureError(
            "the signing key does not belong to the certificate", "Give the pair that belongs together."
        )
    return Signer(private, certificates[0], certificates[1:])


def held(holder: KeyHolder, certificate: bytes) -> Signer:
    """A signer whose key is elsewhere. Raises SignatureError."""
    certificates = signatures.certificates(certificate, "the signer's certificate file")
    signer = Signer(holder, certificates[0], certificates[1:])
    if not isinstance(certificates[0].public_key(), rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise SignatureError("the signing key is neither RSA nor ECDSA", "C clients read no other signatures.")
    if public(signer) != holder.public:
        raise SignatureError(
            "the signing key does not belong to the certificate", "Give the pair that belongs together."
        )
    return signer


def public(signer: Signer) -> PublicKey:
    """The signer's public key."""
    return crypto.of(signer.certificate.public_key())


def _spki(key: Any) -> bytes:
    data: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return data


def sign(data: bytes, signer: Signer) -> bytes:
    """The detached signature of some bytes: DER PKCS#7, SHA-256, the signer's certificates embedded."""
    certificates = [
        asn1_x509.Certificate.load(c.public_bytes(serialization.Encoding.DER))
        for c in (signer.certificate, *signer.intermediates)
    ]
    sha256 = algos.DigestAlgorithm({"algorithm": "sha256"})
    value = signer.key.sign(data) if isinstance(signer.key, KeyHolder) else crypto.raw_signer(signer.key)(data)
    is_rsa = isinstance(signer.certificate.public_key(), rsa.RSAPublicKey)
    algorithm = "rsassa_pkcs1v15" if is_rsa else "sha256_ecdsa"
    info = cms.SignerInfo(
        {
            "version": "v1",
            "sid": {
                "issuer_and_serial_number": {
                    "issuer": certificates[0].issuer,
                    "serial_number": certificates[0].serial_number,
                }
            },
            "digest_algorithm": sha256,
            "signature_algorithm": {"algorithm": algorithm},
            "signature": value,
        }
    )
    return _message(certificates, [info])


def _message(certificates: Sequence[Any], infos: Sequence[Any]) -> bytes:
    signed = cms.SignedData(
        {
            "version": "v1",
            "digest_algorithms": [algos.DigestAlgorithm({"algorithm": "sha256"})],
            "encap_content_info": {"content_type": "data"},
            "certificates": certificates,
            "signer_infos": infos,
        }
    )
    der: bytes = cms.ContentInfo({"content_type": "signed_data", "content": signed}).dump()
    return der


def joined(earlier: bytes, later: bytes) -> bytes:
    """One signature with the signers of two, both made by `sign`; a signer of both is in it once.

    Raises SignatureError. swupd-client believes such a one only if it trusts all of them.
    """
    infos, certificates = {}, {}
    for signature in (earlier, later):
        try:
            _, found, given = signatures.parse(signature)
            infos.update({info["sid"].dump(): info for info in found})
        except SignatureError:
            raise
        except Exception as e:  # asn1crypto raises whatever its lazy parser stumbles over
            raise SignatureError("the signature is not a PKCS#7 structure", "Sign without --add.") from e
        certificates.update({c.public_bytes(serialization.Encoding.DER): c for c in given})
    loaded = [asn1_x509.Certificate.load(der) for der in certificates]
    return _message(loaded, list(infos.values()))


def generate(common_name: str, begins: datetime.datetime, days: int) -> tuple[bytes, bytes]:
    """A new RSA key and its self-signed certificate, both PEM, valid for so many days."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    certificate = _self_signed(key, common_name, begins, days)
    pem = serialization.Encoding.PEM
    return (
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        certificate.public_bytes(pem),
    )


def _self_signed(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, common_name: str, begins: datetime.datetime, days: int
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
