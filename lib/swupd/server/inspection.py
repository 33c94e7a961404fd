"""Reads out of an image's files what the split and its checks need: libraries, interpreters, users and groups."""

from __future__ import annotations

import io
import json
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from swupd import hashing
from swupd.errors import InvalidFile
from swupd.server import rootfs
from swupd.server.closure import Needs
from swupd.server.ownership import Image, Package
from swupd.server.rootfs import Tree

_MAX_SHEBANG = 256


def needs(source: Tree) -> dict[str, Needs]:
    """What programs, libraries and scripts need, by path. Raises FolderError."""
    found = {}
    for path, node in source.nodes.items():
        if node.kind == "F" and node.size > 4:
            start = rootfs.beginning(source.root, node, _MAX_SHEBANG)
            if start.startswith(b"\x7fELF"):
                found[path] = _of_elf(rootfs.content(source.root, node))
            elif start.startswith(b"#!") and node.mode & 0o111:
                found[path] = Needs(interpreter=_interpreter(start))
    return {path: need for path, need in found.items() if need != Needs()}


def _interpreter(start: bytes) -> str:
    words = start[2:].split(b"\n", 1)[0].split()
    if not words or not words[0].startswith(b"/"):
        return ""
    return words[0].decode("utf-8", "surrogateescape")


def _of_elf(data: bytes) -> Needs:
    try:
        elf = ELFFile(io.BytesIO(data))
        libraries = frozenset(
            str(getattr(tag, "needed", ""))
            for section in elf.iter_sections()
            if isinstance(section, DynamicSection)
            for tag in section.iter_tags("DT_NEEDED")
        )
        loaders = [s.get_interp_name() for s in elf.iter_segments("PT_INTERP") if isinstance(s, InterpSegment)]
    except (ELFError, ValueError, KeyError, IndexError, UnicodeDecodeError):
        # Not what it looks like: firmware for another processor, a truncated test file.
        return Needs()
    return Needs(libraries, loaders[0] if loaders else "")


def image(source: Tree) -> Image:
    """What the checks compare of a root file system. Raises FolderError."""
    return Image(
        digests={p: hashing.digest(n, [rootfs.content(source.root, n)]) for p, n in source.nodes.items()},
        links={p: n.target for p, n in source.nodes.items() if n.kind == "L"},
        users=_numbers(source, "/etc/passwd"),
        groups=_numbers(source, "/etc/group"),
    )


def _numbers(source: Tree, path: str) -> dict[str, int]:
    node = source.nodes.get(path)
    text = rootfs.content(source.root, node).decode("utf-8", "replace") if node is not None else ""
    fields = (line.split(":") for line in text.splitlines())
    return {f[0]: int(f[2]) for f in fields if len(f) > 2 and f[2].isascii() and f[2].isdigit()}


def packages(data: bytes, source: str) -> dict[str, Package]:
    """Reads {package: {"files": [path, ...], "needs": [package, ...]}}. Raises InvalidFile."""
    try:
        found = json.loads(data)
        return {
            str(name): Package(str(name), frozenset(map(str, p["files"])), frozenset(map(str, p["needs"])))
            for name, p in found.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise InvalidFile(f"{source} is no list of packages: {e}", "Let the image class write it.") from e


def listing(data: bytes, source: str) -> Image:
    """Reads what `swupd-server list` wrote: an Image's fields. Raises InvalidFile."""
    try:
        found = json.loads(data)
        digests, links = ({str(k): str(v) for k, v in found[name].items()} for name in ("digests", "links"))
        users, groups = ({str(k): int(v) for k, v in found[name].items()} for name in ("users", "groups"))
        return Image(digests, links, users, groups)
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise InvalidFile(f"{source} is no listing: {e!r}", "Make it with: swupd-server list") from e


def write_json(place: Path, value: object) -> None:
    """Writes a file for the next step of the build. Raises InvalidFile."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True) + "\n")
    except OSError as e:
        raise InvalidFile(f"cannot write {place}: {e.strerror}", "Check the disk and the permissions.") from e
