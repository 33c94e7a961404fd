"""A short part of the fuzzing, by a new seed each time, and proof that the oracle sees what it must."""

from __future__ import annotations

import ctypes
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from swupd.errors import ArchiveError, SwupdError
from tests.fuzz import corpus, oracle
from tests.fuzz.corpus import Corpus
from tests.fuzz.mutation import mutate
from tests.fuzz.oracle import Bounds, Inputs, Tally
from tests.fuzz.targets import TARGETS, Place, Target, named

COUNT = 60
"""Inputs for each target."""
SEED = int(os.environ.get("FUZZ_SEED") or random.SystemRandom().randrange(2**32))


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return corpus.make(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("name", [t.name for t in TARGETS])
def test_damage_is_refused_in_words_and_within_bounds(name: str, found: Corpus, tmp_path: Path) -> None:
    tally = oracle.run(named(name), found, tmp_path / "scratch", SEED, Bounds(count=COUNT), built=20)
    whys = [f"input {f.number}: {f.why}" for f in tally.distinct]
    assert not whys, f"scripts/fuzz --target {name} --seed {SEED} --built 20\n" + "\n".join(whys)
    assert tally.tried == COUNT


def _tried(parse: Callable[[bytes], object], found: Corpus, scratch: Path, count: int = 3) -> Tally:
    target = Target("test", lambda c: [b"0", b"1", b"2"], lambda place: parse)
    return oracle.run(target, found, scratch, 0, Bounds(count=count))


def _raise(error: BaseException) -> Callable[[bytes], object]:
    def parse(data: bytes) -> None:
        if data == b"1":
            raise error

    return parse


def _only_failure(tally: Tally) -> str:
    assert (tally.tried, [f.number for f in tally.failures]) == (3, [1])
    assert tally.failures[0].data == b"1"
    return tally.failures[0].why


def test_an_error_of_our_own_is_a_refusal(found: Corpus, tmp_path: Path) -> None:
    tally = _tried(_raise(ArchiveError("damaged")), found, tmp_path)
    assert (tally.accepted, tally.refused, tally.failures) == (2, 1, [])


@pytest.mark.parametrize(
    "error", [ValueError("x"), MemoryError(), RecursionError(), KeyboardInterrupt(), SystemExit(0)]
)
def test_any_other_is_a_failure(error: BaseException, found: Corpus, tmp_path: Path) -> None:
    assert type(error).__name__ in _only_failure(_tried(_raise(error), found, tmp_path))


def test_an_error_without_words_is_a_failure(found: Corpus, tmp_path: Path) -> None:
    assert "says nothing" in _only_failure(_tried(_raise(SwupdError("")), found, tmp_path))


def test_a_hang_is_a_failure(found: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "SECONDS", 0.05)
    busy: list[Callable[[bytes], object]] = [
        lambda data: time.sleep(60) if data == b"1" else None,
        lambda data: sum(range(10**11)) if data == b"1" else None,
    ]
    for parse in busy:
        assert _only_failure(_tried(parse, found, tmp_path / "scratch")) == "it takes too long"


def test_a_crash_is_a_failure(found: Corpus, tmp_path: Path) -> None:
    why = _only_failure(_tried(lambda data: ctypes.string_at(0) if data == b"1" else None, found, tmp_path))
    assert "SIGSEGV" in why


def test_much_memory_is_a_failure(found: Corpus, tmp_path: Path) -> None:
    why = _only_failure(_tried(lambda data: bytearray(2**30) if data == b"1" else None, found, tmp_path))
    assert "MemoryError" in why


def test_a_write_outside_is_a_failure(found: Corpus, tmp_path: Path) -> None:
    def outside(data: bytes) -> None:
        Path("x").write_bytes(data)
        if data == b"2":
            Path("../outside/x").write_bytes(data)

    tally = _tried(outside, found, tmp_path)
    assert [(f.number, f.why) for f in tally.failures] == [(2, "something outside the target's own folder changed")]


def test_a_change_of_the_corpus_is_a_failure(found: Corpus, tmp_path: Path) -> None:
    stray = found.base / "stray"
    tally = _tried(stray.write_bytes, found, tmp_path)
    stray.unlink()
    assert "made of changed" in tally.failures[0].why


def test_the_same_seed_gives_the_same_inputs(found: Corpus) -> None:
    one, two, other = (Inputs(named("mom"), found, seed, 20) for seed in (5, 5, 6))
    assert [one[n] for n in range(200)] == [two[n] for n in range(200)]
    assert [one[n] for n in range(200)] != [other[n] for n in range(200)]


def test_most_mutations_change_something() -> None:
    chance = random.Random(1)
    seed = b"MANIFEST\t30\nversion:\t10\n"
    assert sum(mutate(seed, chance, [seed, b"other"], True) != seed for _ in range(1000)) > 900


@pytest.mark.parametrize("name", [t.name for t in TARGETS])
def test_a_seed_is_right(name: str, found: Corpus, tmp_path: Path) -> None:
    target = named(name)
    (tmp_path / "own").mkdir()
    if name == "answer":
        pytest.skip("its seeds are answers that say no, too")
    parse = target.open(Place(found, tmp_path / "own"))
    accepted = 0
    for data in target.seeds(found):
        try:
            parse(data)
            accepted += 1
        except SwupdError as e:
            print(name, e)
    assert accepted
