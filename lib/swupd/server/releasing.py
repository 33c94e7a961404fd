"""Announces a release that is in its place: one that was held and signed elsewhere, or one to be signed anew."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from swupd import crypto, envelope, signatures, stream
from swupd.errors import InvalidOption, SignatureError
from swupd.manifest import MOM, Manifest
from swupd.roots import Root
from swupd.server import announcing, approval, archiver, held, history, rootfile, signing, writer
from swupd.server.announcing import Announcer
from swupd.server.history import FolderStore, Trusted

INTERIM = "interim-for"
"""Header key of an interim release: for which release it makes room (C clients skip unknown keys)."""


@dataclass(frozen=True)
class Signatures:
    """What was signed elsewhere: the MoM and the version's digits by PKCS#7, and files with further signatures."""

    mom: bytes | None = None
    latest: bytes | None = None
    more: tuple[bytes, ...] = ()


def release(
    www: Path,
    version: int,
    signer: signing.Signer | None,
    announcer: Announcer | None,
    given: Signatures,
    now: datetime.datetime,
    unsigned: bool = False,
    without_head: bool = False,
) -> None:
    """Puts the signatures of a release in place, points to it, and writes its head.

    signer: makes what is not given. unsigned: announce it though signatures are missing. Raises SwupdError before
    anything is written where devices would refuse the release.
    """
    with writer.locked(www):
        store = FolderStore(www)
        mom = Trusted(store).mom(version)
        data = announcing.mom_bytes(www, version)
        _check_order(store, mom)
        made = _completed(store, mom, data, signer, given, unsigned)
        more = _further(store, mom, data, given)
        root = rootfile.newest(www)
        head = announcing.before(www, mom.format)
        if root is not None:
            approval.check_root(root, now)
            _check(root, store, mom, data, made.mom, more)
        if announcer is not None:
            if root is not None:
                approval.check_head_key(root, announcer.holder.public)
            announced = announcing.prepare(www, version, announcer, now, head)
        elif not without_head:
            announcing.refuse_headless(head, root is not None)
        _write(www, mom, data, made, more)
        if announcer is not None:
            writer.announce(www, stream.head(mom.format), announced[1])
        held.unmark(www, version)


def _check_order(store: FolderStore, mom: Manifest) -> None:
    """Raises InvalidOption for a release that devices have left behind, or that does not follow what they have."""
    found = history.head(store, mom.format)
    if found.above is not None:
        raise InvalidOption(f"the stream is at format {found.above[0]} already", "Release what follows it.")
    if found.newest is None or found.newest[1] == mom.version:
        return
    newest = Trusted(store).mom(found.newest[1])
    if newest.version > mom.version:
        raise InvalidOption(f"the stream's newest release is {newest.version} already", "Release a newer one.")
    if mom.format > newest.format and newest.header(INTERIM) != str(mom.version):
        raise InvalidOption(
            f"release {mom.version} has a newer format than {newest.version}: the interim one between them comes first",
            "Release that one, then this.",
        )
    if newest.version != mom.previous and newest.header(INTERIM) != str(mom.version):
        raise InvalidOption(
            f"release {mom.version} follows {mom.previous}, but {newest.version} was released since",
            "Publish it again.",
        )


def _completed(
    store: FolderStore, mom: Manifest, data: bytes, signer: signing.Signer | None, given: Signatures, unsigned: bool
) -> Signatures:
    """All signatures for C clients: given, made now, or there already. Raises InvalidOption, SignatureError."""
    own = given.mom or (signing.sign(data, signer) if signer is not None else None)
    own = own or store.read(stream.signature(stream.manifest(mom.version, MOM)), stream.MAX_SIGNATURE)
    if own is not None:
        _check_signature("MoM", data, own)
    elif not unsigned:
        raise InvalidOption("nobody has signed the release", "Give --signature or --signing-key, or --unsigned.")
    return Signatures(own, _of_latest(store, mom, signer, given, unsigned))


def _of_latest(
    store: FolderStore, mom: Manifest, signer: signing.Signer | None, given: Signatures, unsigned: bool
) -> bytes | None:
    digits = str(mom.version).encode()
    found = given.latest or (signing.sign(digits, signer) if signer is not None else None)
    if found is None and store.read(stream.latest(mom.format), stream.MAX_LATEST) == digits:
        found = store.read(stream.signature(stream.latest(mom.format)), stream.MAX_SIGNATURE)
    if found is not None:
        _check_signature("file latest", digits, found)
    elif not unsigned:
        raise InvalidOption(
            "nobody has signed the file latest: swupd-client would refuse it",
            f"Sign a file that holds {mom.version} and nothing else, and give --latest-signature; or --unsigned.",
        )
    return found


def _check_signature(what: str, data: bytes, signature: bytes) -> None:
    """Raises SignatureError for one that is not over these bytes by the key of a certificate in it."""
    keys = {key.id: key for key in map(crypto.of, (c.public_key() for c in signatures.embedded(signature)))}
    if not signatures.signers(data, signature, keys):
        raise SignatureError(
            f"the signature of the {what} is not for these bytes, or lacks its certificate",
            "Sign the very file: swupd-server sign FILE",
        )


def _further(store: FolderStore, mom: Manifest, data: bytes, given: Signatures) -> bytes | None:
    there = store.read(stream.signatures(mom.version), stream.MAX_SIGNATURE)
    files = (*((there,) if there is not None else ()), *given.more)
    if not files:
        return None
    merged = envelope.serialize(announcing.countersignatures(data, mom.version, files))
    if len(merged) > stream.MAX_SIGNATURE:
        raise SignatureError("the further signatures are more than devices take", "Give those that are needed.")
    return merged


def _check(
    root: Root, store: FolderStore, mom: Manifest, data: bytes, signature: bytes | None, more: bytes | None
) -> None:
    """Raises SignatureError, InvalidOption where devices with a root would refuse the release."""
    wrong = approval.of_release(root, data, signature, more)
    if wrong:
        raise SignatureError(
            f"release {mom.version} {wrong}", "Let them sign it: swupd-server sign, or countersign and --also."
        )
    bundles = [(e.name, e.version) for e in mom.entries if e.present and e.kind == "M"]
    for place, wrong in approval.of_bundles(root, store, bundles):
        raise SignatureError(f"{place} {wrong}", f"Let those sign it who may: swupd-server sign {place}")


def _write(www: Path, mom: Manifest, data: bytes, made: Signatures, more: bytes | None) -> None:
    name = stream.manifest(mom.version, MOM)
    if more is not None:
        writer.announce(www, stream.signatures(mom.version), more)
    if made.mom is not None:
        packed = archiver.manifest_tar(f"Manifest.{MOM}", data, [(f"Manifest.{MOM}.sig", made.mom)])
        writer.announce(www, stream.signature(name), made.mom)
        writer.announce(www, stream.manifest_tar(mom.version, MOM), packed)
    for latest in (stream.LATEST_VERSION, stream.latest(mom.format)):
        writer.announce(www, stream.signature(latest), made.latest)
        writer.announce(www, latest, str(mom.version).encode())
