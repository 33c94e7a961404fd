"""The kas files: valid for kas, and for the same releases as the layer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

kas = pytest.importorskip("kas", reason="kas is not installed")
jsonschema = pytest.importorskip("jsonschema", reason="kas, which brings jsonschema, is not installed")
yaml = pytest.importorskip("yaml", reason="kas, which brings PyYAML, is not installed")

LAYER = Path(__file__).parents[2]
FILES = sorted((LAYER / "kas").glob("*.yml"))
RELEASES = [file for file in FILES if file.stem != "common"]


def load(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    return content


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_is_what_kas_expects(file: Path) -> None:
    schema = json.loads((Path(kas.__file__).parent / "schema-kas.json").read_text())
    jsonschema.validate(load(file), schema)


@pytest.mark.parametrize("file", RELEASES, ids=lambda file: file.stem)
def test_a_release_names_a_branch_of_every_repository_that_is_fetched(file: Path) -> None:
    repositories = {name: dict(what or {}) for name, what in load(LAYER / "kas/common.yml")["repos"].items()}
    assert load(file)["header"]["includes"] == ["kas/common.yml"]
    for name, what in load(file)["repos"].items():
        repositories[name] |= what
    assert all("branch" in what for what in repositories.values() if "url" in what)


def test_there_is_a_file_for_each_release_of_the_layer() -> None:
    compatible = re.search(r'^LAYERSERIES_COMPAT\S* = "(.*)"', (LAYER / "conf/layer.conf").read_text(), re.MULTILINE)
    assert compatible is not None
    # The newest series is still called master.
    *old, _ = compatible[1].split()
    assert {file.stem for file in RELEASES} == {*old, "master"}


def test_the_target_is_an_image_of_the_layer() -> None:
    assert (LAYER / f"recipes-core/images/{load(LAYER / 'kas/common.yml')['target']}.bb").is_file()
