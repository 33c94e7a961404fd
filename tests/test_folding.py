from __future__ import annotations

import io
import lzma
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swupd import folding, patches, payloads
from swupd.errors import ArchiveError
from swupd.folding import Fold, Span
from swupd.payloads import Codec, Lz4, Lzma2
from swupd.server import comparison, deltas, folds
from swupd.server.xz import Effort
from swupd.tree import file_node

block = pytest.importorskip("lz4.block")
MIB = 2**20


def kernel(payload: bytes, head: bytes = b"MZ" + bytes(500), tail: bytes = b"tail" * 20) -> bytes:
    """A file as Linux packs it with LZ4."""
    packed = b"\x02\x21\x4c\x18"
    for at in range(0, len(payload), 8 * MIB):
        piece = payload[at : at + 8 * MIB]
        data = block.compress(piece, mode="high_compression", compression=9, store_size=False)
        packed += struct.pack("<I", len(data)) + data
    return head + packed + struct.pack("<I", len(payload)) + tail


def module(payload: bytes, bits: int = 20, **more: int) -> bytes:
    """A file as `xz --check=crc32 --lzma2=dict=1MiB` packs it, which builds of Linux call for modules."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << bits, **more}]
    return lzma.compress(payload, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)


def payload(seed: int, size: int) -> bytes:
    chance = random.Random(seed)
    words = [chance.randbytes(chance.randrange(3, 12)) for _ in range(500)]
    made = bytearray()
    while len(made) < size:
        made += chance.choice(words)
    return bytes(made[:size])


def apply(made: bytes, old: bytes) -> bytes:
    fold = folding.parse(made)
    assert fold is not None
    plain = b"".join(folding.unfolded(io.BytesIO(old), fold))
    opened = patches.opened(io.BytesIO(made), len(made), io.BytesIO(plain), len(plain), start=fold.length)
    return b"".join(folding.folded(opened.chunks, fold))


def made_of(old: bytes, new: bytes) -> bytes | None:
    """The folded delta of two files, if they are such and come out again."""
    found = folds.find(old, new, least=0)
    return found.delta(0o100600, 0, 0, 0) if found is not None and found.folds_again() else None


@pytest.mark.parametrize("size", [3 * MIB, 8 * MIB, 9 * MIB])
def test_a_folded_delta_makes_the_new_kernel_and_is_smaller(size: int) -> None:
    inside = payload(1, size)
    after = inside[:70_000] + b"patched" + inside[70_000 : size // 2] + inside[size // 2 + 3 :]
    old, new = kernel(inside), kernel(after, head=b"MZ" + bytes(480) + b"new header")
    made = made_of(old, new)
    assert made is not None
    assert apply(made, old) == new
    plain = comparison.make(old, new, 0o100600, 0, 0)
    assert plain is None or len(made) < len(plain)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"x" * 3000, kernel(b"y" * 3000)),
        (kernel(b"y" * 3000), b"x" * 3000),
        (kernel(b"y" * 3000), b"\x02\x21\x4c\x18"),
        (kernel(b"y" * 3000), b"\x02\x21\x4c\x18\xff\xff\xff\xff" + b"z" * 3000),
        (kernel(b"y" * 3000), b"\x02\x21\x4c\x18\x04\0\0\0abcd" + b"z" * 3000),
    ],
    ids=["old is none", "new is none", "only the magic", "length too large", "no block"],
)
def test_no_folded_delta_where_one_of_the_files_is_no_such_kernel(old: bytes, new: bytes) -> None:
    assert made_of(old, new) is None


def test_no_folded_delta_where_folding_would_give_other_bytes() -> None:
    inside = payload(2, 100_000)
    packed = block.compress(inside, store_size=False)
    new = b"head\x02\x21\x4c\x18" + struct.pack("<I", len(packed)) + packed
    assert made_of(kernel(inside), new) is None


@pytest.mark.parametrize("size", [1, 5_000, 300_000, 3 * MIB])
def test_a_module_is_compared_unfolded(size: int) -> None:
    inside = payload(1, size)
    after = inside[: size // 3] + b"patched" + inside[size // 3 + 2 :] + b"signature" * 20
    old, new = module(inside), module(after)
    made = made_of(old, new)
    assert made is not None
    assert apply(made, old) == new
    plain = comparison.make(old, new, 0o100600, 0, 0)
    assert size < 100_000 or plain is None or len(made) < len(plain) / 2


@pytest.mark.skipif(shutil.which("xz") is None, reason="xz is not there")
@pytest.mark.parametrize("options", ["-T1", "-T2", "-T2 --block-size=50000", "-9", "--check=crc64", "--check=sha256"])
def test_what_xz_itself_packed_comes_out_again(options: str, tmp_path: Path) -> None:
    """With threads it writes the sizes of each block into its header."""
    inside = payload(1, 200_000)
    old, new = (
        subprocess.run(
            ["xz", "--check=crc32", *options.split(), "--lzma2=dict=1MiB", "-c"],
            input=data,
            capture_output=True,
            check=True,
        ).stdout
        for data in (inside, inside[:100] + b"patched" + inside[100:])
    )
    made = made_of(old, new)
    assert made is not None
    assert apply(made, old) == new
    fold = folding.parse(made)
    assert fold is not None and (len(fold.old), len(fold.new)) == ((4, 5) if "block-size" in options else (1, 1))


def test_what_unfolds_to_too_much_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert folds.find(module(bytes(MIB)), module(bytes(MIB))) is not None
    monkeypatch.setattr(folds, "MOST", MIB - 1)
    assert folds.find(module(bytes(MIB)), module(bytes(MIB))) is None
    assert folds.find(kernel(bytes(MIB)), kernel(bytes(MIB)), least=0) is None


def test_what_was_compressed_otherwise_is_left_as_it_is() -> None:
    inside = payload(1, 100_000)
    after = inside[:100] + b"patched" + inside[100:]
    assert made_of(module(inside), module(after, nice_len=12)) is None
    assert made_of(module(inside), module(after, bits=19)) is None
    assert made_of(module(inside, bits=22), module(after, bits=22)) is None
    assert made_of(module(inside), lzma.compress(after, lzma.FORMAT_ALONE)) is None
    x86 = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": MIB}]
    filtered = [lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=x86) for data in (inside, after)]
    assert made_of(filtered[0], filtered[1]) is None


@pytest.mark.parametrize("kept", [0, 5, 6, 12, 13, 14, 16, 23, 24, 100, 3000])
def test_a_module_that_is_cut_off_is_no_module(kept: int) -> None:
    inside = payload(1, 100_000)
    assert made_of(module(inside), module(inside[::-1])[:kept]) is None
    assert made_of(module(inside)[:kept], module(inside[::-1])) is None


@pytest.mark.parametrize("codec", [Lz4(), Lzma2(12)])
@given(sizes=st.lists(st.integers(1, 700), max_size=20), start=st.integers(0, 1500), length=st.integers(0, 1500))
@settings(deadline=None)
def test_folding_does_not_depend_on_how_the_bytes_come(codec: Codec, sizes: list[int], start: int, length: int) -> None:
    data = payload(3, sum(sizes))
    start = min(start, len(data))
    middle, end = (min(start + length * n, len(data)) for n in (1, 2))
    chunks, at = [], 0
    for size in sizes:
        chunks.append(data[at : at + size])
        at += size
    fold = Fold((), (Span(start, middle), Span(middle, end)), 0, codec)
    whole = b"".join(folding.folded([data], fold))
    assert b"".join(folding.folded(chunks, fold)) == whole
    assert whole.startswith(data[:start]) and whole.endswith(data[end:])


@pytest.mark.parametrize(
    "fold",
    [
        Fold((Span(0, 10_000),), (), 100),
        Fold((Span(510, 600),), (), 100),
        Fold((Span(0, 3000),), (), 100),
        Fold((Span(10_000_000, 10_000_001),), (), 100),
    ],
)
def test_an_old_file_that_is_not_as_was_said_is_refused(fold: Fold) -> None:
    with pytest.raises(ArchiveError, match="old file"):
        list(folding.unfolded(io.BytesIO(kernel(payload(4, 20_000))), fold))


@pytest.mark.parametrize(
    ("start", "less", "bits"),
    [(23, 0, 20), (24, 1, 20), (24, 2_000, 20), (24, -1, 20), (24, -500, 20), (500, 0, 20)],
)
def test_an_old_module_that_is_not_as_was_said_is_refused(start: int, less: int, bits: int) -> None:
    old = module(payload(4, 20_000))
    found = folds.find(old, old)
    assert found is not None and found.old.packed[0].start == 24
    fold = Fold((Span(start, found.old.packed[0].end - less),), (), 100, Lzma2(bits))
    with pytest.raises(ArchiveError, match="old file"):
        list(folding.unfolded(io.BytesIO(old), fold))
    with pytest.raises(ArchiveError, match="old file"):
        list(folding.unfolded(io.BytesIO(b"short"), fold))


def test_an_old_module_that_unfolds_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "MAX_DELTA_RESULT", MIB)
    old = module(bytes(5 * MIB))
    found = folds.find(old, old)
    assert found is not None
    fold = Fold(found.old.packed, (), 100, Lzma2(20))
    with pytest.raises(ArchiveError, match="too large"):
        list(folding.unfolded(io.BytesIO(old), fold))


@pytest.mark.parametrize("mark", [b"SWUPDXZ", b"SWUPDXZ\x0b", b"SWUPDXZ\x16", b"SWUPDXZ\xff"])
def test_a_dictionary_that_a_device_has_no_room_for_is_no_folded_delta(mark: bytes) -> None:
    assert folding.parse(mark + bytes(40)) is None


@pytest.mark.parametrize(
    "numbers",
    [
        (1, 1, 1, 5, 4, 0, 0),
        (1, 1, 1, 0, 1, 5, 4),
        (2**40, 1, 1, 0, 1, 0, 1),
        (1, 1, 1, 2**63, 2**63, 0, 0),
        (1, 1, 1, 0, 2**62, 0, 1),
        (1, 1, 1, 0, 1, 0, 2**62),
        (1, 2, 0, 0, 5, 4, 9),
        (1, 0, 2, 0, 5, 4, 9),
        (1, 65, 0, *range(130)),
        (1, 0, 65, *range(130)),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ArchiveError, match="nonsense"):
        folding.parse(header(b"SWUPDLZB", *numbers))
    with pytest.raises(ArchiveError, match="nonsense"):
        folding.parse(header(b"SWUPDXZ\x14", *numbers))


def header(mark: bytes, size: int, old: int, new: int, *places: int) -> bytes:
    return struct.pack(f"<8sQHH{len(places)}Q", mark, size, old, new, *places)


def test_a_header_is_read_as_it_was_written() -> None:
    fold = Fold((Span(1, 5), Span(5, 9)), (Span(0, 2**20),), 7, Lzma2(20))
    assert folding.parse(fold.pack()) == fold
    assert len(fold.pack()) == fold.length
    most = tuple(Span(n, n + 1) for n in range(folding.MOST_SPANS))
    assert folding.parse(Fold(most, most, 7).pack()[: folding.HEAD_SIZE]) == Fold(most, most, 7)
    for less in range(8, fold.length):
        with pytest.raises(ArchiveError, match="cut off"):
            folding.parse(fold.pack()[:less])


def test_other_deltas_have_no_such_header() -> None:
    assert folding.parse(b"BSDIFF4U" + bytes(100)) is None
    with pytest.raises(ArchiveError, match="cut off"):
        folding.parse(b"SWUPDLZB")


def test_the_names_of_packs_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lz4, "needs", "lz4-1.2")
    assert folding.variants() == ("runs.lz4-1.2.xz", "runs.xz", "runs.lz4-1.2", "runs")
    assert folding.variants(repack=False) == ("runs",)
    assert folding.variant(["xz", "lz4-1.2", "xz"]) == "runs.lz4-1.2.xz"
    monkeypatch.setattr(Lz4, "needs", "")
    assert folding.variants() == ("runs.xz", "runs")


@pytest.mark.parametrize(
    ("inside", "effort", "needs"),
    [
        (payload(1, 100_000), Effort.BEST, "xz"),
        (payload(1, 100_000), Effort.FAST, ""),
        # Packed to next to nothing: a device would compress much to save little.
        (payload(1, 4_000) + bytes(400_000), Effort.BEST, ""),
    ],
)
def test_a_module_is_compressed_on_a_device_where_that_saves_enough(inside: bytes, effort: Effort, needs: str) -> None:
    old, new = module(inside), module(b"patched" + inside)
    nodes = file_node("/x", 0o644, len(old)), file_node("/x", 0o644, len(new))
    made = deltas.make((nodes[0], old), (nodes[1], new), len(new), effort)
    assert made.needs == needs
    assert (made.runs is not None and made.runs.startswith(b"SWUPDXZ")) == bool(needs)


def test_a_module_that_was_packed_otherwise_is_no_folded_delta() -> None:
    inside = payload(1, 100_000)
    old, new = module(inside), module(b"patched" + inside, nice_len=12)
    nodes = file_node("/x", 0o644, len(old)), file_node("/x", 0o644, len(new))
    assert deltas.make((nodes[0], old), (nodes[1], new), len(new), Effort.BEST).needs == ""


def test_a_kernel_in_a_file_that_is_too_small_for_one_is_not_looked_for() -> None:
    old, new = kernel(payload(1, 3000)), kernel(payload(2, 3000))
    assert folds.find(old, new) is None
