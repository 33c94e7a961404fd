"""Measures this project and its peers on the same work, and writes a table, figures and a picture."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import disk, parts, programs, report, results, trees
from benchmarks.meter import Failed
from benchmarks.parts import Run, Settings
from benchmarks.results import Results

HERE = Path(__file__).parents[1]
AFTERWARDS: dict[str, Callable[[Run], None]] = {
    "small-change": parts.small_change,
    "behind": parts.behind,
    "workers": parts.spread,
    "scale": parts.growth,
}
"""Parts that follow the transitions, in their order."""
PARTS = ("peers", "agents", *AFTERWARDS)
QUICK = Settings(limit=120, rounds=1, cold=False, sizes=(500, 1_000, 2_000), counts=(2, 3, 4), bundles=5)
DEFAULT = Settings()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what was asked for."""
    options = _arguments(argv)
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(PARTS):
        print(f"There is no part {min(unknown)}: take some of {', '.join(PARTS)}.", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("The benchmarks install trees with other owners: run this as root.", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    found = Results(options.output, results.earlier(options.reuse))
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.work) as folder,
        disk.made(Path(folder)) as (work, kind),
    ):
        run = Run(_settings(options), found, work)
        found.add("How", _how(run.settings, wanted, kind), "programs", programs.versions())
        _measure(run, options, wanted)
    report.picture(options.output / "benchmarks.png", found.tables, found.growth)
    print((options.output / "benchmarks.md").read_text())
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmark", description=__doc__)
    parser.add_argument("--corpus", choices=("small", "full"), default="small", help="made of Debian packages (small)")
    parser.add_argument("--trees", type=Path, metavar="FOLDER", help="or trees v10, v20 and so on that are there")
    parser.add_argument("--versions", metavar="N,...", help="which of them (all)")
    parser.add_argument("--only", metavar="PART,...", default=",".join(PARTS), help="parts: %(default)s")
    parser.add_argument("--quick", action="store_true", help="everything once and small")
    parser.add_argument("--peers", metavar="WORD,...", help="only peers with one of these words in their names")
    parser.add_argument("--limit", type=float, metavar="S", help="seconds for one program of a peer (1800)")
    parser.add_argument(
        "--reuse",
        type=Path,
        metavar="JSON",
        help="take peers on the same trees, and growth where it is no part of this run, from an earlier run",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="how often what is quick is measured (3)")
    parser.add_argument("--sizes", metavar="N,...", help="files of the made-up systems (1000,10000,100000)")
    parser.add_argument("--bundles", type=int, metavar="N", help="bundles of those (50)")
    parser.add_argument("--counts", metavar="N,...", help="versions of the largest of those (2,5,10,20)")
    parser.add_argument("--work", metavar="FOLDER", help="where to work: the disk that counts")
    parser.add_argument("--output", type=Path, metavar="FOLDER", default=HERE / "docs", help="for results (docs)")
    return parser.parse_args(argv)


def _settings(options: argparse.Namespace) -> Settings:
    given = {
        "limit": options.limit,
        "rounds": options.rounds,
        "bundles": options.bundles,
        "peers": tuple(options.peers.split(",")) if options.peers else None,
        "sizes": _numbers(options.sizes),
        "counts": _numbers(options.counts),
    }
    return replace(QUICK if options.quick else DEFAULT, **{k: v for k, v in given.items() if v is not None})


def _numbers(text: str | None) -> tuple[int, ...] | None:
    return tuple(int(n) for n in text.split(",")) if text else None


def _measure(run: Run, options: argparse.Namespace, wanted: Sequence[str]) -> None:
    if set(wanted) - {"scale"}:
        sources = list(_sources(options))
        transitions = {"peers", "agents"} & set(wanted)
        parts.publish(run, sources if transitions else sources[:1])
        if transitions:
            parts.transitions(run, wanted)
    for name, part in AFTERWARDS.items():
        if name in wanted:
            try:
                part(run)
            except Failed as e:
                parts.unmeasured(run, name, e)
    if "scale" not in wanted:
        parts.growth_again(run)


def _sources(options: argparse.Namespace) -> Iterator[tuple[int, Path]]:
    base = options.trees or trees.make(HERE / ".benchmark", options.corpus, HERE / "scripts")
    there = sorted(int(p.name[1:]) for p in base.glob("v*") if p.name[1:].isdigit())
    for version in _numbers(options.versions) or there:
        yield version, base / f"v{version}"


def _how(settings: Settings, wanted: Sequence[str], kind: str) -> list[str]:
    used = ", ".join(f"{name} {number}" for name, number in programs.versions().items())
    return [
        f"`scripts/benchmark`, parts {', '.join(wanted)}: one run, one program after another, served by nginx on the",
        f"same machine, on {kind}. What is quick is the median of {settings.rounds} runs. CPU is",
        "processor time of a program and its children, peak the memory of the largest process, cold means with empty",
        f"caches. Ratios (×) count, not seconds: machines differ. Programs: {used}.",
    ]


if __name__ == "__main__":
    sys.exit(main())
