from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from swupd import hashing, manifest
from swupd.agent import trust
from swupd.agent.trust import Verifier
from swupd.errors import HashMismatch, ManifestError, MomError, ServerUnreachable, SignatureError
from swupd.manifest import Entry, Manifest
from swupd.server import signing
from tests import builders

NOW = builders.NOW
CORE = Manifest("os-core", 30, 10)
DATA = manifest.serialize(CORE)
LINE = Entry("M", hashing.digest_manifest(DATA), 10, "os-core")
MOM = Manifest("MoM", 30, 10, entries=(LINE,))


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> signing.Signer:
    return builders.keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def verifier(signer: signing.Signer) -> Verifier:
    return Verifier(signer.certificate.public_bytes(Encoding.PEM), NOW)


def test_a_signed_mom_is_believed(verifier: Verifier, signer: signing.Signer) -> None:
    data = manifest.serialize(MOM)
    assert verifier.mom(data, signing.sign(data, signer), 10) == MOM


@pytest.mark.parametrize("signature", [None, b"", b"x"])
def test_a_mom_without_a_signature_is_not(verifier: Verifier, signature: bytes | None) -> None:
    with pytest.raises(SignatureError, match="the manifest of version 10"):
        verifier.mom(manifest.serialize(MOM), signature, 10)


def test_the_signature_is_checked_before_anything_is_read(verifier: Verifier, signer: signing.Signer) -> None:
    with pytest.raises(SignatureError):
        verifier.mom(b"nonsense", signing.sign(b"other", signer), 10)
    with pytest.raises(MomError):
        verifier.mom(b"nonsense", signing.sign(b"nonsense", signer), 10)


def test_without_a_trust_file_anything_well_formed_is_taken() -> None:
    careless = Verifier(None, NOW)
    careless.check_trust_file()
    assert careless.mom(manifest.serialize(MOM), None, 10) == MOM
    assert careless.latest(b"20\n", None) == (20,)


@pytest.mark.parametrize(
    "odd",
    [
        MOM._replace(version=20),
        MOM._replace(entries=()),
        MOM._replace(entries=(LINE._replace(name="editors"),)),
        MOM._replace(entries=(LINE, LINE)),
        MOM._replace(entries=(LINE, LINE._replace(status="e"))),
        MOM._replace(entries=(LINE, LINE._replace(name="MoM"))),
        MOM._replace(entries=(LINE, LINE._replace(name="a b"))),
        MOM._replace(entries=(LINE._replace(status="d"),)),
    ],
    ids=["other version", "empty", "no os-core", "twice", "twice differently", "reserved", "odd name", "deleted"],
)
def test_a_signed_mom_must_make_sense_too(odd: Manifest) -> None:
    with pytest.raises(MomError):
        Verifier(None, NOW).mom(manifest.serialize(odd), None, 10)


def test_old_kinds_of_entries_do_not_matter() -> None:
    odd = MOM._replace(entries=(LINE, LINE._replace(kind="I", name="os-core")))
    assert Verifier(None, NOW).mom(manifest.serialize(odd), None, 10).entry("os-core") == LINE


def test_a_bundles_manifest_must_be_the_one_that_the_mom_names() -> None:
    assert trust.bundle(DATA, LINE) == CORE
    with pytest.raises(HashMismatch, match="os-core"):
        trust.bundle(DATA + b"\n", LINE)
    with pytest.raises(HashMismatch):
        trust.bundle(b"", LINE)
    with pytest.raises(ManifestError, match="says version 10 where 5"):
        trust.bundle(DATA, LINE._replace(version=5))


@pytest.mark.parametrize(
    ("data", "versions"),
    [(b"20", (20,)), (b"20\n", (20,)), (b"30\n20\n10\n", (30, 20, 10)), (b" 20 \r\n\n", (20,)), (b"", ()), (b"\n", ())],
)
def test_what_latest_lists(data: bytes, versions: tuple[int, ...]) -> None:
    assert Verifier(None, NOW).latest(data, None) == versions


@pytest.mark.parametrize(
    "data", [b"<html>", b"+20", b"-1", b"0", b"1e3", b"20 30", b"99999999999", b"\xff", "２０".encode()]
)
def test_what_is_no_latest(data: bytes) -> None:
    with pytest.raises(ServerUnreachable, match="names no version"):
        Verifier(None, NOW).latest(data, None)


def test_latest_must_be_signed_unless_told_otherwise(verifier: Verifier, signer: signing.Signer) -> None:
    assert verifier.latest(b"20\n", signing.sign(b"20\n", signer)) == (20,)
    assert verifier.latest(b"20\n", None, check=False) == (20,)
    for signature in (None, b"", signing.sign(b"20", signer)):
        with pytest.raises(SignatureError):
            verifier.latest(b"20\n", signature)


@pytest.mark.parametrize("days", [-10_000, 10_000])
def test_certificates_are_held_against_the_time(verifier: Verifier, signer: signing.Signer, days: int) -> None:
    other = verifier._replace(now=NOW + datetime.timedelta(days=days))
    with pytest.raises(SignatureError):
        other.check_trust_file()
    with pytest.raises(SignatureError):
        other.latest(b"20\n", signing.sign(b"20\n", signer))


def test_a_trust_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SignatureError):
        Verifier(b"nonsense", NOW).check_trust_file()
