"""The same publish by threads of one process and by the workers of a dask scheduler."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from pathlib import Path

from benchmarks import meter
from benchmarks.meter import Cost, Failed
from benchmarks.ours import LIBRARY, SERVER, Stream
from benchmarks.trees import Release

WORKERS = 2


def compared(work: Path, release: Release) -> tuple[Cost, Cost]:
    """The first release of a stream: by threads, by as many workers. Raises Failed, also if the bytes differ."""
    if importlib.util.find_spec("distributed") is None:
        raise Failed("distributed is not installed (the extra `dask`)")
    repository = os.fspath(Path(__file__).parents[1])
    path = os.pathsep.join((LIBRARY, repository))
    cluster = (sys.executable, "-m", "benchmarks.cluster", WORKERS)
    costs, made = [], []
    for name, program, words in (("threads", SERVER, ("--jobs", WORKERS)), ("workers", cluster, ())):
        stream = Stream(work / name)
        stream.keys(like=work / "threads" if name == "workers" else None)
        line = [*program, *stream.line(release), *words]
        costs.append(meter.run(line, env={"PYTHONPATH": path, "SOURCE_DATE_EPOCH": "1700000000"}))
        made.append(_contents(stream.www))
    if made[0] != made[1]:
        raise Failed("the workers made other files than the threads")
    return costs[0], costs[1]


def _contents(www: Path) -> dict[Path, bytes]:
    return {p.relative_to(www): hashlib.sha256(p.read_bytes()).digest() for p in www.rglob("*") if p.is_file()}
