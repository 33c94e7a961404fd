"""What each sub-command that changes something does with its options: calls, and words about the results.

Gives exit codes. The others are in `looking`, which is loaded in half the time.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from swupd.agent import actions, installed, pending, transaction
from swupd.agent import settings as device
from swupd.agent.change import Result
from swupd.agent.changing import act, changing, note_left, note_version, prepare_install, recover
from swupd.agent.looking import check_update, diagnose, require_root, scope, tell_problems
from swupd.agent.report import CONTINUED, Json, Report, size
from swupd.agent.session import layout
from swupd.agent.settings import Settings
from swupd.agent.state import State, left, locked
from swupd.agent.status import last_change
from swupd.errors import Incomplete, InvalidOption, SubprocessFailed
from swupd.tree import Root

Options = argparse.Namespace
_UNITS = ("swupd-update.service", "swupd-update.timer")
_MAX_HOPS = 50


def update(options: Options, settings: Settings, report: Report) -> int:
    """Takes the device to the newest version of its format, and on into the next format where there is one."""
    if options.status:
        return check_update(options, settings, report)
    for _ in range(_MAX_HOPS):
        before = _update_once(options, settings, report)
        if not before:
            return 0
        if settings.trial:
            return 0
        following = device.default_format(settings.root)
        if options.incremental and device.current_version(settings.root) != before:
            continue
        if options.format or following == settings.format or settings.dry_run or options.download:
            return 0
        report.say(f"The update format is now {following}; the update goes on in it.")
        if settings.root == Path("/"):
            _run_new_agent(report)
        settings = settings._replace(format=following)
    return 0


def _update_once(options: Options, settings: Settings, report: Report) -> int:
    """Takes the device one release further; gives the version it had, 0 where there is nothing more to do."""
    with changing(settings, report, asks=True) as session:
        # Not before: what was interrupted has to be ended first.
        current = device.current_version(settings.root)
        if current == 0:
            raise InvalidOption("version 0 is a development image, which is never updated", "Install a release.")
        target = installed.newest(session, current, options.to_version, options.incremental)
        if target <= current:
            if session.state is not None:
                # An update that was cut short between its end and this left them.
                session.state.clean()
            session.catalog.check_fresh()
            report.say(f"Version {current} is up to date.")
            return 0
        if target == left(session.layout) and not options.to_version:
            report.warn(
                f"Version {target} was taken back on this device and is not installed again by itself;"
                f" to do that: swupd update -V {target}"
            )
            return 0
        report.say(f"Updating from version {current} to {target}.")
        result = installed.update(session, target, options.keepcache, options.download)
    if settings.dry_run:
        return 0
    if options.download:
        report.say(f"Version {target} is downloaded ({size(result.fetched)}); nothing was changed yet.")
        return 0
    _tell(report, result)
    report.say(f"Updated to version {target}.")
    if settings.trial:
        report.say(f"It is on trial: one of the next {settings.trial} boots must confirm it (swupd confirm).")
    _end(result.failed)
    return current


def _run_new_agent(report: Report) -> None:
    """Hands over to the agent that the update brought, which knows the new format."""
    if isinstance(report, Json):
        report.left_open = True
    sys.stdout.flush()
    try:
        os.execve(sys.argv[0], sys.argv, {**os.environ, CONTINUED: "1"})
    except OSError as e:
        raise SubprocessFailed(
            f"the new agent {sys.argv[0]} cannot be started: {e.strerror}", "Go on with: swupd update"
        ) from e


def _tell(report: Report, result: Result) -> None:
    report.say(
        f"{result.outcome.written} files written, {result.outcome.removed} removed, {size(result.fetched)} downloaded."
    )


def _end(failed: tuple[str, ...]) -> int:
    """0; raises SubprocessFailed where a program that had to run after the change failed."""
    if failed:
        raise SubprocessFailed(
            f"the files are in place, but not all that has to follow was done: {failed[0]}",
            "Mend the cause and run that program by hand.",
        )
    return 0


def bundle_add(options: Options, settings: Settings, report: Report) -> int:
    """Adds bundles."""
    with changing(settings, report, asks=True) as session:
        result = installed.bundle_add(session, options.bundles, not options.skip_optional)
    if not settings.dry_run:
        _tell(report, result)
    return _end(result.failed)


def bundle_remove(options: Options, settings: Settings, report: Report) -> int:
    """Removes bundles."""
    if not options.bundles and not options.orphans:
        raise InvalidOption("no bundle was named", "Name bundles, or give --orphans.")
    with changing(settings, report) as session:
        names, result = installed.bundle_remove(
            session, options.bundles, options.force, options.recursive, options.orphans
        )
    if not settings.dry_run:
        report.say(f"Removed: {', '.join(names) or 'nothing'} ({result.outcome.removed} files).")
    return _end(result.failed)


def repair(options: Options, settings: Settings, report: Report) -> int:
    """Restores what differs. Raises Incomplete where something could not be mended."""
    with changing(settings, report) as session:
        before, after, result = installed.repair(session, scope(options))
    tell_problems(report, before)
    if settings.dry_run:
        return 0
    if after.total:
        some = ", ".join((*after.missing, *after.modified, *after.extra)[:5])
        raise Incomplete(f"{after.total} problems are left: {some}", "See what is in their way, then repair again.")
    _tell(report, result)
    report.say(f"{before.total} problems repaired." if before.total else "There was nothing to repair.")
    return _end(result.failed)


def verify(options: Options, settings: Settings, report: Report) -> int:
    """The old name of diagnose, repair (--fix) and os-install (--install)."""
    if options.install:
        options.bundles, options.path_to_install = options.bundles or "", None
        return os_install(options, settings, report)
    return repair(options, settings, report) if options.fix else diagnose(options, settings, report)


def os_install(options: Options, settings: Settings, report: Report) -> int:
    """Installs a release into a folder."""
    if settings.root == Path("/"):
        raise InvalidOption("the folder to install into is missing", "Name it: swupd os-install FOLDER")
    with tempfile.TemporaryDirectory() as empty:
        if settings.dry_run and not settings.root.is_dir():
            settings = settings._replace(root=Path(empty))
        prepare_install(settings)
        with changing(settings, report, asks=True) as session:
            version = (
                max(session.catalog.latest(settings.stream_format())) if not options.to_version else options.to_version
            )
            report.say(f"Installing version {version} into {settings.root}.")
            names = [b for b in (options.bundles or "").split(",") if b]
            result = installed.os_install(session, version, names, not options.skip_optional, options.force)
    if not settings.dry_run:
        _tell(report, result)
    return _end(result.failed)


def rollback(options: Options, settings: Settings, report: Report) -> int:
    """Goes back to the tree before the last change, without a server."""
    require_root()
    if settings.dry_run:
        report.say(f"Last change: {last_change(settings, sized=True)}")
        return 0
    with locked(layout(settings)):
        recover(settings, report)
        before = device.current_version(settings.root)
        state = State(layout(settings))
        try:
            note_version(settings, state)
            with Root(settings.root) as root:
                transaction.rollback(root)
            note_left(settings, before)
            failed = act(settings, report, transaction.wanted_actions(settings.root))
            transaction.acted(settings.root)
            note_version(settings, state)
        finally:
            state.close()
        version = device.current_version(settings.root)
    report.say(f"The tree is as it was before the last change: version {version}.")
    return _end(failed)


def confirm(options: Options, settings: Settings, report: Report) -> int:
    """Ends the trial of the last change, and gives up what is kept to go back."""
    require_root()
    if settings.dry_run:
        report.say(f"{size(transaction.kept_bytes(settings.root))} would be freed.")
        return 0
    with locked(layout(settings)):
        recover(settings, report)
        there = pending.status(settings.root).state == "done"
        freed = transaction.kept_bytes(settings.root)
        transaction.discard(settings.root)
    report.say(f"The last change stays; {size(freed)} were freed." if there else "There is nothing to confirm.")
    return 0


def autoupdate(options: Options, settings: Settings, report: Report) -> int:
    """Shows or switches automatic updates; 1 where they are off."""
    if (options.enable or options.disable) and settings.dry_run:
        report.say(f"Automatic updates would be {'on' if options.enable else 'off'}.")
        return 0
    if options.enable or options.disable:
        verb = ("unmask", "--now") if options.enable else ("mask", "--now")
        steps = [actions.Action(("systemctl", *verb, *_UNITS), "switch automatic updates")]
        if options.enable:
            steps.append(actions.Action(("systemctl", "restart", _UNITS[1]), "start the update timer"))
        failed = actions.run(steps)
        if failed:
            raise SubprocessFailed(failed[0], "See: systemctl status swupd-update.timer")
        report.say(f"Automatic updates are {'on' if options.enable else 'off'}.")
        return 0
    off = bool(actions.run([actions.Action(("systemctl", "is-active", "-q", _UNITS[1]), "ask for the timer")]))
    report.say(f"Automatic updates are {'off' if off else 'on'}.")
    return 1 if off else 0
