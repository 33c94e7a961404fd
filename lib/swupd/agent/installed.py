"""The commands that change a device: each works out a wish and hands it to `change`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from swupd.agent import plan
from swupd.agent import settings as device
from swupd.agent.catalog import between, closure, xattr_rule
from swupd.agent.change import Result, Wish, carry_out
from swupd.agent.health import Problems, Scope, compare, installed_in, mount_points, scoped
from swupd.agent.report import Steps
from swupd.agent.session import Session, require_format
from swupd.agent.state import tracked
from swupd.errors import (
    InvalidBundle,
    InvalidOption,
    NotInstalled,
    RequiredBundle,
    SwupdError,
    VersionUnknown,
)
from swupd.manifest import OS_CORE, Manifest

UPDATE_STEPS = (
    "load_manifests", "run_preupdate_scripts", "download_packs", "extract_packs", "prepare_for_update",
    "validate_fullfiles", "download_fullfiles", "extract_fullfiles", "update_files", "run_postupdate_scripts",
)  # fmt: skip
ADD_STEPS = (
    "load_manifests", "download_packs", "extract_packs", "validate_fullfiles", "download_fullfiles",
    "extract_fullfiles", "update_files", "run_postupdate_scripts",
)  # fmt: skip
REMOVE_STEPS = ("load_manifests", "update_files")
REPAIR_STEPS = (
    "load_manifests", "check_files_hash", "remove_extra_files", "validate_fullfiles", "download_fullfiles",
    "extract_fullfiles", "update_files", "run_postupdate_scripts",
)  # fmt: skip


def _versions(manifests: Mapping[str, Manifest]) -> dict[str, int]:
    return {name: m.version for name, m in manifests.items()}


def newest(session: Session, current: int, wanted: int, incremental: bool) -> int:
    """The version that an update goes to; current where there is none newer. Raises InvalidOption."""
    listed = session.catalog.latest(session.settings.stream_format())
    target = max(listed)
    if incremental:
        target = min((v for v in listed if v > current), default=target)
    if wanted and wanted < current:
        raise InvalidOption(f"version {wanted} is older than the installed {current}", "An update only goes forward.")
    return min(target, wanted) if wanted else target


def update(session: Session, target: int, keep_cache: bool = False, download_only: bool = False) -> Result:
    """Takes the tree to another version."""
    steps = Steps(session.report, UPDATE_STEPS)
    steps.begin("load_manifests")
    root = session.settings.root
    current = device.current_version(root)
    session.catalog.check_allowed(target)
    new_mom = session.catalog.mom(target)
    names = frozenset(installed_in(session, new_mom, force=True))
    lost = device.installed_bundles(root) - names
    if lost:
        session.report.warn(f"Version {target} has no bundle {', '.join(sorted(lost))}; its files are removed.")
    with session.catalog.reading_ahead():
        old_mom, old = _owned(session, current, lambda mom: session.catalog.expect(new_mom, sorted(names), mom))
        new = closure(session.catalog, new_mom, names, optional=False, base=old_mom)
    wanted = plan.consolidate(new.values(), session.levels)
    owned = plan.consolidate(old.values(), session.levels)
    mounts = mount_points(session)
    changes = plan.update(owned, wanted, mounts) if old_mom is not None else plan.restore(wanted, mounts)
    # In place of all entries, which take room.
    wanted = plan.present(wanted)
    return carry_out(
        session,
        Wish(
            changes,
            wanted,
            owned,
            new,
            _versions(old),
            xattr_rule(new_mom),
            bundles=tuple(sorted(n for n in new if n not in old or old[n].version != new[n].version)),
            keep_cache=keep_cache,
            download_only=download_only,
            trial=True,
            measure=partial(session.catalog.measure, new_mom),
            between=partial(between, session.catalog, new_mom),
        ),
        steps,
    )


def _owned(
    session: Session, current: int, then: Callable[[Manifest], None]
) -> tuple[Manifest | None, dict[str, Manifest]]:
    """The installed release, (None, {}) where the server does not have it any more and the cache neither.

    then: what can be begun once its manifests are expected.
    """
    try:
        mom = session.catalog.mom(current)
        there = frozenset(installed_in(session, mom, force=True))
        session.catalog.expect(mom, sorted(there))
        then(mom)
        return mom, closure(session.catalog, mom, there, optional=False)
    except SwupdError as e:
        session.report.warn(
            f"The manifests of the installed version {current} cannot be had ({e.problem}); "
            "every file is compared instead."
        )
        return None, {}


def bundle_add(session: Session, names: Iterable[str], optional: bool) -> Result:
    """Adds bundles of the installed version. Unknown names raise InvalidBundle after the others went in."""
    steps = Steps(session.report, ADD_STEPS)
    steps.begin("load_manifests")
    root = session.settings.root
    session.catalog.check_allowed(device.current_version(root))
    mom = session.catalog.mom(device.current_version(root))
    there = frozenset(installed_in(session, mom, force=True))
    aliases = device.aliases(root)
    asked = [b for name in names for b in aliases.get(name, (name,))]
    unknown = sorted({b for b in asked if mom.entry(b) is None})
    good = frozenset(asked) - set(unknown)
    for name in sorted(good & there):
        session.report.say(f"Bundle {name} is already installed.")
    old = closure(session.catalog, mom, there, optional=False)
    new = closure(session.catalog, mom, good - there, optional) if good - there else {}
    added = {name: m for name, m in new.items() if name not in there}
    owned = plan.consolidate(old.values(), session.levels)
    wanted = plan.consolidate({**old, **new}.values(), session.levels)
    changes = plan.add(owned, plan.consolidate(added.values(), session.levels), mount_points(session))
    wish = Wish(
        changes,
        plan.present(wanted),
        owned,
        added,
        {},
        xattr_rule(mom),
        bundles=tuple(sorted(added)),
        share=0.1,
        measure=partial(session.catalog.measure, mom),
    )
    result = carry_out(session, wish, steps)
    if session.state is not None:
        session.state.track(good, there)
    if unknown:
        raise InvalidBundle(
            f"version {mom.version} has no bundle {', '.join(unknown)}", "See the names with: swupd bundle-list --all"
        )
    return result


def bundle_remove(
    session: Session, names: Iterable[str], force: bool, recursive: bool, orphans: bool
) -> tuple[tuple[str, ...], Result]:
    """Removes bundles; gives their names too. Raises RequiredBundle, NotInstalled, InvalidBundle."""
    steps = Steps(session.report, REMOVE_STEPS)
    steps.begin("load_manifests")
    mom = session.catalog.mom(device.current_version(session.settings.root))
    there = frozenset(installed_in(session, mom, force=True))
    installed = {name: session.catalog.bundle(mom, name) for name in sorted(there)}
    needs = {name: frozenset(m.includes) & there for name, m in installed.items()}
    kept_by_user = tracked(session.layout) or there
    doomed = set(_removable(frozenset(names), mom, needs, force))
    if recursive or orphans:
        seeds = frozenset(doomed) if recursive and not orphans else there
        doomed |= _unneeded(there - doomed, needs, kept_by_user - doomed) & _reach(seeds, needs)
    remaining = {n: m for n, m in installed.items() if n not in doomed}
    changes = plan.take_away(
        plan.consolidate([installed[n] for n in doomed], session.levels),
        plan.consolidate(remaining.values(), session.levels),
        mount_points(session),
    )
    wish = Wish(changes, {}, {}, remaining, _versions(remaining), xattr_rule(mom), bundles=tuple(sorted(doomed)))
    scriptless = session._replace(settings=session.settings._replace(scripts=False))
    result = carry_out(scriptless, wish, steps)
    if session.state is not None:
        session.state.untrack(doomed)
    return tuple(sorted(doomed)), result


def _removable(
    names: frozenset[str], mom: Manifest, needs: Mapping[str, frozenset[str]], force: bool
) -> frozenset[str]:
    for name in sorted(names):
        if name == OS_CORE:
            raise RequiredBundle("os-core cannot be removed: everything needs it", "")
        if name not in needs and mom.entry(name) is None:
            raise InvalidBundle(f"there is no bundle {name!r}", "See what is installed with: swupd bundle-list")
        if name not in needs:
            raise NotInstalled(f"bundle {name} is not installed", "See what is installed with: swupd bundle-list")
    users = {n for n in needs if n not in names and _reach(needs[n], needs) & names}
    if users and not force:
        raise RequiredBundle(
            f"{', '.join(sorted(names))} is needed by {', '.join(sorted(users))}",
            "Remove those first, or all of them with --force.",
        )
    return names | users


def _reach(seeds: frozenset[str], needs: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Bundles and all that they need."""
    found: set[str] = set()
    todo = [n for n in seeds if n in needs]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += needs[name]
    return frozenset(found)


def _unneeded(names: frozenset[str], needs: Mapping[str, frozenset[str]], asked_for: frozenset[str]) -> frozenset[str]:
    return names - _reach(asked_for & names | {OS_CORE}, needs) - {OS_CORE}


def os_install(session: Session, version: int, bundles: Iterable[str], optional: bool, force: bool) -> Result:
    """Installs a release into a folder. Raises InvalidBundle."""
    steps = Steps(session.report, ADD_STEPS)
    steps.begin("load_manifests")
    session.catalog.check_allowed(version)
    mom = session.catalog.mom(version)
    require_format(session.settings, mom.format, force)
    asked = frozenset(bundles) | {OS_CORE}
    new = closure(session.catalog, mom, asked, optional)
    wanted = plan.consolidate(new.values(), session.levels)
    with session.root() as root:
        changes = plan.install(wanted, root.exists)
    wish = Wish(
        changes,
        plan.present(wanted),
        {},
        new,
        {},
        xattr_rule(mom),
        tuple(sorted(new)),
        boot_always=True,
        undo=False,
        share=0.1,
        measure=partial(session.catalog.measure, mom),
    )
    result = carry_out(session, wish, steps)
    if session.state is not None:
        session.state.track(asked, asked)
    return result


def repair(session: Session, scope: Scope) -> tuple[Problems, Problems, Result]:
    """Restores the tree; gives what was wrong before, what still is, and what was done."""
    steps = Steps(session.report, REPAIR_STEPS)
    steps.begin("load_manifests")
    if scope.version and not (scope.force or scope.picky):
        installed = _known_version(session)
        if installed != scope.version:
            raise InvalidOption(
                f"repairing to version {scope.version} on an installation of {installed} leaves files of both",
                "Add --force or --picky if that is wanted.",
            )
    mom, found, wanted = scoped(session, scope)
    rule = xattr_rule(mom)
    before = compare(session, scope, found, wanted, rule, steps)
    chosen = {*before.missing, *before.modified}
    changes = plan.Changes(
        tuple(e for p, e in wanted.items() if e.present and p in chosen),
        before.extra,
    )
    wish = Wish(
        changes,
        plan.present(plan.consolidate(found.values(), session.levels)),
        plan.present(wanted),
        found,
        _versions(found),
        rule,
        tuple(sorted(found)),
        boot_always=bool(before.total),
        measure=partial(session.catalog.measure, mom),
    )
    result = carry_out(session, wish, steps)
    silent = Steps(session.report, ())
    after = before if session.settings.dry_run else compare(session, scope, found, wanted, rule, silent)
    return before, after, result


def _known_version(session: Session) -> int:
    try:
        return device.current_version(session.settings.root)
    except VersionUnknown:
        return 0
