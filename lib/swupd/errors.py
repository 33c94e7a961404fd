"""Every error that a user can meet, and the exit code of each.

The codes are those of swupd-client 7.0.0, so that scripts around it go on working. Only the two `cli`
modules turn an error into text and a code.
"""

from __future__ import annotations

import errno
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class SwupdError(Exception):
    """A problem that has a cause the user can act on.

    problem: what is wrong, one sentence without a full stop.
    hint: what to do next; may be empty where the problem says it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem}. {self.hint}" if self.hint else self.problem


class Refused(SwupdError):
    """The command may not run as it was called (not root, the user said no)."""

    exit_code = 1


class RequiredBundle(SwupdError):
    """A bundle cannot be removed because something needs it."""

    exit_code = 2


class InvalidBundle(SwupdError):
    """A bundle that the release does not have."""

    exit_code = 3


class MomError(SwupdError):
    """The manifest of manifests cannot be had or read."""

    exit_code = 4


class LockError(SwupdError):
    """Another swupd is at work on the same state."""

    exit_code = 9


class ApplyError(SwupdError):
    """The tree cannot be changed as planned."""

    exit_code = 10


class SettingsError(SwupdError):
    """A setting is missing, malformed or not allowed."""

    exit_code = 12


class NotInstalled(SwupdError):
    """The bundle is not on this device."""

    exit_code = 13


class ManifestError(SwupdError):
    """A bundle's manifest cannot be had or read, or contradicts another."""

    exit_code = 14


class InvalidOption(SwupdError):
    """The command line asks for what cannot be."""

    exit_code = 15


class ServerUnreachable(SwupdError):
    """Nobody answers at the URL, or what answers is no update stream."""

    exit_code = 16


class DownloadError(SwupdError):
    """An object of the stream cannot be fetched."""

    exit_code = 17


class ArchiveError(SwupdError):
    """A tar, pack or delta is damaged or not what it claims to be."""

    exit_code = 18


class FolderError(SwupdError):
    """A folder that is needed cannot be created or read."""

    exit_code = 19


class VersionUnknown(SwupdError):
    """The tree does not say which version it is."""

    exit_code = 20


class SignatureError(SwupdError):
    """A signature is missing or wrong, or a certificate cannot be trusted."""

    exit_code = 21


class CertificateError(SwupdError):
    """The TLS connection cannot be trusted."""

    exit_code = 24


class DiskSpace(SwupdError):
    """There is not enough room."""

    exit_code = 25


class NotInManifest(SwupdError):
    """A path that no installed bundle ships."""

    exit_code = 26


class SubprocessFailed(SwupdError):
    """A program that the update asks for has failed."""

    exit_code = 28


class HashMismatch(SwupdError):
    """Bytes are not those that the manifest promises."""

    exit_code = 30


class WriteError(SwupdError):
    """A file cannot be written."""

    exit_code = 32


class Incomplete(SwupdError):
    """Repair was not able to mend everything."""

    exit_code = 35


class InvalidFile(SwupdError):
    """An input file is missing, unreadable or malformed."""

    exit_code = 38


class DocumentError(SwupdError):
    """A signed document is malformed. Whoever reads one says which it was."""

    exit_code = 61


class RootError(SwupdError):
    """The root of trust is missing, malformed, expired, or not signed by those who must."""

    exit_code = 60


class HeadError(SwupdError):
    """The head, which names the newest release, is missing, malformed, or not signed by those who must."""

    exit_code = 61


class Stale(SwupdError):
    """Nobody has vouched for this stream for too long: it is forgotten, or news is held back."""

    exit_code = 62


class OlderThanSeen(SwupdError):
    """The server offers something older than what this device has seen."""

    exit_code = 63


class WrongProduct(SwupdError):
    """The stream is for other devices."""

    exit_code = 64


class BundleTrustError(SwupdError):
    """A bundle's manifest is not signed by those who may ship that bundle, or ships what they may not."""

    exit_code = 65


class Revoked(SwupdError):
    """The publisher has declared a release to be too old to be installed."""

    exit_code = 66


class Temporary(Exception):
    """A failure that a retry may mend. No user meets it: whoever gives up raises its error.

    error: what there is to say. delay: seconds after which to try again, where somebody named them.
    """

    def __init__(self, error: SwupdError, delay: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.delay = delay


def write_error(place: Path | str, error: OSError) -> SwupdError:
    """The error for a failed write, with what is full or forbidden."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskSpace(f"the disk that holds {place} is full", "Free some space, then run the command again.")
    return WriteError(f"cannot write {place}: {error.strerror}", "Check the disk and the permissions.")
