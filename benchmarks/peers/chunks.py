"""casync and rauc: what differs is fetched by chunks or blocks."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks import meter
from benchmarks.meter import Cost
from benchmarks.peers.work import Outcome, Work, names
from benchmarks.trees import Release

_BLOCK = 4096
_MANIFEST = """\
[update]
compatible=benchmark
version={version}
{bundle}
[image.rootfs]
filename=root.img
{adaptive}
"""

_NO_TIMES = tuple(f"--without={unit}-time" for unit in ("sec", "usec", "nsec", "2sec"))
"""Times of files are not part of a release; with them, every chunk of a new build is another."""


def casync(work: Work) -> Outcome:
    """Chunks of about 64 KiB of the new tree that the old one lacks, and the index."""
    place = work.fresh("casync")
    store = place / "store.castr"
    plain = [*_NO_TIMES, f"--store={store}"]
    meter.run(["casync", "make", *plain, place / "old.caidx", work.old.root])
    before, disk = names(store, "*.cacnk"), meter.blocks(store)
    make = work.run(["casync", "make", *plain, place / "new.caidx", work.new.root])
    new = _lacking(names(store, "*.cacnk"), before)
    apply = work.run(["casync", "extract", *plain, f"--seed={work.old.root}", place / "new.caidx", place / "out"])
    return Outcome(new + meter.size(place / "new.caidx"), make, apply, meter.blocks(store) - disk)


def rauc_casync(work: Work) -> Outcome:
    """A rauc bundle of an ext4 image, converted to chunks: those that the old image lacks, and the bundle itself."""
    place = work.fresh("rauc-casync")
    _keys(place)
    _image(work, place, work.old)
    _converted(work, place, work.old)
    make = _image(work, place, work.new) + _converted(work, place, work.new)
    stores = [place / f"{release.version}.chunks.castr" for release in (work.old, work.new)]
    bundle = place / f"{work.new.version}.chunks.raucb"
    size = _lacking(names(stores[1], "*.cacnk"), names(stores[0], "*.cacnk")) + meter.size(bundle)
    apply = work.run(["rauc", f"--keyring={place / 'cert.pem'}", "extract", bundle, place / "out"])
    seed, index = place / f"{work.old.version}/root.img", next((place / "out").glob("*.caibx"))
    apply += work.run(["casync", "extract", f"--store={stores[1]}", f"--seed={seed}", index, place / "root.img"])
    return Outcome(size, make, apply, meter.blocks(stores[1]))


def rauc_adaptive(work: Work) -> Outcome:
    """The 4 KiB blocks of an ext4 image that the old one lacks, compressed as in a bundle, and the index of blocks."""
    place = work.fresh("rauc-adaptive")
    _keys(place)
    _image(work, place, work.old)
    make = _image(work, place, work.new) + _bundle(work, place, work.new, adaptive=True)
    have = {hash(block) for block in _blocks(place / f"{work.old.version}/root.img")}
    compressor, size, number = zlib.compressobj(6), 0, 0
    for block in _blocks(place / f"{work.new.version}/root.img"):
        number += 1
        if hash(block) not in have:
            size += len(compressor.compress(block))
    size += len(compressor.flush()) + 32 * number
    disk = meter.blocks(place / f"{work.new.version}.raucb")
    return Outcome(size, make, None, disk, "blocks and index, computed")


def _keys(place: Path) -> None:
    line = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=benchmark"]
    meter.run([*line, "-keyout", place / "key.pem", "-out", place / "cert.pem"])


def _image(work: Work, place: Path, release: Release) -> Cost:
    """An ext4 image of a release; one release's files lie where another's do as far as mke2fs sees to that."""
    image = place / str(release.version) / "root.img"
    image.parent.mkdir()
    room = int(max(meter.blocks(r.root) for r in (work.old, work.new)) * 1.1) + (16 << 20)
    with image.open("wb") as file:
        file.truncate(room - room % _BLOCK)
    program = shutil.which("mke2fs") or "/usr/sbin/mke2fs"
    same = "00000000-0000-0000-0000-000000000001"
    line = [
        program,
        "-q",
        "-F",
        "-t",
        "ext4",
        "-b",
        _BLOCK,
        "-O",
        "^has_journal",
        "-U",
        same,
        "-E",
        f"hash_seed={same}",
    ]
    return work.run([*line, "-d", release.root, image])


def _bundle(work: Work, place: Path, release: Release, adaptive: bool) -> Cost:
    folder, made = place / str(release.version), place / f"{release.version}.raucb"
    text = _MANIFEST.format(
        version=release.version,
        bundle="[bundle]\nformat=verity" if adaptive else "",
        adaptive="adaptive=block-hash-index" if adaptive else "",
    )
    (folder / "manifest.raucm").write_text(text)
    return work.run(["rauc", *_signing(place), "bundle", folder, made])


def _converted(work: Work, place: Path, release: Release) -> Cost:
    cost = _bundle(work, place, release, adaptive=False)
    made, chunks = place / f"{release.version}.raucb", place / f"{release.version}.chunks.raucb"
    cost += work.run(["rauc", *_signing(place), "convert", made, chunks])
    made.unlink()
    return cost


def _signing(place: Path) -> list[object]:
    return [f"--cert={place / 'cert.pem'}", f"--key={place / 'key.pem'}", f"--keyring={place / 'cert.pem'}"]


def _blocks(image: Path) -> Iterator[bytes]:
    with image.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _lacking(new: dict[str, int], old: dict[str, int]) -> int:
    return sum(size for name, size in new.items() if name not in old)
