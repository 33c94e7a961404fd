"""The parts of a run: each measures something, and says it as a section and as figures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import chain, meter, ours, peers, report, scale, trees, workers
from benchmarks.meter import Cost
from benchmarks.ours import OURS, THEIRS, Applied, Stream
from benchmarks.peers import Outcome
from benchmarks.report import Row, grid, megabytes
from benchmarks.results import Results, plain
from benchmarks.trees import Facts, Release


@dataclass(frozen=True)
class Settings:
    """limit: seconds that a program of a peer may take. peers: words of their names, none for all.

    rounds: how often what is quick is measured. cold: whether with empty caches, too. sizes, counts: of the made-up
    systems, with so many bundles.
    """

    limit: float = 1800
    peers: tuple[str, ...] = ()
    rounds: int = 3
    cold: bool = True
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000)
    counts: tuple[int, ...] = (2, 5, 10, 20)
    bundles: int = 50


@dataclass(frozen=True)
class Trials:
    """What a release takes with packs from the one before, with those for this project's agent alone, and without."""

    both: Cost
    own: Cost
    none: Cost

    def __str__(self) -> str:
        both, own = (cost.cpu - self.none.cpu for cost in (self.both, self.own))
        return (
            f"takes {self.both.cpu:.1f} s with packs from the release before, {self.none.cpu:.1f} s without: deltas and"
            f" their packs take {both:.1f} s in both forms, {own:.1f} s for this project's agent alone (`--delta-packs"
            " own`)."
        )


@dataclass
class Run:
    """A run that is under way.

    published: releases and what publishing each took; hasty: and with --effort fast; trials: of publishing each where
    nothing is taken over from earlier packs.
    """

    settings: Settings
    results: Results
    work: Path
    published: list[tuple[Release, Cost]] = field(default_factory=list)
    hasty: list[Cost] = field(default_factory=list)
    trials: dict[int, Trials] = field(default_factory=dict)

    @property
    def stream(self) -> Stream:
        return Stream(self.work / "stream")

    @property
    def hasty_stream(self) -> Stream:
        return Stream(self.work / "hasty")

    @property
    def newest(self) -> Release:
        return self.published[-1][0]


def say(text: str) -> None:
    """What is under way."""
    print(f"… {text}", file=sys.stderr, flush=True)


def publish(run: Run, sources: Iterable[tuple[int, Path]]) -> None:
    """Publishes releases, each with packs from the one before."""
    run.stream.keys()
    run.hasty_stream.keys()
    for version, source in sources:
        say(f"publishing {version}")
        release = trees.prepare(source, version, run.work)
        words = ("--previous-versions", "1") if run.published else ()
        rounds = run.settings.rounds
        if run.published:
            run.trials[version] = Trials(
                both=run.stream.trial(release, "--previous-versions", "1"),
                own=run.stream.trial(release, "--previous-versions", "1", "--delta-packs", "own"),
                none=run.stream.trial(release, "--previous-versions", "0"),
            )
        run.published.append((release, run.stream.publish_again(release, rounds, *words)))
        run.hasty.append(run.hasty_stream.publish_again(release, rounds, *words, "--effort", "fast"))
    lines, said, first = [], [], run.published[0][1]
    for (release, best), fast in zip(run.published, run.hasty, strict=True):
        for name, stream, cost in (("", run.stream, best), (", --effort fast", run.hasty_stream, fast)):
            sizes = (megabytes(cost.memory), megabytes(stream.disk(release.version)))
            lines.append((f"v{release.version}{name}", f"{cost.cpu:.1f}", f"{cost.cpu / first.cpu:.2f}", *sizes))
        if release.version in run.trials:
            trials = run.trials[release.version]
            said.append(f"* Where nothing is taken over from earlier packs, v{release.version} {trials}")
    text = grid(("release", "CPU s", "×", "peak MB", "MB on the server"), lines)
    figures = {str(r.version): asdict(c) for r, c in run.published}
    for version, trials in run.trials.items():
        named = {"with packs": trials.both, "with packs for this agent": trials.own, "alone": trials.none}
        figures |= {f"{version} {name}": asdict(cost) for name, cost in named.items()}
    run.results.add("Publishing", [*text, "", *said], "publish", figures)


def transitions(run: Run, wanted: Sequence[str]) -> None:
    """From each release to the next: this project's agent, the C client, and the peers."""
    for number, ((old, _), (new, _)) in enumerate(pairwise(run.published)):
        say(f"agents, v{old.version} to v{new.version}")
        title = f"v{old.version} to v{new.version}"
        facts = trees.facts(old, new)
        applied = list(
            ours.updates(run.stream, run.work, old.version, new.version, run.settings.rounds, run.settings.cold)
        )
        if "agents" in wanted:
            _agents(run, title, new, applied)
        if "peers" in wanted:
            _peers(run, title, facts, number, applied)


def _agents(run: Run, title: str, new: Release, applied: Sequence[Applied]) -> None:
    checked = dict(ours.checks(run.stream, run.work, new.version, run.settings.rounds, run.settings.cold))
    costs = {
        a.name: {"update": a.warm, **({"update, cold": a.cold} if a.cold else {}), **checked[a.name]} for a in applied
    }
    said = [f"* {a.name} fetched {megabytes(a.sent)} MB for the update, manifests included; after it the device takes "
            f"{megabytes(a.disk)} MB more of its disk." for a in applied]  # fmt: skip
    figures = {name: {command: asdict(c) for command, c in found.items()} for name, found in costs.items()}
    heading = f"Agents on the same stream, {title}"
    run.results.add(heading, [*report.costs(costs), "", *said], f"agents {title}", figures)


def _peers(run: Run, title: str, facts: Facts, number: int, applied: Sequence[Applied]) -> None:
    """number: of the old release; only the first one is published as a whole."""
    (old, before), (new, make) = run.published[number : number + 2]
    names = {OURS: "this project, its own agent", THEIRS: f"this project, {THEIRS}"}
    rows = [report.row(names[a.name], a.sent, make, a.warm, run.stream.disk(new.version)) for a in applied]
    rows.append(_in_haste(run, number))
    if number == 0:
        rows[0] |= {"first_cpu": before.cpu}
        rows[-1] |= {"first_cpu": run.hasty[0].cpu}
    lines = [
        f"The new release has {facts.files} files of {facts.bytes / report.MB:.1f} MB; {facts.changed_files} of them, "
        f"{facts.changed_bytes / report.MB:.1f} MB, are not in the old one. This project's bytes are all that a web "
        "server sent for an update, and its server time is the whole second publish.",
        "",
    ]
    packs = sorted(run.stream.packs(new.version, old.version).items())
    after = [
        "",
        "Packs: " + ", ".join(f"{name or 'for all clients'} {megabytes(size)} MB" for name, size in packs) + ".",
    ]
    heading, key = f"Ways from one release to the next, {title}", f"peers {title}"
    reusable = run.results.reusable(facts.identity)
    for found in _measured(run, old, new, reusable):
        rows.append(found)
        run.results.sections.pop(heading, None)
        run.results.tables[title] = rows
        figures: dict[str, Any] = {"facts": asdict(facts), "rows": rows, "packs": dict(packs)}
        said = [*lines, *report.table(rows), *after, *report.first_releases(rows)]
        run.results.add(heading, said, key, figures)


def _in_haste(run: Run, number: int) -> Row:
    (old, _), (new, _) = run.published[number : number + 2]
    stream = run.hasty_stream
    size = min(stream.packs(new.version, old.version).values())
    disk = stream.disk(new.version)
    return report.row("this project, --effort fast", size, run.hasty[number + 1], None, disk, "the pack")


def _measured(run: Run, old: Release, new: Release, reusable: dict[str, Row]) -> Iterable[Row]:
    again = [name for name in peers.PEERS if name in reusable]
    yield from (reusable[name] for name in again if _wanted(name, run.settings.peers))
    rest = [name for name in peers.PEERS if name not in reusable and _wanted(name, run.settings.peers)]
    if not rest:
        return
    folder = run.work / f"peers-{new.version}"
    folder.mkdir()
    for name, found in peers.outcomes(peers.Work(old, new, folder, run.settings.limit), rest, say):
        yield _row(name, found)


def _wanted(name: str, words: Sequence[str]) -> bool:
    return not words or any(word in name for word in words)


def _row(name: str, found: Outcome | str) -> Row:
    if isinstance(found, str):
        return report.failed(name, plain(found))
    return report.row(name, found.size, found.make, found.apply, found.disk, found.remark, found.first)


def small_change(run: Run) -> None:
    """One file of 1 KB changed."""
    say("one file of 1 KB changed")
    first = run.published[0][1]
    release, found = chain.smallest(run.stream, run.work, run.newest, run.settings.rounds)
    ratio = found.publish.cpu / first.cpu
    lines = [
        f"* Publishing it takes {found.publish.cpu:.1f} s of processor time, {ratio:.3f} of the first release's "
        f"{first.cpu:.1f} s, and {megabytes(found.disk)} MB on the server.",
        *_fetched(found.agents),
    ]
    figures = {"cpu": found.publish.cpu, "ratio": ratio, "disk": found.disk, "agents": _figures(found.agents)}
    run.published.append((release, found.publish))
    run.results.add("One file of 1 KB changed", lines, "small-change", figures)


def behind(run: Run) -> None:
    """Some small releases at once."""
    say("a device some releases behind")
    lines, figures = [], {}
    for found in chain.behind(run.stream, run.work, run.newest, run.settings.rounds):
        figures[found.name] = _figures(found.agents)
        for agent in found.agents:
            cells = (f"{agent.warm.cpu:.2f}", f"{agent.warm.wall:.2f}", megabytes(agent.warm.memory))
            lines.append((f"{found.name}, {agent.name}", megabytes(agent.sent), *cells))
    text = grid(("stream, agent", "MB fetched", "CPU s", "wall s", "peak MB"), lines)
    run.results.add(f"A device {chain.BEHIND} small releases behind", text, "behind", figures)


def _fetched(agents: Sequence[Applied]) -> list[str]:
    return [
        f"* {a.name} fetched {megabytes(a.sent)} MB for it, in {a.warm.cpu:.2f} s of processor time." for a in agents
    ]


def _figures(agents: Sequence[Applied]) -> dict[str, Any]:
    return {a.name: {"sent": a.sent, "disk": a.disk, **asdict(a.warm)} for a in agents}


def spread(run: Run) -> None:
    """Threads against workers of a dask scheduler."""
    say("workers of a scheduler")
    threads, others = workers.compared(run.work, run.published[0][0])
    lines = [
        f"The first release by {workers.WORKERS} threads: {threads.cpu:.1f} s of processor time, {threads.wall:.1f} s; "
        f"by {workers.WORKERS} workers of a dask scheduler on this machine, their start included: {others.cpu:.1f} s "
        f"(×{others.cpu / threads.cpu:.2f}), {others.wall:.1f} s (×{others.wall / threads.wall:.2f}). The same bytes.",
    ]
    figures = {"threads": asdict(threads), "workers": asdict(others)}
    run.results.add("Publishing by workers of a scheduler", lines, "workers", figures)


def growth(run: Run) -> None:
    """Cost against the number of files and of versions."""
    chosen = run.settings
    sizes, counts = list(chosen.sizes), list(chosen.counts)
    largest = max(sizes)
    measures: tuple[tuple[str, list[int], Callable[[], Iterable[scale.Point]], str], ...] = (
        (
            "files",
            sizes,
            lambda: scale.by_size(run.work, sizes, chosen.bundles),
            f"{chosen.bundles} bundles, 2 versions",
        ),
        (
            "versions",
            counts,
            lambda: scale.by_versions(run.work, largest, chosen.bundles, counts),
            f"{largest} files in {chosen.bundles} bundles, deltas from all versions",
        ),
    )
    for label, axis, measure, what in measures:
        say(f"growth with {label}")
        _grown(run, label, axis, list(measure()), what)


def growth_again(run: Run) -> None:
    """The same, of an earlier run."""
    for label in ("files", "versions"):
        found = [scale.Point(**point) for point in run.results.earlier.get(f"growth-{label}", {}).get("points", ())]
        if found:
            axis = [getattr(point, label) for point in found]
            sizes = {f"{point.files} files" for point in found} if label == "versions" else set()
            what = ", ".join((*sizes, f"{found[0].bundles} bundles", "taken from an earlier run"))
            _grown(run, label, axis, found, what)


def _grown(run: Run, label: str, axis: list[int], found: list[scale.Point], what: str) -> None:
    values = {name: [getattr(point, name) for point in found] for name in scale.COMMANDS}
    slopes = {name: scale.exponent(axis, costs) for name, costs in values.items()}
    lines = [
        (str(size), *(f"{values[name][n]:.2f}" for name in values), megabytes(p.memory), megabytes(p.server_memory))
        for n, (size, p) in enumerate(zip(axis, found, strict=True))
    ]
    lines.append(("exponent", *(f"{slope:.2f}" for slope in slopes.values()), "", ""))
    lines.append((f"for twice the {label}", *(f"×{2**slope:.2f}" for slope in slopes.values()), "", ""))
    titles = (label, *scale.COMMANDS, "device peak MB", "server peak MB")
    heading = f"Growth with the number of {label} ({what}), processor seconds"
    run.results.growth[label] = (axis, values)
    figures = {"points": scale.points(found), "exponents": slopes}
    run.results.add(heading, grid(titles, lines), f"growth-{label}", figures)


def unmeasured(run: Run, name: str, why: meter.Failed) -> None:
    """A part that could not be done."""
    run.results.add("Not measured", [f"* {name}: {plain(str(why))}"], f"failed {name}", plain(str(why)))
