"""Bytes to other bytes, a little or much wrong: flips, cuts, splices, odd numbers, and whole words of a text."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from random import Random

_EDGES = (0, 1, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63)
_WORDS = (
    *(str(n).encode() for n in (*_EDGES, -1, 2**64, 10**18, 10**19)),
    *(
        b"+1",
        b" 1",
        b"1 ",
        b"1e3",
        b"1_0",
        b"0x10",
        b"\xb2",
        b"\xd9\xa3",
        b"\xef\xbc\x91",
        b"9" * 5000,
        b"0" * 5000,
        b"-",
    ),
    *(b"", b".", b"..", b"/", b"../../escaped", b"/../escaped", b"//", b"a" * 300, b"a/" * 2100, b"/" + b"a" * 4096),
    *(b"\0", b"\t", b"\r", b"\n", b"\n\n", b"\x0b", b"\x1c", b"\xe2\x80\xa8", b"\xff\xfe", b"%s%n", b"%0a", b"%2e%2e"),
    *(
        b"\\0000",
        b"\\0777",
        b"'",
        b'"',
        b"=",
        b"[",
        b"]",
        b"#",
        b"0" * 64,
        b"A" * 64,
        b" " + b"0" * 63,
        b"0x" + b"0" * 62,
    ),
    *(b"MoM", b"full", b".swupd", b"http://[", b"file://", b"ftp://x/", b"http://h:99999/", b"true", b"no"),
)
_TOKEN = re.compile(rb"[A-Za-z0-9._+-]+|[^A-Za-z0-9._+-]")
Step = Callable[[bytearray, Random, Sequence[bytes]], None]


def mutate(seed: bytes, chance: Random, others: Sequence[bytes], text: bool) -> bytes:
    """A variant of a seed; others: what it may be spliced with; text: change words as well as bytes."""
    data = bytearray(seed)
    steps = (*_STEPS, *_TEXT_STEPS) if text else _STEPS
    for _ in range(chance.choice((1, 1, 1, 2, 2, 4, 8))):
        chance.choice(steps)(data, chance, others)
    return bytes(data)


def _span(data: bytearray, chance: Random) -> slice:
    begin = chance.randrange(len(data) + 1)
    return slice(begin, min(len(data), begin + int(2 ** chance.uniform(0, 10))))


def _flip(data: bytearray, chance: Random, others: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _byte(data: bytearray, chance: Random, others: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.choice((0, 1, 10, 32, 127, 128, 255, chance.randrange(256)))


def _insert(data: bytearray, chance: Random, others: Sequence[bytes]) -> None:
    at = chance.randrange(len(data) + 1)
    data[at:at] = chance.randbytes(int(2 ** chance.uniform(0, 6)))


def _delete(data: bytearray, chance: Random, others: Sequence[bytes]) -> None:
    del data[_span(data, chance)]


def _double(data: bytearray, chance: Random, others: Sequence[bytes]) -> None:
    span = _span(data, chance)
    data[span.stop : span.stop] = data[span] * chance.choice((1, 1, 2, 20))


def _truncate(data: bytearray, chance: Random, others: Sequence[bytes]) -> None:
    del data[chance.randrange(len(data) + 1) :]


def _splice(data: bytearray, chance: Random, others: Sequence[bytes]) -> None:
    other = chance.choice(others)
    data[chance.randrange(len(data) + 1) :] = other[chance.randrange(len(other) + 1) :]


def _append(data: bytearray, chance: Random, others: Sequence[bytes]) -> None:
    data += chance.choice(others)


def _zero(data: bytearray, chance: Random, others: Sequence[bytes]) -> None:
    span = _span(data, chance)
    data[span] = bytes(span.stop - span.start)


def _number(data: bytearray, chance: Random, others: Sequence[bytes]) -> None:
    form = chance.choice(("<H", "<I", "<Q", ">H", ">I", ">Q"))
    size = struct.calcsize(form)
    if len(data) >= size:
        at = chance.randrange(len(data) - size + 1)
        number = chance.choice((*_EDGES, -1, -2, -(2**31), len(data)))
        data[at : at + size] = struct.pack(form, number % 2 ** (8 * size))


def _octal(data: bytearray, chance: Random, others: Sequence[bytes]) -> None:
    """A field of a tar header, with the header's sum made right again."""
    blocks = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    if not blocks:
        return
    at = chance.choice(blocks)
    begin, size = chance.choice(((0, 100), (100, 8), (108, 8), (116, 8), (124, 12), (156, 1), (157, 100), (345, 155)))
    value = chance.choice((b"", b"-1", b"7" * size, b"\x80" + b"\xff" * 11, b"\xff" * size, *_WORDS, b"5", b"2", b"x"))
    data[at + begin : at + begin + size] = value[:size].ljust(size, b"\0")
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])


def _word(data: bytearray, chance: Random, others: Sequence[bytes]) -> None:
    tokens = list(_TOKEN.finditer(data))
    if tokens:
        found = chance.choice(tokens)
        data[found.start() : found.end()] = chance.choice(_WORDS)


def _other_word(data: bytearray, chance: Random, others: Sequence[bytes]) -> None:
    tokens, more = list(_TOKEN.finditer(data)), _TOKEN.findall(chance.choice(others))
    if tokens and more:
        found = chance.choice(tokens)
        data[found.start() : found.end()] = chance.choice(more)


def _lines(data: bytearray, chance: Random, others: Sequence[bytes]) -> None:
    """A line twice, elsewhere, or not at all."""
    lines = bytes(data).splitlines(keepends=True)
    if lines:
        at = chance.randrange(len(lines))
        line = lines[at] if chance.random() < 0.5 else lines.pop(at)
        if chance.random() < 0.7:
            lines.insert(chance.randrange(len(lines) + 1), line)
        data[:] = b"".join(lines)


_STEPS: tuple[Step, ...] = (
    _flip,
    _byte,
    _insert,
    _delete,
    _double,
    _truncate,
    _splice,
    _append,
    _zero,
    _number,
    _octal,
)
_TEXT_STEPS: tuple[Step, ...] = (_word, _word, _word, _other_word, _lines)
