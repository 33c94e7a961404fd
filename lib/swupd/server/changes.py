"""The last release and this tree's contents -> the next release (stream format, 7.2 to 7.6). Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from swupd import hashing, paths
from swupd.errors import InvalidFile, InvalidOption
from swupd.manifest import FULL, MOM, ZERO, Entry, Manifest, ordered, serialize
from swupd.server.bundles import BundleSpec, closures
from swupd.tree import Node

OLD_CLIENTS = 25
"""Up to this format streams serve clients that reject ghosts and take deltas between equal paths only (2.7)."""
_ALLOW = (
    "Publish the change in two steps, or allow it with --allow-folder-replacement if only this project's agent runs."
)


@dataclass(frozen=True)
class Release:
    """A whole release: its MoM and all its bundles' manifests, unchanged ones included."""

    mom: Manifest
    manifests: Mapping[str, Manifest]

    @property
    def version(self) -> int:
        """The release's version."""
        return self.mom.version

    def written(self) -> tuple[Manifest, ...]:
        """The bundles that changed in this release, by name."""
        return tuple(m for _, m in sorted(self.manifests.items()) if m.version == self.version)


@dataclass(frozen=True)
class Edition:
    """What the next release's headers say.

    minversion: 0 to carry the last one's forward. extra: further header lines of the MoM.
    previous: what the MoM names as the release before; None for the base's own version.
    """

    version: int
    format: int
    timestamp: int
    minversion: int = 0
    previous: int | None = None
    extra: tuple[tuple[str, str], ...] = field(default=())


def following(
    base: Release | None,
    edition: Edition,
    specs: Sequence[BundleSpec],
    contents: Mapping[str, Sequence[Node]],
    digests: Mapping[str, str],
) -> Release:
    """The next release.

    base: the release that devices have now, or None. contents: what each bundle ships. digests: by path.
    """
    minversion = effective_minversion(base, edition)
    manifests, lines = {}, []
    for spec in specs:
        old = base.manifests.get(spec.name) if base is not None else None
        new = _bundle(old, edition, minversion, spec, contents[spec.name], digests)
        manifests[spec.name] = new
        if base is not None and new is old:
            lines.append(_mom_line(base.mom, spec.name))
        else:
            lines.append(Entry("M", hashing.digest_manifest(serialize(new)), new.version, new.name))
    before = base.version if base is not None else 0
    mom = Manifest(
        name=MOM,
        format=edition.format,
        version=edition.version,
        previous=before if edition.previous is None else edition.previous,
        minversion=minversion,
        timestamp=edition.timestamp,
        entries=ordered(lines),
        extra=edition.extra,
    )
    return Release(mom, manifests)


def effective_minversion(base: Release | None, edition: Edition) -> int:
    """The minversion in force: given, else carried forward. Raises InvalidOption if it would go back."""
    carried = base.mom.minversion if base is not None else 0
    if edition.minversion > edition.version:
        raise InvalidOption(
            f"minversion {edition.minversion} is newer than the release {edition.version}",
            "Give one that is not greater.",
        )
    if 0 < edition.minversion < carried:
        raise InvalidOption(
            f"minversion {edition.minversion} is less than the {carried} of the release before",
            "Leave --minversion away to keep it.",
        )
    return edition.minversion or carried


def kept_digests(base: Release | None, edition: Edition, contents: Mapping[str, Sequence[Node]]) -> dict[str, str]:
    """By path, the digest that needs no new fullfile: each bundle that ships the path lists it already."""
    minversion = effective_minversion(base, edition)
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for name, nodes in contents.items():
        old = _by_name(base.manifests[name]) if base is not None and name in base.manifests else {}
        for node in nodes:
            seen[node.path].add(_kept(old.get(node.path, ()), node.kind, minversion))
    return {path: digest for path, (digest, *others) in seen.items() if digest and not others}


def _kept(old: Sequence[Entry], kind: str, minversion: int) -> str:
    if len(old) == 1 and old[0].present and old[0].kind == kind and old[0].version >= minversion:
        return old[0].digest
    return ""


def _mom_line(mom: Manifest, name: str) -> Entry:
    found = mom.entry(name)
    if found is None:
        raise InvalidFile(f"the release {mom.version} does not list its bundle {name}", "Its MoM is damaged.")
    return found


def _bundle(
    old: Manifest | None,
    edition: Edition,
    minversion: int,
    spec: BundleSpec,
    nodes: Sequence[Node],
    digests: Mapping[str, str],
) -> Manifest:
    bumped = old is not None and old.format < edition.format
    also_add = spec.also_add if edition.format >= 29 else ()
    present = [
        _present(old_entries, node, digests[node.path], edition.version, minversion)
        for node, old_entries in _with_old(old, nodes)
    ]
    gone = list(_gone(old, {node.path for node in nodes}, edition, bumped))
    entries = ordered((*present, *gone))
    if (
        old is not None
        and not bumped
        and not any(entry.version == edition.version for entry in entries)
        and (spec.header_includes, also_add) == (old.includes, old.also_add)
    ):
        return old
    return Manifest(
        name=spec.name,
        format=edition.format,
        version=edition.version,
        previous=old.version if old is not None else 0,
        timestamp=edition.timestamp,
        contentsize=_contentsize(nodes, edition.format),
        includes=spec.header_includes,
        also_add=also_add,
        entries=entries,
    )


def _by_name(manifest: Manifest | None) -> dict[str, tuple[Entry, ...]]:
    found: defaultdict[str, tuple[Entry, ...]] = defaultdict(tuple)
    for entry in manifest.entries if manifest is not None else ():
        found[entry.name] += (entry,)
    return dict(found)


def _with_old(old: Manifest | None, nodes: Iterable[Node]) -> Iterator[tuple[Node, Sequence[Entry]]]:
    by_name = _by_name(old)
    for node in nodes:
        yield node, by_name.get(node.path, ())


def _present(old: Sequence[Entry], node: Node, digest: str, version: int, minversion: int) -> Entry:
    """An old entry of several variants, or with another digest or kind, is changed; other flags are not compared."""
    kept = _kept(old, node.kind, minversion) == digest
    return Entry(node.kind, digest, old[0].version if kept else version, node.path)


def _gone(old: Manifest | None, shipped: set[str], edition: Edition, bumped: bool) -> Iterator[Entry]:
    if bumped:
        return
    absent = {name: entries for name, entries in _by_name(old).items() if name not in shipped}
    dropped = {name for name, entries in absent.items() if any(entry.present for entry in entries)}
    ghosts = _ghosts(dropped) if edition.format > OLD_CLIENTS else frozenset()
    for name, entries in absent.items():
        if name in dropped:
            yield Entry(".", ZERO, edition.version, name, status="g" if name in ghosts else "d")
        elif entries[0].deleted:
            yield entries[0]


def _ghosts(dropped: Iterable[str]) -> frozenset[str]:
    """Boot files, and the folders above them: clients would move such a folder away with the ghost in it."""
    files = {path for path in dropped if paths.is_ghosted_on_removal(path)}
    return frozenset(files | paths.above(files))


def _contentsize(nodes: Iterable[Node], stream_format: int) -> int:
    """As mixer counts it: files and the targets of symlinks (2.2)."""
    total = sum(node.size + len(paths.encode(node.target)) for node in nodes)
    return min(total, 1_999_999_999) if stream_format == 25 else total


def full(release: Release, contents: Mapping[str, Sequence[Node]]) -> Manifest:
    """Everything in the release: each name once, at its newest version (2.6)."""
    distinct = {node.path: node for nodes in contents.values() for node in nodes}
    found: dict[tuple[str, str], Entry] = {}
    for entry in (e for m in release.manifests.values() for e in m.entries if not e.ghosted):
        key = (entry.name, entry.modifier)
        known = found.get(key)
        if known is None or (entry.present, entry.version) > (known.present, known.version):
            found[key] = entry
    mom = release.mom
    return Manifest(
        name=FULL,
        format=mom.format,
        version=mom.version,
        previous=mom.previous,
        timestamp=mom.timestamp,
        contentsize=_contentsize(distinct.values(), mom.format),
        entries=ordered(entry._replace(misc=".") if entry.misc != "." else entry for entry in found.values()),
    )


def check_folders(base: Release, specs: Sequence[BundleSpec], contents: Mapping[str, Sequence[Node]]) -> None:
    """Refuses what old clients cannot carry out (stream format, 2.9 item 4). Raises InvalidFile.

    A folder with listed children may not become something else; a folder in which devices keep files of their
    own may not be dropped by a bundle unless another that is always installed with it still ships it.
    """
    _check_replaced(base, contents)
    _check_dropped(base, specs, contents)


def folder_replacements(base: Release, kinds: Mapping[str, str]) -> tuple[str, ...]:
    """Folders with children in the base that are no folders any more; kinds: what is now at each path."""
    entries = [e for m in base.manifests.values() for e in m.entries if e.present]
    filled = paths.above(e.name for e in entries)
    return tuple(
        sorted({e.name for e in entries if e.kind == "D" and e.name in filled and kinds.get(e.name, "D") != "D"})
    )


def _check_replaced(base: Release, contents: Mapping[str, Sequence[Node]]) -> None:
    kinds = {node.path: node.kind for nodes in contents.values() for node in nodes}
    for path in folder_replacements(base, kinds):
        what = "file" if kinds[path] == "F" else "symlink"
        raise InvalidFile(
            f"the folder {path} of release {base.version} becomes a {what}, which old clients fail at", _ALLOW
        )


def foreign_folders_dropped(
    base: Release, closure: Mapping[str, frozenset[str]], shipped: Mapping[str, frozenset[str]]
) -> tuple[tuple[str, str], ...]:
    """(bundle, folder) where a device would delete a folder that may hold files of its own.

    shipped: the paths of each bundle now.
    """
    found = []
    for name, old in sorted(base.manifests.items()):
        around = closure.get(name, frozenset({"os-core"})) | {name}
        still = frozenset().union(*(shipped.get(other, frozenset()) for other in around))
        found += [
            (name, e.name)
            for e in old.entries
            if e.kind == "D" and e.present and paths.holds_foreign_files(e.name) and e.name not in still
        ]
    return tuple(found)


def _check_dropped(base: Release, specs: Sequence[BundleSpec], contents: Mapping[str, Sequence[Node]]) -> None:
    shipped = {name: frozenset(node.path for node in nodes) for name, nodes in contents.items()}
    for bundle, path in foreign_folders_dropped(base, closures(specs), shipped):
        raise InvalidFile(
            f"{bundle} no longer ships the folder {path}, which old clients then move away with all that is in it",
            f"List {path} in os-core, or allow it with --allow-folder-replacement if only this project's agent runs.",
        )
