"""The benchmarks themselves, on work that takes no time: what they measure and what they write."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

import pytest
from benchmarks import meter, peers, report, scale, trees
from benchmarks.meter import Cost, Failed
from benchmarks.ours import Stream

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


def test_each_peer_gives_bytes_or_says_why_not(tmp_path: Path, two: tuple[trees.Release, trees.Release]) -> None:
    work = peers.Work(*two, tmp_path / "work", limit=60)
    work.folder.mkdir()
    results = dict(peers.outcomes(work, ["zstd", "xz", "bsdiff"]))
    assert len(results) >= 3
    for name, found in results.items():
        there = shutil.which(peers.PEERS[name][0]) is not None
        assert isinstance(found, str) != there, (name, found)
        if not isinstance(found, str):
            assert found.size > 0 and found.make.wall > 0


def test_results_are_written_as_table_and_json(tmp_path: Path) -> None:
    cost = Cost(2.0, 3.0, 5_000_000)
    rows = [report.row("ours", 1_000_000, cost, cost), report.row("other", 3_000_000, cost + cost, None)]
    rows.append(report.row("absent", None, None, None, "it is not installed"))
    lines = report.table(rows)
    assert "| other | 3.00 | 3.00 | 4.0 | 2.00 | 5 |  |  |" in lines
    assert any("not run: it is not installed" in line for line in lines)
    report.write(tmp_path, "Title", {"Part": lines}, {"rows": rows})
    assert (tmp_path / "benchmarks.md").read_text().startswith("# Title\n\n## Part\n\n| way")
    assert json.loads((tmp_path / "benchmarks.json").read_text())["rows"][0]["bytes"] == 1_000_000


def test_growth_has_an_exponent() -> None:
    assert scale.exponent([10, 100, 1000], [1.0, 10.0, 100.0]) == pytest.approx(1)
    assert scale.exponent([10, 100, 1000], [5.0, 5.0, 5.0]) == pytest.approx(0)
