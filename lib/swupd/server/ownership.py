"""Packages and two root file systems -> what each bundle ships. Pure.

The image's own root file system says which paths are os-core's; the mega image, which holds everything, says what
they are. A bundle is the run-time closure of its packages. What no package owns (files made while the image was put
together) follows the owner of what it points to, else it belongs to os-core. Folders, which packages do not record,
follow what is in them.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from swupd import paths
from swupd.errors import InvalidFile
from swupd.manifest import OS_CORE
from swupd.tree import Node

_MAX_LINKS = 40


@dataclass(frozen=True)
class Package:
    """An installed package. files: absolute paths. needs: names of installed packages that it depends on."""

    name: str
    files: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Image:
    """What a root file system says of itself.

    digests: by path. links: targets by path. users, groups: numbers by name, from its passwd and group.
    """

    digests: Mapping[str, str]
    links: Mapping[str, str]
    users: Mapping[str, int]
    groups: Mapping[str, int]

    @property
    def ids(self) -> tuple[frozenset[int], frozenset[int]]:
        """User and group numbers that it knows; 0 always."""
        return frozenset({0, *self.users.values()}), frozenset({0, *self.groups.values()})


@dataclass(frozen=True)
class Difference:
    """A path of os-core that is not the same in the image's own root file system and in the mega image."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path} of os-core {self.what}"


def closure(packages: Mapping[str, Package], wanted: Iterable[str], bundle: str) -> frozenset[str]:
    """Names of packages and of all that they need. Raises InvalidFile for one that is not installed."""
    found: set[str] = set()
    todo = list(wanted)
    while todo:
        name = todo.pop()
        if name not in packages:
            raise InvalidFile(
                f"bundle {bundle} names the package {name}, which is not in the image with everything",
                f"Correct BUNDLE_CONTENTS[{bundle}].",
            )
        if name not in found:
            found.add(name)
            todo += packages[name].needs & packages.keys()
    return frozenset(found)


def split(
    nodes: Mapping[str, Node],
    core: Iterable[str],
    packages: Mapping[str, Package],
    bundles: Mapping[str, Sequence[str]],
) -> dict[str, frozenset[str]]:
    """The paths of os-core and of each bundle; a path may be in several, and each is in at least one.

    nodes: the mega image by path. core: paths of the image's own root file system. bundles: packages of each.
    """
    owners = _owners(nodes, packages)
    in_core = frozenset(core) & nodes.keys()
    shipped: dict[str, frozenset[str]] = {}
    for bundle, wanted in bundles.items():
        names = closure(packages, wanted, bundle)
        shipped[bundle] = frozenset(p for p, by in owners.items() if by & names)
    rest = nodes.keys() - in_core - frozenset().union(*shipped.values())
    below = _bundles_below(shipped)
    followed = {path: _followed(path, nodes, shipped, below) for path in rest}
    for bundle, own in shipped.items():
        shipped[bundle] = own | {path for path, by in followed.items() if bundle in by}
    unowned = {path for path, by in followed.items() if not by}
    return {OS_CORE: in_core | unowned, **shipped}


def _owners(nodes: Mapping[str, Node], packages: Mapping[str, Package]) -> dict[str, frozenset[str]]:
    """Packages by the real paths of their files: packages may still speak of /lib where that is a link."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    real: dict[str, str] = {}
    for package in packages.values():
        for path in package.files:
            folder, name = posixpath.split(path)
            if folder not in real:
                real[folder] = resolve(folder, nodes)
            place = posixpath.join(real[folder], name)
            if place in nodes:
                found[place].add(package.name)
    return {path: frozenset(names) for path, names in found.items()}


def resolve(path: str, nodes: Mapping[str, Node]) -> str:
    """Where a path leads inside a tree, links followed as far as they are in it."""
    for _ in range(_MAX_LINKS):
        at, rest = "", [part for part in path.split("/") if part]
        while rest:
            part = rest.pop(0)
            at = posixpath.normpath(f"{at}/{part}")
            node = nodes.get(at)
            if node is not None and node.kind == "L":
                path = posixpath.join(posixpath.dirname(at), node.target, *rest)
                break
        else:
            return at or "/"
    return path


def _bundles_below(shipped: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """For each folder the bundles that ship something below it."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for bundle, own in shipped.items():
        for path in own:
            for folder in paths.parents(path):
                found[folder].add(bundle)
    return {folder: frozenset(names) for folder, names in found.items()}


def _followed(
    path: str,
    nodes: Mapping[str, Node],
    shipped: Mapping[str, frozenset[str]],
    below: Mapping[str, frozenset[str]],
) -> frozenset[str]:
    """The bundles of what no package owns: of a link those of its target, of a folder those that fill it.

    An empty folder goes with the nearest folder above that some bundle fills; a file belongs to none.
    """
    kind = nodes[path].kind
    if kind == "L":
        target = resolve(path, nodes)
        return frozenset(bundle for bundle, own in shipped.items() if target in own)
    if kind == "F":
        return frozenset()
    around = (path, *reversed(tuple(paths.parents(path))))
    return next((below[folder] for folder in around if folder in below), frozenset(shipped))


def differences(core: Image, mega: Image, nodes: Mapping[str, Node], who: Mapping[str, str]) -> tuple[Difference, ...]:
    """Paths of the image that the mega image lacks or has otherwise.

    nodes: the mega image by path. who: words for the packages and bundles that bring a path, where some bundle does.
    """
    found = []
    for path in sorted(core.digests, key=paths.encode):
        if path not in mega.digests:
            found.append(Difference(path, "is missing in the image with all bundles"))
        elif core.digests[path] != mega.digests[path]:
            found.append(Difference(path, _what(path, core, mega, nodes, who)))
    return tuple(found)


def _what(path: str, core: Image, mega: Image, nodes: Mapping[str, Node], who: Mapping[str, str]) -> str:
    if path in core.links and path in mega.links:
        by = who.get(resolve(path, nodes), "")
        return f"is a link to {core.links[path]}, but to {mega.links[path]} with all bundles{f' ({by})' if by else ''}"
    for place, kind, had, has in (
        ("/etc/passwd", "users", core.users, mega.users),
        ("/etc/group", "groups", core.groups, mega.groups),
    ):
        added = sorted(has.keys() - had.keys())
        if path == place and added:
            return f"lacks the {kind} {', '.join(added)}, which bundles add: add them in the image itself"
    by = who.get(path, "")
    return f"is different in the image with all bundles{f' ({by})' if by else ''}"


def bringers(packages: Mapping[str, Package], bundles: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """For each path of a package that a bundle has: "package x, bundle y"."""
    having: defaultdict[str, set[str]] = defaultdict(set)
    for bundle, wanted in bundles.items():
        for name in closure(packages, wanted, bundle):
            having[name].add(bundle)
    return {
        path: f"package {name}, bundle {', '.join(sorted(having[name]))}"
        for name in sorted(having)
        for path in packages[name].files
    }
