"""The name of each thing in a stream, and how large each may be.

Names are relative to the version or content URL (stream format, section 1.2). Versions are per object: a
manifest's is the release in which its bundle last changed, a fullfile's the one in which its entry did.
"""

from __future__ import annotations

import re

from swupd.errors import InvalidOption

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

MAX_VERSION: Final = 2**31 - 1
DEFAULT_FORMAT: Final = 30

KIB: Final = 1024
MIB: Final = 1024 * KIB
MAX_LATEST: Final = 4 * KIB
MAX_SIGNATURE: Final = 64 * KIB
MAX_HEAD: Final = 8 * KIB
MAX_ROOT: Final = 64 * KIB
MAX_LENGTHS: Final = 16 * MIB
MAX_MANIFEST_TAR: Final = 128 * MIB
MAX_MANIFEST: Final = 512 * MIB
MAX_FILE: Final = 8 * 1024 * MIB
MAX_PACK: Final = 64 * 1024 * MIB
MAX_DELTA_RESULT: Final = 512 * MIB

LENGTHS_KEY: Final = "lengths"
PRODUCT_KEY: Final = "product"
"""Header keys of our MoMs, which C clients skip."""

_VERSION = re.compile(r"[0-9]{1,10}", re.ASCII)
_BUNDLE = re.compile(r"[A-Za-z0-9_@+][A-Za-z0-9_@+.-]{0,199}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
RESERVED_BUNDLES: Final = frozenset({"MoM", "full"})


def version(text: str) -> int:
    """Reads a version: decimal digits, 1 to 2147483647. Raises InvalidOption."""
    if not _VERSION.fullmatch(text) or not 0 < int(text) <= MAX_VERSION:
        raise InvalidOption(f"{text[:80]!r} is not a version", f"Give a whole number from 1 to {MAX_VERSION}.")
    return int(text)


def is_digest(text: str) -> bool:
    """Whether a text is 64 lower-case hex digits."""
    return _DIGEST.fullmatch(text) is not None


def is_bundle_name(text: str) -> bool:
    """Whether a text can name a bundle: safe as a file name and in a URL."""
    return _BUNDLE.fullmatch(text) is not None and text not in RESERVED_BUNDLES


def latest(stream_format: int | str) -> str:
    """The file that names the newest release of a format."""
    return f"version/format{stream_format}/latest"


LATEST_VERSION: Final = "version/latest_version"


def signature(name: str) -> str:
    """The detached signature of something."""
    return f"{name}.sig"


def manifest(release: int, bundle: str) -> str:
    """A plain manifest, which servers read."""
    return f"{release}/Manifest.{bundle}"


def manifest_tar(release: int, bundle: str) -> str:
    """A manifest as devices fetch it."""
    return f"{release}/Manifest.{bundle}.tar"


def manifest_delta(to_release: int, bundle: str, from_release: int) -> str:
    """The delta between two manifests of a bundle."""
    return f"{to_release}/Manifest-{bundle}-delta-from-{from_release}"


def fullfile(release: int, digest: str) -> str:
    """One object, whole."""
    return f"{release}/files/{digest}.tar"


def pack(bundle: str, to_release: int, from_release: int, variant: str = "") -> str:
    """What a device needs to go from one release of a bundle to another; from_release 0 is a zero pack.

    variant: what its deltas need beyond the format, "" for a pack that all devices can use.
    """
    return f"{to_release}/pack-{bundle}-from-{from_release}{'.' if variant else ''}{variant}.tar"


def pack_index(bundle: str, version: int) -> str:
    """Where the parts of a zero pack lie, for the server that makes the next one. No device asks for it."""
    return f"{version}/pack-{bundle}-from-0.index"


def head(stream_format: int | str) -> str:
    """The signed document that names the newest release of a format."""
    return f"version/format{stream_format}/head"


def root(number: int) -> str:
    """The root of trust of that number."""
    return f"root/{number}.root"


def signatures(release: int) -> str:
    """Further signatures of a release's MoM, where the root of trust asks for more than one."""
    return f"{release}/Manifest.MoM.signed"


def lengths(release: int) -> str:
    """What a release's objects measure, and which releases there are."""
    return f"{release}/lengths"


def file_lengths(release: int) -> str:
    """What a release's fullfiles measure."""
    return f"{release}/lengths-files"


def format_file(release: int) -> str:
    """The format of a release."""
    return f"{release}/format"
