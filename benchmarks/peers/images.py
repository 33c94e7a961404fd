"""Differences between whole trees as tars, and whole images."""

from __future__ import annotations

from benchmarks import meter
from benchmarks.peers.work import Outcome, Work


def zstd_patch(work: Work) -> Outcome:
    """The difference of two tars by `zstd --patch-from`."""
    old, new, out = *work.tars(), work.folder / "zstd.patch"
    make = work.run(["zstd", "-q", "-f", "-9", "--long=30", f"--patch-from={old}", new, "-o", out])
    line = ["zstd", "-q", "-f", "-d", "--long=30", f"--patch-from={old}", out, "-o", work.folder / "zstd.out"]
    return Outcome(meter.size(out), make, work.run(line))


def xdelta3(work: Work) -> Outcome:
    """The difference of two tars by xdelta3."""
    old, new, out = *work.tars(), work.folder / "xdelta"
    make = work.run(["xdelta3", "-f", "-e", "-6", "-S", "lzma", "-B", "1073741824", "-s", old, new, out])
    line = ["xdelta3", "-f", "-d", "-B", "1073741824", "-s", old, out, work.folder / "xdelta.out"]
    return Outcome(meter.size(out), make, work.run(line))


def rsync(work: Work) -> Outcome:
    """What rsync sends to a device that has the old tree, compressed by zstd -19."""
    place = work.fresh("rsync")
    batch = place / "batch"
    line = ["rsync", "-aHX", "--delete", "--no-whole-file", "--ignore-times", f"--only-write-batch={batch}"]
    make = work.run([*line, f"{work.new.root}/", f"{work.old.root}/"])
    make += work.run(["zstd", "-q", "-19", "--long=27", batch, "-o", place / "batch.zst"])
    return Outcome(meter.size(place / "batch.zst"), make)


def whole_zstd(work: Work) -> Outcome:
    """The whole new image as .tar.zst."""
    new, out = work.tars()[1], work.folder / "image.zst"
    make = work.run(["zstd", "-q", "-f", "-9", "--long=27", new, "-o", out])
    return Outcome(meter.size(out), make, work.run(["zstd", "-q", "-t", "--long=27", out]), remark="only unpacked")


def whole_xz(work: Work) -> Outcome:
    """The whole new image as .tar.xz."""
    new = work.tars()[1]
    out = new.with_suffix(".tar.xz")
    make = work.run(["xz", "-6", "-T2", "-k", "-f", new])
    return Outcome(meter.size(out), make, work.run(["xz", "-t", out]), remark="only unpacked")
