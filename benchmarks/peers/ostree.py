"""ostree: a repository of single objects, with and without a static delta, pulled over HTTP."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks import meter
from benchmarks.meter import Cost
from benchmarks.peers.work import Outcome, Work, names
from benchmarks.trees import Release
from benchmarks.web import serving


def delta(work: Work) -> Outcome:
    """A static delta between the commits of both trees: what a device fetches then, and what making it takes."""
    place, commits, make = _repository(work, "ostree")
    repo, before = place / "repo", meter.blocks(place / "repo")
    line = ["static-delta", "generate", f"--from={commits[0]}", f"--to={commits[1]}", "--min-fallback-size=0"]
    make += work.run(["ostree", f"--repo={repo}", *line])
    meter.run(["ostree", f"--repo={repo}", "summary", "-u"])
    made, disk = sum(names(repo / "deltas", "*").values()), meter.blocks(repo) - before
    wire, apply = _pulled(work, place, commits[0], ())
    remark = f"the delta; {wire / 1e6:.2f} MB came over the wire"
    return Outcome(made, make, apply, disk + _added(work, place), remark)


def objects(work: Work) -> Outcome:
    """The objects of the new commit that the old one lacks, one by one."""
    place, commits, make = _repository(work, "ostree-objects")
    wire, apply = _pulled(work, place, commits[0], ("--disable-static-deltas",))
    return Outcome(wire, make, apply, _added(work, place))


def _repository(work: Work, name: str) -> tuple[Path, list[str], Cost]:
    """The folder, both commits, and the cost of the second."""
    place = work.fresh(name)
    repo = place / "repo"
    meter.run(["ostree", "init", f"--repo={repo}", "--mode=archive"])
    work.run(_commit(repo, work.old))
    (place / "before").write_text(str(meter.blocks(repo)))
    commits = [_head(repo)]
    make = work.run(_commit(repo, work.new))
    (place / "after").write_text(str(meter.blocks(repo)))
    return place, [*commits, _head(repo)], make


def _added(work: Work, place: Path) -> int:
    return int((place / "after").read_text()) - int((place / "before").read_text())


def _pulled(work: Work, place: Path, old: str, words: tuple[str, ...]) -> tuple[int, Cost]:
    """Bytes over the wire, and the cost of pulling and checking out, of a device that has the old commit."""
    repo, device = place / "repo", place / "device"
    meter.run(["ostree", "init", f"--repo={device}", "--mode=bare"])
    meter.run(["ostree", f"--repo={device}", "pull-local", "--remote=os", repo, old])
    with serving(repo, place / "nginx") as web:
        meter.run(["ostree", f"--repo={device}", "remote", "add", "--no-gpg-verify", "os", web.url])
        cost = work.run(["ostree", f"--repo={device}", "pull", *words, "os", "os"])
        wire = web.sent()
    cost += work.run(["ostree", f"--repo={device}", "checkout", "-H", "os:os", place / "tree"])
    return wire, cost


def _commit(repo: Path, release: Release) -> list[object]:
    return ["ostree", f"--repo={repo}", "commit", "--branch=os", f"--tree=dir={release.root}"]


def _head(repo: Path) -> str:
    line = ["ostree", f"--repo={repo}", "rev-parse", "os"]
    return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
