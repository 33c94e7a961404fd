"""A staging folder in memory, and changes of small trees put in place from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from swupd import hashing, tree
from swupd.agent import apply as engine
from swupd.agent import plan, survey
from swupd.agent.objects import XattrRule
from swupd.agent.plan import Changes, Plan
from swupd.agent.preparation import How
from swupd.agent.report import Steps, Text
from swupd.manifest import Entry
from swupd.tree import Node, Root


class Objects:
    """A staging folder in memory; the object number `fails` cannot be read."""

    def __init__(self, fails: int = 0, error: Exception | None = None) -> None:
        self.nodes: dict[str, Node] = {}
        self.contents: dict[str, bytes] = {}
        self.left = fails
        self.error = error

    def add(self, root: Path) -> dict[str, Entry]:
        """Takes all that is in a tree; gives its entries."""
        found = {}
        with Root(root) as opened:
            for node in tree.scan(opened):
                content = b"".join(opened.chunks(node)) if node.kind == "F" else b""
                digest = hashing.digest(node, [content])
                self.nodes[digest], self.contents[digest] = node, content
                found[node.path] = Entry(node.kind, digest, 20, node.path)
        return found

    def node(self, digest: str) -> Node | None:
        return self.nodes.get(digest)

    def link(self, digest: str, folder: int, name: bytes) -> bool:
        return False

    def untouched(self, digest: str) -> bool:
        """Hashed anew in any case."""
        return False

    def settle(self) -> None:
        """Nothing is under way."""

    def content(self, digest: str) -> Iterator[bytes]:
        self.left -= 1
        data = self.contents[digest]
        yield data[: len(data) // 2]
        if self.left == 0 and self.error:
            raise self.error
        yield data[len(data) // 2 :]


def quiet() -> Steps:
    with open(os.devnull, "w") as nowhere:
        return Steps(Text(nowhere, nowhere, 0, False), ())


def settled(root: Root, put: dict[str, Entry], drop: set[str], rule: XattrRule = XattrRule.HASHED) -> Plan:
    """The plan of some changes of a tree."""
    changes = Changes(tuple(put.values()), tuple(drop))
    return plan.settle(changes, survey.observe(root, changes, rule, quiet())[0], put)


def put_in_place(
    device: Path, objects: Objects, put: dict[str, Entry], drop: set[str], how: How, rule: XattrRule
) -> engine.Outcome:
    """Settles and applies, as every command does; the change is not ended."""
    with Root(device) as root:
        return engine.apply(settled(root, put, drop, rule), objects, root, rule, lambda *_: None, how)
