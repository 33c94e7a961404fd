"""A small signed stream of two versions and a device on the first, made once; tests change copies."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from swupd.server import signing
from tests import trees
from tests.agent.devices import Device, clone


@dataclass(frozen=True)
class Published:
    """A stream. signer: the publisher's key, which attackers do not have."""

    base: Path
    www: Path
    certificate: Path

    @property
    def signer(self) -> signing.Signer:
        return signing.load_signer((self.base / "keys/release.key").read_bytes(), self.certificate.read_bytes())


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The stream of trees.two_versions. Not to be changed."""
    base = tmp_path_factory.mktemp("published")
    www, certificate = trees.two_versions(base, signed=True)
    return Published(base, www, certificate)


@pytest.fixture(scope="session")
def installed(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Device:
    """A device on version 10 with os-core and editors. Not to be changed."""
    device = Device(tmp_path_factory.mktemp("installed"), f"file://{published.www}", published.certificate)
    device.ok("os-install", "--version", "10", "--bundles", "os-core,editors")
    return device


@pytest.fixture
def device(installed: Device, tmp_path: Path) -> Device:
    """A device on version 10 for one test."""
    return installed.copy(tmp_path / "mine")


@pytest.fixture
def www(published: Published, tmp_path: Path) -> Path:
    """A copy of the stream for one test."""
    return clone(published.www, tmp_path / "www")


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    place = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    (place / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (place / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return place / "certificate.pem", place / "key.pem"
