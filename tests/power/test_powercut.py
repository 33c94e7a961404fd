"""A short, random part of scripts/powercut: the promises that hold at every point hold at these."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from tests.power import bench, cases, corpus, disks, fulldisks, selfupdate, tiers, tracer
from tests.power.bench import Bench
from tests.power.tiers import Point, Verdict

pytestmark = pytest.mark.skipif(
    not tracer.SUPPORTED or os.geteuid() != 0 or shutil.which("busybox") is None,
    reason="cutting processes short needs root, Linux on x86-64, and busybox",
)
SEED = random.SystemRandom().randrange(10**6)
POINTS = 6
T = TypeVar("T")


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory, and mounts that nobody else sees."""
    bench.own_mounts()
    place = Path(tempfile.mkdtemp(prefix="powercut-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    bench.make_tools(place / "tools")
    yield place
    shutil.rmtree(os.fsencode(place))


@pytest.fixture(scope="module")
def stream(memory: Path) -> corpus.Stream:
    """The two releases."""
    return corpus.publish(memory / "stream")


@pytest.fixture(params=["exchange"])
def at(request: pytest.FixtureRequest, stream: corpus.Stream, memory: Path) -> Iterator[Bench]:
    """A bench, by default one where /usr can be exchanged."""
    made = Bench(memory / request.node.name, stream, request.param)
    yield made
    made.release()
    disks.clear(made)


every_place = pytest.mark.parametrize("at", bench.PLACES, indirect=True)


def _some(things: list[T], what: str) -> list[T]:
    return random.Random(f"{SEED} {what}").sample(things, min(POINTS, len(things)))


def _all_keep(at: Bench, points: list[T], work: Callable[[Bench, T], Verdict]) -> None:
    wrong = [(v.point, v.violations) for v in map(partial(work, at), points) if v.violations]
    assert not wrong, f"seed {SEED}"


@every_place
@pytest.mark.parametrize("command", ["update", "rollback"])
def test_a_command_cut_at_any_call_is_old_or_new_or_pending_and_ends_well(at: Bench, command: str) -> None:
    case = cases.prepare(at, command)
    calls = len(tiers.count(at, case))
    points = [Point(case, n, by_helper=n % 2 == 0) for n in range(calls - calls // 3, calls + 1)]
    _all_keep(at, _some(points, f"cut {at.place} {command}"), tiers.try_point)


@every_place
def test_an_update_in_which_a_call_fails_leaves_the_old_tree_or_ends_well(at: Bench) -> None:
    case = cases.prepare(at, "update")
    calls = len(tiers.count(at, case))
    points = tiers.errors(case, range(calls - calls // 3, calls + 1), SEED)
    _all_keep(at, _some(points, f"error {at.place}"), tiers.try_point)


@pytest.mark.parametrize("system", ["ext4-lazy", "btrfs"])
def test_an_update_survives_whatever_a_disk_keeps_of_what_was_written(at: Bench, system: str) -> None:
    case = cases.prepare(at, "update")
    try:
        recording = disks.record(at, case, system, eager=60)
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"no {system} on a disk of our own: {e}")
    _all_keep(at, _some(disks.between_flushes(recording, SEED, 4), system), disks.try_cut)


def test_an_update_without_room_changes_nothing_and_says_what_is_missing(at: Bench) -> None:
    case = cases.prepare(at, "update")
    needs = {True: fulldisks.measure(at, case, "tmpfs", True)}
    _all_keep(at, _some(fulldisks.rooms(case, "tmpfs", needs), "room"), fulldisks.try_room)


@pytest.fixture(scope="module")
def renewal(memory: Path) -> selfupdate.Renewal:
    """An update that replaces C library, Python and agent."""
    return selfupdate.prepare(memory / "self")


def test_an_update_of_python_and_the_c_library_is_ended_by_the_helper_alone(
    renewal: selfupdate.Renewal, stream: corpus.Stream, memory: Path
) -> None:
    points = _some(list(range(renewal.calls // 2, renewal.calls + 1)), "self")[:2]
    made = Bench(memory / "self-bench", stream)
    _all_keep(made, [(renewal, n) for n in points], selfupdate.try_kill)


def test_the_helper_has_the_python_of_a_running_system_exchange_its_usr(
    renewal: selfupdate.Renewal, memory: Path
) -> None:
    machine = selfupdate.Machine(memory / "self-exchange", renewal.published)
    kept, calls = machine.root / ".swupd", list[tracer.Call]()

    def visit(stopped: tracer.Stopped) -> None:
        if stopped.call().name == "renameat2" and (kept / "commit.1").exists():
            raise tracer.Killed

    with machine.running(renewal.start, apart=False):
        assert machine.run("update", visit=visit).code is None
        shutil.copy(shutil.which("busybox") or "", kept / "busybox")
        (machine.root / "dev").mkdir()
        os.mknod(machine.root / "dev/null", 0o20666, os.makedev(1, 3))
        words = ["/.swupd/busybox", "sh", "/.swupd/recover", "/"]
        helper = tracer.spawn(words, machine.base / "said", {"PATH": "/usr/bin"}, str(machine.root))
        assert tracer.run(helper, tracer.record(calls)).code == 0, (machine.base / "said").read_text()
        shutil.rmtree(machine.root / "dev")
        assert [c.paths[1] for c in calls if c.name == "renameat2"] == ["/usr"]
        assert (kept / "done").exists() and machine.tree() == renewal.new
