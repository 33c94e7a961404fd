"""A small signed stream of two versions and a device on the first, made once; tests change copies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from swupd import signing
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
