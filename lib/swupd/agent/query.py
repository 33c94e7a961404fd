"""The commands that only look: what is installed, what there is, what a bundle holds, where a file comes from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from swupd.agent import settings as device
from swupd.agent.catalog import closure
from swupd.agent.session import Session
from swupd.agent.settings import Settings
from swupd.agent.state import Layout, tracked
from swupd.errors import InvalidBundle, InvalidOption, ServerUnreachable
from swupd.manifest import Manifest


class Listed(NamedTuple):
    """A bundle in a list. status: "installed", "explicitly installed" or "" ; experimental: as the MoM says."""

    name: str
    status: str
    experimental: bool = False


def available(session: Session, current: int) -> int | None:
    """The newest version of any format where it is newer than current, else None."""
    try:
        newest = session.catalog.latest_version()
    except ServerUnreachable:
        newest = max(session.catalog.latest(session.settings.stream_format()))
    return newest if newest > current else None


def installed(settings: Settings, layout: Layout) -> tuple[Listed, ...]:
    """The device's bundles, from the device alone."""
    explicit = tracked(layout)
    return tuple(
        Listed(name, "explicitly installed" if name in explicit else "installed")
        for name in sorted(device.installed_bundles(settings.root))
    )


def all_bundles(session: Session, mom: Manifest) -> tuple[Listed, ...]:
    """Every bundle of a release."""
    status = {b.name: b.status for b in installed(session.settings, session.layout)}
    return tuple(
        Listed(e.name, status.get(e.name, ""), e.status == "e")
        for e in sorted(mom.entries, key=lambda e: e.name)
        if e.present
    )


def orphans(session: Session, mom: Manifest) -> tuple[str, ...]:
    """Installed bundles that nobody asked for and nothing needs."""
    there = frozenset(n for n in device.installed_bundles(session.settings.root) if mom.entry(n) is not None)
    wanted = (tracked(session.layout) or there) & there | {"os-core"}
    return tuple(sorted(there - closure(session.catalog, mom, wanted, optional=True).keys()))


def needs(session: Session, mom: Manifest, name: str) -> tuple[str, ...]:
    """All bundles that one includes, directly or not."""
    return tuple(sorted(closure(session.catalog, mom, frozenset({name}), optional=False).keys() - {name}))


def needed_by(session: Session, mom: Manifest, name: str) -> tuple[str, ...]:
    """All bundles of a release that include one, directly or not. Raises InvalidBundle."""
    if mom.entry(name) is None:
        raise InvalidBundle(
            f"version {mom.version} has no bundle {name!r}", "See the names with: swupd bundle-list --all"
        )
    return tuple(e.name for e in mom.entries if e.present and e.name != name and name in needs(session, mom, e.name))


def search(
    session: Session, mom: Manifest, term: str, regexp: bool, prefixes: Iterable[str]
) -> tuple[tuple[str, str], ...]:
    """(bundle, path) of the files and links whose path matches; prefixes narrow it down. Raises InvalidOption."""
    try:
        pattern = re.compile(term if regexp else re.escape(term), 0 if regexp else re.IGNORECASE)
    except re.error as e:
        raise InvalidOption(f"{term!r} is no regular expression: {e}", "Correct it.") from e
    starts = tuple(prefixes)
    return tuple(
        (bundle.name, entry.name)
        for bundle in sorted(mom.entries, key=lambda e: e.name)
        if bundle.present
        for entry in session.catalog.bundle(mom, bundle.name).entries
        if entry.present
        and entry.kind in "FL"
        and pattern.search(entry.name)
        and (not starts or entry.name.startswith(starts))
    )
