"""The head of a stream: checked against the root of trust, signed, written last."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass
from pathlib import Path

from swupd import envelope, heads, manifest, roots, signing, stream
from swupd.envelope import Envelope
from swupd.errors import DocumentError, HeadError, InvalidOption, MomError, SignatureError
from swupd.heads import Head
from swupd.lengths import Named
from swupd.manifest import MOM
from swupd.publickey import KeyHolder
from swupd.server import history, rootfile, writer
from swupd.server.history import FolderStore, Store

DAYS = 14


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


def check(
    www: Path,
    announcer: Announcer | None,
    signer: signing.Signer | None,
    build_signer: signing.Signer | None,
    build: bool = True,
) -> None:
    """Raises SignatureError where the stream's newest root does not let these keys do what they are for.

    build: whether manifests are to be signed now.
    """
    root = rootfile.newest(www)
    if root is None:
        return
    given = (
        (roots.HEAD, announcer.holder.public if announcer is not None else None),
        (roots.RELEASE, signing.public(signer) if signer is not None else None),
        (roots.BUILD, signing.public(build_signer) if build_signer is not None else None),
    )
    for role, key in given:
        wanted = root.roles.get(role)
        if wanted is not None and key is not None and key.id not in wanted.keys:
            raise SignatureError(
                f"the {role} key {key.id[:16]} is none of those of root {root.number}: devices would refuse it",
                "Sign with the right key, or add it: swupd-server root rotate, root add-key.",
            )
    if build and roots.BUILD in root.roles and build_signer is None:
        raise SignatureError(
            f"root {root.number} asks for each manifest to be signed, and no manifest key was given",
            "Give --manifest-key and --manifest-certificate.",
        )


def announce(www: Path, version: int, announcer: Announcer, now: datetime.datetime, past: Store | None = None) -> Head:
    """Writes the head for a release that is in the stream. Raises MomError, HeadError, InvalidOption.

    past: where the head before is, if it is elsewhere.
    """
    place = www / stream.manifest(version, MOM)
    try:
        data = place.read_bytes()
        mom = manifest.parse(data, MOM, version)
    except OSError as e:
        raise MomError(f"cannot read {place}: {e.strerror}", "Is the release complete?") from e
    before = last(FolderStore(www), mom.format) or (last(past, mom.format) if past is not None else None)
    minimum = announcer.minimum or (before.minimum if before is not None else 1)
    if minimum > version:
        raise InvalidOption(f"no release before {minimum} may be installed, and this is {version}", "Lower --minimum.")
    head = Head(
        format=mom.format,
        version=version,
        digest=hashlib.sha256(data).hexdigest(),
        length=len(data),
        issued=now,
        expires=now + datetime.timedelta(days=announcer.days),
        product=mom.header(stream.PRODUCT_KEY) or "",
        minimum=minimum,
        rollout=before.rollout if before is not None else {},
    )
    signed = Envelope(heads.ROLE, heads.payload(head)).signed_by(announcer.holder)
    written = envelope.serialize(signed)
    if len(written) > stream.MAX_HEAD:
        raise HeadError("the head is larger than devices take", "Make its rollout field smaller.")
    writer.announce(www, stream.head(mom.format), written)
    return head


def refuse_old(www: Path, stream_format: int, version: int) -> None:
    """Raises InvalidOption where the stream has a newer release, or that one already."""
    newest = history.head(FolderStore(www), stream_format).newest
    if newest is not None and newest[1] >= version:
        raise InvalidOption(f"the stream's newest release is {newest[1]} already", "Release a newer one.")


def renew(www: Path, stream_format: int, announcer: Announcer, now: datetime.datetime) -> Head:
    """Writes a new head for the newest release: for a job that runs every day. Raises HeadError, SignatureError."""
    before = last(FolderStore(www), stream_format)
    if before is None:
        raise HeadError(
            f"the stream has no head of format {stream_format}", "Publish with --head-key, or see --format."
        )
    place = www / stream.manifest(before.version, MOM)
    data = place.read_bytes() if place.exists() else b""
    if hashlib.sha256(data).hexdigest() != before.digest:
        raise HeadError(f"{place} is not what the head was signed for", "Find out who changed it before you go on.")
    check(www, announcer, None, None, build=False)
    check_release(www, before.version)
    return announce(www, before.version, announcer, now)


def check_release(www: Path, version: int) -> None:
    """Raises SignatureError where the stream's newest root does not believe a release."""
    root = rootfile.newest(www)
    if root is None:
        return
    data = (www / stream.manifest(version, MOM)).read_bytes()
    role = root.roles[roots.RELEASE]
    keys = root.role_keys(role)
    place = www / stream.signature(stream.manifest(version, MOM))
    by = signing.signers(data, place.read_bytes(), keys) if place.exists() else frozenset[str]()
    more = www / stream.signatures(version)
    if more.exists():
        signed = envelope.parse(more.read_bytes(), roots.RELEASE)
        named = heads.read_release(signed)
        if (named.digest, named.length) == (hashlib.sha256(data).hexdigest(), len(data)):
            by |= signed.signers(keys)
    if len(by) < role.threshold:
        raise SignatureError(
            f"release {version} is signed by {len(by)} release keys, root {root.number} asks for {role.threshold}",
            "Sign it: swupd-server sign, countersign, release.",
        )


def countersigned(mom: bytes, version: int, before: bytes | None, holder: KeyHolder) -> bytes:
    """The file with further signatures of a MoM, with one more. before: the file as it was."""
    named = Named(hashlib.sha256(mom).hexdigest(), len(mom))
    fresh = Envelope(roots.RELEASE, heads.release_payload(version, named))
    old = envelope.parse(before, roots.RELEASE) if before is not None else fresh
    kept = old if old.payload == fresh.payload else fresh
    return envelope.serialize(kept.signed_by(holder))
