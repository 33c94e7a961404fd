"""Power cuts at every point: afterwards the tree is the one before or the one after, whoever recovers it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swupd.agent import moves, pending, transaction
from swupd.agent.preparation import How
from swupd.errors import ApplyError
from swupd.tree import Root
from tests import trees
from tests.agent.changes import HELPER, SHELLS, Case, by_shell, case, everything, memory, recover, states
from tests.agent.devices import agent
from tests.agent.interruption import killed
from tests.power import tracer
from tests.test_properties import random_trees

BACK_ENDS = {"exchange": How(keep=True), "journal": How(keep=True, exchange=False)}


@pytest.fixture(params=BACK_ENDS)
def change(request: pytest.FixtureRequest) -> Iterator[Case]:
    with memory() as base:
        yield everything(base, BACK_ENDS[request.param])


def first_commit(change: Case) -> int:
    """The first point at which a killed change is recovered forward."""
    low, high = 1, 1000
    while low < high:
        middle = (low + high) // 2
        device = change.device()
        if not killed(middle, lambda device=device: change.apply(device)) or states(device):  # type: ignore[misc]
            high = middle
        else:
            low = middle + 1
    return low


def test_killed_anywhere_the_tree_is_old_or_new_after_recovery(change: Case) -> None:
    old, new = change.old, change.new
    at, seen = 0, set()
    dead = True
    while dead:
        at += 1
        device = change.device()
        dead = killed(at, lambda device=device: change.apply(device))  # type: ignore[misc]
        between = trees.listing(device)
        begun = states(device)
        if change.how.exchange or not begun:
            assert between in (old, new), at
        assert begun or between == old, at
        recover(device)
        assert trees.listing(device) == (new if begun else old), at
        transaction.acted(device)
        assert begun or not pending.status(device).state
        seen.add("".join(begun))
    assert seen == {"", "commit.1", "done"} and at > 50


@pytest.mark.parametrize("shell", SHELLS)
def test_killed_anywhere_a_shell_recovers_it(change: Case, shell: str) -> None:
    at, dead = first_commit(change), True
    while dead:
        device = change.device()
        dead = killed(at, lambda device=device: change.apply(device))  # type: ignore[misc]
        assert by_shell(device, shell) == 0
        assert trees.listing(device) == change.new, at
        assert states(device) == ["done"]
        assert by_shell(device, shell) == 0 and recover(device) == "done"
        at += 1
    with Root(device) as root:
        transaction.rollback(root)
    assert trees.listing(device) == change.old


def test_recovery_may_be_killed_anywhere_too(change: Case) -> None:
    begin = first_commit(change)
    for cut in (begin, begin + 3, begin + 12):
        at, dead = 0, True
        while dead:
            at += 1
            device = change.device()
            killed(cut, lambda device=device: change.apply(device))  # type: ignore[misc]
            dead = killed(at, lambda device=device: recover(device))  # type: ignore[misc]
            recover(device)
            assert trees.listing(device) == change.new, (cut, at)


def test_going_back_may_be_killed_anywhere(change: Case) -> None:
    def back(device: Path) -> None:
        with Root(device) as root:
            transaction.rollback(root)

    at, dead = 0, True
    while dead:
        at += 1
        device = change.device()
        change.apply(device)
        dead = killed(at, lambda device=device: back(device))  # type: ignore[misc]
        undone = states(device) != ["done"]
        recover(device)
        assert trees.listing(device) == (change.old if undone else change.new), at
        transaction.acted(device)
        assert (device / ".swupd").exists() != undone


COUNTING = """#!/bin/sh
left=$(cat {counter})
left=$((left - 1))
echo $left >{counter}
[ $left -ne 0 ] || {{ kill -9 $PPID; exit 1; }}
exec {program} "$@"
"""


def counting_tools(folder: Path, counter: Path) -> str:
    """A PATH on which every tool that changes something kills the shell before the counter comes to nothing."""
    folder.mkdir()
    for name in ("mv", "rm", "sync", "chmod", "chown", "setfattr"):
        tool = folder / name
        tool.write_text(COUNTING.format(counter=counter, program=shutil.which(name)))
        tool.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize("direction", ["forward", "back"])
def test_a_shell_may_be_killed_anywhere_while_it_recovers(change: Case, direction: str) -> None:
    counter = change.base / "counter"
    path = counting_tools(change.base / "tools", counter)
    begin = first_commit(change)
    at, code = 0, -1
    while code != 0:
        at += 1
        device = change.device()
        if direction == "forward":
            killed(begin + 2, lambda device=device: change.apply(device))  # type: ignore[misc]
        else:
            change.apply(device)
            (device / ".swupd/done").rename(device / ".swupd/back")
        counter.write_text(f"{at}\n")
        code = by_shell(device, "sh", path)
        counter.write_text("0\n")
        assert by_shell(device, "sh") == 0
        assert trees.listing(device) == (change.new if direction == "forward" else change.old), at
    assert at > 5


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_trees(), random_trees(), st.sampled_from(list(BACK_ENDS)), st.integers(0, 200), st.booleans())
def test_agent_and_shell_agree(
    first: dict[str, object], second: dict[str, object], way: str, cut: int, back: bool
) -> None:
    with memory() as base:
        version = "/usr/lib/os-release"
        change = case(base, {version: "1", **first}, {version: "2", **second}, {}, BACK_ENDS[way])  # type: ignore[dict-item]
        found = []
        for name in ("one", "two"):
            device = change.device(name)
            killed(cut, lambda device=device: change.apply(device))  # type: ignore[misc]
            for state in ("commit.1", "done"):
                if back and states(device) == [state]:
                    (device / ".swupd" / state).rename(device / ".swupd/back")
            begun = states(device)
            code = by_shell(device, "sh") if name == "one" else recover(device)
            assert code in {0, "", "done", "undone"}
            found.append((trees.listing(device), states(device)))
        assert found[0] == found[1]
        assert found[0][0] == (change.new if begun and not back else change.old)


def test_three_attempts_that_die_are_enough(change: Case) -> None:
    cut = first_commit(change) + 1
    device = change.device()
    killed(cut, lambda: change.apply(device))
    for expected in ("commit.1", "commit.2", "commit.3"):
        assert states(device) == [expected]
        killed(4, lambda: recover(device))
    recover(device)
    assert states(device) == ["undone"]
    assert trees.listing(device) == change.old


@pytest.mark.parametrize("who", ["agent", *sorted(SHELLS.keys() - {"busybox"})])
def test_a_step_that_fails_three_times_is_undone(change: Case, who: str) -> None:
    cut = first_commit(change) + 1
    device = change.device()
    killed(cut, lambda: change.apply(device))
    if who == "agent":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(moves, "do", _failing)
            recover(device)
    else:
        waiting = min(os.listdir(device / ".swupd/new"))
        assert by_shell(device, who, _failing_mv(change.base / "tools", waiting)) == 0
    assert states(device) == ["undone"]
    assert trees.listing(device) == change.old


def _failing(*_: object) -> None:
    raise OSError(5, "Input/output error")


def _failing_mv(folder: Path, number: str) -> str:
    """A PATH on which the new object of a number cannot be moved."""
    folder.mkdir()
    (folder / "mv").write_text(
        f'#!/bin/sh\ncase "$*" in */.swupd/new/{number}" "*) exit 1 ;; esac\nexec {shutil.which("mv")} "$@"\n'
    )
    (folder / "mv").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_the_helper_is_short_and_lies_beside_the_journal(change: Case) -> None:
    assert len(HELPER.read_text().splitlines()) <= 200
    device = change.device()
    change.apply(device)
    assert (device / ".swupd/recover").read_bytes() == HELPER.read_bytes()
    assert stat.S_IMODE((device / ".swupd").stat().st_mode) == 0o700


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("damage", "code"), [("journal", 1), ("id", 75), ("copied", 1)], ids=["damaged", "not mounted", "copied"]
)
def test_what_cannot_be_recovered_is_left_as_it_is_and_said(shell: str, damage: str, code: int) -> None:
    with memory() as base:
        change = everything(base, BACK_ENDS["exchange"])
        cut = first_commit(change) + 1
        device = change.device()
        killed(cut, lambda: change.apply(device))
        if damage == "journal":
            with (device / ".swupd/commit.1").open("a") as file:
                file.write("more\n")
        elif damage == "id":
            (device / ".swupd/id").write_text("another\n")
        else:
            text = (device / ".swupd/commit.1").read_text()
            assert " usr D " in text
            shutil.copytree(device / ".swupd/new/0", device / ".swupd/new/x", symlinks=True)
            shutil.rmtree(device / ".swupd/new/0")
            (device / ".swupd/new/x").rename(device / ".swupd/new/0")
        assert by_shell(device, shell) == code
        assert trees.listing(device) == change.old
        with pytest.raises(ApplyError):
            recover(device)
        assert trees.listing(device) == change.old


def test_a_full_disk_in_the_middle_is_given_the_room_that_was_set_aside(change: Case) -> None:
    device = change.device()
    real, failed = moves.do, []

    def full(*arguments: object) -> None:
        if (device / ".swupd/spare").exists():
            failed.append(1)
            raise OSError(28, "No space left on device")
        real(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moves, "do", full)
        change.apply(device)
    assert failed == [1]
    assert trees.listing(device) == change.new


def test_a_change_that_fails_for_good_is_undone_and_leaves_nothing(change: Case) -> None:
    device = change.device()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ApplyError, match="was undone"):
        patch.setattr(moves, "do", _failing)
        change.apply(device)
    assert trees.listing(device) == change.old
    assert not (device / ".swupd").exists()


@pytest.fixture
def running() -> Iterator[Case]:
    """A change by exchange, on a system with a static busybox that may be run itself."""
    if not tracer.SUPPORTED or os.geteuid() != 0 or shutil.which("busybox") is None:
        pytest.skip("needs root, Linux on x86-64, and busybox")
    with memory() as base:
        yield everything(base, BACK_ENDS["exchange"])


def _interrupted(change: Case, cut: int) -> Path:
    device = change.device()
    killed(cut, lambda: change.apply(device))
    shutil.copy(shutil.which("busybox") or "", device / ".swupd/busybox")
    (device / "dev").mkdir()
    os.mknod(device / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return device


def _on_itself(device: Path, visit: tracer.Visitor = lambda _: None) -> int | None:
    """Runs the helper on the system that it is in, with nothing but busybox and what is in .swupd."""
    words = ["/.swupd/busybox", "sh", "/.swupd/recover", "/"]
    return tracer.run(tracer.spawn(words, device / "said", {"PATH": "/.swupd"}, str(device)), visit).code


def _listing(device: Path) -> list[str]:
    (device / "said").unlink()
    shutil.rmtree(device / "dev")
    return trees.listing(device)


def test_a_running_system_is_never_without_usr_and_goes_back_where_nothing_exchanges_in_one_step(running: Case) -> None:
    cut = first_commit(running) + 1
    at, code = 0, None
    while code is None:
        at += 1
        device = _interrupted(running, cut)
        code = _on_itself(device, tracer.kill_at(at))
        assert (device / "usr").is_dir(), at
        assert _on_itself(device) == 0, at
        assert _listing(device) == running.old, at
        assert states(device) == ["undone"]
    assert code == 0 and at > 10


def test_a_running_system_is_exchanged_by_its_own_python(running: Case) -> None:
    device = _interrupted(running, first_commit(running) + 1)
    fake = device / ".swupd/python3"
    move = "/.swupd/busybox mv -T"
    fake.write_text(
        f'#!/.swupd/busybox sh\necho "$@" >/.swupd/asked\n{move} $4 /.swupd/x; {move} $3 $4; {move} /.swupd/x $3\n'
    )
    fake.chmod(0o755)
    assert _on_itself(device) == 0
    assert (device / ".swupd/asked").read_text() == "-Im swupd.agent.syscalls /./.swupd/new/0 /usr\n"
    assert _listing(device) == running.new and states(device) == ["done"]


def test_info_says_what_is_pending_where_usr_is_away(running: Case) -> None:
    device = _interrupted(running, first_commit(running) + 1)
    words = ("info", "--path", str(device), "--url", "http://127.0.0.1", "--statedir", str(running.base / "state"))
    (device / "usr").rename(device / ".swupd/old/0")
    done = agent(*words)
    assert done.code == 0 and "unknown until the last change is ended" in done.out and "pending" in done.out
    (device / ".swupd/commit.1").unlink()
    assert agent(*words).code == 20


def test_the_agent_exchanges_two_paths_for_the_helper(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    line = [sys.executable, "-m", "swupd.agent.syscalls", tmp_path / "one", tmp_path / "two"]
    subprocess.run(line, check=True)
    assert (tmp_path / "one").read_text() == "two" and (tmp_path / "two").read_text() == "one"
    assert subprocess.run([*line[:-1], tmp_path / "absent"], check=False, capture_output=True).returncode
