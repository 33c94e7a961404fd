"""Which bundle gets what: packages, links, folders, what nobody owns; and whether a bundle can stand by itself."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from swupd.errors import InvalidFile
from swupd.server import cli, closure, ownership
from swupd.server.closure import Needs
from swupd.server.ownership import Image, Package
from swupd.tree import Node, file_node, folder_node
from tests import builders


def link(path: str, target: str) -> Node:
    return Node(path, "L", stat.S_IFLNK | 0o777, target=target)


def tree(*nodes: Node) -> dict[str, Node]:
    return {node.path: node for node in nodes}


NODES = tree(
    folder_node("/usr"),
    folder_node("/usr/bin"),
    folder_node("/usr/lib"),
    folder_node("/usr/share"),
    folder_node("/usr/share/vim"),
    folder_node("/usr/share/vim/empty"),
    link("/lib", "usr/lib"),
    file_node("/usr/bin/sh", 0o755, 1),
    file_node("/usr/bin/vim.basic", 0o755, 1),
    link("/usr/bin/vi", "vim.basic"),
    file_node("/usr/share/vim/rc", 0o644, 1),
    file_node("/usr/lib/libx.so.1", 0o644, 1),
    file_node("/usr/share/cache", 0o644, 1),
)
CORE = ("/usr", "/usr/bin", "/usr/lib", "/usr/share", "/lib", "/usr/bin/sh")
PACKAGES = {
    "shell": Package("shell", frozenset({"/usr/bin/sh"})),
    "vim": Package("vim", frozenset({"/usr/bin/vim.basic", "/usr/share/vim/rc"}), frozenset({"shell", "libx"})),
    "libx": Package("libx", frozenset({"/lib/libx.so.1"})),
}


def test_a_bundle_is_the_closure_of_its_packages() -> None:
    shipped = ownership.split(NODES, CORE, PACKAGES, {"edit": ["vim"]})
    assert {"/usr/bin/vim.basic", "/usr/share/vim/rc", "/usr/lib/libx.so.1", "/usr/bin/sh"} <= shipped["edit"]
    assert "/usr/bin/vim.basic" not in shipped["os-core"]


def test_paths_of_packages_are_followed_through_links_of_the_image() -> None:
    assert "/usr/lib/libx.so.1" in ownership.split(NODES, CORE, PACKAGES, {"x": ["libx"]})["x"]


def test_an_unowned_link_follows_its_target() -> None:
    shipped = ownership.split(NODES, CORE, PACKAGES, {"edit": ["vim"]})
    assert "/usr/bin/vi" in shipped["edit"] and "/usr/bin/vi" not in shipped["os-core"]


def test_folders_follow_what_is_in_them_and_empty_ones_what_is_around_them() -> None:
    shipped = ownership.split(NODES, CORE, PACKAGES, {"edit": ["vim"], "x": ["libx"]})
    assert {"/usr/share/vim", "/usr/share/vim/empty"} <= shipped["edit"]
    assert not any(path.startswith("/usr/share/vim") for path in shipped["os-core"] | shipped["x"])


def test_a_file_that_nobody_owns_is_os_cores() -> None:
    assert "/usr/share/cache" in ownership.split(NODES, CORE, PACKAGES, {"edit": ["vim"]})["os-core"]


def test_every_path_has_an_owner() -> None:
    shipped = ownership.split(NODES, CORE, PACKAGES, {"edit": ["vim"], "later": []})
    assert frozenset().union(*shipped.values()) == NODES.keys()


def test_an_unknown_package_is_named() -> None:
    with pytest.raises(InvalidFile, match="bundle edit names the package emacs"):
        ownership.split(NODES, CORE, PACKAGES, {"edit": ["emacs"]})


def test_links_in_a_circle_end() -> None:
    circle = tree(link("/a", "b"), link("/b", "a"))
    assert ownership.resolve("/a", circle) in {"/a", "/b"}


def image(digests: dict[str, str], links: dict[str, str] | None = None, users: str = "") -> Image:
    return Image(digests, links or {}, {name: i for i, name in enumerate(users.split())}, {})


def test_differences_between_the_two_images_are_told() -> None:
    core = image({"/a": "1", "/b": "2", "/c": "3"})
    found = ownership.differences(core, image({"/a": "1", "/b": "x"}), {}, {"/b": "package p, bundle q"})
    assert [str(d) for d in found] == [
        "/b of os-core is different in the image with all bundles (package p, bundle q)",
        "/c of os-core is missing in the image with all bundles",
    ]


def test_an_alternative_that_a_bundle_takes_over_is_told_with_the_bundle() -> None:
    core = image({"/usr/bin/vi": "1"}, {"/usr/bin/vi": "busybox"})
    mega = image({"/usr/bin/vi": "2"}, {"/usr/bin/vi": "vim.basic"})
    who = ownership.bringers(PACKAGES, {"edit": ["vim"]})
    (found,) = ownership.differences(core, mega, NODES, who)
    assert str(found) == (
        "/usr/bin/vi of os-core is a link to busybox, but to vim.basic with all bundles (package vim, bundle edit)"
    )


def test_users_that_bundles_add_are_named() -> None:
    core, mega = image({"/etc/passwd": "1"}, users="root"), image({"/etc/passwd": "2"}, users="root http")
    (found,) = ownership.differences(core, mega, NODES, {})
    assert "/etc/passwd of os-core lacks the users http" in str(found)
    assert core.ids == (frozenset({0}), frozenset({0}))


IDS = (frozenset({0}), frozenset({0}))


def check(shipped: dict[str, set[str]], needs: dict[str, Needs], nodes: dict[str, Node] = NODES) -> list[str]:
    found = closure.check(
        nodes,
        {bundle: frozenset(own) for bundle, own in shipped.items()},
        {},
        needs,
        IDS,
        {"/usr/lib/libx.so.1": frozenset({"libx"})},
    )
    return [str(f) for f in found]


def test_a_missing_library_is_found_with_the_package_that_has_it() -> None:
    needs = {"/usr/bin/vim.basic": Needs(frozenset({"libx.so.1"}))}
    (finding,) = check({"os-core": {"/usr/bin/sh"}, "edit": {"/usr/bin/vim.basic"}}, needs)
    assert "bundle edit: /usr/bin/vim.basic needs the library libx.so.1" in finding and "libx)" in finding
    assert check({"os-core": {"/usr/lib/libx.so.1"}, "edit": {"/usr/bin/vim.basic"}}, needs) == []


def test_a_missing_interpreter_is_found() -> None:
    needs = {"/usr/bin/vim.basic": Needs(interpreter="/usr/bin/perl")}
    assert "interpreter /usr/bin/perl" in check({"os-core": set(), "edit": {"/usr/bin/vim.basic"}}, needs)[0]


def test_a_link_to_another_bundle_is_found_and_one_out_of_the_image_is_not() -> None:
    nodes = NODES | tree(link("/usr/bin/out", "/run/elsewhere"))
    found = check({"os-core": set(), "edit": {"/usr/bin/vi", "/usr/bin/out"}, "x": {"/usr/bin/vim.basic"}}, {}, nodes)
    assert len(found) == 1 and "/usr/bin/vi needs the link target /usr/bin/vim.basic" in found[0]


def test_an_owner_that_os_core_does_not_know_is_found() -> None:
    nodes = tree(file_node("/usr/bin/a", 0o644, 0, uid=990))
    assert "user 990" in check({"os-core": set(), "edit": {"/usr/bin/a"}}, {}, nodes)[0]


def test_what_os_core_lacks_is_told_once() -> None:
    needs = {"/usr/bin/sh": Needs(interpreter="/usr/bin/perl")}
    assert len(check({"os-core": {"/usr/bin/sh"}, "edit": {"/usr/bin/sh"}}, needs)) == 1


def test_an_image_build_lists_splits_and_publishes(tmp_path: Path) -> None:
    core: builders.Tree = builders.os_tree(10, {"/usr/bin/sh": "sh", "/etc/passwd": "root:x:0:0::/:\n"})
    mega: builders.Tree = {**core, "/usr/bin/tool": builders.File("#!/usr/bin/perl\n", 0o755), "/usr/share/t/d": "data"}
    builders.make_tree(tmp_path / "core", core)
    builders.make_tree(tmp_path / "mega", mega)
    packages = {"tool": {"files": ["/usr/bin/tool", "/usr/share/t/d"], "needs": ["base", "not-installed"]}}
    packages["base"] = {"files": ["/usr/bin/sh"], "needs": []}
    (tmp_path / "packages.json").write_text(json.dumps(packages))
    listing, split = str(tmp_path / "core.json"), str(tmp_path / "split")
    assert cli.main(["list", "--rootfs", str(tmp_path / "core"), "--output", listing]) == 0
    words = ["split", "--rootfs", str(tmp_path / "mega"), "--core", listing, "--output", split]
    words += ["--packages", str(tmp_path / "packages.json"), "--bundle", "tools=tool", "--bundle", "later="]
    assert cli.main(words) == 0
    found = json.loads((tmp_path / "split/findings.json").read_text())
    assert [f["kind"] for f in found["closure"]] == ["interpreter"] and found["difference"] == []
    content = [w for b in ("os-core", "tools", "later") for w in ("--content", f"{b}={split}/{b}.content")]
    publish = ["publish", "--www", str(tmp_path / "www"), "--version", "10", "--rootfs", str(tmp_path / "mega")]
    assert cli.main([*publish, *content, "--quiet"]) == 0
    manifest = (tmp_path / "www/10/Manifest.tools").read_text()
    assert "/usr/share/t/d" in manifest and "/usr/bin/sh" not in manifest
