"""A published stream with heads and roots, a device that follows it over HTTP, and a clock."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from swupd import stream
from swupd.agent import session
from tests.trust.simulator import NOW, Attacker, Simulator, Trusting, publisher, serving


@pytest.fixture(scope="session")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    """Releases 10, 20 and 30; not to be changed."""
    made = publisher(tmp_path_factory.mktemp("stocked"))
    for version in (10, 20, 30):
        made.release(version)
    return made


@pytest.fixture
def simulator(stocked: Simulator, tmp_path: Path) -> Simulator:
    """A stream of one's own, whose head names release 20: 30 is there and not announced."""
    base = tmp_path / "publisher"
    base.mkdir()
    subprocess.run(["cp", "-a", stocked.www, base], check=True)
    made = Simulator(base, stocked.keys, stocked.delegations, stocked.now, list(stocked.roots))
    made.put_head(made.head(20))
    return made


@pytest.fixture
def attacker(simulator: Simulator) -> Iterator[Attacker]:
    """The server."""
    with serving(simulator.www) as made:
        yield made


class Clock:
    """What the device's clock shows."""

    def __init__(self, now: datetime.datetime) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now.timestamp()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of every device."""
    made = Clock(NOW)
    monkeypatch.setattr(session, "clock", made)
    return made


@pytest.fixture
def device(simulator: Simulator, attacker: Attacker, clock: Clock, tmp_path: Path) -> Trusting:
    """A device with version 10 and bundle editors, which has not seen the server since."""
    root = tmp_path / "image-root"
    root.write_bytes(simulator.read(stream.root(1)))
    simulator.put_head(simulator.head(10))
    made = Trusting(tmp_path, attacker.url, None, root_file=root)
    made.ok("os-install", "--version", "10", "--bundles", "os-core,editors")
    simulator.put_head(simulator.head(20))
    attacker.relent()
    return made
