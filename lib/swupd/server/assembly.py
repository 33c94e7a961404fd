"""Fills a release's staging folder: fullfiles, deltas, packs, manifests, signatures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby, tee
from pathlib import Path

from swupd import folding, manifest, stream
from swupd.delta import Form
from swupd.errors import ManifestError
from swupd.lengths import Named
from swupd.manifest import FULL, MOM, Entry, Manifest
from swupd.server import archiver, changes, comparison, deltas, fullfiles, measuring, packs, rootfs, signing
from swupd.server.changes import Release
from swupd.server.deltas import Pair
from swupd.server.fullfiles import DeltaSizes, DeltaTask, Fullfile, Intake
from swupd.server.history import Earlier, FolderStore, Trusted
from swupd.server.packs import Made, Piece, Staged
from swupd.server.work import Crew, Report
from swupd.server.writer import Staging
from swupd.server.xz import Effort
from swupd.tree import Node

_MANIFEST_MODE = 0o100644


_TOGETHER = {Form.PLAIN: Effort.LOOSE, Form.RUNS: Effort.LOOSE_RUNS}
"""How small deltas are compressed together, as well as can be."""
_FILES, _DELTAS = 16, 4
"""How many are one task of the crew: most are done in less time than it takes to hand one out."""


@dataclass(frozen=True)
class Draft:
    """A release that is decided on and now gets written.

    contents: what each bundle ships. root: where the contents are. older: releases to make deltas from.
    effort: how hard to try to make them, and what else is written, small. forms: of the deltas in packs.
    """

    staging: Staging
    release: Release
    contents: Mapping[str, Sequence[Node]]
    root: Path
    past: Trusted
    older: tuple[Earlier, ...]
    signer: signing.Signer | None
    manifest_signer: signing.Signer | None
    effort: Effort = Effort.BEST
    forms: tuple[Form, ...] = deltas.ALL_CLIENTS

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """What is shipped, by path."""
        return by_path(self.contents)

    def fullfile(self, entry: Entry) -> Fullfile:
        """Where the fullfile of a present entry is."""
        return Fullfile(self.staging.files, self.past.store, entry.version, entry.digest)


@dataclass(frozen=True)
class BundleResult:
    """What became of a bundle: the version of its manifest, its entries, and how many of them are new in it."""

    version: int
    entries: int
    changed: int


@dataclass(frozen=True)
class Published:
    """What was published. files, bytes: of the release's folder. packs: bytes of each."""

    version: int
    format: int
    bundles: Mapping[str, BundleResult]
    fullfiles: int
    packs: Mapping[str, int]
    files: int
    bytes: int
    interim: Published | None = None


@dataclass(frozen=True)
class _Pack:
    """A pack to make, of a bundle's manifest.

    old: the version of the manifest that devices have; None for the pack of all. entries: what they lack.
    pairs: of which of that there may be deltas, which have such a form.
    """

    new: Manifest
    old: int | None
    entries: tuple[Entry, ...]
    pairs: tuple[Pair, ...] = ()
    form: Form = Form.PLAIN

    def name(self, sizes: Mapping[tuple[str, str], DeltaSizes]) -> str:
        """Its name in the stream."""
        if self.old is None:
            return stream.pack(self.new.name, self.new.version, 0)
        variant = ""
        if self.form is Form.RUNS:
            variant = folding.variant(filter(None, (sizes[pair.key].needs for pair in self.pairs)))
        return stream.pack(self.new.name, self.new.version, self.old, variant)


def by_path(contents: Mapping[str, Sequence[Node]]) -> dict[str, Node]:
    """All that the bundles ship, by path."""
    return {node.path: node for nodes in contents.values() for node in nodes}


def take_in(
    crew: Crew,
    report: Report,
    source: rootfs.Tree,
    contents: Mapping[str, Sequence[Node]],
    kept: Mapping[str, str],
    staging: Staging,
    effort: Effort,
) -> dict[str, str]:
    """The digest of each path that is shipped; fullfiles of what is not kept are written. Raises FolderError."""
    nodes = by_path(contents)
    tasks = (Intake(source.root, node, kept.get(path, ""), staging.files, effort.plain) for path, node in nodes.items())
    digests = {}
    for path, digest in zip(nodes, crew.map(fullfiles.take, tasks, _FILES), strict=True):
        digests[path] = digest
        report.phase("hash and compress", len(digests), len(nodes))
    return digests


def needed_fullfiles(release: Release) -> frozenset[str]:
    """Digests of which the release must hold a fullfile: of entries that are new in it (stream format, 2.9)."""
    return frozenset(
        e.digest for m in release.written() for e in m.entries if e.present and e.version == release.version
    )


def assemble(draft: Draft, crew: Crew, report: Report) -> Published:
    """Writes everything but the fullfiles, which are there. Raises SwupdError."""
    made, unpacked = _write_packs(draft, crew, report)
    unpacked.update(_fullfile_sizes(draft))
    _write_manifests(draft, report)
    _write_manifest_deltas(draft, crew)
    _write_mom(draft, measuring.write(draft.staging, draft.past, draft.release.mom, unpacked))
    release = draft.release
    draft.staging.write(stream.format_file(release.version), [str(release.mom.format).encode()])
    files, size = draft.staging.usage()
    results = {
        name: BundleResult(m.version, len(m.entries), sum(e.version == release.version for e in m.entries))
        for name, m in sorted(release.manifests.items())
    }
    return Published(
        version=release.version,
        format=release.mom.format,
        bundles=results,
        fullfiles=len(needed_fullfiles(release)),
        packs=made,
        files=files,
        bytes=size,
    )


def _packs(draft: Draft) -> list[_Pack]:
    """What to make; of two packs that differ in the form of their deltas the plain one first."""
    found = []
    for new in draft.release.written():
        found.append(_Pack(new, None, new.entries))
        for earlier, line in _older_lines(draft, new):
            # One of them at a time: a release may have many before it.
            with contextlib.suppress(ManifestError):
                old = earlier.manifest(line)
                lacked = deltas.changed(old, new)
                pairs = deltas.pairs(old, new, lacked)
                found += [_Pack(new, old.version, lacked, pairs, form) for form in draft.forms]
    return found


def _older_lines(draft: Draft, new: Manifest) -> Iterator[tuple[Earlier, Entry]]:
    """What older releases say of a bundle, each version of it once. One that was pruned costs deltas, nothing else."""
    seen = {new.version}
    for earlier in draft.older:
        line = earlier.lines.get(new.name)
        if line is not None and line.version not in seen:
            seen.add(line.version)
            yield earlier, line


def _fullfile_sizes(draft: Draft) -> dict[str, int]:
    """How much the release's fullfiles unpack to, by name."""
    shapes = {e.digest: draft.nodes[e.name] for m in draft.release.written() for e in m.entries if e.present}
    version = draft.release.version
    return {
        stream.fullfile(version, digest): archiver.fullfile_size(digest, shapes[digest])
        for digest in needed_fullfiles(draft.release)
    }


def _write_packs(draft: Draft, crew: Crew, report: Report) -> tuple[dict[str, int], dict[str, int]]:
    """Writes the packs; gives the bytes of each, and how many each unpacks to."""
    todo = _packs(draft)
    sizes = _make_deltas(draft, todo, crew, report)
    made: dict[str, int] = {}
    unpacked: dict[str, int] = {}
    for number, parts in groupby(_made(draft, todo, sizes, crew), key=lambda part: part[0]):
        report.phase("packs", number, len(todo))
        pack = todo[number]
        written: list[packs.Written] = []
        name = pack.name(sizes)
        size = draft.staging.write(name, _noted(((piece, done) for _, piece, done in parts), written))
        plain = made.get(replace(pack, form=Form.PLAIN).name(sizes))
        if pack.form is not Form.PLAIN and plain is not None and size >= plain:
            draft.staging.place(name).unlink()
            continue
        made[name] = size
        unpacked[name] = sum(piece.unpacked for piece, _, _ in written)
        if pack.old is None:
            draft.staging.write(stream.pack_index(pack.new.name, pack.new.version), [packs.index(written)])
    report.phase("packs", len(todo), len(todo))
    return made, unpacked


def _made(
    draft: Draft, todo: Sequence[_Pack], sizes: Mapping[tuple[str, str], DeltaSizes], crew: Crew
) -> Iterator[tuple[int, Piece, Made]]:
    """The pieces of all packs, one after another, with the number of the pack; no more at a time than are worked on."""
    pieces = ((number, piece) for number, pack in enumerate(todo) for piece in _pieces(draft, pack, sizes))
    here, there = tee(pieces)
    for (number, piece), done in zip(here, crew.map(packs.made, (piece for _, piece in there)), strict=True):
        yield number, piece, done


def _noted(parts: Iterable[tuple[Piece, Made]], written: list[packs.Written]) -> Iterator[bytes]:
    """The bytes of a pack's pieces; notes where each lies."""
    at = 0
    for piece, made in parts:
        written.append((piece, at, packs.Mark(made.size, made.names, made.digest)))
        at += made.size
        yield made.data


def _make_deltas(draft: Draft, todo: Sequence[_Pack], crew: Crew, report: Report) -> dict[tuple[str, str], DeltaSizes]:
    """Makes each delta that some pack wants once; gives their sizes."""
    wanted: dict[tuple[str, str], Pair] = {}
    for pack in todo:
        for pair in pack.pairs:
            wanted.setdefault(pair.key, pair)
    tasks = [
        DeltaTask(
            pair,
            draft.root,
            draft.nodes[pair.new.name],
            draft.fullfile(pair.new),
            draft.staging.work,
            draft.effort,
            draft.forms,
        )
        for pair in wanted.values()
    ]
    sizes = {}
    for number, (key, size) in enumerate(zip(wanted, crew.map(fullfiles.make_delta, tasks, _DELTAS), strict=True), 1):
        report.phase("deltas", number, len(tasks))
        sizes[key] = size
    return sizes


def _pieces(draft: Draft, pack: _Pack, sizes: Mapping[tuple[str, str], DeltaSizes]) -> list[Piece]:
    """The pieces of a pack; none for one that would be empty, or no other than that in the first form.

    Deltas of like files follow each other.
    """
    found = [pair for pair in pack.pairs if pack.form in sizes[pair.key].of]
    made = sorted(found, key=lambda pair: packs.likeness(pair.new.name))
    by_delta = {pair.new.digest for pair in made}
    entries = (e for e in pack.entries if e.digest not in by_delta)
    staged = [_staged(draft, entry) for entry in packs.distinct(entries).values()]
    if not made and (not staged or pack.form not in {Form.PLAIN, draft.forms[0]}):
        return []
    readers: dict[str, Callable[[], bytes]] = {
        pair.name(pack.form): fullfiles.delta_place(draft.staging.work, pair, pack.form).read_bytes for pair in made
    }
    earlier = _zero_pack_before(draft, pack) if pack.old is None else packs.NOTHING_BEFORE
    bytes_of = {pair.name(pack.form): sizes[pair.key].of[pack.form] for pair in made}
    together = _TOGETHER[pack.form] if pack.old is not None and draft.effort is Effort.BEST else draft.effort
    return list(packs.pieces(staged, readers, bytes_of, earlier, together))


def _zero_pack_before(draft: Draft, pack: _Pack) -> packs.Before:
    """The bundle's zero pack of the newest older release, where it is at hand: most of it may be the same."""
    _, old = next(_older_lines(draft, pack.new), (None, None))
    if old is None or not isinstance(draft.past.store, FolderStore):
        return packs.NOTHING_BEFORE
    www = draft.past.store.www
    return packs.before(www / stream.pack(old.name, old.version, 0), www / stream.pack_index(old.name, old.version))


def _staged(draft: Draft, entry: Entry) -> Staged:
    node = draft.nodes[entry.name]
    return Staged(
        digest=entry.digest,
        node=node,
        read=partial(rootfs.checked_content, draft.root, node, entry.digest),
        stream=partial(fullfiles.content_stream, draft.fullfile(entry), node),
    )


def _write_manifests(draft: Draft, report: Report) -> None:
    everything = changes.full(draft.release, draft.contents)
    todo = (*draft.release.written(), everything)
    for number, written in enumerate(todo, 1):
        data = manifest.serialize(written)
        _write_manifest(draft, written.name, data)
        if draft.manifest_signer is not None and written.name != FULL:
            name = stream.signature(stream.manifest(written.version, written.name))
            draft.staging.write(name, [signing.sign(data, draft.manifest_signer)])
        report.phase("manifests", number, len(todo))


def _write_manifest(draft: Draft, name: str, data: bytes, others: Iterable[tuple[str, bytes]] = ()) -> None:
    version = draft.release.version
    # The one of all files is fetched by nobody but old clients' search.
    effort = Effort.FAST if name == FULL else Effort.LISTS
    packed = archiver.manifest_tar(f"Manifest.{name}", data, others, effort)
    draft.staging.write(stream.manifest(version, name), [data])
    draft.staging.write(stream.manifest_tar(version, name), [packed])


@dataclass(frozen=True)
class _ManifestDelta:
    """A delta to make between two manifests of a bundle. data: the bytes of the new one."""

    line: Entry
    past: Trusted
    data: bytes

    def made(self) -> bytes | None:
        """The delta, None where it does not pay or the old manifest was pruned."""
        try:
            return comparison.make(self.past.manifest_data(self.line), self.data, _MANIFEST_MODE, 0, 0)
        except ManifestError:
            return None


def _write_manifest_deltas(draft: Draft, crew: Crew) -> None:
    version = draft.release.version
    written = ((new, manifest.serialize(new)) for new in draft.release.written())
    tasks = [_ManifestDelta(line, draft.past, data) for new, data in written for _, line in _older_lines(draft, new)]
    for task, made in zip(tasks, crew.map(_ManifestDelta.made, tasks), strict=True):
        if made is not None:
            draft.staging.write(stream.manifest_delta(version, task.line.name, task.line.version), [made])


def _write_mom(draft: Draft, lengths: Named) -> None:
    mom = draft.release.mom
    mom = mom._replace(extra=(*mom.extra, (stream.LENGTHS_KEY, str(lengths))))
    data = manifest.serialize(mom)
    others = []
    if draft.signer is not None:
        signature = signing.sign(data, draft.signer)
        draft.staging.write(stream.signature(stream.manifest(mom.version, MOM)), [signature])
        others.append((f"Manifest.{MOM}.sig", signature))
    _write_manifest(draft, MOM, data, others)
