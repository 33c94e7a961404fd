"""What works when nobody attacks: the way from the root of trust to the files."""

from __future__ import annotations

from swupd import lengths, stream
from tests.trust.conftest import Clock
from tests.trust.simulator import DAY, Attacker, Simulator, Trusting


def test_a_device_follows_the_head_and_checks_every_link(device: Trusting, attacker: Attacker) -> None:
    done = device.ok("update")
    assert "Updated to version 20." in done.out
    assert stream.head(30) in attacker.asked and stream.latest(30) not in attacker.asked
    assert device.ok("diagnose").code == 0
    assert "number 1" in device.ok("info").out


def test_bundles_of_the_installed_release_are_added_when_there_is_a_newer_one(device: Trusting) -> None:
    device.ok("bundle-add", "acme-tool")
    assert (device.root / "opt/acme/bin/tool").exists()


def test_what_is_known_is_diagnosed_and_repaired_without_asking_for_the_head(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    (device.root / "usr/bin/hello").write_text("damaged")
    attacker.answers(stream.head(30), None)
    assert device.run("diagnose").code == 1
    device.ok("repair")
    assert device.ok("diagnose").code == 0


def test_a_renewed_head_is_not_stale(device: Trusting, simulator: Simulator, clock: Clock) -> None:
    device.ok("update")
    clock.now = simulator.now = simulator.now + 100 * DAY
    assert device.run("update").code == 62
    simulator.put_head(simulator.head(20))
    assert device.run("update").code == 0


def test_no_pack_is_asked_for_that_the_release_does_not_have(
    device: Trusting, attacker: Attacker, simulator: Simulator
) -> None:
    device.ok("update")
    has = lengths.parse(simulator.read(stream.lengths(20))).objects
    asked = {name for name in attacker.asked if "/pack-" in name}
    assert asked and asked <= has.keys()
