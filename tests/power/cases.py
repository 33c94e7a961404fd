"""The commands that are cut short: on which device, what they promise, and what an undisturbed run leaves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tests.power import corpus
from tests.power.bench import Action, Agent, Bench, Helper, copy
from tests.power.oracle import Promise, Seen
from tests.power.tracer import Killed, Stopped, kill_at


@dataclass(frozen=True)
class Case:
    """A command on a device. start: the device's tree, everything that the command needs downloaded.

    before: what is run on it first, and at which call that is cut short, 0 for never; a copy would not do, since
    journals know objects by their inode numbers. action: what is cut short in the case; again: the command that must
    bring it to an end, with the exit codes that are right then. undisturbed: what a run leaves that nobody cuts,
    and diagnosis what `diagnose --picky` says of it.
    """

    name: str
    place: str
    start: Path
    action: Action
    again: Agent
    promise: Promise
    undisturbed: Seen
    diagnosis: str
    accepted: frozenset[int] = frozenset({0})
    before: tuple[tuple[Action, int], ...] = ()

    def set_up(self, bench: Bench) -> None:
        """Brings the bench's device to where the case begins."""
        bench.reset(self.start)
        for action, at in self.before:
            bench.run(action, kill_at(at))


@dataclass(frozen=True)
class Command:
    """A kind of case. ready: makes the device; before: words of a command that is run on it first.

    fetches: whether something has to be downloaded.
    """

    words: tuple[str, ...]
    ready: Callable[[Bench], None]
    before: tuple[str, ...] = ()
    fetches: bool = True
    accepted: frozenset[int] = frozenset({0})


def _installed(version: int, *bundles: str) -> Callable[[Bench], None]:
    def ready(bench: Bench) -> None:
        bench.root.mkdir()
        _ok(bench, "os-install", "--version", str(version), "--bundles", ",".join(("os-core", *bundles)))
        corpus.add_user_files(bench.root)
        if version == corpus.OLD:
            corpus.link_twins(bench.root)

    return ready


def _with_addon(bench: Bench) -> None:
    _installed(corpus.NEW, "addon")(bench)


def _damaged(bench: Bench) -> None:
    _with_addon(bench)
    corpus.damage(bench.root)


def _nothing(bench: Bench) -> None:
    bench.root.mkdir()


COMMANDS = {
    "update": Command(("update",), _installed(corpus.OLD, "addon")),
    "bundle-add": Command(("bundle-add", "addon"), _installed(corpus.NEW)),
    "bundle-remove": Command(("bundle-remove", "addon"), _with_addon, (), False, frozenset({0, 13})),
    "repair": Command(("repair", "--picky"), _damaged),
    "rollback": Command(("rollback",), _installed(corpus.OLD, "addon"), ("update",), True, frozenset({0, 1})),
    "confirm": Command(("confirm",), _installed(corpus.OLD, "addon"), ("update",)),
    "os-install": Command(("os-install", "--version", "20", "--bundles", "addon"), _nothing),
}
"""Every command that changes a tree."""


class CannotPrepare(Exception):
    """A command does not do undisturbed what it should, so that nothing can be learnt from cutting it short."""


def prepare(bench: Bench, name: str) -> Case:
    """Makes the device for a command in the bench's folder, and runs the command once undisturbed."""
    command = COMMANDS[name]
    action = Agent(command.words)
    start = bench.base / f"start-{name}"
    bench.release()
    for place in (bench.root, start):
        shutil.rmtree(os.fsencode(place), ignore_errors=True)
    command.ready(bench)
    bench.release()
    bench.hold()
    if command.fetches:
        _prime(bench, Agent(command.before or command.words))
    bench.release()
    copy(bench.root, start)
    bench.hold()
    if command.before:
        _ok(bench, *command.before)
    before = bench.look()
    _ok(bench, *command.words)
    after = bench.look()
    bench.run(Agent(("diagnose", "--picky")))
    diagnosis = bench.said
    user = frozenset(corpus.USER_FILES) & before.tree.keys() & after.tree.keys()
    atomic = bench.place == "exchange" and not name.startswith("os-install")
    promise = Promise(before.tree, after.tree, (before.version, after.version), user, atomic)
    steps: tuple[tuple[Action, int], ...] = ((Agent(command.before), 0),) if command.before else ()
    return Case(name, bench.place, start, action, action, promise, after, diagnosis, command.accepted, steps)


def _prime(bench: Bench, action: Agent) -> None:
    """Lets a command run until it touches the tree, so that all is downloaded that it needs."""
    root, state = str(bench.root) + "/", str(bench.state)

    def visit(stopped: Stopped) -> None:
        if any(p.startswith(root) and not (p + "/").startswith(state) and p not in state for p in stopped.call().paths):
            raise Killed

    bench.run(action, visit)


def nested(case: Case, at: int, action: Action) -> Case:
    """A case cut short at a call; what brings it to an end is to be cut short in its turn."""
    name = f"{case.name}, cut at {at}, {'helper' if isinstance(action, Helper) else 'agent'}"
    promise = replace(case.promise, atomic=False)
    return replace(case, name=name, action=action, before=(*case.before, (case.action, at)), promise=promise)


def _ok(bench: Bench, *words: str) -> None:
    ended = bench.run(Agent(words))
    if ended.code:
        raise CannotPrepare(f"{words}: {ended.code}: {bench.said[-500:]}")
