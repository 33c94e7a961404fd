"""A publish that is done by other processes gives the same bytes as one that is done by threads."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swupd.server import cli
from tests import builders
from tests.builders import File
from tests.test_folding import kernel, payload

distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a scheduler with two workers, each a process of one thread."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


def publish(base: Path, www: str, *words: str) -> int:
    """Publishes two versions into base/www."""
    codes = []
    for version in (10, 20):
        keys = ("--signing-key", base / "keys/release.key", "--certificate", base / "keys/release.pem")
        line = ["publish", "--www", base / www, "--version", version, "--rootfs", base / f"root-{version}", *keys]
        line += ["--content", f"os-core={base / f'list-{version}'}", "--previous-versions", 1, "--quiet", *words]
        codes.append(cli.main([str(word) for word in line]))
    return max(codes)


def files(www: Path) -> dict[str, bytes]:
    return {str(p.relative_to(www)): p.read_bytes() for p in sorted(www.rglob("*")) if p.is_file()}


def test_two_workers_give_the_same_bytes_as_threads(
    tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    noise = random.Random(1).randbytes(300_000)
    inside = payload(5, 3 * 2**20)
    builders.keys(tmp_path / "keys")
    for version in (10, 20):
        tree = builders.os_tree(
            version,
            {
                "/usr/bin/large": File(noise + b"%d" % version, 0o755),
                "/boot/vmlinuz": kernel(inside[:5000] + b"%d" % version + inside[5000:]),
                **{f"/usr/share/{n}": f"{n} {version if n % 3 else 0}\n" * 200 for n in range(60)},
            },
        )
        builders.make_tree(tmp_path / f"root-{version}", tree)
        (tmp_path / f"list-{version}").write_text("".join(f"{path}\n" for path in tree))
    assert publish(tmp_path, "by-threads", "--jobs", "2") == 0
    assert publish(tmp_path, "by-workers", "--scheduler", scheduler) == 0
    made = files(tmp_path / "by-workers")
    assert made == files(tmp_path / "by-threads")
    assert "20/pack-os-core-from-10.tar" in made


def test_a_scheduler_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builders.keys(tmp_path / "keys")
    for version in (10, 20):
        tree = builders.os_tree(version, {})
        builders.make_tree(tmp_path / f"root-{version}", tree)
        (tmp_path / f"list-{version}").write_text("".join(f"{path}\n" for path in tree))
    monkey = pytest.MonkeyPatch()
    monkey.setattr("swupd.server.executors._PATIENCE", 1)
    try:
        assert publish(tmp_path, "www", "--scheduler", "tcp://127.0.0.1:1") != 0
    finally:
        monkey.undo()
    said = capsys.readouterr().err
    assert "there is no dask scheduler at tcp://127.0.0.1:1" in said and "dask scheduler" in said
    assert not (tmp_path / "www").exists()


def test_without_the_library_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    builders.keys(tmp_path / "keys")
    (tmp_path / "list-10").write_text("/usr/lib/os-release\n")
    (tmp_path / "list-20").write_text("/usr/lib/os-release\n")
    for version in (10, 20):
        builders.make_tree(tmp_path / f"root-{version}", builders.os_tree(version, {}))
    assert publish(tmp_path, "www", "--scheduler", "tcp://127.0.0.1:1") != 0
    assert "pip install distributed" in capsys.readouterr().err
