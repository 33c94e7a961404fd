"""Brings the objects of a plan into staging, from the cheapest place that has them.

In this order: staging itself (a run that was interrupted), the device's own files, packs, fullfiles. Each object
is checked while it is written; what cannot be had from one place is asked of the next.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from swupd import delta, stream
from swupd.agent.arriving import Arrival
from swupd.agent.limits import Limits
from swupd.agent.objects import XattrRule, digests
from swupd.agent.origin import Origin
from swupd.agent.patching import Job, Patching, held, is_folded, unfolded
from swupd.agent.plan import Plan
from swupd.agent.progress import Counter, Unpacking
from swupd.agent.report import Report, Steps
from swupd.agent.routes import Hop, Route
from swupd.agent.state import State
from swupd.agent.survey import look
from swupd.agent.unpacker import Answer, Here, Unpacks
from swupd.archive import Member
from swupd.errors import ArchiveError, DownloadError, HashMismatch, SwupdError
from swupd.manifest import Entry
from swupd.tree import Node, Root

_OVERHEAD = 64 * stream.KIB
_LARGE_DELTA = 128 * stream.KIB
_LARGE_FILE = 8 * stream.MIB
_MOST_IN_VAIN = 16
"""After so many useless deltas one after another no more of their pack are tried: each may take long."""


class Fetcher:
    """Fills staging."""

    def __init__(
        self,
        source: Origin,
        state: State,
        root: Root,
        rule: XattrRule,
        owned: Iterable[Entry],
        limits: Limits,
        parallel: int,
        report: Report,
        unpacker: Unpacks | None = None,
        seen: Mapping[str, Node] = MappingProxyType({}),
        repack: bool = True,
    ) -> None:
        """owned: entries that are expected on the device, whose files serve as delta sources.

        seen: files that were hashed already, by their digests. repack: as Settings has it.
        """
        self.source, self.state, self.root, self.rule = source, state, root, rule
        self.limits, self.parallel, self.report = limits, parallel, report
        self.unpacker = unpacker or Here()
        self.seen, self.repack = seen, repack
        self._by_digest: dict[str, str] = {}
        # Where one content has several paths: those after the first.
        self._further: dict[str, list[str]] = {}
        self._in_vain = 0
        self._unpacking = Unpacking(Steps(report, ()), (), ())
        for entry in owned:
            if entry.present and self._by_digest.setdefault(entry.digest, entry.name) is not entry.name:
                self._further.setdefault(entry.digest, []).append(entry.name)

    def obtain(self, plan: Plan, routes: Callable[[], Iterable[Route]], steps: Steps) -> None:
        """Stages every object of a plan. Raises DownloadError, HashMismatch, DiskSpace and their siblings.

        routes: by which packs; asked where something is missing.
        """
        needed = {e.digest: e for e in plan.write}
        missing = {digest for digest in needed if self.state.staged.find(digest, self.rule) is None}
        missing -= {digest for digest in sorted(missing) if self._from_device(digest)}
        if missing:
            ways = tuple(routes())
            self._packs(missing, [route[0] for route in ways if len(route) == 1], steps)
            for route in (route for route in ways if len(route) > 1):
                self._follow(missing, route, steps)
        read = {node.path for node in self.seen.values()}
        missing -= {d for d in sorted(missing) if needed[d].name not in read and self._in_place(needed[d])}
        steps.begin("validate_fullfiles")
        self._fullfiles([needed[digest] for digest in sorted(missing)], steps)
        self.state.staged.write_back()
        self.unpacker.rest()

    def _from_device(self, digest: str) -> bool:
        """Copies an object that is on the device under some path."""
        found = self._on_device(digest)
        return found is not None and self._copied(digest, found)

    def _copied(self, digest: str, found: Node) -> bool:
        try:
            self.state.staged.put(digest, found, self.root.chunks(found), self.rule)
        except HashMismatch:
            return False
        return True

    def _in_place(self, entry: Entry) -> bool:
        """Copies a file that is where it belongs already, though something else should be there."""
        found = look(self.root, entry.name, self.rule)[1].get(entry.digest) if entry.kind == "F" else None
        return found is not None and self._copied(entry.digest, found)

    def _source(self, digest: str) -> Node | None:
        """The file that a delta is for. Read already, or else not: what a wrong one makes has another digest."""
        path = self._by_digest.get(digest)
        if digest in self.seen or path is None:
            return self.seen.get(digest)
        node = self.root.node(path, xattrs=self.rule is not XattrRule.IGNORED)
        if node is None or (self.rule is XattrRule.UNKNOWN and node.xattrs):
            # Another path may have it; and which of its attributes count, its digest tells.
            return self._on_device(digest)
        return node

    def _on_device(self, digest: str) -> Node | None:
        if digest in self.seen:
            return self.seen[digest]
        first = self._by_digest.get(digest)
        for path in (first, *self._further.get(digest, ())) if first is not None else ():
            node = self.root.node(path, xattrs=self.rule is not XattrRule.IGNORED)
            if node is None:
                continue
            for view, name in digests(node, self.root.chunks(node), self.rule):
                if name == digest:
                    return view
        return None

    def _packs(self, missing: set[str], hops: list[Hop], steps: Steps) -> None:
        if not missing or not hops:
            return
        counter = Counter(steps.begin("download_packs"), _sum(hops))
        with ThreadPoolExecutor(min(self.parallel, len(hops))) as pool:
            coming = {self._arrival(pool, hop, counter): hop for hop in hops}
            self._unpacking = Unpacking(steps, missing, tuple(coming))
            damaged = [coming[a] for a in _soonest(coming) if not self._unpack(a, coming[a], missing)]
            again = {self._arrival(pool, hop, counter): hop for hop in damaged if missing}
            self._unpacking = Unpacking(steps, missing, tuple(again))
            for arrival in _soonest(again):
                self._unpack(arrival, again[arrival], missing, last=True)

    def _follow(self, missing: set[str], route: Route, steps: Steps) -> None:
        """Takes packs one after another; what those before the last bring is what the next ones build on."""
        if not missing:
            return
        first, last = route[0].pack, route[-1].pack
        way = ", ".join(str(hop.pack.to_version) for hop in route)
        self.report.detail(f"There is no pack of {first.bundle} from {first.from_version}: the way is by {way}.")
        counter = Counter(steps.begin("download_packs"), _sum(route))
        with ThreadPoolExecutor(1) as pool:
            coming = [(self._arrival(pool, hop, counter), hop) for hop in route]
            self._unpacking = Unpacking(steps, missing, [arrival for arrival, _ in coming])
            for arrival, hop in coming:
                self._unpack(arrival, hop, missing, last=True, whole=hop.pack is not last)

    def _arrival(self, pool: Executor, hop: Hop, counter: Counter) -> Arrival:
        part = self.state.part(hop.name)
        return Arrival(pool, part, partial(self._pack, hop, part), counter.advance)

    def _pack(self, hop: Hop, part: Path, advance: Callable[[int], None]) -> bool:
        length = self.limits.of(hop.name, self.limits.pack[hop.pack.bundle])
        if not self.source.download(hop.name, part, length.stored, advance):
            return False
        try:
            self.limits.check(hop.name, part)
        except DownloadError as e:
            # Nothing that a resumed download could be built on.
            part.unlink()
            if self.source.blame(hop.name, e.problem):
                return self._pack(hop, part, advance)
            raise
        return True

    def _unpack(self, arrival: Arrival, hop: Hop, missing: set[str], last: bool = False, whole: bool = False) -> bool:
        """Takes a pack, while it arrives where that goes well; what did not arrive stays, for the next run to resume.

        last: do not ask for another mirror. whole: stage what is not missing, too.
        False for a pack that is damaged and may be had from another mirror.
        """
        name = hop.name
        taken = not arrival.ended and self._take_arriving(arrival, hop, missing, whole)
        try:
            if not arrival.result():
                self.report.detail(f"There is no {name}; single files are fetched instead.")
                return True
        except DownloadError as e:
            self.report.warn(f"{name} cannot be had ({e.problem}); single files are fetched instead.")
            return True
        try:
            if not taken:
                with arrival.place.open("rb") as file:
                    self._take(file, self._unpacked(hop), missing, whole)
        except (ArchiveError, HashMismatch) as e:
            if self.source.blame(name, f"{name} cannot be used: {e.problem}") and not last:
                arrival.place.unlink(missing_ok=True)
                return False
            self.report.warn(f"{name} cannot be used ({e.problem}); single files are fetched instead.")
        arrival.place.unlink(missing_ok=True)
        return True

    def _take_arriving(self, arrival: Arrival, hop: Hop, missing: set[str], whole: bool) -> bool:
        """Whether all of a pack could be taken while it arrived. If not, it is judged when it is there."""
        try:
            with arrival.reading() as file:
                self._take(file, self._unpacked(hop), missing, whole)
        except (ArchiveError, DownloadError, HashMismatch):
            return False
        return True

    def _unpacked(self, hop: Hop) -> int:
        """How many bytes a pack may unpack to. Raises DownloadError."""
        return self.limits.of(hop.name, self.limits.pack[hop.pack.bundle]).unpacked

    def _take(self, file: BinaryIO, limit: int, missing: set[str], whole: bool) -> None:
        """Stages what is missing out of a pack, or all of it. Anything else in it is passed over."""
        with (
            self.unpacker.members(file, limit) as members,
            ThreadPoolExecutor(self.unpacker.patchers) as pool,
        ):
            patching = Patching(pool, partial(self._patched, missing=missing))
            self._in_vain = 0
            for member in members:
                folder, _, name = member.name.removeprefix("./").rstrip("/").partition("/")
                if folder == "staged" and (name in missing or (whole and stream.is_digest(name))):
                    self.state.staged.put(name, member.node, member.content, self.rule)
                    missing.discard(name)
                    self._unpacking.tell()
                    continue
                pair = delta.parse_name(name) if folder == "delta" and member.node.kind == "F" else None
                if pair is not None and (pair[1] in missing or whole):
                    patching.settle(pair[1])
                    if pair[1] in missing or whole:
                        self._begin(patching, pair, member)
            patching.finish()

    def _begin(self, patching: Patching, pair: tuple[str, str], member: Member) -> None:
        """Has a delta applied to the file that it is for, where that is there."""
        if self._in_vain >= _MOST_IN_VAIN:
            return
        old, new = pair
        source, open_source = self._source(old), self.root.file
        if source is None:
            source, open_source = self.state.staged.find(old, self.rule), self.state.staged.file
        if source is None or source.kind != "F" or max(source.size, member.node.size) > stream.MAX_DELTA_RESULT:
            return
        with contextlib.ExitStack() as stack:
            # Opened here: large ones are applied in other threads, and roots are not for several.
            old_file = stack.enter_context(open_source(source))
            patch = stack.enter_context(held(member, self.state.layout.cache))
            folded = is_folded(patch)
            if folded and not self.repack:
                return
            slow = member.node.size > _LARGE_DELTA or source.size > _LARGE_FILE or folded
            patching.begin(Job(new, patch, old_file, source, stack.pop_all()), slow)

    def _patched(self, jobs: Sequence[Job], missing: set[str]) -> Iterator[None]:
        """Asks for deltas to be applied; and then stages what they make."""
        try:
            with contextlib.ExitStack() as stack:
                for job in jobs:
                    stack.enter_context(job.opened)
                deltas = [(job.patch, stack.enter_context(self._unfolded(job))) for job in jobs]
                answers = stack.enter_context(self.unpacker.patching(deltas, self.limits.file))
                yield
                for job, answer in zip(jobs, answers, strict=True):
                    self._take_patched(job, answer, missing)
        except ArchiveError as e:
            self._refuse(e)

    def _take_patched(self, job: Job, answer: Answer, missing: set[str]) -> None:
        try:
            made = answer()
            mode, uid, gid, size = made.node.mode, made.node.uid, made.node.gid, made.node.size
            node = Node("/" + job.digest, "F", mode, uid, gid, size, xattrs=job.source.xattrs)
            self.state.staged.put(job.digest, node, made.content, self.rule)
            missing.discard(job.digest)
            self._unpacking.tell()
            self._in_vain = 0
        except (ArchiveError, HashMismatch) as e:
            self._refuse(e)

    def _unfolded(self, job: Job) -> AbstractContextManager[BinaryIO]:
        return unfolded(job.old, job.patch, self.state.layout.cache, self.unpacker.unfolding)

    def _refuse(self, problem: SwupdError) -> None:
        self._in_vain += 1
        self.report.detail(f"A delta cannot be used ({problem.problem}); the whole file is fetched instead.")

    def _fullfiles(self, entries: list[Entry], steps: Steps) -> None:
        if not entries:
            return
        progress = steps.begin("download_fullfiles")
        with ThreadPoolExecutor(min(self.parallel, len(entries))) as pool:
            waiting = [pool.submit(self._fullfile, entry) for entry in entries]
            try:
                for done, future in enumerate(as_completed(waiting), 1):
                    future.result()
                    progress(done, len(entries), "files")
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _fullfile(self, entry: Entry) -> None:
        """Fetches one object; one that proves damaged is fetched anew from the next mirror, or once from the only one.

        Raises the first error that is about its content.
        """
        name = stream.fullfile(entry.version, entry.digest)
        part = self.state.part(f"{entry.digest}.tar")
        damage: SwupdError | None = None
        again = True
        while again:
            length = self.limits.of(name, self.limits.file + _OVERHEAD)
            if not self.source.download(name, part, length.stored, lambda _: None):
                raise damage or DownloadError(
                    f"the server lacks {name}, which is {entry.name}", "Try again later or use another mirror."
                )
            try:
                self.limits.check(name, part)
                self._take_fullfile(entry, part, length.unpacked)
                return
            except (ArchiveError, DownloadError, HashMismatch) as e:
                again = self.source.blame(name, e.problem) or damage is None
                damage = damage or type(e)(
                    f"{entry.name} arrived damaged: {e.problem}", e.hint or "Try again later or use another mirror."
                )
            finally:
                part.unlink(missing_ok=True)
        if damage is not None:
            raise damage

    def _take_fullfile(self, entry: Entry, part: os.PathLike[str], limit: int) -> None:
        count = 0
        with open(part, "rb") as file, self.unpacker.members(file, limit) as members:
            for member in members:
                count += 1
                if count > 1 or member.name.rstrip("/") != entry.digest:
                    raise ArchiveError("its archive holds something else")
                self.state.staged.put(entry.digest, member.node, member.content, self.rule)
        if not count:
            raise ArchiveError("its archive is empty")


def _soonest(coming: Iterable[Arrival]) -> Iterator[Arrival]:
    """One after another, those that are there before those that are on their way."""
    waiting = list(coming)
    while waiting:
        yield waiting.pop(next((n for n, arrival in enumerate(waiting) if arrival.ended), 0))


def _sum(hops: Iterable[Hop]) -> int:
    return sum(hop.size or 0 for hop in hops)
