"""Makes a release out of a root file system and publishes it: the order of the steps, and nothing clever.

Everything is checked before anything is written. A release is written beside its place and renamed; the file
`latest` is replaced last, and that is the moment of publishing: a publish that is killed earlier left the stream as
it was, and is run again.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from swupd import heads, roots, signatures, stream
from swupd.delta import Form
from swupd.errors import InvalidOption, SignatureError
from swupd.roots import Root
from swupd.server import (
    announcing,
    approval,
    assembly,
    bundles,
    changes,
    deltas,
    held,
    history,
    rootfile,
    rootfs,
    signing,
    writer,
)
from swupd.server.announcing import Announcer
from swupd.server.assembly import Draft, Published
from swupd.server.bundles import BundleSpec
from swupd.server.changes import Edition, Release
from swupd.server.history import Earlier, FolderStore, Head, Store, Trusted
from swupd.server.releasing import INTERIM
from swupd.server.work import Crew, Report
from swupd.server.writer import Staging
from swupd.server.xz import Effort
from swupd.tree import Node

_EXPIRES_SOON = datetime.timedelta(days=60)


@dataclass(frozen=True)
class Job:
    """What to publish.

    previous: the stream with the releases before; None for the folder www itself. trust: who must have signed it.
    delta_from: versions to make deltas from; else previous_versions says how many of the last ones.
    minversion: 0 to keep the last one. timestamp: Unix seconds, None to take what the tree says.
    exclude: paths and patterns that are never shipped. product: what devices it is for, "" for any.
    announcer: who signs the head; without_head: though the stream has one. hold: announce nothing.
    root_file: a root of trust that is published with it, unless it is there.
    effort: how hard to try to make what is downloaded small. forms: of the deltas in packs.
    interim_version: of the extra release at a change of format, None for version - 1.
    """

    www: Path
    version: int
    rootfs: Path
    specs: tuple[BundleSpec, ...]
    format: int = stream.DEFAULT_FORMAT
    previous: Store | None = None
    trust: signatures.Trust | None = None
    delta_from: tuple[int, ...] = ()
    previous_versions: int = 0
    minversion: int = 0
    signer: signing.Signer | None = None
    manifest_signer: signing.Signer | None = None
    exclude: tuple[str, ...] = ()
    xattrs: bool = True
    timestamp: int | None = None
    interim_version: int | None = None
    allow_folder_replacement: bool = False
    product: str = ""
    announcer: Announcer | None = None
    without_head: bool = False
    hold: bool = False
    root_file: Path | None = None
    effort: Effort = Effort.BEST
    forms: tuple[Form, ...] = deltas.ALL_CLIENTS

    def __post_init__(self) -> None:
        for number in (self.version, self.format):
            if not 0 < number <= stream.MAX_VERSION:
                raise InvalidOption(
                    f"{number} is neither a version nor a format", f"Give a number from 1 to {stream.MAX_VERSION}."
                )


@dataclass(frozen=True)
class _Start:
    """From where a publish starts: base is what devices have, interim what is already there of a format bump."""

    base: Release | None
    interim: Release | None = None

    def bumps(self, stream_format: int) -> bool:
        """Whether a release in that format changes the format."""
        return self.base is not None and self.base.mom.format < stream_format


@dataclass(frozen=True)
class _Trust:
    """What devices with a root believe: the newest root, and the head before."""

    root: Root | None
    head: heads.Head | None


def publish(job: Job, crew: Crew, now: datetime.datetime, report: Report) -> Published:
    """Publishes a release, and the interim one before it at a change of format. Raises SwupdError."""
    bundles.check(job.specs)
    _check_signers(job, now, report)
    with writer.locked(job.www), ExitStack() as stack:
        past = Trusted(job.previous or FolderStore(job.www), (job.trust, now) if job.trust is not None else None)
        start = _start(job, past)
        interim_version = _interim_version(job, start)
        trust = _trust(job, interim_version or job.version, now)
        older = _older(job, past, start, report)
        source = rootfs.scan(job.rootfs, job.exclude, job.xattrs, report)
        rootfs.check_identity(source, job.version, job.format, report)
        contents = bundles.split(source.nodes, job.specs, source.left_out)
        _check_changes(job, start, contents, report)
        edition = _edition(job, start, source)
        kept = changes.kept_digests(start.base, edition, contents)
        staging = stack.enter_context(Staging(job.www, job.version))
        digests = assembly.take_in(crew, report, source, contents, kept, staging, job.effort)
        release = changes.following(start.base, edition, job.specs, contents, digests)
        _check_bundles(job, trust.root, past, release)
        last = Draft(
            staging,
            release,
            contents,
            source.root,
            past,
            older,
            job.signer,
            job.manifest_signer,
            job.effort,
            job.forms,
        )
        drafts = [last]
        if interim_version is not None and start.base is not None:
            beside = stack.enter_context(Staging(job.www, interim_version))
            drafts.insert(0, _interim(job, start.base, last, beside, digests))
        if start.bumps(job.format):
            drafts[-1] = replace(last, older=())
        made = [assembly.assemble(draft, crew, report) for draft in drafts]
        _commit(job, drafts, now, trust.head)
        return replace(made[-1], interim=made[0] if len(made) > 1 else None)


def _check_signers(job: Job, now: datetime.datetime, report: Report) -> None:
    for signer in (job.signer, job.manifest_signer):
        for certificate in (signer.certificate, *signer.intermediates) if signer is not None else ():
            ends = signatures.expires(certificate)
            name = certificate.subject.rfc4514_string()
            if ends <= now:
                raise SignatureError(
                    f"the certificate {name} expired on {ends:%Y-%m-%d}", "Sign with one that devices still accept."
                )
            if ends - now < _EXPIRES_SOON:
                report.warn(f"the certificate {name} expires on {ends:%Y-%m-%d}: devices will refuse it from then on")
    if job.signer is None:
        report.warn("the release is not signed: devices take it only when told not to check signatures")


def _start(job: Job, past: Trusted) -> _Start:
    head = history.head(past.store, job.format)
    _check_version(job, head)
    if past.store != FolderStore(job.www):
        _check_version(job, history.head(FolderStore(job.www), job.format))
    if head.newest is None:
        _refuse_lost_latest(job)
        return _Start(None)
    release = past.release(head.newest[1])
    wanted = release.mom.header(INTERIM)
    if wanted is None:
        return _Start(release)
    if wanted != str(job.version) or job.format <= release.mom.format:
        raise InvalidOption(
            f"release {release.version} is the interim one before release {wanted} in a newer format",
            f"Publish version {wanted} in that format first.",
        )
    return _Start(past.release(release.mom.previous), release)


def _check_version(job: Job, head: Head) -> None:
    if head.above is not None:
        raise InvalidOption(
            f"the stream is at format {head.above[0]} already, which is newer than {job.format}",
            f"Publish with --format {head.above[0]} or a greater one.",
        )
    if head.newest is not None and job.version <= head.newest[1]:
        raise InvalidOption(
            f"version {job.version} is not greater than the last one, {head.newest[1]}",
            f"Publish as version {head.newest[1] + 1} or greater.",
        )


def _refuse_lost_latest(job: Job) -> None:
    """Without `latest` a folder of the version could be a release that devices have."""
    known = {str(job.version), *map(str, held.versions(job.www))}
    others = [p.name for p in job.www.iterdir() if p.name.isdigit() and p.name not in known]
    if others and job.previous is None:
        raise InvalidOption(
            f"{job.www} holds release {max(others, key=int)}, but no {stream.latest(job.format)} names a release",
            "Restore that file, or publish to an empty folder.",
        )


def _interim_version(job: Job, start: _Start) -> int | None:
    """The version of the interim release that is still to be made, None if there is none."""
    if start.base is None or start.interim is not None or not start.bumps(job.format):
        return None
    version = job.version - 1 if job.interim_version is None else job.interim_version
    if not start.base.version < version < job.version:
        raise InvalidOption(
            f"a change of format needs an interim release between {start.base.version} and {job.version}",
            "Give a greater --version, or an --interim-version between the two.",
        )
    return version


def _older(job: Job, past: Trusted, start: _Start, report: Report) -> tuple[Earlier, ...]:
    """The releases to make deltas from, newest first."""
    if start.base is None:
        if job.delta_from:
            raise InvalidOption("the stream has no release to make deltas from", "Leave --delta-from away.")
        return ()
    if not job.delta_from:
        return past.before(start.base, job.previous_versions)
    found = []
    for version in sorted(set(job.delta_from), reverse=True):
        if version > start.base.version:
            raise InvalidOption(
                f"there is no release {version} to make deltas from", f"The last one is {start.base.version}."
            )
        of_base = version == start.base.version
        earlier = Earlier(past, start.base.mom, start.base.manifests) if of_base else Earlier(past, past.mom(version))
        if earlier.mom.format == start.base.mom.format:
            earlier.check()
            found.append(earlier)
        else:
            report.warn(f"no deltas from {version}: it has another format")
    return tuple(found)


def _check_changes(job: Job, start: _Start, contents: Mapping[str, Sequence[Node]], report: Report) -> None:
    if start.base is None:
        return
    if not job.allow_folder_replacement:
        changes.check_folders(start.base, job.specs, contents)
    if not start.bumps(job.format):
        for name in sorted(set(start.base.manifests) - set(contents)):
            report.warn(f"the bundle {name} is gone: clients before 6.1.0 that have it fail to update")


def _edition(job: Job, start: _Start, source: rootfs.Tree) -> Edition:
    bumps = start.bumps(job.format)
    return Edition(
        version=job.version,
        format=job.format,
        timestamp=rootfs.timestamp(source) if job.timestamp is None else job.timestamp,
        minversion=job.version if bumps else job.minversion,
        extra=(
            ("xattrs", "hashed" if job.xattrs else "ignored"),
            *(((stream.PRODUCT_KEY, job.product),) if job.product else ()),
        ),
    )


def _interim(job: Job, base: Release, last: Draft, staging: Staging, digests: Mapping[str, str]) -> Draft:
    """The last release in the old format: the content of the new one; bundles that it lacks are emptied (7.6)."""
    names = [spec.name for spec in job.specs]
    emptied = [_emptied(base, name) for name in sorted(set(base.manifests) - set(names))]
    contents = {**last.contents, **{spec.name: () for spec in emptied}}
    mom = last.release.mom
    edition = Edition(
        version=staging.version,
        format=base.mom.format,
        timestamp=mom.timestamp,
        extra=(*mom.extra, (INTERIM, str(job.version))),
    )
    release = changes.following(base, edition, (*job.specs, *emptied), contents, digests)
    for digest in sorted(assembly.needed_fullfiles(release)):
        name = stream.fullfile(release.version, digest)
        staging.adopt(name, last.staging.files / f"{digest}.tar")
    return replace(last, staging=staging, release=release, contents=contents)


def _emptied(base: Release, name: str) -> BundleSpec:
    old = base.manifests[name]
    return BundleSpec(name, includes=tuple(i for i in old.includes if i in base.manifests))


def _trust(job: Job, version: int, now: datetime.datetime) -> _Trust:
    """Raises where devices with a root of trust would refuse the release, or not see it. version: the first made."""
    found = _Trust(rootfile.coming(job.www, job.root_file), announcing.before(job.www, job.format, job.previous))
    if found.root is not None:
        approval.check_root(found.root, now)
        _check_keys(job, found.root)
    if job.announcer is not None:
        announcing.minimum(job.announcer, found.head, version)
    elif not job.without_head and not job.hold:
        announcing.refuse_headless(found.head, found.root is not None)
    return found


def _check_keys(job: Job, root: Root) -> None:
    release, build = (signing.public(s) if s is not None else None for s in (job.signer, job.manifest_signer))
    if job.announcer is not None:
        approval.check_head_key(root, job.announcer.holder.public)
    if not job.hold:
        approval.check_release_key(root, release)
        approval.check_build_key(root, build, (spec.name for spec in job.specs))
        return
    # What is missing can still be signed; what is wrong is wrong.
    for role, key in ((roots.RELEASE, release), (roots.BUILD, build)):
        if key is not None:
            approval.check_key(root, role, key)


def _check_bundles(job: Job, root: Root | None, past: Trusted, release: Release) -> None:
    """Raises where devices would refuse a bundle that is as it was before, or one that others may sign."""
    if root is None:
        return
    approval.check_paths(root, release.manifests.values())
    if not job.hold:
        kept = {m.name: m.version for m in release.manifests.values() if m.version != release.version}
        approval.check_unchanged(root, past.store, sorted(kept.items()))


def _commit(job: Job, drafts: Sequence[Draft], now: datetime.datetime, head: heads.Head | None) -> None:
    """Renames the releases to their places, then points to them; the newest `latest`, and the heads, come last.

    head: the one before. All that is to be signed is signed before anything is announced.
    """
    if job.root_file is not None:
        rootfile.bring(job.www, job.root_file, job.previous)
    for draft in drafts:
        if job.hold:
            held.mark(job.www, draft.release.version)
        draft.staging.commit()
    if job.hold:
        return
    written = [
        announcing.prepare(job.www, draft.release.version, job.announcer, now, head)
        for draft in drafts
        if job.announcer is not None
    ]
    for draft in drafts:
        version = str(draft.release.version).encode()
        if draft is drafts[-1]:
            _announce(job, stream.LATEST_VERSION, version)
        _announce(job, stream.latest(draft.release.mom.format), version)
    for made, data in written:
        writer.announce(job.www, stream.head(made.format), data)
    for draft in drafts:
        held.unmark(job.www, draft.release.version)


def _announce(job: Job, name: str, data: bytes) -> None:
    signature = signing.sign(data, job.signer) if job.signer is not None else None
    writer.announce(job.www, stream.signature(name), signature)
    writer.announce(job.www, name, data)
