"""How long the objects of a release are, stored and unpacked, and which releases the stream has. Values, no I/O.

`<v>/lengths` is named by hash in the header of the MoM. It has a line for each pack and manifest that a device may ask
for; those of the single files are in lists of their own, one for each release, which it names by hash:

    lengths<TAB>1
    release<TAB>version<TAB>SHA-256 of its MoM<TAB>bytes
    files<TAB>version<TAB>SHA-256 of the list of its fullfiles<TAB>bytes
    object<TAB>name<TAB>bytes<TAB>bytes unpacked

A list of fullfiles has lines of the last kind only, with names below files/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from swupd.errors import DocumentError
from swupd.stream import MAX_FILE, MAX_PACK, MAX_VERSION, is_digest

_FIRST = "lengths\t1"
_MAX_NAME = 512


class Length(NamedTuple):
    """Bytes of an object as it is stored, and of what it unpacks to."""

    stored: int
    unpacked: int


class Named(NamedTuple):
    """An object by SHA-256 and bytes."""

    digest: str
    length: int

    def __str__(self) -> str:
        return f"{self.digest} {self.length}"


class Lengths(NamedTuple):
    """releases: MoMs of the releases before, by version. files: lists of fullfiles, by version. objects: by name."""

    releases: Mapping[int, Named] = MappingProxyType({})
    files: Mapping[int, Named] = MappingProxyType({})
    objects: Mapping[str, Length] = MappingProxyType({})


def serialize(lengths: Lengths) -> bytes:
    """The bytes of the list."""
    lines = [_FIRST]
    for kind, named in (("release", lengths.releases), ("files", lengths.files)):
        lines += [f"{kind}\t{v}\t{n.digest}\t{n.length}" for v, n in sorted(named.items())]
    return "\n".join((*lines, "")).encode("ascii") + serialize_files(lengths.objects)


def serialize_files(objects: Mapping[str, Length]) -> bytes:
    """The bytes of a list of objects alone."""
    return b"".join(
        f"object\t{name}\t{length.stored}\t{length.unpacked}\n".encode("ascii")
        for name, length in sorted(objects.items())
    )


def parse(data: bytes) -> Lengths:
    """Reads the list, whose hash was found right. Raises DocumentError."""
    lines = _lines(data)
    if lines[:1] != [_FIRST.split("\t")]:
        raise DocumentError("the list of lengths does not begin as one")
    named: dict[str, dict[int, Named]] = {"release": {}, "files": {}}
    for words in lines[1:]:
        if words[0] in named:
            version, value = _named(words[1:])
            if version in named[words[0]]:
                raise DocumentError(f"the list of lengths has version {version} twice")
            named[words[0]][version] = value
    return Lengths(named["release"], named["files"], _objects(w for w in lines[1:] if w[0] not in named))


def parse_files(data: bytes) -> Mapping[str, Length]:
    """Reads a list of objects alone. Raises DocumentError."""
    return _objects(_lines(data))


def parse_named(text: str) -> Named:
    """The value of the MoM's header key. Raises DocumentError."""
    return _named(["1", *text.split(" ")])[1]


def _lines(data: bytes) -> list[list[str]]:
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as e:
        raise DocumentError("the list of lengths is no text") from e
    if text and not text.endswith("\n"):
        raise DocumentError("the list of lengths is cut off")
    return [line.split("\t") for line in text.split("\n")[:-1]]


def _objects(lines: Iterable[list[str]]) -> dict[str, Length]:
    found: dict[str, Length] = {}
    for words in lines:
        if len(words) != 4 or words[0] != "object" or not 0 < len(words[1]) <= _MAX_NAME or words[1] in found:
            raise DocumentError(f"the list of lengths has a malformed line {chr(9).join(words)[:80]!r}")
        found[words[1]] = Length(_number(words[2], MAX_PACK), _number(words[3], MAX_PACK))
    return found


def _named(words: list[str]) -> tuple[int, Named]:
    if len(words) != 3 or not is_digest(words[1]):
        raise DocumentError("the list of lengths names something by what is no hash")
    return _number(words[0], MAX_VERSION), Named(words[1], _number(words[2], MAX_FILE))


def _number(text: str, most: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > most:
        raise DocumentError(f"the list of lengths has {text[:40]!r} for a number")
    return int(text)
