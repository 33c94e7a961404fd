"""Other ways to bring a device from one release to the next, on the same trees. Each says why where it cannot run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import meter, trees
from benchmarks.meter import Cost, Failed
from benchmarks.trees import Release

SERVER_TOOLS = os.environ.get("SWUPD_SERVER_TOOLS", "")
"""The folder with swupd_create_update, swupd_make_fullfiles and swupd_make_pack of swupd-server."""


@dataclass(frozen=True)
class Work:
    """Two releases, a folder to work in, and for how many seconds a program may run."""

    old: Release
    new: Release
    folder: Path
    limit: float

    def fresh(self, name: str) -> Path:
        """An empty folder."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        return place


@dataclass(frozen=True)
class Outcome:
    """Bytes that a device fetches; what making them costs a server and using them a device, None where not measured."""

    size: int
    make: Cost
    apply: Cost | None = None


def ostree_delta(work: Work) -> Outcome:
    """Commits of both trees, and the static delta between them."""
    place = work.fresh("ostree")
    repo, device = place / "repo", place / "device"
    run = _limited(work)
    _quiet(["ostree", "init", f"--repo={repo}", "--mode=archive"])
    commits = [_commit(repo, release) for release in (work.old, work.new)]
    make = run(
        ["ostree", f"--repo={repo}", "static-delta", "generate", f"--from={commits[0]}", f"--to={commits[1]}",
         "--min-fallback-size=0", "--inline", f"--filename={place / 'delta'}"]
    )  # fmt: skip
    _quiet(["ostree", "init", f"--repo={device}", "--mode=bare"])
    _quiet(["ostree", f"--repo={device}", "pull-local", repo, commits[0]])
    apply = run(["ostree", f"--repo={device}", "static-delta", "apply-offline", place / "delta"])
    return Outcome(meter.size(place / "delta"), make, apply)


def ostree_objects(work: Work) -> Outcome:
    """What a pull of single objects fetches: those of the new commit that the old one lacks."""
    place = work.fresh("ostree-objects")
    repo = place / "repo"
    _quiet(["ostree", "init", f"--repo={repo}", "--mode=archive"])
    _commit(repo, work.old)
    before = {p.name: p.stat().st_size for p in (repo / "objects").rglob("*.*")}
    tree = ["--tree=dir=" + os.fspath(work.new.root)]
    make = _limited(work)(["ostree", f"--repo={repo}", "commit", "--branch=os", *tree])
    size = sum(p.stat().st_size for p in (repo / "objects").rglob("*.*") if p.name not in before)
    return Outcome(size, make)


def casync(work: Work) -> Outcome:
    """Chunks of 64 KiB of the new tree that the old one lacks, and the index."""
    place = work.fresh("casync")
    store, run = place / "store.castr", _limited(work)
    plain = ["--without=all-time", f"--store={store}"]
    _quiet(["casync", "make", *plain, place / "old.caidx", work.old.root])
    before = {p.name for p in store.rglob("*.cacnk")}
    make = run(["casync", "make", *plain, place / "new.caidx", work.new.root])
    size = sum(p.stat().st_size for p in store.rglob("*.cacnk") if p.name not in before)
    apply = run(["casync", "extract", *plain, f"--seed={work.old.root}", place / "new.caidx", place / "out"])
    return Outcome(size + meter.size(place / "new.caidx"), make, apply)


def zstd_patch(work: Work) -> Outcome:
    """The difference of two tars by `zstd --patch-from`."""
    old, new, out = *_tars(work), work.folder / "zstd.patch"
    make = _limited(work)(["zstd", "-q", "-f", "-9", "--long=30", f"--patch-from={old}", new, "-o", out])
    line = ["zstd", "-q", "-f", "-d", "--long=30", f"--patch-from={old}", out, "-o", work.folder / "zstd.out"]
    return Outcome(meter.size(out), make, _limited(work)(line))


def xdelta3(work: Work) -> Outcome:
    """The difference of two tars by xdelta3."""
    old, new, out = *_tars(work), work.folder / "xdelta"
    make = _limited(work)(["xdelta3", "-f", "-e", "-6", "-S", "lzma", "-B", "1073741824", "-s", old, new, out])
    line = ["xdelta3", "-f", "-d", "-B", "1073741824", "-s", old, out, work.folder / "xdelta.out"]
    return Outcome(meter.size(out), make, _limited(work)(line))


def rsync(work: Work) -> Outcome:
    """What rsync sends to a device that has the old tree, compressed by zstd -19."""
    place = work.fresh("rsync")
    batch = place / "batch"
    line = ["rsync", "-aHX", "--delete", "--no-whole-file", "--ignore-times", f"--only-write-batch={batch}"]
    make = _limited(work)([*line, f"{work.new.root}/", f"{work.old.root}/"])
    make += _limited(work)(["zstd", "-q", "-19", "--long=27", batch, "-o", place / "batch.zst"])
    return Outcome(meter.size(place / "batch.zst"), make)


def bsdiff(work: Work) -> Outcome:
    """bsdiff for each changed file that was there under the same name, one .xz of the others."""
    place = work.fresh("bsdiff")
    run, total, size = _limited(work), Cost(0, 0, 0), 0
    rest = []
    for number, (old, new) in enumerate(trees.changed(work.old.root, work.new.root)):
        if not old or not (work.old.root / old[1:]).stat().st_size:
            rest.append(new)
            continue
        patch = place / str(number)
        total += run(["bsdiff", work.old.root / old[1:], work.new.root / new[1:], patch])
        size += meter.size(patch)
        patch.unlink()
    packed = trees.only(work.new.root, rest, place / "rest.tar")
    total += run(["xz", "-6", "-k", packed])
    return Outcome(size + meter.size(packed.with_suffix(".tar.xz")), total)


def new_contents(work: Work) -> Outcome:
    """All changed contents in one .tar.xz."""
    place = work.fresh("xz")
    names = [new for _, new in trees.changed(work.old.root, work.new.root)]
    packed = trees.only(work.new.root, names, place / "changed.tar")
    make = _limited(work)(["xz", "-6", "-k", packed])
    apply = _limited(work)(["xz", "-t", packed.with_suffix(".tar.xz")])
    return Outcome(meter.size(packed.with_suffix(".tar.xz")), make, apply)


def whole_image(work: Work) -> Outcome:
    """The whole new image as .tar.zst."""
    new, out = _tars(work)[1], work.folder / "image.zst"
    make = _limited(work)(["zstd", "-q", "-f", "-9", "--long=27", new, "-o", out])
    return Outcome(meter.size(out), make, _limited(work)(["zstd", "-q", "-t", "--long=27", out]))


def swupd_server(work: Work) -> Outcome:
    """swupd-server (the C programs): both releases with their zero packs, and the pack between them."""
    if not SERVER_TOOLS:
        raise Failed("SWUPD_SERVER_TOOLS does not name its programs")
    place = work.fresh("swupd-server")
    for name in ("image", "www", "empty", "logs"):
        (place / name).mkdir()
    (place / "server.ini").write_text(
        f"[Server]\nemptydir={place}/empty/\nimagebase={place}/image/\noutputdir={place}/www/\n"
    )
    (place / "groups.ini").write_text("[os-core]\ngroup=os-core\nstatus=ACTIVE\n")
    (place / "image/LAST_VER").write_text("0\n")
    total = Cost(0, 0, 0)
    for release in (work.old, work.new):
        image = place / "image" / str(release.version)
        image.mkdir()
        subprocess.run(["cp", "-al", release.root, image / "os-core"], check=True)
        total = _released(work, place, release.version, work.old.version if release is work.new else 0)
        (place / "image/LAST_VER").write_text(f"{release.version}\n")
    pack = place / f"www/{work.new.version}/pack-os-core-from-{work.old.version}.tar"
    return Outcome(meter.size(pack), total)


def _released(work: Work, place: Path, version: int, old: int) -> Cost:
    run, state = _limited(work), ("--statedir", place)
    here = os.getcwd()
    os.chdir(place / "logs")
    try:
        total = run([f"{SERVER_TOOLS}/swupd_create_update", "--osversion", version, *state, "--format", 30])
        total += run([f"{SERVER_TOOLS}/swupd_make_fullfiles", *state, version])
        for start in {0, old}:
            total += run([f"{SERVER_TOOLS}/swupd_make_pack", *state, start, version, "os-core"])
    finally:
        os.chdir(here)
    return total


PEERS: dict[str, tuple[str, Callable[[Work], Outcome]]] = {
    "ostree, static delta": ("ostree", ostree_delta),
    "ostree, single objects": ("ostree", ostree_objects),
    "casync, 64 KiB chunks": ("casync", casync),
    "rsync batch, zstd -19": ("rsync", rsync),
    "xdelta3 of tars, lzma": ("xdelta3", xdelta3),
    "zstd -9 --patch-from of tars": ("zstd", zstd_patch),
    "bsdiff for each file": ("bsdiff", bsdiff),
    "changed contents, one .xz": ("xz", new_contents),
    "whole image, zstd -9": ("zstd", whole_image),
    "swupd-server 3.7.5": ("tar", swupd_server),
}
"""By name: the program that has to be there, and how it is used."""
NOT_RUN = {
    "rauc": "its bundles hold images of file systems; adaptive mode fetches by 4 KiB blocks, which casync stands for",
    "mixer": "it needs a Clear Linux upstream to mix from",
}


def outcomes(work: Work, wanted: Sequence[str]) -> Iterator[tuple[str, Outcome | str]]:
    """What each peer comes to, or why it did not run."""
    for name, (program, measure) in PEERS.items():
        if wanted and not any(word in name for word in wanted):
            continue
        if shutil.which(program) is None:
            yield name, f"{program} is not installed"
            continue
        try:
            yield name, measure(work)
        except (Failed, OSError, subprocess.CalledProcessError) as e:
            yield name, str(e)


def _tars(work: Work) -> tuple[Path, Path]:
    made = []
    for release in (work.old, work.new):
        place = work.folder / f"{release.version}.tar"
        if not place.exists():
            trees.only(release.root, list(trees.paths(release.root)), place)
        made.append(place)
    return made[0], made[1]


def _limited(work: Work) -> Callable[[Sequence[object]], Cost]:
    return lambda words: meter.run(words, limit=work.limit)


def _quiet(words: Sequence[object]) -> None:
    meter.run(words)


def _commit(repo: Path, release: Release) -> str:
    line = ["ostree", f"--repo={repo}", "commit", "--branch=os", f"--tree=dir={release.root}"]
    return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
