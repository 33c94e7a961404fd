"""What a change needs, keeps and gives back; on small trees and through the commands."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from swupd.agent import actions, apply, backend, helper, moves, pending, shadow, space, syscalls, transaction
from swupd.agent.objects import XattrRule
from swupd.agent.preparation import How
from swupd.errors import ApplyError, DiskSpace, Refused, SwupdError, WriteError
from swupd.tree import Root
from tests import trees
from tests.agent.changes import Case, by_shell, case, everything, memory, recover, states
from tests.agent.devices import Device
from tests.agent.interruption import killed
from tests.agent.objects import Objects, settled
from tests.builders import File, Folder, Spec, make_tree
from tests.test_properties import random_trees

WAYS = {"exchange": How(keep=True), "journal": How(keep=True, exchange=False)}


@pytest.fixture(params=WAYS)
def change(request: pytest.FixtureRequest) -> Iterator[Case]:
    with memory() as base:
        yield everything(base, WAYS[request.param])


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(random_trees(), random_trees())
def test_any_tree_becomes_any_other_and_goes_back(first: dict[str, Spec], second: dict[str, Spec]) -> None:
    for how in WAYS.values():
        with memory() as base:
            change = case(base, {"/usr/lib/os-release": "1", **first}, {"/usr/lib/os-release": "2", **second}, {}, how)
            device = change.device()
            change.apply(device)
            assert trees.listing(device) == change.new
            with Root(device) as root:
                transaction.rollback(root)
            assert trees.listing(device) == change.old
            transaction.acted(device)
            assert not (device / ".swupd").exists()


def test_what_no_bundle_can_carry_is_in_the_exchanged_tree_too(tmp_path: Path) -> None:
    change = everything(tmp_path, WAYS["exchange"])
    device = change.device()
    here = device / "usr/kept"
    os.mkfifo(here / "pipe")
    os.mknod(here / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(here / "socket"))
    os.link(here / "mine", here / "second name")
    (here / "deep/er").mkdir(parents=True, mode=0o700)
    os.utime(here / "deep", ns=(1, 2))
    before = {p.name: (p.lstat().st_ino, p.lstat().st_mode) for p in here.iterdir() if p.name != "deep"}
    change.apply(device)
    assert {p.name: (p.lstat().st_ino, p.lstat().st_mode) for p in here.iterdir() if p.name != "deep"} == {
        name: found for name, found in before.items() if name != "ours"
    }
    assert (here / "deep").stat().st_mtime_ns == 2 and stat.S_IMODE((here / "deep/er").stat().st_mode) == 0o700
    assert here.stat().st_mtime > 1_000_000


def test_no_existing_file_is_changed_in_place(change: Case) -> None:
    device = change.device()
    handles = {p: p.open("rb") for p in device.rglob("*") if p.is_file() and not p.is_symlink()}
    seen = {p: (h.read(), os.fstat(h.fileno())) for p, h in handles.items()}
    change.apply(device)
    for path, handle in handles.items():
        handle.seek(0)
        content, found = seen[path]
        now = os.fstat(handle.fileno())
        assert (handle.read(), now.st_mode, now.st_uid, now.st_gid) == (
            content,
            found.st_mode,
            found.st_uid,
            found.st_gid,
        )
        handle.close()


class Meddling(Objects):
    """A staging folder during whose use something else happens."""

    meddle: Callable[[], None] = staticmethod(lambda: None)

    def node(self, digest: str):  # type: ignore[no-untyped-def]
        self.meddle()
        return super().node(digest)


@pytest.mark.parametrize("often", [False, True])
def test_a_folder_that_changes_meanwhile_is_looked_at_once_more(tmp_path: Path, often: bool) -> None:
    device = make_tree(tmp_path / "device", {"/usr/a": "old", "/usr/sub/x": "x"})
    objects, count = Meddling(), iter(range(100))
    wanted = objects.add(make_tree(tmp_path / "wanted", {"/usr/a": "new"}))

    def meddle() -> None:
        number = next(count)
        if often or number == 0:
            (device / f"usr/sub/other-{number}").write_text("somebody else's")

    with Root(device) as root:
        made = settled(root, wanted, set())
        # The shadow of a folder is begun before new objects are asked for, which is when somebody meddles.
        objects.meddle = meddle
        if often:
            with pytest.raises(ApplyError, match="something else changes files below /usr"):
                apply.apply(made, objects, root, XattrRule.HASHED, lambda *_: None)
            assert (device / "usr/a").read_text() == "old" and not (device / ".swupd").exists()
        else:
            apply.apply(made, objects, root, XattrRule.HASHED, lambda *_: None)
            assert (device / "usr/a").read_text() == "new"
    assert (device / "usr/sub/other-0").read_text() == "somebody else's"


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EINVAL, errno.EXDEV])
def test_where_nothing_can_be_exchanged_files_go_one_by_one(tmp_path: Path, error: int) -> None:
    real = syscalls.exchange

    def refuse(first_dir: int, first: bytes, second_dir: int, second: bytes) -> None:
        # An overlay exchanges new folders, but not those of its lower file system.
        if error != errno.EXDEV or second == b"usr":
            raise OSError(error, os.strerror(error))
        real(first_dir, first, second_dir, second)

    change = everything(tmp_path, WAYS["exchange"], top="/usr")
    device = change.device()
    inode = (device / "usr").stat().st_ino
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(syscalls, "exchange", refuse)
        change.apply(device)
        assert trees.listing(device) == change.new
        assert (device / "usr").stat().st_ino == inode
        with Root(device) as root:
            transaction.rollback(root)
    assert trees.listing(device) == change.old


def test_an_overlay_that_renames_no_folders_of_its_lower_tree_loses_them_nevertheless(tmp_path: Path) -> None:
    old: dict[str, Spec] = {"/usr/a": "old", "/usr/gone": Folder(0o750, 5, 6, (("user.a", b"1"),)), "/usr/gone/x": "x"}
    change = case(tmp_path, old, {"/usr/a": "new"}, {}, WAYS["exchange"])
    for name in ("upper", "work", "device"):
        (tmp_path / name).mkdir()
    layers = f"lowerdir={tmp_path}/before,upperdir={tmp_path}/upper,workdir={tmp_path}/work,redirect_dir=off"
    device = tmp_path / "device"
    if subprocess.run(["mount", "-t", "overlay", "none", "-o", layers, device], check=False).returncode:
        pytest.skip("there are no overlays here")
    try:
        change.apply(device)
        assert trees.listing(device) == change.new
        with Root(device) as root:
            transaction.rollback(root)
        assert trees.listing(device) == change.old
    finally:
        subprocess.run(["umount", "-l", device], check=True)


def test_the_back_end_follows_from_what_is_there(tmp_path: Path) -> None:
    def words(device: Path) -> str:
        with Root(device) as root:
            return backend.back_end(root)

    assert words(make_tree(tmp_path / "a", {"/usr/x": "x"})).startswith("exchange")
    assert "no /usr" in words(make_tree(tmp_path / "b", {"/x": "x"}))
    link = make_tree(tmp_path / "c", {"/x/y": "x"})
    (link / "usr").symlink_to("x")
    assert "no folder" in words(link)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[Path, str], Path]]:
    """Mounts small file systems."""
    places: list[Path] = []

    def mount(place: Path, options: str = "size=1m") -> Path:
        place.mkdir(exist_ok=True, parents=True)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], check=False).returncode:
            pytest.skip("no file system can be mounted here")
        places.append(place)
        return place

    yield mount
    for place in reversed(places):
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("where", ["/usr", "/usr/share", "/opt"])
def test_a_change_reaches_over_file_systems(tmp_path: Path, mounted: Callable[..., Path], where: str) -> None:
    change = case(
        tmp_path,
        {"/usr/share/a": "old", "/usr/lib/os-release": "1", "/opt/b": "old", "/opt/gone/x": "x"},
        {"/usr/share/a": "new", "/usr/lib/os-release": "2", "/opt/b": "new", "/opt/n/x": "x"},
        {},
        WAYS["exchange"],
    )

    def device(name: str) -> Path:
        place = change.device(name)
        inside = mounted(place / where[1:])
        subprocess.run(["cp", "-a", f"{change.base}/before{where}/.", inside], check=True)
        return place

    first = device("first")
    change.apply(first)
    assert [line for line in trees.listing(first) if "/.swupd" not in line] == change.new
    assert (first / where[1:] / ".swupd/id").exists()
    with Root(first) as root:
        assert ("journal" in backend.back_end(root)) == where.startswith("/usr")
        transaction.rollback(root)
    assert (first / "usr/share/a").read_text() == "old" and (first / "opt/gone/x").read_text() == "x"
    transaction.acted(first)
    assert not list(first.rglob(".swupd"))
    for cut in range(1, 80, 7):
        place = device(f"d{cut}")
        killed(cut, lambda place=place: change.apply(place))  # type: ignore[misc]
        begun = states(place)
        if cut % 2:
            assert by_shell(place, "sh") == 0
        recover(place)
        assert (place / "usr/lib/os-release").read_text() == ("2" if begun else "1")
        assert (place / "opt/b").read_text() == ("new" if begun else "old")
        transaction.discard(place)
        assert not list(place.rglob(".swupd"))


def test_a_file_system_that_is_missing_is_asked_for(tmp_path: Path, mounted: Callable[..., Path]) -> None:
    change = case(
        tmp_path, {"/opt/b": "old", "/usr/a": "old"}, {"/opt/b": "new", "/usr/a": "new"}, {}, WAYS["exchange"]
    )
    device = change.device()
    shutil.copy2(change.base / "before/opt/b", mounted(device / "opt"))
    killed(0, lambda: change.apply(device))
    (device / ".swupd/done").rename(device / ".swupd/commit.1")
    (device / "opt/.swupd").rename(device / "opt/elsewhere")
    with pytest.raises(ApplyError, match=r"/opt does not hold .* Mount what belongs"):
        recover(device)
    assert by_shell(device, "sh") == 75 and states(device) == ["commit.1"]
    (device / "opt/elsewhere").rename(device / "opt/.swupd")
    assert recover(device) == "done"


ROOMS = {"blocks": "size=300k", "inodes": "nr_inodes=70,size=4m"}


@pytest.mark.parametrize("lacking", ROOMS)
@pytest.mark.parametrize("way", WAYS)
def test_without_room_the_tree_stays_and_the_next_run_works(
    tmp_path: Path, mounted: Callable[..., Path], lacking: str, way: str
) -> None:
    small = mounted(tmp_path / "small", ROOMS[lacking])
    before: dict[str, Spec] = {"/usr/a": "old", "/usr/gone": "gone", "/opt/x": "old"}
    many: dict[str, Spec] = {f"/usr/n{number}": bytes(8000) for number in range(30)}
    change = case(tmp_path, before, {"/usr/a": "new", "/opt/x": "new", **many}, {}, WAYS[way])
    device = small / "device"
    subprocess.run(["cp", "-a", change.base / "before", device], check=True)
    ballast = small / "ballast"
    ballast.mkdir()
    for number in range(40):
        (ballast / str(number)).write_bytes(bytes(4000 if lacking == "blocks" else 1)) if number < 25 else None
    with pytest.raises(DiskSpace, match="is full"):
        change.apply(device)
    assert trees.listing(device) == change.old
    assert not (device / ".swupd").exists()
    subprocess.run(["mount", "-o", "remount,size=4m,nr_inodes=1000", small], check=True)
    change.apply(device)
    assert trees.listing(device) == change.new


@pytest.mark.parametrize("call", ["syncfs", "link", "mkdir", "symlink", "setxattr", "chmod", "chown"])
def test_any_failure_before_the_commit_leaves_nothing_behind(change: Case, call: str) -> None:
    device = change.device()
    module = syscalls if call == "syncfs" else os

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SwupdError) as raised:
        patch.setattr(module, call, fail)
        change.apply(device)
    assert isinstance(raised.value, WriteError) and "Input/output error" in str(raised.value)
    assert trees.listing(device) == change.old
    assert not (device / ".swupd").exists()


def test_what_others_made_since_stays_when_one_goes_back(change: Case) -> None:
    device = change.device()
    change.apply(device)
    made = ["usr/kept/later", "usr/new/sub/mine", "usr/mine/deep/er", "usr/file-folder/mine"]
    for name in made:
        (device / name).parent.mkdir(parents=True, exist_ok=True)
        (device / name).write_text("mine")
    with Root(device) as root:
        transaction.rollback(root)
    left = set(trees.listing(device)) - set(change.old)
    assert not set(change.old) - set(trees.listing(device))
    # What was a file before the change cannot be a folder with somebody's file in it again.
    assert {name for name in made if (device / name).exists()} == set(made[:3])
    assert all("mine" in line or "usr/new" in line or "later" in line for line in left)


def test_there_is_nothing_to_go_back_to_without_undo(tmp_path: Path) -> None:
    change = everything(tmp_path, How())
    device = change.device()
    with Root(device) as root, pytest.raises(Refused, match="nothing to go back to"):
        transaction.rollback(root)
    change.apply(device)
    with Root(device) as root, pytest.raises(Refused):
        transaction.rollback(root)
    transaction.acted(device)
    assert not (device / ".swupd").exists()


def test_a_tree_that_was_copied_since_is_not_taken_for_the_one_that_changed(tmp_path: Path) -> None:
    change = everything(tmp_path, WAYS["exchange"])
    device = change.device()
    change.apply(device)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", device, copy], check=True)
    with Root(copy) as root, pytest.raises(ApplyError, match="was copied"):
        transaction.rollback(root)
    assert trees.listing(copy) == change.new


@pytest.mark.parametrize("shell", ["sh"])
def test_a_trial_that_nobody_confirms_ends_with_the_tree_before(tmp_path: Path, shell: str) -> None:
    change = everything(tmp_path, How(keep=True, trial=1, actions=("services",)))
    device = change.device()
    change.apply(device)
    place = device / ".swupd"
    transaction.acted(device)
    with pytest.raises(Refused, match="on trial"):
        pending.refuse_on_trial(device)

    def boot() -> None:
        (trial,) = place.glob("trial.*")
        trial.rename(place / f"trial.{trial.name.split('.')[1]}.another-boot")
        assert by_shell(device, shell) == 0
        assert by_shell(device, shell) == 0

    assert by_shell(device, shell) == 0
    assert pending.status(device).boots == 1
    boot()
    assert pending.status(device).boots == 0 and trees.listing(device) == change.new
    boot()
    assert trees.listing(device) == change.old
    assert recover(device) == "undone"
    assert transaction.wanted_actions(device) == ("services",)
    transaction.acted(device)
    assert not place.exists()


def test_a_static_program_is_known_from_others(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\n")
    (tmp_path / "half").write_bytes(b"\x7fELF")
    shutil.copy("/bin/true", tmp_path / "true")
    assert helper.static_program(tmp_path, ["/none", "/script", "/half", "/true"]) is None
    box = shutil.which("busybox")
    if box is None or helper.needs_interpreter(Path(box).read_bytes()):
        pytest.skip("there is no static busybox here")
    shutil.copy(box, tmp_path / "busybox")
    assert helper.static_program(tmp_path, ["/true", "/busybox"]) == tmp_path / "busybox"
    change = case(
        tmp_path / "case",
        {"/usr/bin/busybox": File(Path(box).read_bytes(), 0o755), "/usr/x": "1"},
        {"/usr/bin/busybox": File("not a program", 0o755), "/usr/x": "2"},
        {},
        WAYS["exchange"],
    )
    device = change.device()
    killed(0, lambda: change.apply(device))
    (device / ".swupd/done").rename(device / ".swupd/back")
    # No tool but the one beside the journal.
    assert (
        subprocess.run(["/bin/sh", device / ".swupd/recover", device], env={"PATH": "/none"}, check=False).returncode
        == 0
    )
    assert trees.listing(device) == change.old


# Through the commands.


def test_an_update_can_be_taken_back_without_a_server(device: Device) -> None:
    before = device.tree()
    device.ok("update")
    assert device.tree() != before
    assert "swupd rollback" in device.ok("info").out
    lost = device.follow(Path("/nowhere"))
    assert "version 10" in lost.ok("rollback").out
    assert device.tree() == before
    assert not (device.root / ".swupd").exists()
    assert device.run("rollback").code == 1
    assert device.ok("diagnose").code == 0


def test_what_was_taken_back_comes_again_only_when_asked_for(device: Device) -> None:
    device.ok("update")
    device.ok("rollback")
    before = device.tree()
    said = device.ok("update")
    assert "was taken back" in said.err and "swupd update -V 20" in said.err
    assert device.tree() == before
    assert "Updated to version 20" in device.ok("update", "-V", "20").out
    assert not (device.state / "left").exists()


def test_what_failed_its_trial_does_not_come_again_by_itself(device: Device) -> None:
    device.ok("update", "--trial", "1")
    (trial,) = (device.root / ".swupd").glob("trial.*")
    trial.rename(trial.with_name("trial.0.another-boot"))
    assert by_shell(device.root, "sh") == 0
    assert "was taken back" in device.ok("update").err
    assert "Installed version: 10" in device.ok("info").out


def test_confirming_frees_what_is_kept(device: Device) -> None:
    device.ok("update")
    assert "stays" in device.ok("confirm").out
    assert not (device.root / ".swupd").exists()
    assert "nothing to confirm" in device.ok("confirm").out
    assert device.run("rollback").code == 1


def test_nothing_is_kept_that_is_not_wanted(device: Device) -> None:
    device.ok("update", "--keep-undo", "no")
    assert not (device.root / ".swupd").exists()


def test_an_installation_has_nothing_to_go_back_to(device: Device) -> None:
    assert not (device.root / ".swupd").exists()


def test_a_trial_is_shown_and_stands_in_the_way_of_other_changes(device: Device) -> None:
    assert "on trial" in device.ok("update", "--trial", "2").out
    assert "on trial, 2 boots left" in device.ok("info").out
    done = device.run("bundle-remove", "editors")
    assert done.code == 1 and "swupd confirm" in done.err
    device.ok("confirm")
    device.ok("bundle-remove", "editors")


def test_the_dry_run_says_how_it_would_be_done(device: Device) -> None:
    assert "Back end: exchange" in device.ok("update", "--dry-run").out
    before = device.all()
    for command in ("rollback", "confirm"):
        device.ok(command, "--dry-run")
    assert device.all() == before


def interrupted(device: Device, cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update by single files that dies while they are put in place."""
    monkeypatch.setattr(apply, "obstacle", lambda root: "a test")
    real, left = moves.do, cut

    def do(*arguments: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os._exit(137)
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(moves, "do", do)
    assert killed(0, lambda: None) is False
    child = os.fork()
    if child == 0:
        device.run("update")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137
    monkeypatch.setattr(moves, "do", real)


@pytest.mark.parametrize("cut", [0, 5, 11])
def test_an_interrupted_update_is_never_up_to_date(device: Device, cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = device.copy(device.base / "reference")
    reference.ok("update")
    interrupted(device, cut, monkeypatch)
    assert "transaction pending" in device.ok("info").out
    assert "interrupted" in device.run("check-update").err
    assert "interrupted" in device.run("diagnose").err
    done = device.ok("update")
    assert "interrupted was finished" in done.err and "up to date" in done.out
    assert device.tree() == reference.tree()
    assert device.ok("diagnose").code == 0
    assert "transaction pending" not in device.ok("info").out


def test_what_follows_a_change_runs_once_and_again_after_an_interruption(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[object] = []

    def run(chosen: tuple[actions.Action, ...]) -> tuple[str, ...]:
        ran.append(chosen)
        return ()

    monkeypatch.setattr(actions, "run", run)
    scripts = [word for word in device.options() if word != "--no-scripts"]
    monkeypatch.setattr(Device, "options", lambda self: scripts)
    device.ok("update")
    assert len(ran) == 1
    device.ok("update")
    assert len(ran) == 1
    (device.root / ".swupd/pending").touch()
    device.ok("bundle-remove", "docs") if "docs" in device.ok("bundle-list").out else device.ok("update")
    assert len(ran) == 2
    device.ok("rollback")
    assert len(ran) == 3


def test_a_program_that_fails_after_a_change_is_told_by_the_exit_code(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "run", lambda chosen: ("Could not do it: no reason",))
    scripts = [word for word in device.options() if word != "--no-scripts"]
    monkeypatch.setattr(Device, "options", lambda self: scripts)
    for command in (("update",), ("bundle-add", "docs"), ("rollback",)):
        done = device.run(*command)
        assert done.code == 28, command
        assert "Could not do it" in done.err and "in place" in done.err
    assert device.ok("diagnose").code == 0


def test_files_that_are_missing_besides_are_said(device: Device) -> None:
    (device.root / "usr/share/demo/empty").unlink()
    done = device.ok("update")
    assert "/usr/share/demo/empty" in done.err and "swupd repair" in done.err
    assert "1 problems repaired" in device.ok("repair").out


def test_the_folder_of_a_change_is_nobodys_extra_file(device: Device) -> None:
    device.ok("update")
    assert (device.root / ".swupd").is_dir()
    found = device.run("diagnose", "--picky", "--picky-tree", "/").out
    assert ".swupd" not in found


def test_without_room_for_a_second_usr_files_are_replaced_singly(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = device.copy(device.base / "reference")
    reference.ok("update")
    inode = (device.root / "usr").stat().st_ino
    monkeypatch.setattr(space, "folders_at_most", lambda root: (1, 1 << 60))
    monkeypatch.setattr(shadow, "folders", lambda root, top: (1, 1 << 60))
    assert "replaced singly" in device.ok("update").err
    assert (device.root / "usr").stat().st_ino == inode
    assert device.tree() == reference.tree()


@pytest.mark.parametrize("bound", [(1, 1 << 60), (0, 0)])
def test_folders_are_counted_where_a_bound_does_not_tell(
    device: Device, monkeypatch: pytest.MonkeyPatch, bound: tuple[int, int]
) -> None:
    inode = (device.root / "usr").stat().st_ino
    monkeypatch.setattr(space, "folders_at_most", lambda root: bound)
    assert "replaced singly" not in device.ok("update").err
    assert (device.root / "usr").stat().st_ino != inode


def test_folders_are_not_counted_where_all_that_could_be_has_room(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "folders", lambda root, top: pytest.fail("they were counted"))
    monkeypatch.setattr(space, "folders_at_most", lambda root: (10, 40960))
    device.ok("update")


def test_what_a_shadow_costs_is_known_before(tmp_path: Path) -> None:
    device = make_tree(tmp_path / "device", {"/usr/a/b/c": "c", "/usr/d": Folder(), "/opt/x": "x"})
    with Root(device) as root:
        count, size = shadow.folders(root, "/usr")
        most = space.folders_at_most(root)
    assert count == 4 and size >= 4 * 4096
    assert most[0] == 0 or (most[0] >= count and most[1] >= size)


@pytest.mark.parametrize("way", ["exchange", "journal"])
def test_new_files_are_written_once_and_no_two_paths_are_one_file(
    device: Device, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "journal":
        monkeypatch.setattr(apply, "obstacle", lambda root: "a test")
    device.ok("update", "--keepcache")
    staged = {path.lstat().st_ino for path in device.cache.glob("staged/*")}

    def files() -> list[int]:
        found = [p for p in device.root.rglob("*") if ".swupd" not in p.parts]
        return [p.lstat().st_ino for p in found if p.is_file() and not p.is_symlink()]

    assert staged.intersection(files()), "what was staged is what lies in the tree"
    assert len(files()) == len(set(files()))
    for path in (device.root / "usr").rglob("*"):
        if path.is_file() and path.lstat().st_ino in staged:
            path.unlink()
            break
    device.ok("repair")
    assert len(files()) == len(set(files()))
    assert "as it was published" in device.ok("diagnose").out


def test_what_did_not_change_and_is_missing_or_something_else_is_told(device: Device) -> None:
    gone, other = "usr/share/demo/same.txt", "usr/share/demo/empty"
    (device.root / gone).unlink()
    (device.root / other).unlink()
    (device.root / other).symlink_to("elsewhere")
    done = device.ok("update")
    assert "2 files that did not change are damaged" in done.err
    assert f"/{gone}" in done.err and f"/{other}" in done.err
