"""Payloads that are compressed inside of files: undone piece by piece, and done again to the same bytes.

Linux packs a kernel by LZ4, in the blocks of its legacy frame, and modules by xz, each in a block of LZMA2 data. How
hard a compressor tried is not written in what it made: here it is what builds of Linux ask for.
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, Protocol

from swupd.errors import ArchiveError
from swupd.stream import MAX_DELTA_RESULT, MIB

BLOCK_SIZE = 8 * MIB
"""Bytes in each block of LZ4's legacy frame but the last, uncompressed."""
LENGTH = struct.Struct("<I")
"""What is before each block: how many bytes it takes."""
_LEVEL = 9
"""What `lz4 -l -9` takes, which builds of Linux call."""
LEAST_BITS, MOST_BITS = 12, 21
"""Dictionaries of xz from 4 KiB to 2 MiB (`xz --lzma2=dict=1MiB` is Linux's): compressing takes eleven times that."""
_PRESET = 6
"""xz's default. The presets above it differ in the dictionary only."""
XZ = "xz"
_LZ4_MARK, _XZ_MARK = b"SWUPDLZB", b"SWUPDXZ"
MARK_SIZE = 8


class Packer(Protocol):
    """Compresses a payload that comes in pieces."""

    def add(self, data: memoryview) -> Iterator[bytes]: ...
    def end(self) -> Iterator[bytes]: ...


class Codec(Protocol):
    """How a payload is compressed. mark: what a delta begins with for it. price: bytes of payload to a byte saved.

    needs: what packs are named by that have such deltas, "" where it cannot be done here.
    """

    @property
    def mark(self) -> bytes: ...
    @property
    def price(self) -> int: ...
    @property
    def needs(self) -> str: ...
    def unpacked(self, file: BinaryIO, size: int) -> Iterator[bytes]: ...
    def packer(self, size: int) -> Packer: ...


class Lz4(NamedTuple):
    """Blocks of LZ4, each with its length before it."""

    @property
    def mark(self) -> bytes:
        return _LZ4_MARK

    @property
    def price(self) -> int:
        """It is done in a fourteenth of xz's time."""
        return 128

    @property
    def needs(self) -> str:
        """The library's name and release: another one may pack to other bytes."""
        try:
            import lz4  # noqa: PLC0415 - not every device has it, and few commands need it
        except ImportError:
            return ""
        return f"lz4-{lz4.library_version_string()}"

    def unpacked(self, file: BinaryIO, size: int) -> Iterator[bytes]:
        """What the next so many bytes of a file hold. Raises ArchiveError."""
        left, total = size, 0
        while left > 0:
            (length,) = LENGTH.unpack(exactly(file, LENGTH.size))
            if length > left - LENGTH.size:
                raise _other()
            block = decompress(exactly(file, length))
            total += len(block)
            if total > MAX_DELTA_RESULT:
                raise _too_large()
            yield block
            # Not held while the next one is made: they are large.
            del block
            left -= length + LENGTH.size

    def packer(self, size: int) -> Packer:
        """Of a payload of so many bytes."""
        return _Blocks(min(BLOCK_SIZE, size))


class _Blocks:
    def __init__(self, size: int) -> None:
        self._block, self._filled = bytearray(size), 0

    def add(self, data: memoryview) -> Iterator[bytes]:
        while data:
            piece = min(len(data), len(self._block) - self._filled)
            self._block[self._filled : self._filled + piece] = data[:piece]
            self._filled += piece
            data = data[piece:]
            if self._filled == len(self._block):
                yield from self.end()

    def end(self) -> Iterator[bytes]:
        if self._filled:
            data: bytes = _lz4().compress(
                memoryview(self._block)[: self._filled], mode="high_compression", compression=_LEVEL, store_size=False
            )
            self._filled = 0
            yield LENGTH.pack(len(data))
            yield data


def decompress(block: bytes) -> bytes:
    """What a block of LZ4 holds. Raises ArchiveError where it is damaged, or the library is not there."""
    module = _lz4()
    try:
        data: bytes = module.decompress(block, uncompressed_size=BLOCK_SIZE)
    except module.LZ4BlockError as e:
        raise ArchiveError("a block of the old file is damaged") from e
    return data


def _lz4() -> Any:
    try:
        import lz4.block  # noqa: PLC0415 - as above
    except ImportError as e:
        raise ArchiveError("the delta needs the LZ4 library, which is not installed") from e
    return lz4.block


class Lzma2(NamedTuple):
    """LZMA2 data as xz writes it. bits: its dictionary has two to the power of so many bytes."""

    bits: int

    @property
    def mark(self) -> bytes:
        return _XZ_MARK + bytes([self.bits])

    @property
    def price(self) -> int:
        """A device that compresses 4.5 MB in a second of processor time saves 0.45 MB in it."""
        return 10

    @property
    def needs(self) -> str:
        """No release is named: all of liblzma 5 that were tried write the same (docs/adr/0017)."""
        return XZ

    def unpacked(self, file: BinaryIO, size: int) -> Iterator[bytes]:
        """What the next so many bytes of a file hold. Raises ArchiveError."""
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=self.filters)
        left, total = size, 0
        try:
            while not decompressor.eof:
                given = b""
                if decompressor.needs_input:
                    given = exactly(file, min(left, MIB))
                    left -= len(given)
                    if not given:
                        raise _other()
                data = decompressor.decompress(given, MIB)
                total += len(data)
                if total > MAX_DELTA_RESULT:
                    raise _too_large()
                yield data
        except lzma.LZMAError as e:
            raise ArchiveError("the payload of the old file is damaged") from e
        if left or decompressor.unused_data:
            raise _other()

    @property
    def filters(self) -> list[dict[str, int]]:
        """As the lzma module takes them."""
        return [{"id": lzma.FILTER_LZMA2, "preset": _PRESET, "dict_size": 1 << self.bits}]

    def packer(self, size: int) -> Packer:
        """Of a payload of any size."""
        return _Stream(self.filters)


class _Stream:
    def __init__(self, filters: list[dict[str, int]]) -> None:
        self._compressor = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=filters)

    def add(self, data: memoryview) -> Iterator[bytes]:
        yield self._compressor.compress(data)

    def end(self) -> Iterator[bytes]:
        yield self._compressor.flush()


def of_mark(mark: bytes) -> Codec | None:
    """The codec for which a delta begins with this mark, None where it begins otherwise."""
    if mark == _LZ4_MARK:
        return Lz4()
    if mark.startswith(_XZ_MARK) and len(mark) == MARK_SIZE and LEAST_BITS <= mark[-1] <= MOST_BITS:
        return Lzma2(mark[-1])
    return None


def exactly(file: BinaryIO, size: int) -> bytes:
    """So many bytes of the old file. Raises ArchiveError."""
    data = file.read(size)
    if len(data) != size:
        raise _other()
    return data


def _other() -> ArchiveError:
    return ArchiveError("the old file is not folded as the delta says")


def _too_large() -> ArchiveError:
    return ArchiveError("the old file unfolds to something that is too large")
