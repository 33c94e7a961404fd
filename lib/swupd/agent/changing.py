"""A run of a command that changes a device: under the lock, and after what was interrupted before has been ended."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

from swupd.agent import actions, pending, transaction
from swupd.agent import settings as device
from swupd.agent.folders import make_folder
from swupd.agent.report import Report
from swupd.agent.session import Session, layout, opened, stream_layout, tell_unfinished
from swupd.agent.settings import Settings
from swupd.agent.state import State, applied, leave, locked, tracked
from swupd.agent.unpacker import started
from swupd.errors import Refused, VersionUnknown, WriteError
from swupd.tree import Root


@contextlib.contextmanager
def changing(settings: Settings, report: Report, asks: bool = False) -> Iterator[Session]:
    """A session that may change the device: as root, under the lock; with --dry-run one that writes nothing.

    asks: whether a server will be asked in any case.
    A change that was interrupted is finished or undone first. Raises ApplyError where that cannot be done.
    """
    if settings.dry_run:
        tell_unfinished(settings, report)
        with started() as unpacker:
            yield opened(settings, report, None, lambda: unpacker, asks)
        return
    if os.geteuid() != 0:
        raise Refused("this command must be run as root", "Run it with sudo, or add --dry-run to see what it would do.")
    place = stream_layout(settings)
    with locked(place):
        ended = recover(settings, report)
        try:
            state = State(place)
        except OSError as e:
            raise WriteError(f"cannot use {place.here}: {e.strerror}", "Check the disk.") from e
        try:
            if ended:
                state.clean()
            # A removal that was cut short leaves its bundle tracked.
            state.untrack(tracked(place) - device.installed_bundles(settings.root))
            with started() as unpacker:
                yield opened(settings, report, state, lambda: unpacker, asks)
            note_version(settings, state)
        finally:
            state.close()


def recover(settings: Settings, report: Report) -> bool:
    """Ends a change that was interrupted, and what has to follow it; gives whether it was finished, not undone.

    For those who hold the lock. Raises ApplyError.
    """
    before = pending.status(settings.root)
    if not before.state:
        # What was cut short before its commit, or while it was tidied up.
        transaction.discard(settings.root)
        return False
    with Root(settings.root) as root:
        state = transaction.recover(root)
    if before.unfinished or state == "undone":
        report.warn(f"A change that was interrupted was {'undone' if state == 'undone' else 'finished'}.")
    if state == "undone":
        note_left(settings, applied(layout(settings)))
    if before.unfinished or before.pending:
        act(settings, report, transaction.wanted_actions(settings.root))
    transaction.acted(settings.root)
    return (before.unfinished or before.pending) and state != "undone"


def note_version(settings: Settings, state: State) -> None:
    """Writes down which version the tree has now. Raises WriteError."""
    with contextlib.suppress(VersionUnknown):
        version = device.current_version(settings.root)
        if applied(state.layout) != version:
            state.applied(version)


def note_left(settings: Settings, before: int) -> None:
    """Writes down the version before, if the tree is now older. Raises WriteError."""
    if before > device.current_version(settings.root):
        leave(layout(settings), before)


def act(settings: Settings, report: Report, words: Iterable[str]) -> tuple[str, ...]:
    """Runs what has to follow a change; gives a sentence for each program that failed."""
    if not settings.scripts:
        return ()
    chosen = actions.choose(settings.root, words, settings.boot_update, settings.wait_for_scripts)
    failed = actions.run(chosen)
    for sentence in failed:
        report.warn(sentence)
    return failed


def prepare_install(settings: Settings) -> None:
    """Makes the folder that is installed into. Raises FolderError."""
    if not settings.dry_run:
        make_folder(settings.root, 0o755)
