"""Contents on their way into a release: each is read once, hashed, and compressed if the release needs it.

The tasks are plain values and functions, so that any executor can carry them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from swupd import hashing, stream
from swupd.delta import Form
from swupd.errors import SwupdError
from swupd.server import archiver, deltas, history, rootfs, writer
from swupd.server.deltas import Pair
from swupd.server.xz import Effort
from swupd.tree import Node


@dataclass(frozen=True, slots=True)
class Intake:
    """An object to take in.

    kept: the digest with which it needs no fullfile, "" if it needs one in any case. effort: to compress a large one.
    """

    root: Path
    node: Node
    kept: str
    files: Path
    effort: Effort = Effort.NORMAL


def take(task: Intake) -> str:
    """The object's digest; its fullfile is in the folder `files` where the release needs it."""
    content = rootfs.content(task.root, task.node)
    digest = hashing.digest(task.node, [content])
    place = task.files / f"{digest}.tar"
    if digest != task.kept and not place.exists():
        writer.put(place, [archiver.fullfile(digest, task.node, content, task.effort)])
    return digest


@dataclass(frozen=True, slots=True)
class Fullfile:
    """Where an object's fullfile is: in those of the release being written (files), if there, else in the stream."""

    files: Path
    store: history.Store
    version: int
    digest: str

    @property
    def staged(self) -> Path:
        """Where it is in the release being written, if it is there."""
        return self.files / f"{self.digest}.tar"

    def tar(self) -> bytes | None:
        """The fullfile's bytes, None where it cannot be had."""
        if self.staged.exists():
            return self.staged.read_bytes()
        return self.store.read(stream.fullfile(self.version, self.digest), stream.MAX_FILE)

    def size(self) -> int | None:
        """The fullfile's size, None where it cannot be had."""
        if self.staged.exists():
            return self.staged.stat().st_size
        return self.store.size(stream.fullfile(self.version, self.digest))


def content_stream(place: Fullfile, node: Node) -> bytes | None:
    """The .xz stream of a large file's content out of its fullfile; None where that has no such stream."""
    packed = place.tar()
    if packed is None:
        return None
    ready = archiver.content_stream(place.digest, node, packed)
    # What was published once is not trusted to be whole still.
    return ready if ready is None or place.staged.exists() or _holds(packed, place.digest) else None


def _holds(packed: bytes, digest: str) -> bool:
    try:
        history.unpacked_object(packed, digest)
    except SwupdError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class DeltaTask:
    """A delta to make, into the folder `work`. forms: which may be of use."""

    pair: Pair
    root: Path
    node: Node
    fullfile: Fullfile
    work: Path
    effort: Effort
    forms: Collection[Form] = deltas.ALL_CLIENTS


def delta_place(work: Path, pair: Pair, form: Form) -> Path:
    """Where the delta of a pair is in a form, if one was made."""
    return work / "-".join((*pair.key, form.value))


@dataclass(frozen=True, slots=True)
class DeltaSizes:
    """Bytes of a delta in each form that pays. needs: as deltas.Made has it."""

    of: Mapping[Form, int] = field(default_factory=dict)
    needs: str = ""


def make_delta(task: DeltaTask) -> DeltaSizes:
    """Writes the deltas that pay."""
    old = history.old_content(task.fullfile.store, task.pair.old.version, task.pair.old.digest)
    size = task.fullfile.size()
    if old is None or size is None or max(old[0].size, task.node.size) > deltas.LARGEST:
        return DeltaSizes()
    content = rootfs.checked_content(task.root, task.node, task.pair.new.digest)
    made = deltas.make(old, (task.node, content), size, task.effort, task.forms)
    forms = {Form.PLAIN: made.plain, Form.RUNS: made.runs}
    sizes = {
        form: writer.put(delta_place(task.work, task.pair, form), [data])
        for form, data in forms.items()
        if data is not None
    }
    return DeltaSizes(sizes, made.needs)
