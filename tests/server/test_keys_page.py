"""docs/keys.md is what a release engineer types: its framed commands are run, in order, in one folder."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

from swupd import heads, roots, stream
from swupd.server import lint, rules
from tests import builders

HERE = Path(__file__).parents[2]
BLOCK = re.compile(r"^( *)```sh\n(.*?)^ *```$", re.M | re.S)


def test_every_command_of_the_page_works(tmp_path: Path) -> None:
    for version in (10, 20):
        tree = builders.os_tree(version, {"/usr/bin/hello": f"{version}"})
        builders.make_tree(tmp_path / f"rootfs-{version}", tree)
        (tmp_path / "os-core.txt").write_text("".join(f"{path}\n" for path in tree))
    program = tmp_path / "bin/swupd-server"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom swupd.server.cli import main\nsys.exit(main())\n")
    program.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(HERE / "lib"), "PATH": f"{program.parent}:{os.environ['PATH']}"}
    blocks = [textwrap.dedent(text) for _, text in BLOCK.findall((HERE / "docs/keys.md").read_text())]
    assert len(blocks) > 12
    for block in blocks:
        done = subprocess.run(
            ["bash", "-ec", block], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, (block, done.stdout, done.stderr)
    www = tmp_path / "www"
    assert not [f for f in lint.lint(www, datetime.datetime.now(datetime.UTC)) if f.severity == rules.ERROR]
    assert heads.read(heads.parse((www / stream.head(30)).read_bytes())).version == 20
    assert roots.first((www / stream.root(5)).read_bytes()).number == 5


def test_the_page_names_options_that_there_are() -> None:
    page = (HERE / "docs/keys.md").read_text()
    sources = "".join(file.read_text() for file in (HERE / "lib/swupd/server").glob("*cli.py"))
    others = {"--mechanism", "--pin", *(f"--{role}-key" for role in roots.ROLES)}
    ours = set(re.findall(r"`(--[a-z-]+)", page)) - others
    assert ours and not [option for option in ours if f'"{option}"' not in sources]
