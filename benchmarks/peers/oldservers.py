"""The servers that came before: swupd-server (C) and mixer (Go), each with fullfiles, zero packs and a delta pack."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks import meter, trees
from benchmarks.meter import Cost, Failed
from benchmarks.peers.work import Outcome, Work
from benchmarks.trees import Release

SERVER_TOOLS = os.environ.get("SWUPD_SERVER_TOOLS", "")
"""The folder with swupd_create_update, swupd_make_fullfiles and swupd_make_pack of swupd-server."""
MIXER = os.environ.get("SWUPD_MIXER", "")
"""The program mixer."""
BSDIFF = os.environ.get("SWUPD_BSPATCH", "")
"""bspatch of Clear Linux's bsdiff; mixer needs the program bsdiff beside it."""

_GROUPS = "[os-core]\ngroup=os-core\nstatus=ACTIVE\n"
_SERVER = "[Server]\nemptydir={base}/empty/\nimagebase={base}/image/\noutputdir={base}/www/\n"
_BUILDER = """\
[Builder]
CERT = "{base}/none.pem"
SERVER_STATE_DIR = "{base}"
VERSIONS_PATH = "{base}"
YUM_CONF = "{base}/none.conf"
[Swupd]
BUNDLE = "os-core"
CONTENTURL = "http://127.0.0.1"
VERSIONURL = "http://127.0.0.1"
COMPRESSION = ["external-xz"]
"""


def swupd_server(work: Work) -> Outcome:
    """swupd-server: two releases, each with all that belongs to it."""
    if not SERVER_TOOLS:
        raise Failed("SWUPD_SERVER_TOOLS does not name the folder of its programs")
    place = _place(work, "swupd-server")
    costs = []
    for release, before in ((work.old, 0), (work.new, work.old.version)):
        _image(place, release, "os-core")
        (place / "image/LAST_VER").write_text(f"{before}\n")
        costs.append(_released(work, place, release.version, before))
    return _outcome(work, place, costs)


def _released(work: Work, place: Path, version: int, before: int) -> Cost:
    def run(program: str, *words: object) -> Cost:
        line = [f"{SERVER_TOOLS}/swupd_{program}", "--statedir", place, *words]
        return meter.run(line, limit=work.limit, folder=place / "logs")

    total = run("create_update", "--osversion", version, "--format", 30) + run("make_fullfiles", version)
    for start in sorted({0, before}):
        total += run("make_pack", start, version, "os-core")
    return total


def mixer(work: Work) -> Outcome:
    """mixer: two releases, each with all that belongs to it, unsigned."""
    if not MIXER:
        raise Failed("SWUPD_MIXER does not name the program")
    place = _place(work, "mixer")
    (place / "builder.conf").write_text(_BUILDER.format(base=place))
    (place / "upstreamversion").write_text("0\n")
    (place / "upstreamurl").write_text("http://127.0.0.1\n")
    path = os.pathsep.join(filter(None, (os.path.dirname(BSDIFF), os.environ.get("PATH", ""))))

    def run(*words: object) -> Cost:
        line = [MIXER, "build", *words, "--offline", "-c", place / "builder.conf"]
        return meter.run(line, limit=work.limit, env={"PATH": path}, folder=place)

    costs = []
    for release, before in ((work.old, 0), (work.new, work.old.version)):
        _image(place, release, "full")
        _describe(place / f"image/{release.version}/os-core-info", release)
        (place / "mixversion").write_text(f"{release.version}\n")
        (place / "mixer.state").write_text(f'[Mix]\nFORMAT = "30"\nPREVIOUS_MIX_VERSION = "{before}"\n')
        costs.append(run("update", "--no-signing", "--skip-format-check", "--format", 30))
    costs[1] += run("delta-packs", "--from", work.old.version, "--to", work.new.version)
    return _outcome(work, place, costs)


def _place(work: Work, name: str) -> Path:
    place = work.fresh(name)
    for folder in ("image", "www", "empty", "logs"):
        (place / folder).mkdir()
    (place / "server.ini").write_text(_SERVER.format(base=place))
    (place / "groups.ini").write_text(_GROUPS)
    return place


def _image(place: Path, release: Release, name: str) -> None:
    image = place / f"image/{release.version}"
    image.mkdir()
    subprocess.run(["cp", "-al", release.root, image / name], check=True)


def _describe(place: Path, release: Release) -> None:
    """The bundle as mixer wants it."""
    header = dict.fromkeys(("Title", "Description", "Capabilities", "Maintainer"), "os-core") | {"Status": "ACTIVE"}
    lists: dict[str, object] = {"DirectIncludes": [], "OptionalIncludes": [], "DirectPackages": {}, "AllPackages": {}}
    files = dict.fromkeys(trees.paths(release.root), True)
    place.write_text(json.dumps({"Name": "os-core", "Filename": "os-core", "Header": header, **lists, "Files": files}))


def _outcome(work: Work, place: Path, costs: Sequence[Cost]) -> Outcome:
    release = place / f"www/{work.new.version}"
    pack = release / f"pack-os-core-from-{work.old.version}.tar"
    return Outcome(meter.size(pack), costs[1], None, meter.blocks(release), "the pack", costs[0])
