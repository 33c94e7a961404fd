"""How long each object of a release is, stored and unpacked, and which releases the stream has. Values, no I/O.

`lengths` is named by hash in the header of the MoM, and names the list of the fullfiles by hash in its turn, which is
long and seldom needed:

    lengths<TAB>1
    files<TAB>SHA-256<TAB>bytes
    release<TAB>version<TAB>SHA-256 of its MoM<TAB>bytes
    object<TAB>name in the release's folder<TAB>bytes<TAB>bytes unpacked

The list of the fullfiles has the last kind of lines only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from swupd.errors import DocumentError
from swupd.stream import MAX_FILE, MAX_PACK, MAX_VERSION, is_digest

_FIRST = "lengths\t1"
_MAX_NAME = 512


@dataclass(frozen=True, slots=True)
class Length:
    """Bytes of an object as it is stored, and of what it unpacks to."""

    stored: int
    unpacked: int


@dataclass(frozen=True)
class Named:
    """An object by SHA-256 and bytes."""

    digest: str
    length: int


@dataclass(frozen=True)
class Lengths:
    """files: the list of the fullfiles. releases: MoMs of the releases before, by version. objects: by name."""

    files: Named
    releases: Mapping[int, Named] = field(default_factory=dict)
    objects: Mapping[str, Length] = field(default_factory=dict)


def serialize(lengths: Lengths) -> bytes:
    """The bytes of the list."""
    lines = [_FIRST, f"files\t{lengths.files.digest}\t{lengths.files.length}"]
    lines += [f"release\t{v}\t{mom.digest}\t{mom.length}" for v, mom in sorted(lengths.releases.items())]
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
    if lines[:1] != [[_FIRST.partition("\t")[0], "1"]] or len(lines) < 2 or lines[1][0] != "files":
        raise DocumentError("the list of lengths does not begin as one")
    files = _named(lines[1][1:])
    releases = {}
    rest = lines[2:]
    for words in rest:
        if words[0] == "release":
            version = _number(words[1] if len(words) == 4 else "", MAX_VERSION)
            releases[version] = _named(words[2:])
    return Lengths(files, releases, _objects(words for words in rest if words[0] != "release"))


def parse_files(data: bytes) -> Mapping[str, Length]:
    """Reads a list of objects alone. Raises DocumentError."""
    return _objects(_lines(data))


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


def _named(words: list[str]) -> Named:
    if len(words) != 2 or not is_digest(words[0]):
        raise DocumentError("the list of lengths names something by what is no hash")
    return Named(words[0], _number(words[1], MAX_FILE))


def _number(text: str, most: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > most:
        raise DocumentError(f"the list of lengths has {text[:40]!r} for a number")
    return int(text)
