"""What tests share: the golden streams, unpacked once."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data/golden"
GOLDEN = ("mixer-f30", "cserver-f30", "ostro-f4")


@dataclass(frozen=True)
class Golden:
    """A stream of an old server. certificate: None where it is not signed."""

    name: str
    www: Path
    format: str
    certificate: Path | None

    def expected(self, version: int) -> list[str]:
        """The lines of the tree that the old client leaves, as trees.listing gives them."""
        lines = self.www.with_name(f"expected-device-v{version}.txt").read_text().splitlines()
        return sorted(line.rstrip() for line in lines)


@pytest.fixture(scope="session")
def golden_streams(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Golden]:
    """The three streams by name. Shared: a test that changes one works on a copy."""
    found = {}
    for name in GOLDEN:
        base = tmp_path_factory.mktemp(name)
        subprocess.run(["tar", "--numeric-owner", "-xJf", DATA / f"{name}.tar.xz", "-C", base], check=True)
        signed = not name.startswith("ostro")
        found[name] = Golden(
            name, base / name / "www", name.rpartition("-f")[2], DATA / "Swupd_Root.pem" if signed else None
        )
    return found


@pytest.fixture(params=GOLDEN)
def golden(request: pytest.FixtureRequest, golden_streams: dict[str, Golden]) -> Golden:
    """Each of the three streams in turn."""
    return golden_streams[request.param]
