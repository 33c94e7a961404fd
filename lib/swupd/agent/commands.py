"""What each sub-command does with its options: calls, and words about the results. Gives exit codes."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from swupd import paths, stream
from swupd.agent import actions, installed, pending, query, transaction
from swupd.agent import settings as device
from swupd.agent.change import Result
from swupd.agent.installed import Problems, Scope
from swupd.agent.objects import XattrRule, digests
from swupd.agent.report import CONTINUED, Json, Report, size
from swupd.agent.session import (
    Session,
    act,
    changing,
    layout,
    note_left,
    note_version,
    prepare_install,
    reading,
    recover,
)
from swupd.agent.settings import Settings
from swupd.agent.state import State, cached_bytes, left, locked
from swupd.agent.status import last_change
from swupd.errors import Incomplete, InvalidFile, InvalidOption, Refused, SubprocessFailed, write_error
from swupd.tree import Root

Options = argparse.Namespace
_UNITS = ("swupd-update.service", "swupd-update.timer")
_MAX_HOPS = 50


def check_update(options: Options, settings: Settings, report: Report) -> int:
    """0 where there is an update, 1 where there is none."""
    current = device.current_version(settings.root)
    with reading(settings, report) as session:
        newest = query.available(session, current)
        if newest is None:
            session.catalog.check_fresh()
    if newest is None:
        report.say(f"There is no update: {current} is the latest version.")
        return 1
    report.say(f"There is an update: {current} -> {newest}")
    return 0


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
        settings = replace(settings, format=following)
    return 0


def _update_once(options: Options, settings: Settings, report: Report) -> int:
    """Takes the device one release further; gives the version it had, 0 where there is nothing more to do."""
    with changing(settings, report) as session:
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
    with changing(settings, report) as session:
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


def bundle_list(options: Options, settings: Settings, report: Report) -> int:
    """Lists bundles: installed ones without asking a server, others from the installed release."""
    if not (options.all or options.deps or options.has_dep or options.orphans):
        for listed in query.installed(settings, layout(settings)):
            report.say(f"{listed.name} ({listed.status})" if options.status else listed.name)
        return 0
    with reading(settings, report) as session:
        mom = session.catalog.mom(device.current_version(settings.root))
        if options.deps:
            lines = list(query.needs(session, mom, options.deps))
        elif options.has_dep:
            lines = list(query.needed_by(session, mom, options.has_dep))
        elif options.orphans:
            lines = list(query.orphans(session, mom))
        else:
            lines = [_line(b, options.status) for b in query.all_bundles(session, mom)]
    for line in lines:
        report.say(line)
    return 0


def _line(listed: query.Listed, with_status: bool) -> str:
    notes = [listed.status] if with_status and listed.status else []
    notes += ["experimental"] if listed.experimental else []
    return f"{listed.name} ({', '.join(notes)})" if notes else listed.name


def bundle_info(options: Options, settings: Settings, report: Report) -> int:
    """What one bundle is, includes and holds."""
    name = options.bundle
    with reading(settings, report) as session:
        version = _version(session, options.to_version)
        mom = session.catalog.mom(version)
        found = session.catalog.bundle(mom, name)
        files = [e for e in found.entries if e.present]
        report.say(f"Bundle {name} of version {version}")
        there = name in device.installed_bundles(settings.root)
        report.say(f"Installed: {'yes' if there else 'no'}; last changed in version {found.version}")
        report.say(f"Size: {size(found.contentsize)} in {len(files)} files")
        included = query.needs(session, mom, name) if options.dependencies else found.includes
        report.say(f"Includes: {', '.join(included) or 'nothing'}")
        if found.also_add:
            report.say(f"Also adds: {', '.join(found.also_add)}")
        for entry in sorted(files, key=lambda e: paths.encode(e.name)) if options.files else ():
            report.say(f"  {entry.name}")
    return 0


def _version(session: Session, asked: str) -> int:
    if asked == "latest":
        return max(session.catalog.latest(session.settings.stream_format()))
    if asked and asked != "current":
        return stream.version(asked)
    return device.current_version(session.settings.root)


def _scope(options: Options) -> Scope:
    for option, path in (("--file", options.file), ("--picky-tree", options.picky_tree)):
        why = paths.problem(path.rstrip("/")) if path and path != "/" else None
        if why is not None:
            raise InvalidOption(f"{option} cannot be {path[:200]!r}: {why}", "Give an absolute path inside the tree.")
    return Scope(
        version=options.to_version,
        bundles=tuple(options.bundles.split(",")) if options.bundles else (),
        file=options.file or "",
        picky=options.picky or options.extra_files_only,
        picky_tree=options.picky_tree,
        whitelist=options.picky_whitelist,
        extra_only=options.extra_files_only,
        quick=options.quick,
        force=options.force,
    )


def diagnose(options: Options, settings: Settings, report: Report) -> int:
    """Says what differs from the installed release; 1 where anything does."""
    with reading(settings, report) as session:
        problems = installed.diagnose(session, _scope(options))
    _list(report, problems)
    report.say(f"{problems.count} problems found." if problems.count else "The installation is as it was published.")
    return 1 if problems.count else 0


def _list(report: Report, problems: Problems) -> None:
    for what, found in (("Missing", problems.missing), ("Modified", problems.modified), ("Extra", problems.extra)):
        for path in found:
            report.say(f"{what}: {path}")


def repair(options: Options, settings: Settings, report: Report) -> int:
    """Restores what differs. Raises Incomplete where something could not be mended."""
    with changing(settings, report) as session:
        before, after, result = installed.repair(session, _scope(options))
    _list(report, before)
    if settings.dry_run:
        return 0
    if after.count:
        some = ", ".join((*after.missing, *after.modified, *after.extra)[:5])
        raise Incomplete(f"{after.count} problems are left: {some}", "See what is in their way, then repair again.")
    _tell(report, result)
    report.say(f"{before.count} problems repaired." if before.count else "There was nothing to repair.")
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
            settings = replace(settings, root=Path(empty))
        prepare_install(settings)
        with changing(settings, report) as session:
            version = (
                max(session.catalog.latest(settings.stream_format())) if not options.to_version else options.to_version
            )
            report.say(f"Installing version {version} into {settings.root}.")
            names = [b for b in (options.bundles or "").split(",") if b]
            result = installed.os_install(session, version, names, not options.skip_optional, options.force)
    if not settings.dry_run:
        _tell(report, result)
    return _end(result.failed)


def search_file(options: Options, settings: Settings, report: Report) -> int:
    """Finds the bundles that ship a file; 1 where none does."""
    prefixes: tuple[str, ...] = ("/usr/bin/", "/bin/", "/usr/sbin/", "/sbin/") if options.binary else ()
    prefixes += ("/usr/lib", "/lib") if options.library else ()
    with reading(settings, report) as session:
        mom = session.catalog.mom(_version(session, options.to_version))
        found = query.search(session, mom, options.term, options.regexp, prefixes)
    shown: dict[str, int] = {}
    for bundle, path in found:
        shown[bundle] = shown.get(bundle, 0) + 1
        if not options.top or shown[bundle] <= options.top:
            report.say(f"{path},{bundle}" if options.csv else f"{bundle}: {path}")
    if not found:
        report.say(f"No bundle ships anything like {options.term!r}.")
    return 0 if found else 1


def mirror(options: Options, settings: Settings, report: Report) -> int:
    """Shows, sets or removes the mirror."""
    files = [device.below(settings.root, f"/etc/swupd/mirror_{kind}url") for kind in ("version", "content")]
    if options.set or options.unset:
        _require_root()
        if options.set and not options.mirror_url:
            raise InvalidOption("the mirror's URL is missing", "Give it: swupd mirror --set URL")
        if options.set:
            replace(settings, version_url=options.mirror_url, content_url=options.mirror_url).urls()
        for file in files if not settings.dry_run else ():
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(options.mirror_url) if options.set else file.unlink(missing_ok=True)
            except OSError as e:
                raise write_error(file, e) from e
        will = "would be" if settings.dry_run else "is now"
        report.say(f"The mirror {will} {options.mirror_url if options.set else 'unset'}.")
        return 0
    report.say(f"Version URL: {settings.version_url or 'unknown'}")
    report.say(f"Content URL: {settings.content_url or 'unknown'}")
    for further in settings.mirrors:
        report.say(f"Mirror: {further.url} ({further.place})")
    return 0


def clean(options: Options, settings: Settings, report: Report) -> int:
    """Empties the cache."""
    _require_root()
    place = layout(settings)
    if settings.dry_run:
        report.say(f"{size(cached_bytes(place, options.all, others=True))} would be freed.")
        return 0
    with locked(place):
        state = State(place)
        freed = cached_bytes(state.layout, options.all, others=True)
        state.clean(manifests=options.all, others=True)
        state.close()
    report.say(f"{size(freed)} were freed.")
    return 0


def hashdump(options: Options, settings: Settings, report: Report) -> int:
    """Prints the hash of a file, as manifests have it."""
    rule = XattrRule.IGNORED if options.no_xattrs else XattrRule.HASHED
    path = options.file if options.prefixed else str(Path(options.file).absolute())
    with Root(settings.root if options.prefixed else Path("/")) as root:
        path = "/" + path.strip("/")
        node = root.node(path) if paths.problem(path) is None else None
        if node is None:
            raise InvalidFile(f"there is no file, folder or symlink {options.file}", "Check the path.")
        report.say(digests(node, root.chunks(node), rule)[0][1])
    return 0


def rollback(options: Options, settings: Settings, report: Report) -> int:
    """Goes back to the tree before the last change, without a server."""
    _require_root()
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
    _require_root()
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


def _require_root() -> None:
    if os.geteuid() != 0:
        raise Refused("this command must be run as root", "Run it with sudo.")


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
