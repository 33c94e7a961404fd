from __future__ import annotations

import lzma
import random
import subprocess

import pytest

from swupd.server import xz


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 127, 128, 16_383, 16_384, 65_535, 65_536, 65_537, 131_072, 3_000_001])
def test_what_is_stored_is_an_xz_stream_of_little_more(size: int) -> None:
    content = random.Random(7).randbytes(size)
    stored = xz.stored(content)
    assert lzma.decompress(stored, lzma.FORMAT_XZ) == content
    assert len(stored) <= 60 + 1.0001 * size
    checked = subprocess.run(["xz", "--decompress", "--stdout"], input=stored, capture_output=True, check=True)
    assert checked.stdout == content
