"""The benchmarks themselves, on work that takes no time: what they measure and what they write."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
from benchmarks import __main__ as benchmark
from benchmarks import meter, parts, peers, report, results, scale, trees
from benchmarks.meter import Cost, Failed
from benchmarks.ours import Stream
from benchmarks.results import Results

from tests import builders


@pytest.fixture
def two(tmp_path: Path) -> tuple[trees.Release, trees.Release]:
    """Two small releases."""
    noise = random.Random(1).randbytes(50_000)
    for version in (10, 20):
        tree = builders.os_tree(version, {"/usr/bin/tool": noise + b"%d" % version, "/usr/share/new": f"{version}"})
        builders.make_tree(tmp_path / f"v{version}", tree)
    old, new = (trees.prepare(tmp_path / f"v{version}", version, tmp_path) for version in (10, 20))
    return old, new


def test_a_program_is_measured_with_its_children() -> None:
    inner = "sum(range(3_000_000)); len(b'x' * 60_000_000)"
    busy = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    found = meter.run([sys.executable, "-c", busy])
    assert found.cpu > 0.02 and found.wall >= 0.02 and found.memory > 60_000_000


def test_a_program_that_fails_or_takes_too_long_says_so() -> None:
    with pytest.raises(Failed, match=r"ended with 3: oh no"):
        meter.run(["sh", "-c", "echo oh no; exit 3"])
    with pytest.raises(Failed, match=r"took more than"):
        meter.run(["sleep", "20"], limit=0.2)


def test_our_stream_is_made_and_its_packs_are_counted(tmp_path: Path, two: tuple[trees.Release, trees.Release]) -> None:
    stream = Stream(tmp_path / "stream")
    stream.keys()
    for release, words in zip(two, ((), ("--previous-versions", "1")), strict=True):
        assert stream.publish(release, *words).cpu > 0
    assert 0 < stream.packs(20, 10)[""] < 10_000


def test_what_changed_is_found_and_packed(tmp_path: Path, two: tuple[trees.Release, trees.Release]) -> None:
    old, new = two
    found = trees.changed(old.root, new.root)
    assert ("/usr/bin/tool", "/usr/bin/tool") in found
    packed = trees.only(new.root, [name for _, name in found], tmp_path / "changed.tar")
    assert packed.stat().st_size > 50_000


def test_files_of_renamed_folders_are_paired(tmp_path: Path) -> None:
    for place, files in (
        ("old", ("lib/6.1.9/a.ko", "lib/6.1.9/gone", "same")),
        ("new", ("lib/6.1.10/a.ko", "same", "b")),
    ):
        builders.make_tree(tmp_path / place, {f"/{name}": f"{name} in {place}" for name in files})
    found = dict(map(reversed, trees.paired(tmp_path / "old", tmp_path / "new")))  # type: ignore[arg-type]
    assert found == {"/lib/6.1.10/a.ko": "/lib/6.1.9/a.ko", "/same": "/same", "/b": ""}


def test_each_peer_gives_bytes_or_says_why_not(tmp_path: Path, two: tuple[trees.Release, trees.Release]) -> None:
    work = peers.Work(*two, tmp_path / "work", limit=60)
    work.folder.mkdir()
    results = dict(peers.outcomes(work, ["zstd", "xz", "bsdiff", "hdiffpatch"]))
    assert len(results) >= 3
    for name, found in results.items():
        assert isinstance(found, str) == bool(peers.lacking(name)), (name, found)
        if not isinstance(found, str):
            assert found.size > 0 and found.make.wall > 0


def test_results_are_written_as_table_and_json(tmp_path: Path) -> None:
    cost = Cost(2.0, 3.0, 5_000_000)
    rows = [report.row("ours", 1_000_000, cost, cost), report.row("other", 3_000_000, cost + cost, None, 7_000_000)]
    rows.append(report.failed("absent", "it is not installed"))
    lines = report.table(rows)
    assert "| other | 3.00 | 3.00 | 4.0 | 2.00 | 5 | 7.0 |  |  |  |  |" in lines
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert any("not run: it is not installed" in line for line in lines)
    report.write(tmp_path, "Title", {"Part": lines}, {"rows": rows})
    assert (tmp_path / "benchmarks.md").read_text().startswith("# Title\n\n## Part\n\n| way")
    assert json.loads((tmp_path / "benchmarks.json").read_text())["rows"][0]["bytes"] == 1_000_000


def test_first_releases_are_compared_where_somebody_else_makes_one() -> None:
    first, other = Cost(2.0, 3.0, 5_000_000), Cost(8.0, 9.0, 5_000_000)
    ours, delta = report.row("ours", 1, first, None, first=first), report.row("delta", 1, other, None)
    assert report.first_releases([ours, delta]) == []
    mixer = report.row("mixer", 1, other, None, first=other)
    assert report.first_releases([ours, delta, mixer])[-1] == "| mixer | 8.0 | 4.00 |"


def test_growth_has_an_exponent() -> None:
    assert scale.exponent([10, 100, 1000], [1.0, 10.0, 100.0]) == pytest.approx(1)
    assert scale.exponent([10, 100, 1000], [5.0, 5.0, 5.0]) == pytest.approx(0)


def test_the_peak_of_a_small_program_is_not_that_of_who_measures_it() -> None:
    ballast = b"x" * 100_000_000
    assert meter.run(["true"]).memory < 30_000_000 < len(ballast)


def test_an_edit_leaves_other_names_of_the_file_as_they_are(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(bytes(1000))
    second.hardlink_to(first)
    trees.edit(second, 7)
    assert first.read_bytes() == bytes(1000)
    assert second.stat().st_size == 1000 and second.read_bytes() != first.read_bytes()


def test_messages_lose_the_folders_of_the_machine() -> None:
    assert results.plain("cannot open\n/var/some/where/file.tar: no") == "cannot open file.tar: no"


def test_peers_of_an_earlier_run_serve_again_for_the_same_trees_only() -> None:
    rows = [report.row("ostree", 5, None, None), report.failed("casync", "it is not installed")]
    earlier = {"programs": {}, "peers v1 to v2": {"facts": {"identity": "same"}, "rows": rows}}
    found = Results(Path(), earlier)
    assert list(found.reusable("same")) == ["ostree"] and found.reusable("same")["ostree"]["reused"]
    assert not found.reusable("other")


def test_growth_of_an_earlier_run_is_shown_again_and_marked(tmp_path: Path) -> None:
    made = [scale.Point(n, 5, 2, 1.0, 1.0, 1.0, 1.0, 1.0, 10**6, 10**6) for n in (100, 200)]
    earlier = {"growth-files": {"points": scale.points(made), "exponents": {}}}
    run = parts.Run(parts.Settings(), Results(tmp_path, earlier), tmp_path)
    parts.growth_again(run)
    text = (tmp_path / "benchmarks.md").read_text()
    assert "5 bundles, taken from an earlier run" in text and "| 200 | 1.00 |" in text
    assert "number of versions" not in text
    assert json.loads((tmp_path / "benchmarks.json").read_text())["growth-files"]["points"] == scale.points(made)


def test_a_run_on_tiny_trees_writes_table_figures_and_picture(
    tmp_path: Path, two: tuple[trees.Release, trees.Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert two
    monkeypatch.setattr("benchmarks.ours.CLIENT", "")
    for version in (10, 20):
        for number in range(120):
            builders.put(tmp_path / f"v{version}", f"/usr/share/large/{number}", f"{number}\n" * 5000)
        builders.put(tmp_path / f"v{version}", "/usr/share/small", "small\n" * 170)
    (tmp_path / "work").mkdir()
    line = ["--trees", str(tmp_path), "--quick", "--peers", "changed", "--work", str(tmp_path / "work")]
    line += ["--only", "peers,agents,small-change,behind", "--output", str(tmp_path / "docs")]
    assert benchmark.main(line) == 0
    text = (tmp_path / "docs/benchmarks.md").read_text()
    figures = json.loads((tmp_path / "docs/benchmarks.json").read_text())
    assert "this project, its own agent" in text and "A device 3 small releases behind" in text
    assert str(tmp_path) not in text and "not run" not in text
    assert figures["small-change"]["agents"]["this agent"]["sent"] < 50_000
    assert figures["peers v10 to v20"]["rows"][0]["bytes"] > 0
    (tmp_path / "again").mkdir()
    line = [*line[:-4], "--only", "peers", "--output", str(tmp_path / "again")]
    assert benchmark.main([*line, "--reuse", str(tmp_path / "docs/benchmarks.json")]) == 0
    again = (tmp_path / "again/benchmarks.md").read_text()
    assert again.count("\n| changed contents") == 1 and "measured in an earlier run" in again


def test_without_tables_there_is_no_picture(tmp_path: Path) -> None:
    report.picture(tmp_path / "benchmarks.png", {}, {})
    assert not list(tmp_path.iterdir())
