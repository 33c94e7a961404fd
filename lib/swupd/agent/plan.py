"""What has to be done: manifests and facts in, an ordered plan out. No I/O.

`wanted` and `owned` map paths to entries: what the bundles of the new and of the installed release ship, all
bundles taken together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from swupd import paths
from swupd.errors import ApplyError, ManifestError
from swupd.manifest import Entry, Manifest

_CODES = ".acdefghijklmnopqrtu"
_LEVELS: tuple[tuple[str, str], ...] = (
    ("", ""), ("", "2"), ("", "5"), ("", "25"), ("2", "2"), ("2", "25"), ("5", "5"), ("5", "25"), ("", "A"), ("", "2A"),
    ("", "5A"), ("", "25A"), ("2", "2A"), ("2", "25A"), ("5", "5A"), ("5", "25A"), ("A", "A"), ("A", "2A"), ("A", "5A"),
    ("A", "25A"),
)  # fmt: skip
"""(own level, levels there are) of each optimisation code (2.4): 2 AVX2, 5 AVX-512, A APX."""


class Changes(NamedTuple):
    """What a command wishes, before anybody looked at the disk.

    put: entries that must be as the release has them. drop: paths that must go.
    """

    put: tuple[Entry, ...] = ()
    drop: tuple[str, ...] = ()


class Facts(NamedTuple):
    """What was found on disk for a set of changes.

    right: paths to put at which there is what has to be.
    kinds: F, D, L or "?" for what is at a path; absent where nothing is.
    below: for each folder that has to give way to a file or link, all paths below it.
    """

    right: frozenset[str]
    kinds: Mapping[str, str]
    below: Mapping[str, frozenset[str]]


class Plan(NamedTuple):
    """Steps in the order in which they are carried out.

    write: entries to put in place, parents before children, the file that tells the version last.
    remove: paths to delete, children before parents.
    """

    write: tuple[Entry, ...] = ()
    remove: tuple[str, ...] = ()

    @property
    def digests(self) -> frozenset[str]:
        """The objects that must be staged."""
        return frozenset(e.digest for e in self.write)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.write and not self.remove


def select(entries: Iterable[Entry], levels: frozenset[str]) -> list[Entry]:
    """The variants of files that suit a processor; levels: those of "2" and "5" it has (2.4)."""
    return [e for e in entries if e.modifier == "." or _suits(e.modifier, levels)]


def _suits(code: str, levels: frozenset[str]) -> bool:
    at = _CODES.find(code)
    if at == -1:
        # C, s, b and letters that mean nothing count as "."; codes of later levels are skipped.
        return code in "Csb" or not code.isalnum()
    own, available = _LEVELS[at]
    if not available:
        return True
    common = [level for level in "A52" if level in available and level in levels]
    return own == (common[0] if common else "")


def consolidate(manifests: Iterable[Manifest], levels: frozenset[str] = frozenset()) -> dict[str, Entry]:
    """All bundles' entries by path (6.7.1). Raises ManifestError where two bundles disagree."""
    merged: dict[str, Entry] = {}
    ordered = sorted(manifests, key=lambda m: m.name)
    for found in ordered:
        for entry in select(found.entries, levels):
            known = merged.setdefault(entry.name, entry)
            if known is entry:
                continue
            if known.present and entry.present and known.digest != entry.digest:
                origin = next(m.name for m in ordered if any(e is known for e in m.entries))
                raise ManifestError(
                    f"bundles {origin} and {found.name} disagree about {entry.name}",
                    "The release is inconsistent; tell the publisher (swupd-server lint finds this).",
                )
            if _rank(entry) > _rank(known):
                merged[entry.name] = entry
    return merged


def _rank(entry: Entry) -> tuple[bool, bool, int]:
    """Present wins over ghosted over deleted; of present ones the older, of the others the newer."""
    return entry.present, entry.ghosted, -entry.version if entry.present else entry.version


def present(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Those that a release has."""
    return {path: e for path, e in entries.items() if e.present}


def protected(path: str, mounts: frozenset[str] = frozenset()) -> bool:
    """Whether an update leaves a path alone: the machine's state and configuration, and mount points (6.8)."""
    return paths.is_state(path) or paths.is_config(path) or path in mounts


def update(owned: Mapping[str, Entry], wanted: Mapping[str, Entry], mounts: frozenset[str]) -> Changes:
    """From the installed release to another: what changed goes in, what vanished goes out (6.7, step 10)."""
    # Most entries are the very same: manifest.parse takes them over.
    other = [(path, owned.get(path), e) for path, e in wanted.items() if owned.get(path) is not e]
    put = [e for path, old, e in other if e.present and not protected(path, mounts) and not _unchanged(old, e)]
    told = [path for path, old, e in other if e.deleted and old is not None and old.present]
    gone = [
        path for path, e in owned.items() if wanted.get(path) is not e and e.present and not _stays(wanted.get(path))
    ]
    drop = {p for p in (*gone, *told) if not protected(p, mounts) and not paths.is_boot(p)}
    return Changes(tuple(put), tuple(drop))


def _stays(entry: Entry | None) -> bool:
    return entry is not None and (entry.present or entry.ghosted)


def _unchanged(old: Entry | None, new: Entry) -> bool:
    return old is not None and old.present and old.digest == new.digest and old.version >= new.version


def add(owned: Mapping[str, Entry], added: Mapping[str, Entry], mounts: frozenset[str]) -> Changes:
    """Bundles more: their entries, less those that installed bundles ship already."""
    return Changes(
        tuple(
            e
            for path, e in added.items()
            if e.present and not protected(path, mounts) and not (path in owned and owned[path].present)
        )
    )


def take_away(removed: Mapping[str, Entry], remaining: Mapping[str, Entry], mounts: frozenset[str]) -> Changes:
    """Bundles less: their paths, but not what a remaining bundle ships."""
    return Changes(
        drop=tuple(
            path
            for path, e in removed.items()
            if e.present and not protected(path, mounts) and not _stays(remaining.get(path))
        )
    )


def restore(wanted: Mapping[str, Entry], mounts: frozenset[str], extra: Iterable[str] = ()) -> Changes:
    """Back to pristine: every entry, and away with what the release deleted (and with extra files)."""
    put = tuple(e for path, e in wanted.items() if e.present and not protected(path, mounts))
    dropped = {
        path for path, e in wanted.items() if e.deleted and not protected(path, mounts) and not paths.is_boot(path)
    }
    return Changes(put, tuple(dropped | set(extra)))


def install(wanted: Mapping[str, Entry], exists: Callable[[str], bool]) -> Changes:
    """A tree from nothing: everything, but state and configuration that is there already stays."""
    return Changes(
        tuple(e for path, e in wanted.items() if e.present and not (protected(path) and exists(path) and e.kind != "D"))
    )


def settle(changes: Changes, facts: Facts, wanted: Mapping[str, Entry]) -> Plan:
    """The plan for some changes, given what is on disk. Raises ApplyError where foreign files are in the way.

    wanted: where parents that are missing come from.
    """
    put = {e.name: e for e in changes.put if e.name not in facts.right}
    for path in sorted(put, key=paths.encode):
        for parent in paths.parents(path):
            if parent in put:
                _check_folder(put[parent], path)
            elif parent not in facts.kinds:
                put[parent] = _missing_parent(parent, wanted)
            elif facts.kinds[parent] != "D":
                raise ApplyError(
                    f"{parent} is no folder here, but {path} has to go into it",
                    "Run: swupd repair, or make it a folder again. Nothing was changed.",
                )
    drop = {path for path in changes.drop if path in facts.kinds and not _below_link(path, facts)}
    for path, entry in put.items():
        if entry.kind != "D" and facts.kinds.get(path) == "D":
            check_foreign(entry, facts.below.get(path, frozenset()) - drop)
    return Plan(
        write=tuple(sorted(put.values(), key=lambda e: (e.name == paths.OS_RELEASE, paths.encode(e.name)))),
        remove=tuple(sorted(drop - put.keys(), key=paths.encode, reverse=True)),
    )


def _below_link(path: str, facts: Facts) -> bool:
    return any(facts.kinds.get(parent, "D") != "D" for parent in paths.parents(path))


def _missing_parent(parent: str, wanted: Mapping[str, Entry]) -> Entry:
    entry = wanted.get(parent)
    if entry is None or not entry.present or entry.kind != "D":
        raise ApplyError(
            f"the folder {parent} is missing, and no bundle ships it", f"Create it: mkdir {parent}, then run again."
        )
    return entry


def _check_folder(entry: Entry, path: str) -> None:
    if entry.kind != "D":
        raise ApplyError(
            f"the release has {entry.name} as no folder, and {path} in it",
            "The release is inconsistent; tell the publisher. Nothing was changed.",
        )


def check_foreign(entry: Entry, foreign: frozenset[str]) -> None:
    """Raises ApplyError where a folder that an entry replaces holds foreign paths."""
    if foreign:
        some = ", ".join(sorted(foreign)[:3])
        raise ApplyError(
            f"{entry.name} is to become a {'file' if entry.kind == 'F' else 'symlink'}, but the folder there holds "
            f"files that no bundle ships: {some}{' …' if len(foreign) > 3 else ''}",
            "Move them elsewhere, then run the command again. Nothing was changed.",
        )


def look_at(changes: Changes) -> tuple[str, ...]:
    """The paths whose state on disk settle needs, parents included, in byte order."""
    asked = {*changes.drop, *(e.name for e in changes.put)}
    asked |= paths.above(asked)
    return tuple(sorted(asked, key=paths.encode))


class Pack(NamedTuple):
    """A pack to ask for. from_version 0: the bundle whole."""

    bundle: str
    to_version: int
    from_version: int


def packs(new: Mapping[str, Manifest], old: Mapping[str, int], plan: Plan, share: float = 0.2) -> tuple[Pack, ...]:
    """The packs that pay for a plan: deltas for bundles that changed, zero packs where much of one is missing.

    new: manifests wanted. old: versions of the bundles that the device has.
    share: part of a bundle's objects that must be missing for its zero pack to pay.
    """
    needed = plan.digests
    chosen = []
    for name, found in sorted(new.items()):
        if old.get(name) == found.version or not any(e.digest in needed for e in found.entries if e.present):
            continue
        if name in old or _many(found, needed, share):
            chosen.append(Pack(name, found.version, old.get(name, 0)))
    return tuple(chosen)


def _many(found: Manifest, needed: frozenset[str], share: float) -> bool:
    objects = {e.digest for e in found.entries if e.present}
    return len(objects & needed) >= max(10, share * len(objects))


def touched(plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(systemd units, boot files) that a plan writes or removes."""
    names = [*(e.name for e in plan.write if e.kind != "D"), *plan.remove]
    units = {n.rsplit("/", 1)[1] for n in names if n.startswith(("/usr/lib/systemd/system/", "/lib/systemd/system/"))}
    units = {n for n in units if n.endswith((".service", ".socket", ".timer", ".target", ".mount", ".path"))}
    return tuple(sorted(units)), tuple(sorted(n for n in names if paths.is_boot(n)))
