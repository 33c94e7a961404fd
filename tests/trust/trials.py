"""What every attack is judged by."""

from __future__ import annotations

from swupd.agent.anchor import load_floors
from tests.agent.devices import Done
from tests.trust.simulator import Attacker, Trusting

HONEST = frozenset({0, 10, 20, 30})
"""Versions that the publisher has vouched for, and none."""


def floor(device: Trusting) -> int:
    """The version that the device does not go back behind."""
    place = device.state / "trust/floors"
    return load_floors(place.read_bytes()).version if place.exists() else 0


def refused(device: Trusting, code: int, *command: str, rotated: bool = False) -> str:
    """The command is refused with a code, the tree is as it was, the floors stand. Gives the message.

    rotated: whether the floors may fall, because the keys that raised them are not believed any more.
    """
    tree, before = device.tree(), floor(device)
    done = device.run(*(command or ("update",)))
    assert done.code == code, done
    assert "Traceback" not in done.err
    errors = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done
    assert device.tree() == tree
    assert rotated or before <= floor(device)
    assert floor(device) in {before, *HONEST}
    return errors[0]


def recovers(device: Trusting, attacker: Attacker, version: int = 20) -> Done:
    """Once the attacker is gone, the next run works."""
    attacker.relent()
    done = device.ok("update")
    assert f"VERSION_ID={version}\n" in (device.root / "usr/lib/os-release").read_text()
    assert device.ok("diagnose").code == 0
    return done
