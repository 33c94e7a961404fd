"""What a path inside an image may look like, and which paths an update leaves alone.

A path is a `str` that begins with "/" and names something below the image's root; bytes that are not UTF-8
are kept as surrogate escapes. The classes of paths are those of swupd-client 7.0.0 (heuristics).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

OS_RELEASE = "/usr/lib/os-release"
BUNDLES = "/usr/share/clear/bundles"
DEFAULTS = "/usr/share/defaults/swupd"
VERSIONSTAMP = "/usr/share/clear/versionstamp"
CERTIFICATE = "/usr/share/clear/update-ca/Swupd_Root.pem"
ROOT_OF_TRUST = f"{DEFAULTS}/root"
PRODUCT = f"{DEFAULTS}/product"

RESERVED = ".swupd"
"""The folder at the top of a file system in which the agent keeps the objects of a change."""
_STATE_BELOW = ("/dev/", "/home/", "/proc/", "/root/", "/run/", "/sys/", "/tmp/", "/var/")
_STATE_PREFIX = ("/data", "/lost+found")
_BOOT_BELOW = ("/boot/", "/usr/lib/modules/", "/usr/lib/kernel/")
_BOOT_PREFIX = ("/usr/lib/systemd/boot",)
_BOOT_MANAGER_EXACT = frozenset(
    {
        "/usr/bin/bootctl",
        "/usr/bin/clr-boot-manager",
        "/usr/bin/gummiboot",
        "/usr/lib/gummiboot",
        "/usr/share/syslinux/ldlinux.c32",
    }
)
_FOREIGN_FOLDERS = frozenset(
    {
        "/boot",
        "/data",
        "/dev",
        "/etc",
        "/home",
        "/media",
        "/mnt",
        "/opt",
        "/proc",
        "/root",
        "/run",
        "/srv",
        "/sys",
        "/tmp",
        "/usr/local",
        "/usr/src",
        "/var",
    }
)
_ORDINARY = re.compile(r"(?:/[ -\-0-~][ -.0-~]*)+")
"""Paths that cannot be wrong, as nearly all are: ASCII, and no part begins with a dot."""


def encode(path: str) -> bytes:
    """The bytes of a path, as the file system and the wire have them."""
    return path.encode("utf-8", "surrogateescape")


def decode(raw: bytes) -> str:
    """The path for some bytes; inverse of encode."""
    return raw.decode("utf-8", "surrogateescape")


def problem(path: str) -> str | None:
    """Why a path cannot be part of a stream, or None when it can.

    Rule: absolute, no empty part, no "." or "..", none of NUL, newline and TAB, at most 4,096 bytes and 255 in each
    part, and not in a folder in which the agent keeps the objects of a change (.swupd).
    """
    return None if len(path) <= 255 and _ORDINARY.fullmatch(path) else _problem(path)


def _problem(path: str) -> str | None:
    if not path.startswith("/"):
        return "it does not begin with /"
    if "\0" in path or "\n" in path or "\t" in path:
        return "it holds a control character (NUL, newline or TAB)"
    if (len(path) > 255 or not path.isascii()) and (why := _excess(encode(path))) is not None:
        return why
    if is_reserved(path):
        return f"{RESERVED} is the agent's own folder"
    if not {"", ".", ".."}.isdisjoint(path[1:].split("/")):
        return "it has an empty part, a . or a .."
    return None


def _excess(raw: bytes) -> str | None:
    if len(raw) > 4096:
        return "it is longer than 4096 bytes"
    return "a name in it is longer than 255 bytes" if max(map(len, raw.split(b"/"))) > 255 else None


def is_reserved(path: str) -> bool:
    """Whether a path is such a folder or in one; nobody else's file can be there."""
    return RESERVED in path and RESERVED in path.split("/")


def parents(path: str) -> Iterator[str]:
    """The folders above a path, outermost first, without "/" itself."""
    at = path.find("/", 1)
    while at != -1:
        yield path[:at]
        at = path.find("/", at + 1)


def above(found: Iterable[str]) -> set[str]:
    """The folders above any of some paths, without "/" itself."""
    folders: set[str] = set()
    for path in found:
        end = path.rfind("/")
        # What is above a folder that is known is known.
        while end > 0 and (folder := path[:end]) not in folders:
            folders.add(folder)
            end = folder.rfind("/")
    return folders


def inside(path: str, top: str) -> bool:
    """Whether a path is a folder or below it; nothing is in ""."""
    return bool(top) and (path == top or path.startswith(top + "/"))


def is_state(path: str) -> bool:
    """Whether a path is the machine's own: no update or repair touches it."""
    if path.startswith(_STATE_PREFIX) or path.startswith(_STATE_BELOW):
        return True
    if not path.startswith("/usr/src/"):
        return False
    return path not in {"/usr/src/debug", "/usr/src/kernel"} and not path.startswith("/usr/src/kernel/")


def is_config(path: str) -> bool:
    """Whether a path is configuration, which belongs to the administrator."""
    return path.startswith("/etc/")


def is_boot(path: str) -> bool:
    """Whether a path is a boot file: installed and updated, but left to the boot manager to delete."""
    return path.startswith(_BOOT_BELOW) or path.startswith(_BOOT_PREFIX)


def is_ghosted_on_removal(path: str) -> bool:
    """Whether a removed path becomes a ghost instead of a deletion (stream format, 7.4)."""
    return path.startswith(_BOOT_BELOW)


def wants_boot_manager(path: str) -> bool:
    """Whether a change of this path asks for a run of the boot manager."""
    return path.startswith(("/usr/lib/kernel/", *_BOOT_PREFIX)) or path in _BOOT_MANAGER_EXACT


def holds_foreign_files(path: str) -> bool:
    """Whether a folder is one in which devices keep files of their own."""
    return path in _FOREIGN_FOLDERS
