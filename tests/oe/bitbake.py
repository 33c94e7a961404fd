"""Parses the layer and runs its tasks with nothing but BitBake's library: bitbake.py BUILDDIR [RECIPE TASK]...

Prints one JSON object: recipes, those that were skipped, the hash of each task, and the tasks that ran in order.
No server and no worker: each task runs in a forked child, after the tasks that it needs.
"""

from __future__ import annotations

import contextlib
import glob
import json
import logging
import os
import sys
import types
from collections.abc import Iterator
from typing import Any

for _name in ("hashserv", "hashserv.client", "prserv", "prserv.serv"):
    # Siblings of the library that the package leaves out; nothing here calls them.
    _module = types.ModuleType(_name)
    _module.__path__ = []
    sys.modules.setdefault(_name, _module)

import bb  # noqa: E402
import bb.build  # noqa: E402
import bb.cache  # noqa: E402
import bb.cookerdata  # noqa: E402
import bb.data  # noqa: E402
import bb.parse  # noqa: E402
import bb.siggen  # noqa: E402
import bb.utils  # noqa: E402

_PARSED = ("test-image", "swupd-server-native")


class Build:
    """A build folder, its configuration and its recipes parsed."""

    def __init__(self, folder: str) -> None:
        os.chdir(folder)
        configuration = bb.cookerdata.CookerConfiguration()
        configuration.env = dict(os.environ)
        self._builder = bb.cookerdata.CookerDataBuilder(configuration, worker=False)
        self._builder.parseBaseConfiguration()
        data = self._builder.data
        bb.parse.siggen = bb.siggen.init(data)
        self.recipes: dict[str, tuple[str, Any]] = {}
        self.skipped: dict[str, str] = {}
        self.order: list[str] = []
        for pattern in (data.getVar("BBFILES") or "").split():
            for file in sorted(glob.glob(pattern)):
                if os.path.basename(file).startswith(_PARSED):
                    self._parse(file)

    def _parse(self, file: str) -> None:
        for variant, data in self._builder.parseRecipeVariants(file, [], mc="", layername="test").items():
            if data.getVar("__SKIPPED"):
                self.skipped[data.getVar("PN")] = data.getVar("__SKIPPED")
            else:
                self.recipes[data.getVar("PN")] = (bb.cache.realfn2virtual(file, variant, ""), data)

    def _needs(self, recipe: str, task: str) -> Iterator[tuple[str, str]]:
        data = self.recipes[recipe][1]
        for parent in data.getVar("_task_deps")["parents"].get(task, []):
            yield recipe, parent
        for word in (data.getVarFlag(task, "depends") or "").split():
            other, needed = word.split(":")
            if other in self.recipes:
                yield other, needed

    def hashes(self) -> dict[str, str]:
        """The hash of each task, by recipe:task, as BitBake compares it with that of the last run."""
        names = ("basetaskhash", "pkg_fn", "file_checksums", "task_deps", "stamp")
        cache = types.SimpleNamespace(**{name: {} for name in names})
        for recipe, (file, data) in self.recipes.items():
            tasks = data.getVar("__BBTASKS", False)
            cache.basetaskhash |= {f"{file}:{t}": h for t, h in data.getVar("__siggen_basehashes").items()}
            cache.pkg_fn[file] = recipe
            flags = {t: data.getVarFlag(t, "file-checksums") for t in tasks}
            cache.file_checksums[file] = {t: " ".join(flag.split()) for t, flag in flags.items() if flag}
            cache.task_deps[file] = data.getVar("_task_deps", False)
            cache.stamp[file] = data.getVar("STAMP")
        found: dict[str, str] = {}
        for recipe, (_, data) in self.recipes.items():
            for task in data.getVar("__BBTASKS", False):
                self._hash(recipe, task, {"": cache}, found)
        return {name: value for name, value in found.items() if not self._idle(*name.split(":"))}

    def _idle(self, recipe: str, task: str) -> bool:
        return bool(bb.utils.to_boolean(self.recipes[recipe][1].getVarFlag(task, "noexec")))

    def _hash(self, recipe: str, task: str, caches: dict[str, Any], found: dict[str, str]) -> str:
        tid = f"{self.recipes[recipe][0]}:{task}"
        if f"{recipe}:{task}" not in found:
            needs = set(self._needs(recipe, task))
            tids = [self._hash(other, needed, caches, found) for other, needed in needs]
            bb.parse.siggen.prep_taskhash(tid, tids, caches)
            found[f"{recipe}:{task}"] = bb.parse.siggen.get_taskhash(tid, tids, caches)
        return tid

    def run(self, recipe: str, task: str) -> None:
        """Runs a task after everything that it needs, each once; "!do_x" runs just that, as if the rest had stamps."""
        if f"{recipe}:{task}" in self.order:
            return
        for other, needed in self._needs(recipe, task) if not task.startswith("!") else ():
            self.run(other, needed)
        task = task.removeprefix("!")
        file, data = self.recipes[recipe]
        self.order.append(f"{recipe}:{task}")
        if not self._idle(recipe, task):
            _in_child(file, task, data)


def _in_child(file: str, task: str, data: Any) -> None:
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.stdin = open(os.devnull)  # noqa: SIM115
            data.setVar("BB_WORKERCONTEXT", "1")
            data.setVar("BB_CURRENTTASK", task.removeprefix("do_"))
            data.setVar("BB_TASKDEPDATA", {})
            data.setVar("BUILDNAME", "test")
            bb.parse.siggen.setup_datacache_from_datastore(file, data)
            exported = dict(bb.data.exported_vars(data))
            exported["PATH"] = os.environ["PATH"]
            os.environ.clear()
            os.environ.update(exported)
            code = bb.build.exec_task(file, task, data)
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status:
        with contextlib.suppress(OSError), open(f"{data.getVar('T')}/log.{task}") as log:
            sys.stderr.write(log.read())
        raise SystemExit(1)


def main() -> None:
    """Parses, runs, reports."""
    logging.getLogger("BitBake").addHandler(logging.StreamHandler(sys.stderr))
    folder, *words = sys.argv[1:]
    build = Build(folder)
    for recipe, task in zip(words[::2], words[1::2], strict=True):
        build.run(recipe, task)
    found = {"recipes": sorted(build.recipes), "skipped": build.skipped, "order": build.order}
    print(json.dumps(found | {"hashes": build.hashes() if not words else {}}))


if __name__ == "__main__":
    main()
