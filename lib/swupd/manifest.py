"""What a release is: manifests as values, and their text form (stream format, section 2)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from swupd import paths
from swupd.errors import ManifestError
from swupd.values import Checked

MOM = "MoM"
FULL = "full"
OS_CORE = "os-core"
ZERO = "0" * 64
MAX_LINE = 8192
_PIECE = 65536
"""Bytes of a manifest that are text at a time."""

_HEX = "0123456789abcdef"
_USUAL = frozenset({"F...", "D...", "L...", "M...", ".d..", ".g.."})
_FLAGS = re.compile(r"[!-~]{4}")


class _Entry(NamedTuple):
    kind: str
    digest: str
    version: int
    name: str
    status: str = "."
    modifier: str = "."
    misc: str = "."


class Entry(Checked, _Entry):
    """One line of a manifest.

    kind: F file, D folder, L symlink, M manifest, "." none (deleted entries); other letters are foreign.
    status: "." present, d deleted, g ghosted, e experimental bundle.
    modifier: "." or an optimisation code; C, s and b of old servers mean ".".
    misc: "." or r rename pair, x exported, m mixed.
    digest: 64 lower-case hex digits; 64 zeros for deleted entries.
    version: the release in which this entry last changed, greater than 0.
    name: an absolute path; for kind M a bundle's name.
    """

    __slots__ = ()

    def check(self) -> None:
        flags = self.kind + self.status + self.modifier + self.misc
        if flags not in _USUAL and (len(flags) != 4 or not _FLAGS.fullmatch(flags)):
            raise ManifestError(f"entry flags {flags!r} are not four characters")
        if type(self.version) is not int or not 0 < self.version < 2**31:
            raise ManifestError(f"entry version {self.version!r} is out of range")
        if len(self.digest) != 64 or self.digest.strip(_HEX):
            raise ManifestError(f"{self.digest[:80]!r} is not a hash")
        if self.kind in "MI":
            if not self.name or "/" in self.name or self.name.startswith(".") or not self.name.isprintable():
                raise ManifestError(f"{self.name[:80]!r} is not a bundle name")
        elif (why := paths.problem(self.name)) is not None:
            raise ManifestError(f"the path {self.name[:200]!r} is not allowed: {why}")

    @property
    def flags(self) -> str:
        """The four flag characters."""
        return self.kind + self.status + self.modifier + self.misc

    @property
    def present(self) -> bool:
        """Whether the release has this object (or bundle)."""
        return self.status in ".e" and self.kind in "FDLM"

    @property
    def ghosted(self) -> bool:
        """Whether the server dropped it and devices must leave it alone."""
        return self.status == "g"

    @property
    def deleted(self) -> bool:
        """Whether devices must delete it."""
        return self.status == "d"


class _Manifest(NamedTuple):
    name: str
    format: int
    version: int
    previous: int = 0
    minversion: int = 0
    timestamp: int = 0
    contentsize: int = 0
    includes: tuple[str, ...] = ()
    also_add: tuple[str, ...] = ()
    entries: tuple[Entry, ...] = ()
    extra: tuple[tuple[str, str], ...] = ()


class Manifest(Checked, _Manifest):
    """A bundle of a release; the MoM is the manifest named "MoM".

    name: the bundle's name, or MoM, or full.
    format: compatibility number of the stream.
    version: the release in which it was written; previous: the version before, 0 if none.
    minversion: no entry is older (MoM only), 0 if not set.
    timestamp: Unix seconds. contentsize: bytes a device needs for the present entries.
    extra: header keys that this code gives no meaning to, in order.
    """

    __slots__ = ()

    def check(self) -> None:
        for number in (self.format, self.version):
            if type(number) is not int or not 0 < number < 2**31:
                raise ManifestError(f"manifest {self.name} has the number {number!r} out of range")
        for number in (self.previous, self.minversion, self.timestamp, self.contentsize):
            if type(number) is not int or not 0 <= number < 2**63:
                raise ManifestError(f"manifest {self.name} has the number {number!r} out of range")

    def header(self, key: str) -> str | None:
        """The value of an extra header key, or None."""
        return next((value for name, value in self.extra if name == key), None)

    def entry(self, name: str) -> Entry | None:
        """The first present entry of a name, or None. Linear: meant for the MoM."""
        return next((e for e in self.entries if e.name == name and e.present), None)


def ordered(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Entries in wire order: version, then the bytes of the name (2.5)."""
    return tuple(sorted(entries, key=lambda e: (e.version, paths.encode(e.name), e.flags, e.digest)))


def serialize(manifest: Manifest) -> bytes:
    """The bytes of a manifest, by the template of its format (2.7)."""
    is_mom = manifest.name == MOM
    header: list[tuple[str, object]] = [("version", manifest.version), ("previous", manifest.previous)]
    if is_mom and manifest.minversion and manifest.format >= 26:
        header.append(("minversion", manifest.minversion))
    header += [
        ("filecount", len(manifest.entries)),
        ("timestamp", manifest.timestamp),
        ("contentsize", manifest.contentsize),
    ]
    header += [("includes", name) for name in manifest.includes]
    if manifest.format >= 29:
        header += [("also-add", name) for name in manifest.also_add]
    header += manifest.extra
    lines = [f"MANIFEST\t{manifest.format}"]
    lines += [f"{key}:\t{value}" for key, value in header]
    lines.append("")
    lines += [f"{e.flags}\t{e.digest}\t{e.version}\t{e.name}" for e in manifest.entries]
    return paths.encode("\n".join(lines) + "\n")


def parse(data: bytes, name: str, version: int | None = None, like: Iterable[Entry] = ()) -> Manifest:
    """Reads a manifest's bytes, which the caller has checked against a hash or signature.

    version: what the header must say, or None to accept any. like: entries of another release; those that are the same
    are taken over, which saves time and memory.
    Raises ManifestError. Unknown header keys and flags are kept, as clients from 3.20 on do.
    """
    end = data.find(b"\n\n")
    if end < 0 and not data.endswith(b"\n"):
        raise ManifestError(f"manifest {name} is cut off")
    keys = _header(name, paths.decode(data[:end]).split("\n"))
    manifest = Manifest(
        name=name,
        format=_number(name, keys, "MANIFEST"),
        version=_number(name, keys, "version"),
        previous=_number(name, keys, "previous", 0),
        minversion=_number(name, keys, "minversion", 0),
        timestamp=_number(name, keys, "timestamp", 0),
        contentsize=_number(name, keys, "contentsize", 0),
        includes=tuple(keys.pop("includes", ())),
        also_add=tuple(keys.pop("also-add", ())),
        entries=_entries(name, data, len(data) if end < 0 else end + 2, {entry.name: entry for entry in like}),
        extra=tuple((key, value) for key, values in keys.items() if key != "filecount" for value in values),
    )
    if version is not None and manifest.version != version:
        raise ManifestError(f"manifest {name} says version {manifest.version} where {version} was asked for")
    return manifest


def _lines(data: bytes, start: int) -> Iterator[str]:
    """The lines from a byte on, the last of which is ended. Not all at once: as text they take much room."""
    while start < len(data):
        end = data.find(b"\n", min(start + _PIECE, len(data) - 1))
        yield from paths.decode(data[start:end]).split("\n")
        start = end + 1


def _header(name: str, lines: list[str]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for number, line in enumerate(lines):
        key, tab, value = line.partition("\t")
        if not tab or (number == 0) != (key == "MANIFEST") or (number > 0 and not key.endswith(":")):
            raise ManifestError(f"manifest {name} has a malformed header line {number + 1}: {line[:80]!r}")
        keys.setdefault(key.removesuffix(":"), []).append(value)
    return keys


def _number(name: str, keys: dict[str, list[str]], key: str, default: int | None = None) -> int:
    values = keys.pop(key, None)
    if values is None:
        if default is None:
            raise ManifestError(f"manifest {name} has no {key}: line")
        return default
    text = values[0]
    if len(values) != 1 or not text.isascii() or not text.isdigit() or len(text) > 19:
        raise ManifestError(f"manifest {name} has a malformed {key}: {text[:80]!r}")
    return int(text)


def _entries(name: str, data: bytes, start: int, known: Mapping[str, Entry]) -> tuple[Entry, ...]:
    """The entries from a byte on."""
    if start < len(data) and not data.endswith(b"\n"):
        raise ManifestError(f"manifest {name} is cut off")
    entries = []
    numbers: dict[str, int] = {}
    for line in _lines(data, start):
        fields = line.split("\t", 3)
        if len(fields) != 4 or len(fields[0]) != 4 or len(line) > MAX_LINE:
            raise ManifestError(f"manifest {name} has a malformed entry: {line[:120]!r}")
        flags, digest, version, path = fields
        number = numbers.get(version)
        if number is None:
            if not (version.isascii() and version.isdigit()) or len(version) > 10:
                raise ManifestError(f"manifest {name} has a malformed version: {line[:120]!r}")
            number = numbers[version] = int(version)
        same = known.get(path)
        if same is None or same.digest != digest or same.version != number or same.flags != flags:
            # Of one that changed the path is taken over.
            path = path if same is None else same.name
            same = Entry(flags[0], digest, number, path, flags[1], flags[2], flags[3])
        entries.append(same)
    return tuple(entries)
