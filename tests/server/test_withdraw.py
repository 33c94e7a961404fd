from __future__ import annotations

from pathlib import Path

import pytest

from swupd.errors import InvalidOption
from swupd.server import lint, rules
from swupd.server.withdraw import withdraw
from tests import builders


def publish(base: Path, version: int, stream_format: int = 30) -> None:
    builders.release(base, version, {"/usr/bin/a": f"{version}"}, {"os-core": builders.REST}, stream_format)


def snapshot(www: Path) -> dict[str, bytes]:
    return {str(p.relative_to(www)): p.read_bytes() for p in www.rglob("*") if p.is_file()}


def test_a_withdrawn_release_can_be_published_again(tmp_path: Path) -> None:
    publish(tmp_path, 10)
    before = snapshot(tmp_path / "www")
    publish(tmp_path, 20)
    after = snapshot(tmp_path / "www")
    assert withdraw(tmp_path / "www", 20, None)
    assert snapshot(tmp_path / "www") == before
    (tmp_path / "root-20").rename(tmp_path / "elsewhere")
    publish(tmp_path, 20)
    assert snapshot(tmp_path / "www") == after


def test_the_first_release_can_be_withdrawn(tmp_path: Path) -> None:
    publish(tmp_path, 10)
    assert withdraw(tmp_path / "www", 10, None)
    assert not any(p.is_file() for p in (tmp_path / "www").rglob("*"))


def test_only_the_newest_release_can_be_withdrawn(tmp_path: Path) -> None:
    publish(tmp_path, 10)
    publish(tmp_path, 20)
    with pytest.raises(InvalidOption, match="not the newest"):
        withdraw(tmp_path / "www", 10, None)
    assert not withdraw(tmp_path / "www", 15, None)


def test_the_first_release_of_a_format_can_be_withdrawn_and_published_again(tmp_path: Path) -> None:
    publish(tmp_path, 10)
    publish(tmp_path, 30, 31)
    after = snapshot(tmp_path / "www")
    assert withdraw(tmp_path / "www", 30, None)
    (tmp_path / "root-30").rename(tmp_path / "elsewhere")
    publish(tmp_path, 30, 31)
    assert snapshot(tmp_path / "www") == after
    assert not [f for f in lint.lint(tmp_path / "www", builders.NOW) if f.severity == rules.ERROR]
