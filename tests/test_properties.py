"""Laws that hold for any tree: what is published is what a device gets, and the same input gives the same bytes."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swupd.agent import cli
from tests import builders, trees
from tests.builders import File, Folder, Link, Spec

FEW = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))

names = st.sampled_from(
    ["a", "b", "lib", "ünï", "with space", "quote'\"", "back\\slash", "-dash", "\udcff\udcfe", "x" * 200]
)
modes = st.sampled_from([0o644, 0o600, 0o755, 0o4755, 0o2711, 0o1777, 0o000])
owners = st.sampled_from([0, 1000, 70000, 3_000_000])
xattrs = st.sampled_from([(), (("user.a", b"x"),), (("user.a", b""), ("user.b", b"\0\xff\n="))])
contents = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda seed, size: (seed * size)[:size], st.binary(min_size=1, max_size=50), st.integers(200, 200_000)),
)
specs: st.SearchStrategy[Spec] = st.one_of(
    st.builds(File, contents, modes, owners, owners, xattrs),
    st.builds(Folder, modes, owners, owners, xattrs),
    st.builds(Link, st.sampled_from(["a", "../b", "/usr/share", "x" * 150, "ü\udcff"]), owners, owners),
)
tops = st.sampled_from(["/usr/share/t", "/usr/bin", "/opt/t"])


@st.composite
def random_trees(draw: st.DrawFn) -> dict[str, Spec]:
    """A few paths, none below another that is no folder."""
    tree: dict[str, Spec] = {}
    for _ in range(draw(st.integers(0, 12))):
        path = "/".join([draw(tops), *draw(st.lists(names, min_size=1, max_size=3))])
        above = ["/".join(path.split("/")[:n]) for n in range(2, path.count("/") + 1)]
        below = any(known.startswith(path + "/") for known in tree)
        if path not in tree and not below and all(isinstance(tree.get(a, Folder()), Folder) for a in above):
            tree[path] = draw(specs)
    return tree


@st.composite
def releases(draw: st.DrawFn) -> tuple[dict[str, Spec], dict[str, Spec], dict[str, frozenset[str]]]:
    """Two trees, the second with some of the first's paths kept, and what bundle each path belongs to."""
    first, second = draw(random_trees()), draw(random_trees())
    for path, spec in first.items():
        parents = {"/".join(path.split("/")[:n]) for n in range(2, path.count("/") + 1)}
        fits = all(isinstance(second.get(p, Folder()), Folder) for p in parents)
        free = path not in second and not any(known.startswith(path + "/") for known in second)
        if fits and free and draw(st.booleans()):
            second[path] = spec
    owner = {
        path: draw(st.sets(st.sampled_from(["os-core", "one", "two"]), min_size=1)) for path in {**first, **second}
    }
    return first, second, {path: frozenset(bundles) for path, bundles in owner.items()}


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for one example."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def publish(base: Path, trees_: tuple[dict[str, Spec], dict[str, Spec]], owner: dict[str, frozenset[str]]) -> None:
    for version, files in zip((10, 20), trees_, strict=True):
        whole = builders.os_tree(version, files)
        content = {
            bundle: [p for p in whole if bundle in owner.get(p, {"os-core"})] for bundle in ("os-core", "one", "two")
        }
        builders.release(base, version, files, content, previous_versions=1, allow_folder_replacement=True)


def difference(device: Path, image: Path) -> set[str]:
    """Lines that differ, without the tracking files, which publish adds."""
    lines = set(trees.listing(device)) ^ set(trees.listing(image))
    return {line for line in lines if "/usr/share/clear/bundles" not in line}


@FEW
@given(releases())
def test_a_device_gets_what_was_published(
    example: tuple[dict[str, Spec], dict[str, Spec], dict[str, frozenset[str]]],
) -> None:
    first, second, owner = example
    with folder() as base:
        publish(base, (first, second), owner)
        common = ["-u", f"file://{base}/www", "-F", "30", "-n", "-S", str(base / "state"), "--no-scripts", "--quiet"]
        device = base / "device"
        assert cli.main(["os-install", str(device), "-V", "10", "-B", "one,two", *common]) == 0
        assert difference(device, base / "root-10") == set()
        assert cli.main(["update", "-p", str(device), *common]) == 0
        assert difference(device, base / "root-20") == set()
        assert cli.main(["diagnose", "--picky", "--picky-tree", "/", "-p", str(device), *common]) == 0


@FEW
@given(releases())
def test_publishing_twice_gives_the_same_bytes(
    example: tuple[dict[str, Spec], dict[str, Spec], dict[str, frozenset[str]]],
) -> None:
    first, second, owner = example
    with folder() as base:
        publish(base / "a", (first, second), owner)
        publish(base / "b", (first, second), owner)
        assert digests(base / "a/www") == digests(base / "b/www")
        shutil.rmtree(base / "b")


def digests(www: Path) -> dict[str, str]:
    """Every file of a stream by its SHA-256."""
    return {
        str(p.relative_to(www)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(www.rglob("*"))
        if p.is_file()
    }
