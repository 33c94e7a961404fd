"""Content lists, includes, and the split of a tree among bundles."""

from __future__ import annotations

import itertools

import pytest

from swupd.errors import InvalidFile, InvalidOption, SwupdError
from swupd.server import bundles
from swupd.server.bundles import BundleSpec
from swupd.tree import Node, file_node, folder_node


def link(path: str, target: str) -> Node:
    return Node(path, "L", 0o120777, target=target)


def tree(*paths: str) -> dict[str, Node]:
    """Folders end with a slash."""
    nodes = [folder_node(p[:-1]) if p.endswith("/") else file_node(p, 0o644, 1) for p in paths]
    return {node.path: node for node in nodes}


def shipped(nodes: dict[str, Node], *specs: BundleSpec) -> dict[str, list[str]]:
    return {name: [n.path for n in found] for name, found in bundles.split(nodes, specs).items()}


CORE_FOLDERS = ["/usr", "/usr/share", "/usr/share/clear", "/usr/share/clear/bundles"]


def test_a_list_keeps_everything_but_empty_lines_and_the_root() -> None:
    spec = bundles.parse("os-core", b"/usr\n\n/\n/usr/a b\n/#x\n/\xff\n", "list.txt")
    assert spec.paths == ("/usr", "/usr/a b", "/#x", "/\udcff")
    assert spec.lines == (1, 4, 5, 6)


@pytest.mark.parametrize("line", [b"usr/bin", b"/usr//bin", b"/usr/../etc", b"/a\tb", b"/usr/", b"# comment"])
def test_a_line_that_is_no_path_is_named_with_its_number(line: bytes) -> None:
    with pytest.raises(InvalidFile, match=r"list\.txt, line 2"):
        bundles.parse("os-core", b"/ok\n" + line + b"\n", "list.txt")


def test_a_path_that_the_tree_lacks_is_named_with_file_and_line() -> None:
    spec = bundles.parse("os-core", b"/usr\n/usr/none\n", "list.txt")
    with pytest.raises(InvalidFile, match=r"list\.txt, line 2: /usr/none is not in the root file system"):
        bundles.split(tree("/usr/"), [spec])


def test_a_path_below_a_symlink_is_refused_with_the_real_path() -> None:
    nodes = tree("/usr/", "/usr/lib/", "/usr/lib/x") | {"/lib": link("/lib", "usr/lib")}
    with pytest.raises(InvalidFile) as caught:
        bundles.split(nodes, [BundleSpec("os-core", ("/lib/x",))])
    assert "below the symlink /lib" in caught.value.problem
    assert "List /usr/lib/x" in caught.value.hint


def test_what_was_left_out_on_purpose_is_not_missed() -> None:
    found = bundles.split(tree("/usr/"), [BundleSpec("os-core", ("/dev/null",))], frozenset({"/dev/null"}))
    assert "/dev/null" not in [n.path for n in found["os-core"]]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([BundleSpec("a")], "no bundle os-core"),
        ([BundleSpec("os-core"), BundleSpec("a"), BundleSpec("a")], "defined twice"),
        ([BundleSpec("os-core"), BundleSpec("a", includes=("b",))], "wants b, which does not exist"),
        ([BundleSpec("os-core"), BundleSpec("a", also_add=("b",))], "wants b, which does not exist"),
        ([BundleSpec("os-core"), BundleSpec("a", includes=("b",)), BundleSpec("b", includes=("a",))], "a -> b -> a"),
        ([BundleSpec("os-core", includes=("a",)), BundleSpec("a")], "include each other"),
        ([BundleSpec("os-core"), BundleSpec("a", includes=("a",))], "a -> a"),
    ],
)
def test_bundles_that_do_not_fit_together_are_refused(specs: list[BundleSpec], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        bundles.check(specs)


def test_many_layers_of_bundles_that_share_includes_are_checked_at_once() -> None:
    layers = [(f"{n}a", f"{n}b") for n in range(60)]
    specs = [BundleSpec("os-core"), *(BundleSpec(name) for name in layers[0])]
    specs += [BundleSpec(name, includes=below) for below, layer in itertools.pairwise(layers) for name in layer]
    bundles.check(specs)


@pytest.mark.parametrize("name", ["", "MoM", "full", "a/b", "..", ".x", "-x", "a\n", "ä", "x" * 201])
def test_names_that_cannot_be_file_names_are_refused(name: str) -> None:
    with pytest.raises(SwupdError):
        BundleSpec(name)


def test_folders_above_listed_paths_come_with_them() -> None:
    found = shipped(tree("/usr/", "/usr/bin/", "/usr/bin/sh"), BundleSpec("os-core", ("/usr/bin/sh",)))
    assert found["os-core"][:3] == ["/usr", "/usr/bin", "/usr/bin/sh"]


def test_an_empty_bundle_ships_its_tracking_file() -> None:
    found = bundles.split(tree(), [BundleSpec("os-core"), BundleSpec("empty")])
    assert [n.path for n in found["empty"]] == ["/usr/share/clear/bundles/empty"]
    assert [n.path for n in found["os-core"]] == [*CORE_FOLDERS, "/usr/share/clear/bundles/os-core"]
    assert found["empty"][0] == file_node("/usr/share/clear/bundles/empty", 0o644, 0)


def test_a_tracking_file_belongs_to_its_bundle_whoever_lists_it() -> None:
    nodes = tree("/usr/", "/usr/share/", "/usr/share/clear/", "/usr/share/clear/bundles/")
    nodes |= {"/usr/share/clear/bundles/a": file_node("/usr/share/clear/bundles/a", 0o644, 0)}
    found = shipped(nodes, BundleSpec("os-core", tuple(nodes)), BundleSpec("a"))
    assert "/usr/share/clear/bundles/a" not in found["os-core"]
    assert found["a"] == ["/usr/share/clear/bundles/a"]


def test_a_file_of_an_included_bundle_is_left_out_through_any_number_of_includes() -> None:
    nodes = tree("/opt/", "/opt/x", "/opt/y")
    a = BundleSpec("a", ("/opt/x", "/opt/y"), includes=("b",))
    found = shipped(nodes, BundleSpec("os-core"), a, BundleSpec("b", includes=("c",)), BundleSpec("c", ("/opt/x",)))
    assert found["a"] == ["/opt", "/opt/y", "/usr/share/clear/bundles/a"]
    assert "/opt/x" in found["c"]


def test_bundles_that_do_not_include_each_other_may_share_a_file() -> None:
    nodes = tree("/opt/", "/opt/x")
    found = shipped(nodes, BundleSpec("os-core"), BundleSpec("a", ("/opt/x",)), BundleSpec("b", ("/opt/x",)))
    assert "/opt/x" in found["a"]
    assert "/opt/x" in found["b"]


def test_also_add_subtracts_nothing() -> None:
    nodes = tree("/opt/", "/opt/x")
    a = BundleSpec("a", ("/opt/x",), also_add=("b",))
    assert "/opt/x" in shipped(nodes, BundleSpec("os-core"), a, BundleSpec("b", ("/opt/x",)))["a"]


def test_a_folder_of_os_core_is_in_no_other_bundle() -> None:
    nodes = tree("/opt/", "/opt/x")
    found = shipped(nodes, BundleSpec("os-core", ("/opt",)), BundleSpec("a", ("/opt/x",)))
    assert found["a"] == ["/opt/x", "/usr/share/clear/bundles/a"]


def test_a_folder_of_an_included_bundle_stays_only_above_own_files() -> None:
    nodes = tree("/opt/", "/opt/d/", "/opt/d/x", "/opt/e/", "/opt/e/y")
    a = BundleSpec("a", ("/opt/d/x", "/opt/e"), includes=("b",))
    found = shipped(nodes, BundleSpec("os-core"), a, BundleSpec("b", ("/opt/d", "/opt/e")))
    assert found["a"] == ["/opt", "/opt/d", "/opt/d/x", "/usr/share/clear/bundles/a"]


def test_the_header_lists_os_core_first_and_once() -> None:
    assert BundleSpec("a", includes=("b", "os-core", "b")).header_includes == ("os-core", "b")
    assert BundleSpec("os-core").header_includes == ()
