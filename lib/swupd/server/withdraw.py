"""Takes the newest release back before anybody has it: for a build that is repeated with the same version.

A release that devices may have must never be withdrawn (stream format, 2.9 item 6); only whoever publishes knows.
"""

from __future__ import annotations

import datetime
import shutil
from dataclasses import replace
from pathlib import Path

from swupd import stream
from swupd.errors import InvalidOption
from swupd.heads import Head
from swupd.manifest import MOM, Manifest
from swupd.server import announcing, approval, held, history, rootfile, signing, writer
from swupd.server.announcing import Announcer
from swupd.server.history import FolderStore, Trusted


def withdraw(
    www: Path,
    version: int,
    signer: signing.Signer | None,
    announcer: Announcer | None = None,
    now: datetime.datetime = datetime.datetime.min,
) -> bool:
    """Makes a stream forget its newest release; False where the stream does not have that release.

    signer: signs the changed `latest`. announcer: signs the changed head.
    Raises InvalidOption for a release that is not the newest.
    """
    if not (www / str(version) / "Manifest.MoM").is_file():
        return False
    with writer.locked(www):
        past = Trusted(FolderStore(www))
        mom = past.mom(version)
        _unannounce(www, past, mom, signer, announcer, now)
        with writer.writing(www):
            shutil.rmtree(www / str(version))
        held.unmark(www, version)
    return True


def _unannounce(
    www: Path,
    past: Trusted,
    mom: Manifest,
    signer: signing.Signer | None,
    announcer: Announcer | None,
    now: datetime.datetime,
) -> None:
    newest = history.head(past.store, mom.format).newest
    if newest is None or newest[0] != mom.format or newest[1] < mom.version:
        return
    if newest[1] > mom.version and mom.version in held.versions(www):
        return
    if newest[1] > mom.version:
        raise InvalidOption(
            f"release {mom.version} is not the newest: {newest[1]} builds on it", "Withdraw that one first."
        )
    head = announcing.last(past.store, mom.format)
    if head is not None and head.version == mom.version:
        if announcer is None:
            raise InvalidOption(
                f"the head names release {mom.version}, and no key was given to sign one for {mom.previous}",
                "Give --head-key.",
            )
        root = rootfile.newest(www)
        if root is not None:
            approval.check_head_key(root, announcer.holder.public)
        _head_back(www, mom, head, announcer, now)
    _point_back(www, past, mom.format, mom.previous, signer)


def _head_back(www: Path, mom: Manifest, head: Head, announcer: Announcer, now: datetime.datetime) -> None:
    before = www / stream.manifest(mom.previous, MOM)
    if mom.previous and before.exists() and Trusted(FolderStore(www)).mom(mom.previous).format == mom.format:
        # What is withdrawn may have been the oldest that was still allowed.
        minimum = announcer.minimum or min(head.minimum, mom.previous)
        announcing.announce(www, mom.previous, replace(announcer, minimum=minimum), now, head)
    else:
        writer.announce(www, stream.head(mom.format), None)


def _point_back(www: Path, past: Trusted, stream_format: int, previous: int, signer: signing.Signer | None) -> None:
    """The releases that `latest` and `latest_version` name are again those before, if they are in this folder."""
    known = previous and history.manifest_bytes(past.store, previous, MOM) is not None
    before = past.mom(previous) if known else None
    same = before is not None and before.format == stream_format
    latest = str(previous).encode() if same else None
    # `latest` goes back first: a device must not be sent to a release that is being taken away.
    for name, data in (
        (stream.latest(stream_format), latest),
        (stream.LATEST_VERSION, str(previous).encode() if before else None),
    ):
        signature = signing.sign(data, signer) if signer is not None and data is not None else None
        writer.announce(www, name, data)
        writer.announce(www, stream.signature(name), signature)
