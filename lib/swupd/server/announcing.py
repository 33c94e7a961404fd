"""The head of a stream: made for a release, signed, written last."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from swupd import envelope, heads, manifest, roots, stream
from swupd.envelope import Envelope
from swupd.errors import DocumentError, HeadError, InvalidOption, MomError
from swupd.heads import Head
from swupd.lengths import Named
from swupd.manifest import MOM
from swupd.publickey import KeyHolder
from swupd.server import approval, history, rootfile, writer
from swupd.server.history import FolderStore, Store

DAYS = 14
MAX_DAYS = 3650


@dataclass(frozen=True)
class Announcer:
    """Who says which release is the newest. days: for how long that is good. minimum: None as before."""

    holder: KeyHolder
    days: int = DAYS
    minimum: int | None = None


def last(store: Store, stream_format: int) -> Head | None:
    """The head that a stream has, unchecked; None if there is none. Raises HeadError."""
    name = stream.head(stream_format)
    data = store.read(name, stream.MAX_HEAD)
    if data is None:
        return None
    try:
        return heads.read(heads.parse(data))
    except DocumentError as e:
        raise HeadError(f"{name} cannot be read: {e.problem}", "Restore it, or remove it and publish a new one.") from e


def before(www: Path, stream_format: int, past: Store | None = None) -> Head | None:
    """The head that a new one follows: of that format, or else of the last one before. Raises HeadError.

    past: where it is if it is not in that folder.
    """
    for store in (FolderStore(www), *((past,) if past is not None else ())):
        for number in sorted({stream_format, *store.formats(stream_format)}, reverse=True):
            found = last(store, number) if number <= stream_format else None
            if found is not None:
                return found
    return None


def minimum(announcer: Announcer, previous: Head | None, version: int) -> int:
    """The oldest release that may be installed once a version is announced. Raises InvalidOption."""
    found = announcer.minimum or (previous.minimum if previous is not None else 1)
    if found > version:
        raise InvalidOption(f"no release before {found} may be installed, and this is {version}", "Lower --minimum.")
    return found


def refuse_headless(previous: Head | None, rooted: bool) -> None:
    """Raises InvalidOption where devices ask for a head, and nobody signs one. rooted: whether there is a root."""
    if rooted or previous is not None:
        raise InvalidOption(
            f"the stream has a {'root of trust' if rooted else 'head'}, and no key was given to sign the new head:"
            " devices would not see the release",
            "Give --head-key, or --without-head.",
        )


def mom_bytes(www: Path, version: int) -> bytes:
    """A release's MoM. Raises MomError."""
    data = history.manifest_bytes(FolderStore(www), version, MOM)
    if data is None:
        raise MomError(f"{www} has no {stream.manifest(version, MOM)}", "Is the release complete?")
    return data


def prepare(
    www: Path, version: int, announcer: Announcer, now: datetime.datetime, previous: Head | None
) -> tuple[Head, bytes]:
    """The head for a release that is at its place, and its bytes, signed. Raises MomError, HeadError, InvalidOption."""
    data = mom_bytes(www, version)
    mom = manifest.parse(data, MOM, version)
    head = Head(
        format=mom.format,
        version=version,
        digest=hashlib.sha256(data).hexdigest(),
        length=len(data),
        issued=now,
        expires=now + datetime.timedelta(days=announcer.days),
        product=mom.header(stream.PRODUCT_KEY) or "",
        minimum=minimum(announcer, previous, version),
        rollout=previous.rollout if previous is not None else {},
    )
    written = envelope.serialize(Envelope(heads.ROLE, heads.payload(head)).signed_by(announcer.holder))
    if len(written) > stream.MAX_HEAD:
        raise HeadError("the head is larger than devices take", "Make its rollout field smaller.")
    return head, written


def announce(www: Path, version: int, announcer: Announcer, now: datetime.datetime, previous: Head | None) -> Head:
    """Writes the head for a release. Raises as `prepare`."""
    head, written = prepare(www, version, announcer, now, previous)
    writer.announce(www, stream.head(head.format), written)
    return head


def renew(www: Path, stream_format: int, announcer: Announcer, now: datetime.datetime) -> Head:
    """Writes a new head for the release that the last one names: for a job that runs every day.

    Where there is none yet, for the one that `latest` names. Raises HeadError, SignatureError.
    """
    previous = last(FolderStore(www), stream_format)
    version = previous.version if previous is not None else _latest(www, stream_format)
    data = mom_bytes(www, version)
    if previous is not None and hashlib.sha256(data).hexdigest() != previous.digest:
        raise HeadError(
            f"{www / stream.manifest(version, MOM)} is not what the head was signed for",
            "Find out who changed it before you go on.",
        )
    root = rootfile.newest(www)
    if root is not None:
        approval.check_root(root, now)
        approval.check_head_key(root, announcer.holder.public)
        approval.check_release(root, FolderStore(www), manifest.parse(data, MOM, version), data)
    return announce(www, version, announcer, now, previous)


def left_behind(www: Path, head: Head) -> int:
    """The release that `latest` names, where it is newer than the head's; else 0."""
    found = history.head(FolderStore(www), head.format).newest
    return found[1] if found is not None and found[0] == head.format and found[1] > head.version else 0


def _latest(www: Path, stream_format: int) -> int:
    data = FolderStore(www).read(stream.latest(stream_format), stream.MAX_LATEST)
    if data is None:
        raise HeadError(
            f"the stream has no head of format {stream_format}, and no release", "Publish one, or see --format."
        )
    return history.parse_latest(data)


def countersigned(mom: bytes, version: int, earlier: bytes | None, holder: KeyHolder) -> bytes:
    """The file with further signatures of a MoM, with one more. earlier: the file as it was. Raises InvalidOption."""
    return envelope.serialize(countersignatures(mom, version, (earlier,) if earlier else ()).signed_by(holder))


def countersignatures(mom: bytes, version: int, files: Iterable[bytes]) -> Envelope:
    """All further signatures of a MoM that are in some files. Raises InvalidOption where one is about another MoM."""
    named = Named(hashlib.sha256(mom).hexdigest(), len(mom))
    made = Envelope(roots.RELEASE, heads.release_payload(version, named))
    for file in files:
        try:
            found = envelope.parse(file, roots.RELEASE)
        except DocumentError as e:
            raise InvalidOption(
                f"the further signatures cannot be read: {e.problem}", "Give a Manifest.MoM.signed."
            ) from e
        if found.payload != made.payload:
            raise InvalidOption(
                f"the further signatures are not for this MoM of release {version}", "Let it be signed again."
            )
        names = {name for name, _ in found.signatures}
        kept = tuple(pair for pair in made.signatures if pair[0] not in names)
        made = Envelope(made.role, made.payload, (*kept, *found.signatures))
    return made
