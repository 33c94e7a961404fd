"""What differs from what was published: found, not mended."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from swupd import tree
from swupd.agent import plan
from swupd.agent import settings as device
from swupd.agent.catalog import closure, xattr_rule
from swupd.agent.objects import XattrRule
from swupd.agent.report import Steps
from swupd.agent.session import Session, require_format
from swupd.agent.settings import DEFAULT_PICKY_WHITELIST
from swupd.agent.survey import observe
from swupd.errors import InvalidBundle, InvalidOption, NotInManifest
from swupd.manifest import Entry, Manifest

DIAGNOSE_STEPS = ("load_manifests", "check_files_hash", "remove_extra_files")


class Scope(NamedTuple):
    """What diagnose and repair look at.

    version: 0 for the installed one. bundles: only these and what they include, empty for all installed.
    file: only this path and below, "" for all.
    picky_tree, whitelist: where extra files are looked for, and the folders left out.
    """

    version: int = 0
    bundles: tuple[str, ...] = ()
    file: str = ""
    picky: bool = False
    picky_tree: str = "/usr"
    whitelist: str = DEFAULT_PICKY_WHITELIST
    extra_only: bool = False
    quick: bool = False
    force: bool = False


class Problems(NamedTuple):
    """What diagnose found, as paths."""

    missing: tuple[str, ...] = ()
    modified: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """How many."""
        return len(self.missing) + len(self.modified) + len(self.extra)


def installed_in(session: Session, mom: Manifest, force: bool = False) -> tuple[str, ...]:
    """The device's bundles that a release has. Raises InvalidBundle where it lacks one, unless forced."""
    there = {e.name for e in mom.entries if e.present}
    names = device.installed_bundles(session.settings.root)
    unknown = sorted(names - there)
    if unknown and not force:
        raise InvalidBundle(
            f"version {mom.version} has no bundle {', '.join(unknown)}, which is installed here",
            "Remove the bundle, or go on without it with --force.",
        )
    return tuple(sorted(names & there))


def mount_points(session: Session) -> frozenset[str]:
    """Mount points at and below the tree."""
    with session.root() as root:
        return root.mount_points()


def scoped(session: Session, scope: Scope) -> tuple[Manifest, dict[str, Manifest], dict[str, Entry]]:
    """The MoM, the manifests and the entries that are looked at. Raises NotInManifest."""
    version = scope.version or device.current_version(session.settings.root)
    if scope.version:
        session.catalog.check_allowed(version)
    mom = session.catalog.mom(version)
    require_format(session.settings, mom.format, scope.force)
    names = frozenset(scope.bundles) or frozenset(installed_in(session, mom, scope.force))
    found = closure(session.catalog, mom, names, optional=False)
    wanted = plan.consolidate(found.values(), session.levels)
    if scope.file:
        wanted = {p: e for p, e in wanted.items() if p == scope.file or p.startswith(scope.file.rstrip("/") + "/")}
        if not wanted:
            raise NotInManifest(f"no installed bundle ships {scope.file}", "Check the path.")
    return mom, found, wanted


def diagnose(session: Session, scope: Scope) -> Problems:
    """Compares the tree with what its bundles ship; changes nothing."""
    steps = Steps(session.report, DIAGNOSE_STEPS)
    steps.begin("load_manifests")
    mom, found, wanted = scoped(session, scope)
    return compare(session, scope, found, wanted, xattr_rule(mom), steps)


def compare(
    session: Session,
    scope: Scope,
    found: Mapping[str, Manifest],
    wanted: Mapping[str, Entry],
    rule: XattrRule,
    steps: Steps,
) -> Problems:
    """Compares the tree with entries by path; found: the manifests of all that belongs there."""
    if scope.extra_only:
        return Problems(extra=_extra(session, scope, found))
    changes = plan.restore(wanted, mount_points(session))
    with session.root() as root:
        facts, _ = observe(root, changes, rule, steps)
    wrong = [e.name for e in changes.put if e.name not in facts.right]
    missing = tuple(sorted(p for p in wrong if p not in facts.kinds))
    modified = () if scope.quick else tuple(sorted(p for p in wrong if p in facts.kinds))
    steps.begin("remove_extra_files")
    left = {p for p in changes.drop if p in facts.kinds}
    extra = set(_extra(session, scope, found)) if scope.picky else set()
    return Problems(missing, modified, tuple(sorted(left | extra)))


def _extra(session: Session, scope: Scope, found: Mapping[str, Manifest]) -> tuple[str, ...]:
    """Paths below the picky tree that no bundle ships, except in whitelisted folders."""
    known = {e.name for m in found.values() for e in m.entries if e.present or e.ghosted}
    try:
        spared = re.compile(scope.whitelist) if scope.whitelist else None
    except re.error as e:
        raise InvalidOption(f"{scope.whitelist!r} is no regular expression: {e}", "Correct --picky-whitelist.") from e
    top = "" if scope.picky_tree == "/" else scope.picky_tree.rstrip("/")
    extra: list[str] = []
    skipped: list[str] = []
    with session.root() as root:
        if top and root.node(top, xattrs=False) is None:
            return ()
        for node in tree.scan(root, top, xattrs=False):
            if any(node.path.startswith(s) for s in skipped):
                continue
            if spared is not None and spared.fullmatch(node.path):
                skipped.append(node.path + "/")
            elif node.path not in known:
                extra.append(node.path)
    return tuple(extra)
