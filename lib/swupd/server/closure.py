"""Whether each bundle is self-contained: libraries, interpreters, link targets, users and groups. Pure.

A bundle may count on itself, on what it includes and on os-core.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from swupd.manifest import OS_CORE
from swupd.server import ownership
from swupd.tree import Node


@dataclass(frozen=True)
class Needs:
    """What a file needs to work. libraries: SONAMEs. interpreter: absolute path, "" for none."""

    libraries: frozenset[str] = frozenset()
    interpreter: str = ""


@dataclass(frozen=True)
class Finding:
    """Something that a bundle lacks. kind: library, interpreter, link, owner. packages: who has it."""

    bundle: str
    path: str
    kind: str
    missing: str
    packages: tuple[str, ...] = ()

    def __str__(self) -> str:
        by = f" (it is in {', '.join(self.packages)})" if self.packages else ""
        if self.kind == "owner":
            return f"bundle {self.bundle}: {self.path} belongs to {self.missing}, whom os-core does not know{by}"
        word = "link target" if self.kind == "link" else self.kind
        return f"bundle {self.bundle}: {self.path} needs the {word} {self.missing}, which is not in it{by}"


def check(
    nodes: Mapping[str, Node],
    shipped: Mapping[str, frozenset[str]],
    includes: Mapping[str, frozenset[str]],
    needs: Mapping[str, Needs],
    ids: tuple[frozenset[int], frozenset[int]],
    packages: Mapping[str, frozenset[str]],
) -> tuple[Finding, ...]:
    """All findings, by bundle and path.

    shipped: paths of each bundle. includes: all bundles that one counts on besides os-core. needs: of files, by path.
    ids: user and group numbers that os-core's passwd and group know. packages: names by path, for the messages.
    """
    found: list[Finding] = []
    for bundle, own in sorted(shipped.items()):
        around = shipped[OS_CORE] if bundle != OS_CORE else frozenset[str]()
        around = around.union(*(shipped[other] for other in includes.get(bundle, frozenset()) - {bundle}))
        visible = own | around
        names = frozenset(posixpath.basename(path) for path in visible)
        for path in sorted(own - around):
            found += _of_path(bundle, nodes[path], nodes, visible, names, needs.get(path), ids, packages)
    return tuple(found)


def _of_path(
    bundle: str,
    node: Node,
    nodes: Mapping[str, Node],
    visible: frozenset[str],
    names: frozenset[str],
    needs: Needs | None,
    ids: tuple[frozenset[int], frozenset[int]],
    packages: Mapping[str, frozenset[str]],
) -> Iterable[Finding]:
    if needs is not None:
        for library in sorted(needs.libraries - names):
            yield Finding(bundle, node.path, "library", library, _having(library, packages))
        place = ownership.resolve(needs.interpreter, nodes) if needs.interpreter else ""
        if place and place not in visible:
            yield Finding(bundle, node.path, "interpreter", needs.interpreter, tuple(sorted(packages.get(place, ()))))
    if node.kind == "L":
        target = ownership.resolve(node.path, nodes)
        if target in nodes and target not in visible:
            yield Finding(bundle, node.path, "link", target, tuple(sorted(packages.get(target, ()))))
    for what, number, known in (("user", node.uid, ids[0]), ("group", node.gid, ids[1])):
        if number not in known:
            yield Finding(bundle, node.path, "owner", f"{what} {number}")


def _having(library: str, packages: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    return tuple(sorted({n for path, by in packages.items() if posixpath.basename(path) == library for n in by}))
