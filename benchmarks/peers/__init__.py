"""Other ways to bring a device from one release to the next, on the same trees. Each says why where it cannot run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence

from benchmarks.meter import Failed
from benchmarks.peers import chunks, files, images, oldservers, ostree
from benchmarks.peers.work import Outcome, Work

Measure = Callable[[Work], Outcome]

PEERS: Mapping[str, tuple[tuple[str, ...], Measure]] = {
    "ostree, static delta": (("ostree", "nginx"), ostree.delta),
    "ostree, single objects": (("ostree", "nginx"), ostree.objects),
    "casync, 64 KiB chunks": (("casync",), chunks.casync),
    "rauc, casync bundle of ext4": (("rauc", "casync", "mksquashfs", "openssl", "mke2fs"), chunks.rauc_casync),
    "rauc, adaptive 4 KiB blocks of ext4": (("rauc", "mksquashfs", "openssl", "mke2fs"), chunks.rauc_adaptive),
    "rsync batch, zstd -19": (("rsync", "zstd"), images.rsync),
    "xdelta3 of tars, lzma": (("xdelta3",), images.xdelta3),
    "zstd -9 --patch-from of tars": (("zstd",), images.zstd_patch),
    "bsdiff for each file": (("bsdiff", "xz"), files.bsdiff),
    "hdiffpatch for each file": (("xz",), files.hdiffpatch),
    "changed contents, one .xz": (("xz",), files.new_contents),
    "whole image, zstd -9": (("zstd",), images.whole_zstd),
    "whole image, xz -6": (("xz",), images.whole_xz),
    "swupd-server 3.7.5": ((), oldservers.swupd_server),
    "mixer 6.4.1": ((), oldservers.mixer),
}
"""By name: the programs that have to be there, and how they are used."""

__all__ = ["PEERS", "Outcome", "Work", "lacking", "outcomes"]


def lacking(name: str) -> str:
    """The first program that a peer needs and that is not installed, "" if all are."""
    programs, _ = PEERS[name]
    return next((p for p in programs if not (shutil.which(p) or shutil.which(f"/usr/sbin/{p}"))), "")


def outcomes(
    work: Work, wanted: Sequence[str], tell: Callable[[str], None] = lambda name: None
) -> Iterator[tuple[str, Outcome | str]]:
    """What each peer comes to, or why it did not run. wanted: words of names, none for all. tell: before each."""
    for name, (_, measure) in PEERS.items():
        if any(wanted) and not any(word in name for word in wanted if word):
            continue
        if missing := lacking(name):
            yield name, f"{missing} is not installed"
            continue
        tell(name)
        try:
            yield name, measure(work)
        except (Failed, OSError, subprocess.CalledProcessError) as e:
            yield name, str(e)
