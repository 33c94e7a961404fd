"""Who owns each path: content lists, the includes between bundles, and the split of a tree among them."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from swupd import paths, stream
from swupd.errors import InvalidFile, InvalidOption
from swupd.manifest import OS_CORE
from swupd.tree import Node, file_node, folder_node


@dataclass(frozen=True)
class BundleSpec:
    """A bundle as the integrator defines it.

    paths: absolute, in the order of the list; folders above them need not be listed.
    includes: bundles that a device installs with it; os-core is one of them without being named.
    also_add: bundles that a device installs with it unless told not to.
    source: the file with the list, "" if there is none. lines: the line of each path in it.
    """

    name: str
    paths: tuple[str, ...] = ()
    includes: tuple[str, ...] = ()
    also_add: tuple[str, ...] = ()
    source: str = ""
    lines: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not stream.is_bundle_name(self.name):
            raise InvalidOption(
                f"{self.name[:80]!r} cannot be the name of a bundle",
                "Use letters, digits and _ @ + . - (not at the start), but neither MoM nor full.",
            )

    @property
    def header_includes(self) -> tuple[str, ...]:
        """The includes as the manifest lists them: os-core first (stream format, 2.2)."""
        if self.name == OS_CORE:
            return ()
        return tuple(dict.fromkeys((OS_CORE, *self.includes)))

    def place(self, index: int) -> str:
        """Where the integrator finds the path of an index."""
        if index < len(self.lines):
            return f"{self.source}, line {self.lines[index]}"
        return f"the content of {self.name}"


def tracking_file(bundle: str) -> str:
    """The file whose presence tells a device that a bundle is installed (stream format, 1.6)."""
    return f"{paths.BUNDLES}/{bundle}"


def parse(name: str, data: bytes, source: str) -> BundleSpec:
    """Reads a content list: one absolute path a line; empty lines and "/" are skipped. Raises InvalidFile."""
    found = []
    for number, line in enumerate(paths.decode(data).split("\n"), 1):
        if line in {"", "/"}:
            continue
        if (why := paths.problem(line)) is not None:
            raise InvalidFile(
                f"{source}, line {number}: {line[:200]!r} cannot be shipped: {why}", "Correct the content list."
            )
        found.append((line, number))
    return BundleSpec(name, tuple(p for p, _ in found), source=source, lines=tuple(n for _, n in found))


def check(specs: Sequence[BundleSpec]) -> None:
    """Raises InvalidOption unless the bundles fit together: os-core, no doubles, no unknown names, no cycles."""
    names = [spec.name for spec in specs]
    if OS_CORE not in names:
        raise InvalidOption("there is no bundle os-core", "Give its files with: --content os-core=FILE")
    for name in names:
        if names.count(name) > 1:
            raise InvalidOption(f"the bundle {name} is defined twice", "Put its files into one list.")
    for spec in specs:
        for other in (*spec.includes, *spec.also_add):
            if other not in names:
                raise InvalidOption(
                    f"the bundle {spec.name} wants {other}, which does not exist", f"Give --content {other}=FILE."
                )
    includes = {spec.name: spec.includes for spec in specs}
    sound: set[str] = set()
    for name in names:
        _refuse_cycle(name, includes, (), sound)


def _refuse_cycle(name: str, includes: Mapping[str, Sequence[str]], way: tuple[str, ...], sound: set[str]) -> None:
    """sound: bundles from which no way leads to a cycle; each is looked at once, however many include it."""
    if name in way:
        circle = " -> ".join((*way[way.index(name) :], name))
        raise InvalidOption(f"bundles include each other: {circle}", "Take one of these includes away.")
    if name in sound:
        return
    implied = () if name == OS_CORE else (OS_CORE,)
    for other in (*implied, *includes[name]):
        _refuse_cycle(other, includes, (*way, name), sound)
    sound.add(name)


def closures(specs: Sequence[BundleSpec]) -> dict[str, frozenset[str]]:
    """All bundles that each bundle includes, directly or not; the bundle itself is not among them."""
    includes = {spec.name: spec.header_includes for spec in specs}
    return {name: frozenset(_reachable(includes, name)) for name in includes}


def _reachable(includes: Mapping[str, Sequence[str]], name: str) -> set[str]:
    found: set[str] = set()
    waiting = list(includes[name])
    while waiting:
        at = waiting.pop()
        if at not in found:
            found.add(at)
            waiting += includes.get(at, ())
    return found


def split(
    nodes: Mapping[str, Node], specs: Sequence[BundleSpec], left_out: AbstractSet[str] = frozenset()
) -> dict[str, tuple[Node, ...]]:
    """What each bundle ships, by path: its list, the folders above, its tracking file; minus its includes.

    nodes: the tree, by path. left_out: paths of the tree that are not shipped, and not missed when listed.
    Raises InvalidFile for a path that the tree lacks. Rule: stream format, 7.3 (mixer's).
    """
    known = with_tracking_files(nodes, specs)
    tracking = {tracking_file(spec.name) for spec in specs}
    lists = {spec.name: _listed(spec, known, tracking, left_out) for spec in specs}
    closure = closures(specs)
    return {
        spec.name: tuple(known[path] for path in _remaining(spec.name, lists, closure[spec.name], known))
        for spec in specs
    }


def with_tracking_files(nodes: Mapping[str, Node], specs: Iterable[BundleSpec]) -> dict[str, Node]:
    """The tree with the tracking files (and folders above) that it lacks: empty, 0644, root's."""
    known = dict(nodes)
    for spec in specs:
        path = tracking_file(spec.name)
        for folder in paths.parents(path):
            _refuse_other_kind(known.setdefault(folder, folder_node(folder)), "D", "a folder")
        _refuse_other_kind(known.setdefault(path, file_node(path, 0o644, 0)), "F", "a regular file")
    return known


def _refuse_other_kind(node: Node, kind: str, what: str) -> None:
    if node.kind != kind:
        raise InvalidFile(
            f"{node.path} of the root file system must be {what}", "Devices keep the list of installed bundles there."
        )


def _listed(
    spec: BundleSpec, known: Mapping[str, Node], tracking: AbstractSet[str], left_out: AbstractSet[str]
) -> set[str]:
    found = {tracking_file(spec.name)}
    for index, path in enumerate(spec.paths):
        if path in known:
            found.add(path)
        elif path not in left_out:
            raise _missing(spec, index, known)
    # A tracking file in another bundle would make a device believe that both are installed.
    found -= tracking - {tracking_file(spec.name)}
    return found | paths.above(found)


def _missing(spec: BundleSpec, index: int, known: Mapping[str, Node]) -> InvalidFile:
    path, place = spec.paths[index], spec.place(index)
    for folder in paths.parents(path):
        node = known.get(folder)
        if node is not None and node.kind == "L":
            real = posixpath.normpath(posixpath.join(posixpath.dirname(folder), node.target)) + path[len(folder) :]
            return InvalidFile(f"{place}: {path} lies below the symlink {folder}", f"List {real} instead.")
    return InvalidFile(
        f"{place}: {path} is not in the root file system", "Correct the content list, or build the file."
    )


def _remaining(
    name: str, lists: Mapping[str, AbstractSet[str]], closure: frozenset[str], known: Mapping[str, Node]
) -> Iterator[str]:
    included = set().union(*(lists[other] for other in closure))
    own = {path for path in lists[name] if known[path].kind != "D" and path not in included}
    needed = paths.above(own)
    core = lists[OS_CORE] if name != OS_CORE else frozenset()
    for path in sorted(lists[name], key=paths.encode):
        folder_stays = path not in core and (path not in included or path in needed)
        if path in own or (known[path].kind == "D" and folder_stays):
            yield path
