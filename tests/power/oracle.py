"""Judges what a cut left behind. Pure: what was seen goes in, sentences about violated promises come out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Tree = Mapping[str, str]
"""Each path's kind, metadata, attributes and content, as one line."""
_CAUSE = re.compile(
    r"no space|full|room|space|quota|input/output|i/o error|read-only|disk|permission|cannot write|refused", re.I
)

_MAY_BE_SPENT = frozenset({".swupd/spare", "usr/.swupd/spare"})
"""What a run may use up that had no room."""
LEFTOVERS = "leftovers:"
"""In a sentence about what is too much or too little in the agent's own folders, while the tree is right."""


@dataclass(frozen=True)
class Seen:
    """A device as it was found.

    tree: without the agent's own folders. version: what `swupd info` says, None where it says nothing.
    pending: whether info says that a change is not finished. state: names in the agent's state folder.
    reserved: names in the agent's folders at the tops of file systems, kept objects left out.
    """

    tree: Tree
    version: int | None
    pending: bool
    state: frozenset[str] = frozenset()
    reserved: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Promise:
    """What a command is to do. old, new: trees; user: paths of the user's own, the same in both.

    versions: those of old and new. atomic: whether /usr may never be seen between the two.
    """

    old: Tree
    new: Tree
    versions: tuple[int | None, int | None]
    user: frozenset[str] = frozenset()
    atomic: bool = False


def difference(found: Tree, wanted: Tree, limit: int = 3) -> str:
    """The first paths in which two trees differ."""
    wrong = sorted(p for p in {*found, *wanted} if found.get(p) != wanted.get(p))
    some = [f"{p!r}: is {found.get(p, 'missing')}, not {wanted.get(p, 'there')}" for p in wrong[:limit]]
    return f"{len(wrong)} paths: " + "; ".join(some)


def which(tree: Tree, promise: Promise, top: str = "") -> str:
    """Whether a tree, or the part below a folder, is the old or the new one; "mixed" for neither."""
    if top:
        part = {p: line for p, line in tree.items() if p.startswith(top)}
        old = {p: line for p, line in promise.old.items() if p.startswith(top)}
        new = {p: line for p, line in promise.new.items() if p.startswith(top)}
    else:
        part, old, new = dict(tree), dict(promise.old), dict(promise.new)
    return "old" if part == old else "new" if part == new else "mixed"


def after_cut(seen: Seen, promise: Promise) -> list[str]:
    """Violations right after a cut, before anything ran but `info`."""
    found = which(seen.tree, promise)
    wrong = []
    if found == "mixed" and not seen.pending and seen.version is not None:
        nearer = promise.new if seen.version == promise.versions[1] else promise.old
        wrong.append(f"a mixed tree is reported as complete version {seen.version}: {difference(seen.tree, nearer)}")
    expected = {"old": promise.versions[0], "new": promise.versions[1]}
    if found in expected and promise.old != promise.new and not seen.pending and seen.version != expected[found]:
        wrong.append(f"the {found} tree is reported as version {seen.version}")
    if promise.atomic and which(seen.tree, promise, "/usr/") == "mixed":
        wrong.append(f"/usr is between old and new: {_nearest(seen.tree, promise, '/usr/')}")
    # An initramfs without an atomic exchange moves /usr away, and the other one there: nothing runs in between.
    away = seen.pending and not promise.atomic and "/usr" in promise.old and "/usr" not in seen.tree
    return wrong if away else wrong + _user_files(seen, promise)


def after_helper(seen: Seen, promise: Promise, code: int | None) -> list[str]:
    """Violations after the shell helper ran alone."""
    wrong = [] if code == 0 else [f"the helper ended with {code}"]
    if seen.pending:
        wrong.append("something is pending after the helper")
    elif which(seen.tree, promise) == "mixed":
        wrong.append(f"the helper left a mixed tree: {_nearest(seen.tree, promise)}")
    return wrong + after_cut(seen, promise)[:1] * (not wrong) + _user_files(seen, promise)


def after_recovery(
    seen: Seen, promise: Promise, code: int | None, accepted: Iterable[int], undisturbed: Seen
) -> list[str]:
    """Violations after the command was run again. undisturbed: what a run that nobody cut leaves."""
    wrong = [] if code in set(accepted) else [f"the command, run again, ended with {code}"]
    if seen.pending:
        wrong.append("something is still pending")
    if dict(seen.tree) != dict(promise.new):
        wrong.append(f"the tree is not the new one: {difference(seen.tree, promise.new)}")
    if seen.version != promise.versions[1]:
        wrong.append(f"version {seen.version} is reported")
    for name, found, wanted in (
        ("state", seen.state, undisturbed.state),
        ("recovery", seen.reserved, undisturbed.reserved),
    ):
        more, less = ([n[-40:] for n in sorted(names)] for names in (found - wanted, wanted - found - _MAY_BE_SPENT))
        if more or less:
            wrong.append(f"{LEFTOVERS} the {name} folder has {more[:2]} ({len(more)}) too many and lacks {less[:5]}")
    return wrong + _user_files(seen, promise)


def after_error(seen: Seen, promise: Promise, code: int | None, said: str) -> list[str]:
    """Violations after a run in which a call failed."""
    found = which(seen.tree, promise)
    wrong = after_cut(seen, promise)
    # Where old and new are the same (confirm), both are.
    if code == 0 and (dict(seen.tree) != dict(promise.new) or seen.pending):
        wrong.append(f"it ended with 0, but the tree is {found}: {difference(seen.tree, promise.new)}")
    if code != 0 and not _CAUSE.search(said):
        wrong.append(f"the message does not name the cause: {said.strip()[-200:]!r}")
    if "Traceback" in said:
        wrong.append(f"a traceback: {said.strip()[-300:]!r}")
    return wrong


def _nearest(tree: Tree, promise: Promise, top: str = "") -> str:
    part = {p: line for p, line in tree.items() if p.startswith(top)}
    texts = []
    for name, whole in (("old", promise.old), ("new", promise.new)):
        wanted = {p: line for p, line in whole.items() if p.startswith(top)}
        texts.append(f"from {name} {difference(part, wanted, 2)}")
    return " | ".join(texts)


def _user_files(seen: Seen, promise: Promise) -> list[str]:
    lost = sorted(p for p in promise.user if seen.tree.get(p) != promise.old.get(p))
    return [f"{len(lost)} of the user's files changed: {lost[:3]}"] if lost else []
