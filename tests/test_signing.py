"""Which signatures are believed: the table of the stream format, 8.2, made with the openssl program."""

from __future__ import annotations

import base64
import datetime
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from asn1crypto import cms
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from swupd import signatures
from swupd.errors import SignatureError
from swupd.publickey import PublicKey
from swupd.server import signing
from swupd.server.signing import Signer
from tests.conftest import Golden

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
DATA = b"MANIFEST\t30\nversion:\t10\n\n"
PEM = serialization.Encoding.PEM

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def certificate(
    name: str,
    key: Key,
    issuer: tuple[x509.Certificate, Key] | None = None,
    ca: bool | None = True,
    begins: datetime.datetime = NOW - 10 * DAY,
    ends: datetime.datetime = NOW + 10 * DAY,
    usage: x509.ObjectIdentifier | None = None,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, None), True)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), False)
    by = issuer[1] if issuer else key
    return builder.sign(by, None if isinstance(by, ed25519.Ed25519PrivateKey) else hashes.SHA256())


class World:
    """Keys and certificates: a root, an intermediate, leaves, and a stranger with the root's name."""

    def __init__(self) -> None:
        self.keys = {n: rsa.generate_private_key(65537, 2048) for n in ("root", "middle", "leaf", "stranger")}
        self.root = certificate("root", self.keys["root"])
        top = (self.root, self.keys["root"])
        self.middle = certificate("middle", self.keys["middle"], top)
        self.leaf = certificate("leaf", self.keys["leaf"], top, ca=False)
        self.deep = certificate("deep", self.keys["leaf"], (self.middle, self.keys["middle"]), ca=False)
        self.stranger = certificate("root", self.keys["stranger"])
        self.old_leaf = certificate("old", self.keys["leaf"], top, ca=False, ends=NOW - DAY)
        self.young_leaf = certificate("young", self.keys["leaf"], top, ca=False, begins=NOW + DAY)
        self.no_ca = certificate("no ca", self.keys["middle"], top, ca=False)
        self.usurped = certificate("usurped", self.keys["leaf"], (self.no_ca, self.keys["middle"]), ca=False)

    def signer(self, name: str, key: str, *between: x509.Certificate) -> Signer:
        return Signer(self.keys[key], getattr(self, name), between)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(c.public_bytes(PEM) for c in certificates)


def trust(*certificates: x509.Certificate) -> signatures.Trust:
    return signatures.load_trust(pem(*certificates), NOW)


def openssl(*words: str, given: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=given, check=True, capture_output=True).stdout


def by_openssl(folder: Path, key: Key, signer: x509.Certificate, *options: str, data: bytes = DATA) -> bytes:
    """A signature as mixer makes it, or with other options."""
    (folder / "key").write_bytes(
        key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "certificate").write_bytes(pem(signer))
    (folder / "data").write_bytes(data)
    kind, *rest = options or ("smime", "-binary", "-outform", "DER")
    words = [kind, "-sign", "-in", "data", "-signer", "certificate", "-inkey", "key", *rest]
    done = subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)
    return done.stdout


def refused(signature: bytes, root: x509.Certificate | signatures.Trust, data: bytes = DATA) -> str:
    believed = root if isinstance(root, signatures.Trust) else trust(root)
    with pytest.raises(SignatureError) as e:
        signatures.verify(data, signature, believed, NOW)
    return str(e.value)


def test_a_signature_is_right_for_its_bytes_alone(world: World) -> None:
    made = signing.sign(DATA, world.signer("root", "root"))
    assert signatures.verify(DATA, made, trust(world.root), NOW) == world.root
    assert "wrong" in refused(made, world.root, DATA + b"\n")
    assert "wrong" in refused(made, world.root, b"")


def test_the_same_bytes_have_the_same_signature(world: World) -> None:
    assert signing.sign(DATA, world.signer("leaf", "leaf")) == signing.sign(DATA, world.signer("leaf", "leaf"))


@pytest.mark.parametrize("who", ["root", "leaf", "deep", "ecdsa"])
def test_openssl_believes_our_signatures(world: World, tmp_path: Path, who: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    signer, root = {
        "root": (world.signer("root", "root"), world.root),
        "leaf": (world.signer("leaf", "leaf"), world.root),
        "deep": (world.signer("deep", "leaf", world.middle), world.root),
        "ecdsa": (Signer(key, (own := certificate("ec", key))), own),
    }[who]
    (tmp_path / "data").write_bytes(DATA)
    (tmp_path / "sig").write_bytes(signing.sign(DATA, signer))
    (tmp_path / "root.pem").write_bytes(pem(root))
    words = "smime -verify -in sig -inform DER -content data -purpose any -CAfile root.pem -attime"
    when = str(int(NOW.timestamp()))
    done = subprocess.run(["openssl", *words.split(), when], cwd=tmp_path, check=False, capture_output=True)
    assert (done.returncode, done.stdout) == (0, DATA), done.stderr


def test_golden_signatures_are_believed(golden: Golden) -> None:
    if golden.certificate is None:
        assert not list(golden.www.rglob("*.sig"))
        return
    now = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    believed = signatures.load_trust(golden.certificate.read_bytes(), now)
    files = list(golden.www.rglob("*.sig"))
    assert len(files) >= 4
    for file in files:
        signatures.verify(file.with_suffix("").read_bytes(), file.read_bytes(), believed, now)


ACCEPTED = {
    "as mixer signs": ("smime", "-binary", "-outform", "DER"),
    "without attributes": ("smime", "-binary", "-outform", "DER", "-noattr"),
    "SHA-384": ("smime", "-binary", "-outform", "DER", "-md", "sha384"),
    "SHA-512": ("smime", "-binary", "-outform", "DER", "-md", "sha512"),
    "as CMS": ("cms", "-binary", "-outform", "DER"),
    "embedded content": ("smime", "-binary", "-outform", "DER", "-nodetach"),
    "without the certificate": ("smime", "-binary", "-outform", "DER", "-nocerts"),
}


@pytest.mark.parametrize("how", ACCEPTED)
def test_signatures_of_the_openssl_program_are_believed(world: World, tmp_path: Path, how: str) -> None:
    made = by_openssl(tmp_path, world.keys["root"], world.root, *ACCEPTED[how])
    assert signatures.verify(DATA, made, trust(world.root), NOW) == world.root
    assert refused(made, world.root, DATA + b"x")
    assert refused(made, world.stranger)


@pytest.mark.parametrize(
    "options",
    [
        ("smime", "-binary", "-outform", "DER", "-md", "sha1"),
        ("smime", "-binary", "-outform", "DER", "-md", "md5"),
        ("cms", "-binary", "-outform", "DER", "-keyid"),
        ("cms", "-binary", "-outform", "DER", "-keyopt", "rsa_padding_mode:pss"),
        ("smime", "-binary", "-outform", "PEM"),
        ("smime", "-outform", "DER"),
    ],
    ids=["SHA-1", "MD5", "signer by key id", "RSA-PSS", "PEM", "text mode"],
)
def test_signatures_in_other_forms_are_refused(world: World, tmp_path: Path, options: tuple[str, ...]) -> None:
    made = by_openssl(tmp_path, world.keys["root"], world.root, *options)
    assert refused(made, world.root)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
@pytest.mark.parametrize("attributes", [(), ("-noattr",)])
def test_ecdsa_is_believed(tmp_path: Path, curve: ec.EllipticCurve, attributes: tuple[str, ...]) -> None:
    key = ec.generate_private_key(curve)
    root = certificate("ec", key)
    made = by_openssl(tmp_path, key, root, "smime", "-binary", "-outform", "DER", *attributes)
    assert signatures.verify(DATA, made, trust(root), NOW) == root
    assert refused(made, root, b"other")


def test_a_self_signed_signer_need_not_be_a_ca(tmp_path: Path) -> None:
    # mixer's own certificates are of this kind.
    key = rsa.generate_private_key(65537, 2048)
    root = certificate("mixer", key, ca=False)
    assert signatures.verify(DATA, signing.sign(DATA, Signer(key, root)), trust(root), NOW) == root


@pytest.mark.parametrize("usage", [None, ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.SERVER_AUTH])
def test_a_leaf_signed_by_the_root_is_believed_whatever_its_purpose(
    world: World, usage: x509.ObjectIdentifier | None
) -> None:
    leaf = certificate("any", world.keys["leaf"], (world.root, world.keys["root"]), False, usage=usage)
    made = signing.sign(DATA, Signer(world.keys["leaf"], leaf))
    assert signatures.verify(DATA, made, trust(world.root), NOW) == leaf


def test_a_leaf_that_is_not_embedded_is_found_only_as_first_in_the_trust_file(world: World, tmp_path: Path) -> None:
    made = by_openssl(tmp_path, world.keys["leaf"], world.leaf, *ACCEPTED["without the certificate"])
    assert signatures.verify(DATA, made, trust(world.leaf, world.root), NOW) == world.leaf
    assert "neither embedded nor trusted" in refused(made, trust(world.root, world.leaf))


def test_a_chain_needs_its_intermediate(world: World) -> None:
    whole = signing.sign(DATA, world.signer("deep", "leaf", world.middle))
    assert signatures.verify(DATA, whole, trust(world.root), NOW) == world.deep
    broken = signing.sign(DATA, world.signer("deep", "leaf"))
    assert "vouches" in refused(broken, world.root)
    assert signatures.verify(DATA, broken, trust(world.root, world.middle), NOW) == world.deep


def test_the_signers_own_copy_of_a_root_proves_nothing(world: World) -> None:
    made = signing.sign(DATA, world.signer("stranger", "stranger"))
    assert "vouches" in refused(made, world.root)
    fake = certificate("fake", world.keys["leaf"], (world.stranger, world.keys["stranger"]), False)
    assert "vouches" in refused(signing.sign(DATA, Signer(world.keys["leaf"], fake, (world.stranger,))), world.root)


def test_another_key_under_a_trusted_name_is_refused(world: World) -> None:
    lying = signing.sign(DATA, Signer(world.keys["stranger"], world.root))
    assert "wrong" in refused(lying, world.root)


def test_a_certificate_that_is_no_ca_vouches_for_nobody(world: World) -> None:
    assert "vouches" in refused(signing.sign(DATA, world.signer("usurped", "leaf", world.no_ca)), world.root)


def test_expired_and_future_certificates_are_refused(world: World) -> None:
    assert "expired on 2026-05-31" in refused(signing.sign(DATA, world.signer("old_leaf", "leaf")), world.root)
    assert "valid from 2026-06-02" in refused(signing.sign(DATA, world.signer("young_leaf", "leaf")), world.root)
    made = signing.sign(DATA, world.signer("root", "root"))
    for when in (NOW - 20 * DAY, NOW + 20 * DAY):
        with pytest.raises(SignatureError):
            signatures.verify(DATA, made, trust(world.root), when)


def test_every_signer_must_be_right(world: World, tmp_path: Path) -> None:
    for name, key in (("leaf", "leaf"), ("stranger", "stranger")):
        by_openssl(tmp_path, world.keys[key], getattr(world, name))
        (tmp_path / "key").rename(tmp_path / f"{name}.key")
        (tmp_path / "certificate").rename(tmp_path / f"{name}.pem")

    def signed(*names: str) -> bytes:
        words = [w for n in names for w in ("-signer", f"{n}.pem", "-inkey", f"{n}.key")]
        line = ["openssl", "smime", "-sign", "-binary", "-outform", "DER", "-in", "data", *words]
        return subprocess.run(line, cwd=tmp_path, check=True, capture_output=True).stdout

    assert signatures.verify(DATA, signed("leaf", "leaf"), trust(world.root), NOW)
    assert refused(signed("leaf", "stranger"), world.root)
    assert refused(signed("stranger", "leaf"), world.root)


def _damaged(change: Callable[[bytes], bytes]) -> Callable[[World], bytes]:
    return lambda world: change(signing.sign(DATA, world.signer("root", "root")))


@pytest.mark.parametrize(
    "make",
    [
        lambda world: b"",
        lambda world: b"\0",
        lambda world: b"0" * 63,
        lambda world: b"0" * 65,
        lambda world: b"\x30\x80" + bytes(100),
        lambda world: b"\x30\x84\xff\xff\xff\xff",
        lambda world: pem(world.root),
        lambda world: world.root.public_bytes(serialization.Encoding.DER),
        _damaged(lambda s: s[:-1]),
        _damaged(lambda s: s[: len(s) // 2]),
        _damaged(lambda s: s[:-1] + bytes([s[-1] ^ 1])),
        _damaged(lambda s: b"-----BEGIN PKCS7-----\n" + base64.encodebytes(s) + b"-----END PKCS7-----\n"),
    ],
)
def test_what_is_no_signature_is_refused(world: World, make: Callable[[World], bytes]) -> None:
    assert refused(make(world), world.root)


@pytest.mark.parametrize("at", range(0, 1000, 13))
def test_a_damaged_signature_fails_by_its_own_error_or_still_vouches_for_the_same_bytes(world: World, at: int) -> None:
    made = bytearray(signing.sign(DATA, world.signer("root", "root")))
    made[at % len(made)] ^= 0x55
    try:
        signer = signatures.verify(DATA, bytes(made), trust(world.root), NOW)
    except SignatureError:
        pass
    else:
        assert signer == world.root
    assert refused(bytes(made), world.root, b"other bytes")


def test_bytes_behind_the_structure_are_passed_over_as_the_old_client_does(world: World) -> None:
    made = signing.sign(DATA, world.signer("root", "root"))
    assert signatures.verify(DATA, made + b"\n", trust(world.root), NOW)


def test_embedded_content_that_is_another_is_refused_though_the_signature_is_right(world: World) -> None:
    made = cms.ContentInfo.load(signing.sign(DATA, world.signer("root", "root")))
    signed = made["content"]
    signed["encap_content_info"] = {"content_type": "data", "content": b"other bytes"}
    lying = cms.ContentInfo({"content_type": "signed_data", "content": signed}).dump()
    assert "other bytes" in refused(lying, world.root)


def test_a_signature_without_signers_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "root.pem").write_bytes(pem(world.root))
    empty = openssl("crl2pkcs7", "-nocrl", "-certfile", str(tmp_path / "root.pem"), "-outform", "DER")
    assert "no signer" in refused(empty, world.root)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda world: b"", "not PEM"),
        (lambda world: b"nonsense", "not PEM"),
        (lambda world: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not PEM"),
        (lambda world: pem(world.leaf), "no self-signed root"),
        (lambda world: pem(world.deep, world.root), "vouches"),
        (lambda world: pem(certificate("x", world.keys["root"], ends=NOW - DAY)), "expired"),
        (lambda world: pem(world.old_leaf, world.root), "expired"),
        (lambda world: pem(certificate("x", world.keys["root"], begins=NOW + DAY)), "valid from"),
    ],
)
def test_a_trust_file_must_stand_on_its_own(world: World, make: Callable[[World], bytes], why: str) -> None:
    with pytest.raises(SignatureError, match=why):
        signatures.load_trust(make(world), NOW)


@pytest.mark.parametrize("bits", [0x01, 0x55, 0x80])
def test_a_damaged_trust_file_fails_by_its_own_error_or_is_taken(world: World, bits: int) -> None:
    der = world.root.public_bytes(serialization.Encoding.DER)
    why = set()
    for at in range(len(der)):
        damaged = der[:at] + bytes([der[at] ^ bits]) + der[at + 1 :]
        try:
            signatures.load_trust(
                b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n" % base64.encodebytes(damaged), NOW
            )
        except SignatureError as e:
            why.add(e.problem)
    assert "the trust file holds a certificate that is malformed" in why


def test_a_signer_needs_a_key_that_belongs_to_its_certificate(world: World) -> None:
    def key(private: Key) -> bytes:
        return private.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    signer = signing.load_signer(key(world.keys["leaf"]), pem(world.deep, world.middle))
    assert (signer.certificate, signer.intermediates) == (world.deep, (world.middle,))
    with pytest.raises(SignatureError, match="does not belong"):
        signing.load_signer(key(world.keys["root"]), pem(world.leaf))
    with pytest.raises(SignatureError, match="cannot be read"):
        signing.load_signer(b"nonsense", pem(world.leaf))
    with pytest.raises(SignatureError, match="not PEM"):
        signing.load_signer(key(world.keys["leaf"]), b"nonsense")
    edwards = ed25519.Ed25519PrivateKey.generate()
    with pytest.raises(SignatureError, match="neither RSA nor ECDSA"):
        signing.load_signer(key(edwards), pem(certificate("ed", edwards)))
    locked = world.keys["leaf"].private_bytes(
        PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    with pytest.raises(SignatureError, match="unencrypted"):
        signing.load_signer(locked, pem(world.leaf))


def test_generated_keys_sign_and_are_trusted() -> None:
    key, root = signing.generate("Test", NOW - DAY, 30)
    made = signing.sign(DATA, signing.load_signer(key, root))
    found = signatures.verify(DATA, made, signatures.load_trust(root, NOW), NOW)
    assert signatures.expires(found) == NOW + 29 * DAY
    assert signatures.embedded(made) == (found,)


def test_keys_are_the_same_whoever_checks_for_them() -> None:
    one, same, other = (
        PublicKey(der, verify) for der, verify in ((b"a", all_right), (b"a", all_wrong), (b"b", all_right))
    )
    assert [one == same, one != same, one == other, one != other] == [True, False, False, True]
    assert {one: 1}[same] == 1


def all_right(der: bytes, signature: bytes, data: bytes) -> bool:
    return True


def all_wrong(der: bytes, signature: bytes, data: bytes) -> bool:
    return False
