"""Fuzzes what reads foreign bytes: `python -m tests.fuzz`, or scripts/fuzz."""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

from swupd.errors import SwupdError
from tests.fuzz import corpus, oracle
from tests.fuzz.oracle import Bounds, Failure
from tests.fuzz.targets import TARGETS, Place, named


def main() -> int:
    """0: nothing found; 1: failures, each kept as a file."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        base = Path(name, "corpus")
        base.mkdir()
        found = corpus.make(base)
        scratch = Path(name, "scratch")
        if options.repeat:
            return _repeat(options, Place(found, scratch / "own"))
        targets = [named(t) for t in options.target] if options.target else TARGETS
        print(f"seed {options.seed}", flush=True)
        failed = 0
        for target in targets:
            tally = oracle.run(
                target, found, scratch, options.seed, Bounds(options.seconds, options.count), options.built
            )
            print(tally.sentence(), flush=True)
            for failure in tally.distinct:
                failed += 1
                print(
                    f"  {_keep(failure, options.keep)} (input {failure.number} of seed {options.seed}): {failure.why}"
                )
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description="Feeds damaged inputs to all that reads foreign bytes.")
    parser.add_argument("--seconds", type=float, default=10, help="for each target (default: 10)")
    parser.add_argument("--count", type=int, default=2**62, help="at most so many inputs for each target")
    parser.add_argument("--built", type=int, default=200, help="inputs that hypothesis builds (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="where chance begins (default: 0)")
    parser.add_argument(
        "--target", action="append", choices=[t.name for t in TARGETS], help="only this one; repeatable"
    )
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="where failures are kept")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="try this input once, with --target, and say all")
    options = parser.parse_args()
    if options.repeat and len(options.target or ()) != 1:
        parser.error("--repeat needs one --target")
    return options


def _keep(failure: Failure, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    to = folder / f"{failure.target}-{hashlib.sha256(failure.data).hexdigest()[:12]}"
    to.write_bytes(failure.data)
    return to


def _repeat(options: argparse.Namespace, place: Place) -> int:
    data = options.repeat.read_bytes()
    place.own.mkdir(parents=True)
    try:
        print("accepted:", named(options.target[0]).open(place)(data))
    except SwupdError as e:
        print(f"refused: {type(e).__name__}: {e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
