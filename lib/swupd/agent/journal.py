"""What a change does, as text that survives a power cut: operations, their order, the journal's lines. No I/O.

A journal is read by the agent and, without Python, by recovery/swupd-recover, so it is made of lines and words:

    swupd-transaction 1 ID
    keep                               undo stays after the change
    actions WORD …                     what runs after it (agent.actions)
    area AREA/                         each file system that is changed: where it begins, ./ for the root
    KIND AREA/ NUMBER PATH WORD …      operations in their order
    sync
    end COUNT SHA256                   of the lines before this one

Paths are relative to the root; bytes that a shell could take amiss stand as \\0ooo, which `printf %b` understands.
Each operation has two objects in AREA/.swupd: new/NUMBER, before it is done, and old/NUMBER, while it can be undone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from swupd import paths
from swupd.errors import ApplyError
from swupd.values import Checked

_FIRST = "swupd-transaction 1 "
_WORDS = {"add": 0, "put": 0, "drop": 0, "swap": 2, "meta": 4, "xattr": 3, "sync": 0}
_UNSAFE = re.compile(rb"[^A-Za-z0-9/._+,@%=:~-]")
_LIBRARY = re.compile(r"/lib(32|64|x32)?/.*\.so(\.[^/]*)?$")
_CORE = re.compile(
    r"/(ld-[^/]*\.so[^/]*|lib(c|m|dl|rt|pthread|resolv|python3[^/]*)([.-][^/]*)?\.so[^/]*|python3[^/]*)$"
)


class _Op(NamedTuple):
    kind: str
    area: str = ""
    number: int = 0
    path: str = ""
    words: tuple[str, ...] = ()


class Op(Checked, _Op):
    """One step, which can be done twice without harm, and undone.

    add: new/N goes where nothing is. put: new/N replaces a file or link, of which old/N is a second name.
    drop: what is there becomes old/N. swap: new/N, of which the inode number is known, and what is there change
    places; then the latter becomes old/N. words: kind of the new object (F, L, D), its inode number.
    meta: a folder's mode and owner. words: new mode, new uid:gid, old mode, old uid:gid.
    xattr: one attribute of a folder. words: name, new value, old value; 0x and hex digits, "-" for none.
    sync: everything before is durable before anything after it is done.
    """

    __slots__ = ()

    def check(self) -> None:
        if len(self.words) != _WORDS.get(self.kind, -1) or self.number < 0 or not all(self.words):
            raise ValueError(f"operation {self.kind} {self.words}")
        if self.kind == "swap" and not (self.words[0] in {"F", "L", "D"} and self.words[1].isdecimal()):
            raise ValueError(f"swap {self.words}")
        if (self.kind == "sync") != (self.path == "") or (self.path and paths.problem(self.path)):
            raise ValueError(f"{self.kind} of {self.path!r}")
        if self.area and not self.path.startswith(self.area + "/"):
            raise ValueError(f"{self.path!r} is not in {self.area!r}")

    @property
    def new(self) -> str:
        """Where the new object waits, relative to the root like `path`."""
        return f"{self.area}/{paths.RESERVED}/new/{self.number}"

    @property
    def old(self) -> str:
        """Where the old one is kept."""
        return f"{self.area}/{paths.RESERVED}/old/{self.number}"


class _Journal(NamedTuple):
    id: str
    areas: tuple[str, ...]
    ops: tuple[Op, ...]
    keep: bool = False
    actions: tuple[str, ...] = ()


class Journal(Checked, _Journal):
    """A change. id: hex digits; areas: "" or the paths of mount points; actions: what runs after it."""

    __slots__ = ()

    def check(self) -> None:
        if not re.fullmatch("[0-9a-f]{8,64}", self.id):
            raise ValueError(f"id {self.id!r}")
        if "" not in self.areas or not {op.area for op in self.ops} <= set(self.areas):
            raise ValueError("an operation is in no known file system")
        if not all(re.fullmatch("[a-z]+", word) for word in self.actions):
            raise ValueError(f"actions {self.actions}")


def order(ops: Iterable[Op]) -> tuple[Op, ...]:
    """Operations in the order in which a tree that is caught between two of them works best.

    What is new, libraries, C library and interpreter, programs, configuration, boot files, loader entries, what tells
    the version; then, once that is durable, away with what is to go, children before parents.
    """
    ops = tuple(ops)
    first = sorted((op for op in ops if op.kind != "drop"), key=lambda op: (_rank(op), paths.encode(op.path)))
    drops = sorted((op for op in ops if op.kind == "drop"), key=lambda op: paths.encode(op.path), reverse=True)
    return (*first, *((Op("sync"),) if drops else ()), *drops)


def _rank(op: Op) -> int:
    if op.kind not in {"xattr", "meta"} and (paths.OS_RELEASE + "/").startswith(op.path + "/"):
        return 7
    if paths.is_boot(op.path):
        return 6 if "/loader/" in op.path else 5
    if paths.is_config(op.path):
        return 4
    if op.kind in {"add", "meta", "xattr"} or op.words[:1] == ("D",):
        return 0
    if _CORE.search(op.path):
        return 2
    return 1 if _LIBRARY.search(op.path) else 3


def escape(path: str) -> str:
    """A path, or any text, as one word."""
    return _UNSAFE.sub(lambda found: b"\\0%03o" % ord(found[0]), paths.encode(path)).decode("ascii")


def unescape(word: str) -> str:
    """Inverse of escape."""
    raw = re.sub(rb"\\0([0-7]{3})", lambda m: bytes([int(m[1], 8) & 255]), word.encode("ascii"))
    return paths.decode(raw)


def serialize(journal: Journal) -> bytes:
    """The journal's file."""
    lines = [f"{_FIRST}{journal.id}"]
    lines += ["keep"] if journal.keep else []
    lines += [" ".join(("actions", *journal.actions))] if journal.actions else []
    lines += [f"area {_area(area)}" for area in journal.areas]
    lines += [_line(op) for op in journal.ops]
    body = "".join(f"{line}\n" for line in lines).encode("ascii")
    return body + f"end {len(lines)} {hashlib.sha256(body).hexdigest()}\n".encode("ascii")


def _area(area: str) -> str:
    return escape(area[1:]) + "/" if area else "./"


def _line(op: Op) -> str:
    if op.kind == "sync":
        return "sync"
    return " ".join((op.kind, _area(op.area), str(op.number), escape(op.path[1:]), *map(escape, op.words)))


def parse(data: bytes) -> Journal:
    """Inverse of serialize. Raises ApplyError for what is torn, changed or no journal."""
    body, _, last = data.removesuffix(b"\n").rpartition(b"\n")
    body += b"\n"
    lines = body.splitlines()
    wanted = f"end {len(lines)} {hashlib.sha256(body).hexdigest()}".encode("ascii")
    if not data.endswith(b"\n") or last != wanted:
        raise ApplyError("the journal of an unfinished change is damaged", _HINT)
    try:
        return _parse([line.decode("ascii") for line in lines])
    except (ValueError, IndexError) as e:
        raise ApplyError(f"the journal of an unfinished change makes no sense: {e}", _HINT) from e


_HINT = f"Move the folder /{paths.RESERVED} of the tree away, then run: swupd repair"


def _parse(lines: list[str]) -> Journal:
    first, *rest = lines
    if not first.startswith(_FIRST):
        raise ValueError("its first line is unknown")
    keep = False
    actions: list[str] = []
    areas: list[str] = []
    ops: list[Op] = []
    for line in rest:
        kind, *words = line.split(" ")
        if kind == "keep":
            keep = True
        elif kind == "actions":
            actions += words
        elif kind == "area":
            areas.append(_parse_area(words[0]))
        elif kind == "sync":
            ops.append(Op("sync"))
        else:
            area, number, path, *more = words
            ops.append(Op(kind, _parse_area(area), int(number), "/" + unescape(path), tuple(map(unescape, more))))
    return Journal(first.removeprefix(_FIRST), tuple(areas), tuple(ops), keep, tuple(actions))


def _parse_area(word: str) -> str:
    return "" if word == "./" else "/" + unescape(word.removesuffix("/"))
