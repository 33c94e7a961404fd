"""The layer under oelint-adv, for each release that it says it works with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("oelint_adv", reason="oelint-adv is not installed")

LAYER = Path(__file__).parents[2]
TEST_LAYER = Path(__file__).parent / "meta-swupd-test"
# tests/oe/stub is exempt: it stands in for files of BitBake and the core layer, which follow other rules.
WHERE = ("conf/*.conf", "classes/*.bbclass", "recipes-*/**/*.bb", "recipes-*/**/*.inc", "recipes-*/**/*.bbappend")
RELEASES = re.findall(r'^LAYERSERIES_COMPAT_\S+ = "(.*)"', (LAYER / "conf/layer.conf").read_text(), re.M)[0].split()


def files_of(layer: Path) -> list[str]:
    return [str(file) for pattern in WHERE for file in sorted(layer.glob(pattern))]


FILES = files_of(LAYER) + files_of(TEST_LAYER)


def lint(release: str, *files: str) -> str:
    """What oelint-adv says with the layer's configuration."""
    done = subprocess.run(
        [sys.executable, "-m", "oelint_adv", "--jobs", "1", "--release", release, *files],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OELINT_CONFIG": str(LAYER / ".oelint.cfg"), "OELINT_SKIP_CONFIG": "", "LC_ALL": "C.UTF-8"},
    )
    said = done.stdout + done.stderr
    assert done.returncode == (1 if said else 0), said
    return said


@pytest.mark.parametrize("release", RELEASES)
def test_the_layer_is_clean(release: str) -> None:
    assert lint(release, *FILES) == ""


def test_every_kind_of_file_is_looked_at() -> None:
    names = {Path(file).name for file in FILES}
    assert {"layer.conf", "swupd-image.bbclass", "swupd_0.1.bb", "swupd.inc", "swupd_%.bbappend"} <= names
    assert not any("/stub/" in file for file in FILES)


# Changes of a file, and what oelint-adv has to say then.
FAULTS = [
    ("recipes-core/swupd/swupd_0.1.bb", "DESCRIPTION = ", "DESCRIPTON = ", "oelint.var.mandatoryvar.DESCRIPTION"),
    ("recipes-core/swupd/swupd.inc", "    chmod", "\tchmod", "oelint.tabs.notabs"),
    ("recipes-core/swupd/swupd-server-native_0.1.bb", "DEPENDS += ", "DEPENDS = ", "oelint.vars.dependsappend"),
    ("classes/swupd-image.bbclass", "do_swupd_list[doc]", "do_swupd_list[dok]", "oelint.task.docstrings"),
    ("conf/layer.conf", "LAYERVERSION_swupd-py", "SWUPD_LAYERVERSION", "oelint.vars.layerconf"),
]


def test_faults_are_found(tmp_path: Path) -> None:
    """In a copy of the layer, which is clean before: also without the test layer beside it."""
    for folder in ("conf", "classes", *(found.name for found in LAYER.glob("recipes-*"))):
        shutil.copytree(LAYER / folder, tmp_path / folder)
    assert lint(RELEASES[-1], *files_of(tmp_path)) == ""
    for name, right, wrong, _ in FAULTS:
        text = (tmp_path / name).read_text()
        assert right in text
        (tmp_path / name).write_text(text.replace(right, wrong))
    said = lint(RELEASES[-1], *files_of(tmp_path)).splitlines()
    for name, _, _, finding in FAULTS:
        assert any(line.startswith(f"{tmp_path / name}:") and f":{finding}:" in line for line in said), (name, finding)
