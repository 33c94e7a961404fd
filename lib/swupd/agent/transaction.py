"""A change as a whole: its folder, its states, going forward, going back. Recovery needs nothing but this folder.

    .swupd/
      staged               the journal while everything is prepared
      commit.1 … commit.3  the journal while the change is carried out; the number counts the attempts
      back                 the journal while the change is undone
      done                 the journal after the change, while undo is kept
      undone               the journal after it was undone, until that was tidied up
      trial.N.BOOT         the change must be confirmed within N boots, the last one counted being BOOT
      pending              what has to run after the change did not run yet
      changed              paths inside new folders that come from the release; others in there are the device's own
      id                   the journal's id, on each file system that is changed
      spare                room that is given up where the disk is full in the middle of a change
      areas                the file systems on which such a folder may lie
      recover, busybox     what finishes or undoes a change where Python cannot (recovery/swupd-recover)
      new, old             objects before they are put in place, and after they were taken away

The journal's name is the state, so that a state changes in one step and without room on the disk. Where it is none of
commit, back, done and undone, the folder is what a run that failed left behind. Nobody else may enter it: old programs
in it may be setuid.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from swupd import paths
from swupd.agent import journal, moves, syscalls
from swupd.agent.journal import Journal
from swupd.agent.pending import STATE, folder, status
from swupd.errors import ApplyError, Refused, write_error
from swupd.tree import Root

ATTEMPTS = 3
"""How often a step may fail before the change is undone."""
STAGED = "staged"
"""The journal's name before the change begins."""


class Undone(ApplyError):
    """A change failed three times; the tree is the one before it."""


def kept_bytes(root: Path) -> int:
    """How much room undo takes that the tree does not share."""
    total = 0
    for area in _areas(root):
        for place, folders, files in os.walk(folder(root, area) / "old"):
            for name in (*folders, *files):
                found = os.lstat(os.path.join(place, name))
                total += found.st_blocks * 512 if stat.S_ISDIR(found.st_mode) or found.st_nlink == 1 else 0
    return total


def commit(root: Root, made: Journal, progress: Callable[[], None]) -> None:
    """Carries a change out; everything that it needs is durable. Raises Undone, ApplyError, OSError before it began."""
    _finish(root, made, _rename(root.path, STAGED, "commit.1"), progress)


def recover(root: Root) -> str:
    """Finishes or undoes what was interrupted; gives the state there is now. Raises ApplyError.

    Afterwards the state is done, undone or "".
    """
    name, found = _read(root.path)
    if found is None:
        return ""
    if name not in {"done", "undone"}:
        _check_areas(root.path, found)
        if name in {"back", f"commit.{ATTEMPTS}"}:
            _back(root, found, name)
        else:
            with contextlib.suppress(Undone):
                _finish(root, found, _turn(root, name, f"commit.{int(name[-1]) + 1}", None), lambda: None)
    name, _ = _read(root.path)
    if name == "undone":
        salvage(root, found)
    return name


def rollback(root: Root) -> None:
    """Goes back to the tree before the last change. Raises Refused where no undo is kept, ApplyError."""
    name, found = _read(root.path)
    if name != "done" or found is None or not found.keep:
        raise Refused("there is nothing to go back to", "Undo is kept until the update is confirmed.")
    _check_areas(root.path, found)
    try:
        if found.actions:
            (folder(root.path) / "pending").touch()
    except OSError as e:
        raise write_error(folder(root.path), e) from e
    _back(root, found, "done")
    salvage(root, found)


def acted(root: Path) -> None:
    """After the last action ran: ends the change, unless undo is kept."""
    (folder(root) / "pending").unlink(missing_ok=True)
    name, found = _read(root)
    if name == "undone" or (name == "done" and found is not None and not found.keep):
        discard(root)


def wanted_actions(root: Path) -> tuple[str, ...]:
    """The words for what still has to run after the last change."""
    _, found = _read(root) if status(root).pending else ("", None)
    return found.actions if found is not None else ()


def discard(root: Path) -> None:
    """Removes the folders of a change that is not under way. Raises WriteError, ApplyError where one is."""
    here = folder(root)
    if not here.is_dir():
        return
    if status(root).unfinished:
        raise ApplyError("a change was interrupted and not ended yet", "Run any command that changes the tree.")
    try:
        areas = _areas(root)
        for name in ("done", "undone"):
            if (here / name).exists():
                (here / name).unlink()
                _sync_folder(here)
        for area in areas:
            if area:
                clear(folder(root, area))
        clear(here)
    except OSError as e:
        raise write_error(here, e) from e


def clear(place: Path) -> None:
    """Removes a folder with all that is in it, if it is there. Raises OSError."""
    if place.is_dir():
        shutil.rmtree(place)


def _areas(root: Path) -> tuple[str, ...]:
    try:
        lines = (folder(root) / "areas").read_bytes().decode("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return ("",)
    return tuple(sorted({"", *map(journal.unescape, lines)}))


def _read(root: Path) -> tuple[str, Journal | None]:
    """(the journal's name, the journal); ("", None) where there is none. Raises ApplyError where it is damaged."""
    try:
        names = sorted(filter(STATE.fullmatch, os.listdir(folder(root))))
        return (names[0], journal.parse((folder(root) / names[0]).read_bytes())) if names else ("", None)
    except (FileNotFoundError, NotADirectoryError):
        return "", None
    except OSError as e:
        raise ApplyError(f"cannot read {folder(root)}: {e.strerror}", "Check the disk and the permissions.") from e


def _check_areas(root: Path, found: Journal) -> None:
    for area in found.areas:
        try:
            known = (folder(root, area) / "id").read_bytes().decode("ascii").strip() == found.id
        except (OSError, UnicodeDecodeError):
            known = False
        if not known:
            raise ApplyError(
                f"a change was interrupted, and {area or '/'} does not hold the files that it needs",
                f"Mount what belongs at {area or '/'}, then run the command again.",
            )


def _rename(root: Path, name: str, to: str) -> str:
    """Turns the state into another, durably."""
    here = folder(root)
    os.rename(here / name, here / to)
    _sync_folder(here)
    return to


def _sync_folder(place: Path) -> None:
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _finish(root: Root, made: Journal, name: str, progress: Callable[[], None]) -> None:
    """Goes forward until it is done. Raises Undone where it failed too often, ApplyError where nothing goes."""
    while True:
        try:
            _forward(root, made, progress)
            _rename(root.path, name, "done")
            return
        except OSError as e:
            failure = e
        attempt = int(name[-1])
        if attempt >= ATTEMPTS:
            break
        name = _turn(root, name, f"commit.{attempt + 1}", failure)
        _give_room(root.path, made)
    _back(root, made, name)
    salvage(root, made)
    raise Undone(f"the change failed and was undone: {failure}", "Mend the cause, then run the command again.")


def _give_room(root: Path, made: Journal) -> None:
    for area in made.areas:
        with contextlib.suppress(OSError):
            (folder(root, area) / "spare").unlink()


def _back(root: Root, made: Journal, name: str) -> None:
    """Undoes a change. Raises ApplyError where that fails, too; the next run tries again."""
    if name != "back":
        name = _turn(root, name, "back", None)
    try:
        with _durable(root.path, made):
            for op in reversed(made.ops):
                moves.undo(root, op)
        _rename(root.path, name, "undone")
    except OSError as e:
        raise ApplyError(f"a change could not be undone: {e}", "Mend the cause, then run any swupd command.") from e


def _turn(root: Root, name: str, to: str, failure: OSError | None) -> str:
    try:
        return _rename(root.path, name, to)
    except OSError as e:
        raise ApplyError(
            f"a change was interrupted: {failure or e}", "Mend the cause, then run any swupd command."
        ) from e


@contextlib.contextmanager
def _durable(root: Path, made: Journal) -> Iterator[Callable[[], None]]:
    """Makes all that happens on a change's file systems durable at its end, and when what it gives is called."""
    fds = [os.open(folder(root, area), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for area in made.areas]

    def sync() -> None:
        for fd in fds:
            syscalls.syncfs(fd)

    try:
        yield sync
        sync()
    finally:
        for fd in fds:
            os.close(fd)


def _forward(root: Root, made: Journal, progress: Callable[[], None]) -> None:
    with _durable(root.path, made) as sync:
        for op in made.ops:
            if op.kind == "sync":
                sync()
            else:
                moves.do(root, op)
                progress()


def salvage(root: Root, made: Journal) -> None:
    """Brings what others made in new folders of a change that was undone into the tree that is back."""
    try:
        known = frozenset(
            map(journal.unescape, (folder(root.path) / "changed").read_bytes().decode("ascii").splitlines())
        )
        for op in made.ops:
            if op.kind in {"add", "swap"}:
                _salvage(root, os.fsencode(root.path) + paths.encode(op.new), op.path, known)
    except OSError as e:
        raise ApplyError(f"files could not be brought back: {e}", "Mend the cause, then run any swupd command.") from e


def _salvage(root: Root, kept: bytes, path: str, known: frozenset[str]) -> None:
    if os.path.islink(kept) or not os.path.isdir(kept):
        return
    for name in sorted(os.listdir(kept)):
        child, place = f"{path}/{paths.decode(name)}", kept + b"/" + name
        if child in known or moves.inode_at(root, child) is not None:
            _salvage(root, place, child, known)
            continue
        with contextlib.suppress(NotADirectoryError):
            for parent in paths.parents(child):
                if moves.inode_at(root, parent) is None:
                    fd, base = root.parent(parent)
                    os.mkdir(base, 0o755, dir_fd=fd)
            moves.put(place, root, child)
