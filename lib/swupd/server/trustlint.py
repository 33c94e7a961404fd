"""What devices with a root of trust would find wrong with a stream: its roots, heads, and the releases these name."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Generator, Iterator, Mapping

from swupd import heads, roots, stream
from swupd.errors import SwupdError
from swupd.heads import Head
from swupd.manifest import MOM
from swupd.roots import Root
from swupd.server import approval, history, rootfile
from swupd.server.changes import Release
from swupd.server.history import FolderStore
from swupd.server.rules import ERROR, WARNING, Finding

_HEAD_SOON = datetime.timedelta(days=3)
_ROOT_SOON = datetime.timedelta(days=60)


def findings(store: FolderStore, releases: Mapping[int, Release], now: datetime.datetime) -> Iterator[Finding]:
    """All of it; nothing for a stream without root and head."""
    root = yield from _roots(store, now)
    for number in store.formats(stream.DEFAULT_FORMAT):
        yield from _head(store, number, root, releases, now)


def announced(store: FolderStore) -> frozenset[int]:
    """The releases that are the newest of a format."""
    return frozenset(_latest(store, number) for number in store.formats(stream.DEFAULT_FORMAT))


def _roots(store: FolderStore, now: datetime.datetime) -> Generator[Finding, None, Root | None]:
    """Checks the chain; gives the newest root that devices get to."""
    newest: Root | None = None
    for number in rootfile.numbers(store.www):
        place = stream.root(number)
        try:
            data = store.read(place, stream.MAX_ROOT) or b""
            if newest is None and number != 1:
                yield Finding(WARNING, place, "is the oldest one: devices with an older root do not find the way")
            newest = roots.first(data) if newest is None else roots.next_after(newest, data)
            if newest.number != number:
                yield Finding(ERROR, place, f"is root {newest.number}")
                return newest
        except SwupdError as e:
            yield Finding(ERROR, place, f"{e.problem}: devices go no further")
            return newest
    if newest is not None:
        place = stream.root(newest.number)
        if newest.expires <= now:
            yield Finding(ERROR, place, f"expired on {newest.expires:%Y-%m-%d}: publish the next one")
        elif newest.expires - now < _ROOT_SOON:
            yield Finding(WARNING, place, f"expires on {newest.expires:%Y-%m-%d}: publish the next one before")
    return newest


def _head(
    store: FolderStore, number: int, root: Root | None, releases: Mapping[int, Release], now: datetime.datetime
) -> Iterator[Finding]:
    place = stream.head(number)
    data = _read(store, place)
    if data is None:
        if root is not None and store.size(stream.latest(number)) is not None:
            yield Finding(ERROR, place, "is missing: devices with a root of trust find no release")
        return
    try:
        signed = heads.parse(data)
        head = heads.read(signed)
    except SwupdError as e:
        yield Finding(ERROR, place, e.problem)
        return
    if root is None:
        yield Finding(WARNING, place, "its signature was not checked: the stream has no root of trust")
    elif not root.accepts(signed, roots.HEAD):
        yield Finding(
            ERROR, place, f"is not signed by {root.roles[roots.HEAD].threshold} head keys of root {root.number}"
        )
    yield from (Finding(severity, place, text) for severity, text in _head_says(store, number, head, releases, now))
    if root is not None and head.version in releases:
        yield from _release(store, root, releases[head.version])


def _read(store: FolderStore, place: str) -> bytes | None:
    try:
        return store.read(place, stream.MAX_HEAD)
    except SwupdError:
        return b""


def _head_says(
    store: FolderStore, number: int, head: Head, releases: Mapping[int, Release], now: datetime.datetime
) -> Iterator[tuple[str, str]]:
    if head.format != number:
        yield ERROR, f"is of format {head.format}"
    if head.expires <= now:
        yield ERROR, f"expired on {head.expires:%Y-%m-%d %H:%M}: run swupd-server renew"
    elif head.expires - now < _HEAD_SOON:
        yield WARNING, f"expires on {head.expires:%Y-%m-%d %H:%M}: run swupd-server renew"
    if head.issued > now + datetime.timedelta(minutes=5):
        yield WARNING, f"was signed at {head.issued:%Y-%m-%d %H:%M}, which is yet to come"
    if head.version not in releases:
        yield ERROR, f"names {head.version}, which is not there or cannot be read"
        return
    mom = releases[head.version].mom
    data = history.manifest_bytes(store, head.version, MOM) or b""
    if (hashlib.sha256(data).hexdigest(), len(data)) != (head.digest, head.length):
        yield ERROR, f"names another MoM of {head.version} than the one that is there"
    if head.product != (mom.header(stream.PRODUCT_KEY) or ""):
        yield ERROR, f"is for the product {head.product[:80]!r}, release {head.version} is not"
    latest = _latest(store, number)
    if latest and latest != head.version:
        severity = WARNING if head.version < latest else ERROR
        yield severity, f"names {head.version}, but {stream.latest(number)} names {latest}"


def _latest(store: FolderStore, number: int) -> int:
    try:
        return history.parse_latest(store.read(stream.latest(number), stream.MAX_LATEST) or b"")
    except SwupdError:
        return 0  # the linter says so where it looks at that file


def _release(store: FolderStore, root: Root, release: Release) -> Iterator[Finding]:
    try:
        data = history.manifest_bytes(store, release.version, MOM) or b""
        for place, wrong in approval.of_stream(root, store, release.mom, data):
            yield Finding(ERROR, place, f"{wrong}: devices refuse it")
    except SwupdError as e:
        yield Finding(ERROR, stream.manifest(release.version, MOM), e.problem)
