"""Runs the benchmarks: scripts/benchmark [--trees FOLDER] [--only PART,...] [--output FOLDER]"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import ours, peers, report, scale, trees
from benchmarks.meter import Cost
from benchmarks.ours import Stream
from benchmarks.report import Row
from benchmarks.trees import Release

HERE = Path(__file__).parents[1]
PARTS = ("peers", "agents", "small-change", "scale")


@dataclasses.dataclass
class Results:
    """What was found so far."""

    sections: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    rows: list[Row] = dataclasses.field(default_factory=list)
    growth: dict[str, Any] = dataclasses.field(default_factory=dict)


def main() -> int:
    """Runs what was asked for."""
    options = _arguments()
    if os.geteuid() != 0:
        print("The benchmarks install trees with other owners: run this as root.", file=sys.stderr)
        return 1
    wanted = options.only.split(",")
    results = Results()
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.work) as folder:
        work = Path(folder)
        if set(wanted) & {"peers", "agents", "small-change"}:
            _releases(options, work, wanted, results)
        if "scale" in wanted:
            _scale(options, work, results)
    sections = {"How": _how(options), **results.sections}
    report.write(options.output, "Benchmarks", sections, results.data)
    if results.rows:
        report.picture(options.output / "benchmarks.png", results.rows, results.growth)
    print((options.output / "benchmarks.md").read_text())
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmark", description=__doc__)
    parser.add_argument("--trees", type=Path, help="folder with trees v10 and v20 (a small corpus is made otherwise)")
    parser.add_argument("--versions", default="10,20", help="which two trees (%(default)s)")
    parser.add_argument("--only", default=",".join(PARTS), help="parts: %(default)s")
    parser.add_argument("--peers", default="", help="only peers with one of these words in their names")
    parser.add_argument("--limit", type=float, default=1800, help="seconds that a peer may take (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often what is quick is measured (%(default)s)")
    parser.add_argument("--sizes", default="1000,10000,100000", help="files of the made-up systems (%(default)s)")
    parser.add_argument("--bundles", type=int, default=50, help="bundles of those (%(default)s)")
    parser.add_argument("--counts", default="2,5,10,20", help="versions of the middle one of those (%(default)s)")
    parser.add_argument("--work", help="where to work: the disk that counts (the system's temporary folder)")
    parser.add_argument("--output", type=Path, default=HERE / "docs", help="where results go (docs/)")
    return parser.parse_args()


def _releases(options: argparse.Namespace, work: Path, wanted: list[str], results: Results) -> None:
    base = options.trees or trees.make(HERE / ".benchmark/corpus", HERE / "scripts")
    numbers = [int(n) for n in options.versions.split(",")]
    old, new = (trees.prepare(base / f"v{n}", n, work) for n in numbers)
    stream = Stream(work / "stream")
    stream.keys()
    _say("publishing")
    first = stream.publish(old)
    second = stream.publish(new, "--previous-versions", "1")
    results.data["publish"] = {"first": first.cpu, "second": second.cpu, "memory": max(first.memory, second.memory)}
    if "agents" in wanted:
        _agents(options, work, stream, old, new, results)
    if "peers" in wanted:
        _peers(options, work, stream, (old, new), second, results)
    if "small-change" in wanted:
        _small_change(work, stream, new, first, results)


def _agents(
    options: argparse.Namespace, work: Path, stream: Stream, old: Release, new: Release, results: Results
) -> None:
    _say("agents")
    applied = list(ours.updates(stream, work, old.version, new.version, options.rounds, cold=True))
    checked = dict(ours.checks(stream, work, new.version, options.rounds))
    costs: dict[str, dict[str, Cost]] = {}
    for found in applied:
        costs[found.name] = {"update": found.warm, **({"update, cold": found.cold} if found.cold else {})}
        costs[found.name] |= checked[found.name]
    sent = [f"* {a.name} fetched {a.sent / report.MB:.2f} MB for the update, manifests included." for a in applied]
    results.sections["Agents on the same stream"] = [*report.costs(costs), "", *sent]
    results.data["agents"] = {n: {c: dataclasses.asdict(v) for c, v in found.items()} for n, found in costs.items()}
    results.data["sent"] = {a.name: a.sent for a in applied}


def _peers(
    options: argparse.Namespace,
    work: Path,
    stream: Stream,
    releases: tuple[Release, Release],
    publish: Cost,
    results: Results,
) -> None:
    old, new = releases
    packs = stream.packs(new.version, old.version)
    sent = results.data.get("agents", {}).get("this agent", {}).get("update")
    apply = Cost(**sent) if sent else None
    note = " (the whole publish)"
    rows = [
        report.row(f"this project, its own agent ({name or 'plain'} pack){note}", size, publish, apply)
        for name, size in sorted(packs.items(), key=lambda item: item[1])
        if name
    ]
    rows.append(report.row(f"this project, pack that C clients read{note}", packs.get(""), publish, apply))
    for name, found in peers.outcomes(peers.Work(old, new, work, options.limit), options.peers.split(",")):
        _say(name)
        if isinstance(found, str):
            rows.append(report.row(name, None, None, None, found.replace("\n", " ")[-160:]))
        else:
            rows.append(report.row(name, found.size, found.make, found.apply))
    rows += [report.row(name, None, None, None, why) for name, why in peers.NOT_RUN.items()]
    results.rows = rows
    results.sections["From one release to the next"] = report.table(rows)
    results.data["peers"] = rows


def _small_change(work: Path, stream: Stream, new: Release, first: Cost, results: Results) -> None:
    """A further release in which a file of 1 KB changed."""
    _say("one small file changed")
    release = trees.prepare(new.root, new.version + 10, work)
    place = release.root / "usr/lib/one-kilobyte"
    place.write_bytes(bytes(range(256)) * 4)
    with release.content.open("a") as listed:
        listed.write("/usr/lib/one-kilobyte\n")
    cost = stream.publish(release, "--previous-versions", "1")
    ratio, before = cost.cpu / first.cpu, first.cpu
    results.sections["A release in which one file of 1 KB is new"] = [
        f"Publishing it takes {cost.cpu:.1f} s of processor time, {ratio:.3f} of the first release's {before:.1f} s.",
    ]
    results.data["small-change"] = {"cpu": cost.cpu, "ratio": ratio}


def _scale(options: argparse.Namespace, work: Path, results: Results) -> None:
    sizes = [int(n) for n in options.sizes.split(",")]
    counts = [int(n) for n in options.counts.split(",")]
    middle = sizes[len(sizes) // 2]
    parts: tuple[tuple[str, list[int], Callable[[], Any], str], ...] = (
        ("files", sizes, lambda: scale.by_size(work, sizes, options.bundles), f"{options.bundles} bundles, 2 versions"),
        (
            "versions",
            counts,
            lambda: scale.by_versions(work, middle, options.bundles, counts),
            f"{middle} files in {options.bundles} bundles, deltas from all versions",
        ),
    )
    for label, axis, measure, what in parts:
        _say(f"growth with {label}")
        found = list(measure())
        names = ("first", "next", "install", "update", "diagnose")
        lines = [
            f"| {label} | {' | '.join(names)} | peak MB |",
            f"| ---: | {' | '.join('---:' for _ in names)} | ---: |",
        ]
        for size, point in zip(axis, found, strict=True):
            cells = [f"{getattr(point, name):.2f}" for name in names]
            lines.append(f"| {size} | {' | '.join(cells)} | {point.memory / report.MB:.0f} |")
        slopes = {name: scale.exponent(axis, [getattr(point, name) for point in found]) for name in names}
        said = ", ".join(f"{name} {slope:.2f}" for name, slope in slopes.items())
        results.sections[f"Growth with the number of {label} ({what}), processor seconds"] = [
            *lines, "", f"Exponents (1: as {label} grow; less: better): {said}.",
        ]  # fmt: skip
        results.growth[label] = (axis, {name: [getattr(point, name) for point in found] for name in names})
        results.data[f"growth-{label}"] = {"points": scale.points(found), "exponents": slopes}


def _how(options: argparse.Namespace) -> list[str]:
    return [
        f"`scripts/benchmark`, parts {options.only}: one run, one program after another. What is quick is the median",
        f"of {options.rounds} runs. CPU is processor time of a program and its children, peak is the memory of the",
        "largest process.",
        "Ratios count, not seconds: machines differ, and this one may have been busy.",
    ]


def _say(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
