"""What each sub-command that changes no tree does with its options: mostly it looks. Gives exit codes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from swupd import paths, stream
from swupd.agent import health, query
from swupd.agent import settings as device
from swupd.agent.health import Problems, Scope
from swupd.agent.objects import XattrRule, digests
from swupd.agent.report import Report, size
from swupd.agent.session import Session, layout, reading
from swupd.agent.settings import Settings
from swupd.agent.state import State, cached_bytes, locked
from swupd.errors import InvalidFile, InvalidOption, Refused, write_error
from swupd.tree import Root

Options = argparse.Namespace


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


def scope(options: Options) -> Scope:
    """What diagnose and repair are to look at. Raises InvalidOption."""
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
        problems = health.diagnose(session, scope(options))
    tell_problems(report, problems)
    report.say(f"{problems.total} problems found." if problems.total else "The installation is as it was published.")
    return 1 if problems.total else 0


def tell_problems(report: Report, problems: Problems) -> None:
    """Says what differs."""
    for what, found in (("Missing", problems.missing), ("Modified", problems.modified), ("Extra", problems.extra)):
        for path in found:
            report.say(f"{what}: {path}")


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
        require_root()
        if options.set and not options.mirror_url:
            raise InvalidOption("the mirror's URL is missing", "Give it: swupd mirror --set URL")
        if options.set:
            settings._replace(version_url=options.mirror_url, content_url=options.mirror_url).urls()
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
    require_root()
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


def require_root() -> None:
    """Raises Refused for anybody else."""
    if os.geteuid() != 0:
        raise Refused("this command must be run as root", "Run it with sudo.")
