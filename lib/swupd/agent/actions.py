"""What runs after a tree was changed: boot manager, ldconfig, services (stream format, 6.9)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from swupd import paths
from swupd.agent.settings import below

_SYSTEMD = "/usr/lib/systemd/systemd"
_LDCONFIG = ("/usr/bin/ldconfig", "/usr/sbin/ldconfig", "/sbin/ldconfig")
_SECONDS = 1800


class Action(NamedTuple):
    """A program to run and why; chroot: inside the tree instead of on this system."""

    command: tuple[str, ...]
    purpose: str


def needed(touched: Iterable[str], boot_always: bool) -> tuple[str, ...]:
    """What a change of some paths asks for, in words that are kept until it is done: boot, services, reexec.

    boot_always: the boot manager must run, whatever changed.
    """
    changed = frozenset(touched)
    boot = boot_always or any(map(paths.wants_boot_manager, changed))
    return (*(("boot",) if boot else ()), "services", *(("reexec",) if _SYSTEMD in changed else ()))


def choose(root: Path, words: Iterable[str], boot: bool, wait: bool) -> tuple[Action, ...]:
    """The actions for some words. boot: whether the boot manager may run. wait: until services are up."""
    needs = frozenset(words)
    if not needs:
        return ()
    actions = []
    if boot and "boot" in needs:
        actions += _boot_manager(root)
    program = next((p for p in _LDCONFIG if below(root, p).exists()), None)
    if program is not None:
        command = (program,) if root == Path("/") else ("/usr/sbin/chroot", str(root), program)
        actions.append(Action(command, "refresh the cache of shared libraries"))
    if root == Path("/") and Path("/run/systemd/system").is_dir():
        actions += _services("reexec" in needs, wait)
    return tuple(actions)


def _boot_manager(root: Path) -> list[Action]:
    program = below(root, "/usr/bin/clr-boot-manager")
    if not program.exists() or (root == Path("/") and _in_container()):
        return []
    command = (str(program), "update") if root == Path("/") else (str(program), "update", "--path", str(root))
    return [Action(command, "update the boot loader")]


def _services(reexec: bool, wait: bool) -> list[Action]:
    restart = Path("/usr/bin/clr-service-restart")
    actions = [
        Action(("systemctl", "daemon-reexec" if reexec else "daemon-reload"), "make systemd read its units again")
    ]
    if os.access(restart, os.X_OK):
        actions.append(Action((str(restart),), "restart services"))
    block = () if wait else ("--no-block",)
    actions.append(Action(("systemctl", "restart", *block, "update-triggers.target"), "run the update triggers"))
    return actions


def _in_container() -> bool:
    try:
        return subprocess.run(("systemd-detect-virt", "-q", "-c"), check=False).returncode == 0
    except OSError:
        return False


def run(actions: Sequence[Action]) -> tuple[str, ...]:
    """Runs actions in order, each whatever became of the one before; gives a sentence for each that failed."""
    failed = []
    for action in actions:
        try:
            result = subprocess.run(
                action.command,
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                timeout=_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            failed.append(f"Could not {action.purpose}: {e}")
            continue
        if result.returncode:
            said = result.stderr.decode("utf-8", "replace").strip().splitlines()
            why = said[-1] if said else f"exit code {result.returncode}"
            failed.append(f"Could not {action.purpose}: {' '.join(action.command)}: {why}")
    return tuple(failed)
