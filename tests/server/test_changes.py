"""From one release to the next: the table of the stream format's section 7.4, minversion, format bumps."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from swupd import hashing, manifest
from swupd.errors import InvalidFile, InvalidOption
from swupd.manifest import ZERO, Entry, Manifest
from swupd.server import changes
from swupd.server.bundles import BundleSpec
from swupd.server.changes import Edition, Release
from swupd.tree import Node, file_node, folder_node

CORE = (BundleSpec("os-core"),)
A, B = "a" * 64, "b" * 64


def edition(version: int, stream_format: int = 30, **more: int) -> Edition:
    return Edition(version, stream_format, timestamp=version, **more)


def nodes(*found: str) -> tuple[Node, ...]:
    return tuple(folder_node(p[:-1]) if p.endswith("/") else file_node(p, 0o644, 3) for p in found)


def make(
    base: Release | None,
    header: Edition,
    files: dict[str, str],
    specs: Iterable[BundleSpec] = CORE,
    **others: dict[str, str],
) -> Release:
    """Files: path -> digest, of os-core; others likewise."""
    listed = {"os-core": files, **others}
    contents = {name: nodes(*paths) for name, paths in listed.items()}
    digests = {path.rstrip("/"): d for paths in listed.values() for path, d in paths.items()}
    return changes.following(base, header, tuple(specs), contents, digests)


def given(*entries: Entry, version: int = 10, stream_format: int = 30) -> Release:
    """A release with these entries in os-core."""
    core = Manifest("os-core", stream_format, version, entries=entries)
    line = Entry("M", hashing.digest_manifest(manifest.serialize(core)), version, "os-core")
    return Release(Manifest("MoM", stream_format, version, entries=(line,)), {"os-core": core})


def line(release: Release, path: str) -> str | None:
    found = [f"{e.flags} {e.digest[:1]} {e.version}" for e in release.manifests["os-core"].entries if e.name == path]
    return found[0] if found else None


DELETED = Entry(".", ZERO, 10, "/x", status="d")
GHOST = Entry(".", ZERO, 10, "/boot/x", status="g")


@pytest.mark.parametrize(
    ("old", "new", "result"),
    [
        ([], {"/x": A}, "F... a 20"),
        ([Entry("F", A, 10, "/x")], {"/x": A}, "F... a 10"),
        ([Entry("F", A, 10, "/x", modifier="b")], {"/x": A}, "F... a 10"),
        ([Entry("F", A, 10, "/x")], {"/x": B}, "F... b 20"),
        ([Entry("L", A, 10, "/x")], {"/x": A}, "F... a 20"),
        ([DELETED], {"/x": A}, "F... a 20"),
        ([Entry(".", ZERO, 10, "/x", status="g")], {"/x": A}, "F... a 20"),
        ([Entry("F", A, 10, "/x")], {}, ".d.. 0 20"),
        ([DELETED], {}, ".d.. 0 10"),
        ([Entry(".", ZERO, 10, "/x", status="g")], {}, None),
        ([Entry("F", A, 10, "/x"), Entry("F", B, 10, "/x", modifier="a")], {"/x": A}, "F... a 20"),
    ],
)
def test_each_row_of_the_table(old: list[Entry], new: dict[str, str], result: str | None) -> None:
    assert line(make(given(*old), edition(20), new | {"/other": A}), "/x") == result


def test_removed_boot_files_become_ghosts_for_one_release() -> None:
    first = make(None, edition(10), {"/boot/": A, "/boot/x": A})
    second = make(first, edition(20), {"/boot/": A})
    assert line(second, "/boot/x") == ".g.. 0 20"
    assert line(make(second, edition(30), {"/boot/": A, "/y": A}), "/boot/x") is None


def test_a_folder_above_a_ghost_is_not_deleted_either() -> None:
    first = make(None, edition(10), {"/usr/": A, "/usr/lib/": A, "/usr/lib/kernel/": A, "/usr/lib/kernel/x": A})
    second = make(first, edition(20), {"/usr/": A, "/usr/lib/": A})
    assert line(second, "/usr/lib/kernel") == ".g.. 0 20"


def test_old_formats_get_deletions_where_ghosts_are_unknown() -> None:
    first = make(None, edition(10, 4), {"/boot/": A, "/boot/x": A})
    assert line(make(first, edition(20, 4), {"/boot/": A}), "/boot/x") == ".d.. 0 20"


def test_an_unchanged_bundle_keeps_its_manifest_and_its_line() -> None:
    first = make(None, edition(10), {"/x": A})
    second = make(first, edition(20), {"/x": A})
    assert second.manifests == first.manifests
    assert second.mom.entries == first.mom.entries
    assert (second.mom.version, second.mom.previous) == (20, 10)


def test_an_unchanged_foreign_bundle_keeps_the_hash_of_its_own_bytes() -> None:
    base = given(Entry("F", A, 10, "/x", misc="x"))
    foreign = Release(Manifest("MoM", 30, 10, entries=(Entry("M", B, 10, "os-core", "e"),)), base.manifests)
    assert make(foreign, edition(20), {"/x": A}).mom.entries == foreign.mom.entries


@pytest.mark.parametrize("field", ["includes", "also_add"])
def test_other_includes_make_a_new_manifest(field: str) -> None:
    plain = (*CORE, BundleSpec("a"), BundleSpec("b"))
    wired = (*CORE, BundleSpec("a", **{field: ("b",)}), BundleSpec("b"))
    first = make(None, edition(10), {"/x": A}, plain, a={"/a": A}, b={"/b": A})
    second = make(first, edition(20), {"/x": A}, wired, a={"/a": A}, b={"/b": A})
    assert {name: m.version for name, m in second.manifests.items()} == {"os-core": 10, "a": 20, "b": 10}
    assert second.manifests["a"].previous == 10


def test_also_add_is_no_change_in_formats_that_cannot_say_it() -> None:
    specs = (*CORE, BundleSpec("a", also_add=("b",)), BundleSpec("b"))
    first = make(None, edition(10, 28), {}, specs, a={"/a": A}, b={"/b": A})
    assert make(first, edition(20, 28), {}, specs, a={"/a": A}, b={"/b": A}).manifests == first.manifests


def test_a_bundle_that_is_gone_is_not_in_the_mom() -> None:
    first = make(None, edition(10), {}, (*CORE, BundleSpec("a")), a={"/a": A})
    assert [e.name for e in make(first, edition(20), {}).mom.entries] == ["os-core"]


def test_minversion_renews_what_is_older_and_leaves_deletions_alone() -> None:
    base = given(Entry("F", A, 5, "/old"), Entry("F", A, 10, "/new"), Entry(".", ZERO, 5, "/gone", status="d"))
    release = make(base, edition(20, minversion=10), {"/old": A, "/new": A})
    found = [line(release, path) for path in ("/old", "/new", "/gone")]
    assert found == ["F... a 20", "F... a 10", ".d.. 0 5"]
    assert release.mom.minversion == 10


def test_minversion_is_carried_forward() -> None:
    first = make(None, edition(10, minversion=10), {"/x": A})
    assert make(first, edition(20), {"/x": B}).mom.minversion == 10


@pytest.mark.parametrize(("minversion", "why"), [(21, "newer than the release"), (5, "less than the 10")])
def test_minversion_cannot_be_in_the_future_nor_go_back(minversion: int, why: str) -> None:
    first = make(None, edition(10, minversion=10), {"/x": A})
    with pytest.raises(InvalidOption, match=why):
        make(first, edition(20, minversion=minversion), {"/x": A})


def test_a_new_format_drops_deletions_and_rewrites_all() -> None:
    base = given(Entry("F", A, 10, "/x"), Entry("F", A, 10, "/y"), Entry(".", ZERO, 10, "/gone", status="d"))
    release = make(base, edition(20, 31, minversion=20), {"/x": A})
    assert [(e.flags, e.version, e.name) for e in release.manifests["os-core"].entries] == [("F...", 20, "/x")]


def test_entries_are_ordered_by_version_and_bytes() -> None:
    first = make(None, edition(10), {"/b": A, "/é": A, "/a": A})
    second = make(first, edition(20), {"/b": A, "/é": A, "/a": B})
    assert [e.name for e in second.manifests["os-core"].entries] == ["/b", "/é", "/a"]


@pytest.mark.parametrize(("stream_format", "expected"), [(30, 3_000_000_003), (25, 1_999_999_999)])
def test_contentsize_counts_files_and_link_targets(stream_format: int, expected: int) -> None:
    content = (folder_node("/d"), file_node("/f", 0o644, 3_000_000_000), Node("/l", "L", 0o120777, target="abc"))
    digests = {"/d": A, "/f": A, "/l": A}
    release = changes.following(None, edition(10, stream_format), CORE, {"os-core": content}, digests)
    assert release.manifests["os-core"].contentsize == expected


def test_kept_digests_are_those_that_every_bundle_lists_already() -> None:
    specs = (*CORE, BundleSpec("a"))
    first = make(None, edition(10), {"/x": A, "/y": A}, specs, a={"/z": B})
    contents = {"os-core": nodes("/x", "/y"), "a": nodes("/y", "/z")}
    assert changes.kept_digests(first, edition(20), contents) == {"/x": A, "/z": B}
    assert changes.kept_digests(first, edition(20, minversion=20), contents) == {}
    assert changes.kept_digests(None, edition(20), contents) == {}


def test_full_holds_each_name_once_at_its_newest_version() -> None:
    specs = (*CORE, BundleSpec("a"), BundleSpec("b"))
    first = make(None, edition(10), {"/x": A}, specs, a={"/s": A}, b={"/t": A})
    contents = {"os-core": nodes("/x"), "a": nodes("/s"), "b": nodes("/t", "/s")}
    second = changes.following(first, edition(20), specs, contents, {"/x": A, "/s": A, "/t": A})
    everything = changes.full(second, contents)
    assert [(e.name, e.version) for e in everything.entries] == [("/t", 10), ("/x", 10), ("/s", 20)]
    assert everything.contentsize == 9


def test_full_prefers_what_is_present_to_what_is_deleted() -> None:
    specs = (*CORE, BundleSpec("a"))
    first = make(None, edition(10), {"/x": A}, specs, a={"/s": A})
    contents = {"os-core": nodes("/x", "/s"), "a": nodes("/u")}
    second = changes.following(first, edition(20), specs, contents, {"/x": A, "/s": A, "/u": A})
    assert [e.flags for e in changes.full(second, contents).entries if e.name == "/s"] == ["F..."]


def test_a_folder_with_children_may_not_become_a_file() -> None:
    first = make(None, edition(10), {"/d/": A, "/d/x": A, "/e/": A})
    with pytest.raises(InvalidFile, match="the folder /d of release 10 becomes a file"):
        changes.check_folders(first, CORE, {"os-core": nodes("/d", "/e")})
    changes.check_folders(first, CORE, {"os-core": nodes("/d/", "/e")})


def test_a_folder_with_foreign_files_may_not_be_dropped() -> None:
    first = make(None, edition(10), {"/var/": A, "/x": A})
    with pytest.raises(InvalidFile, match="os-core no longer ships the folder /var"):
        changes.check_folders(first, CORE, {"os-core": nodes("/x")})


def test_a_folder_may_move_to_a_bundle_that_is_always_there() -> None:
    specs = (*CORE, BundleSpec("a"))
    first = make(None, edition(10), {"/x": A}, specs, a={"/var/": A})
    changes.check_folders(first, specs, {"os-core": nodes("/x", "/var/"), "a": ()})
    with pytest.raises(InvalidFile, match="os-core no longer ships"):
        turned = make(None, edition(10), {"/var/": A}, specs, a={"/y": A})
        changes.check_folders(turned, specs, {"os-core": (), "a": nodes("/var/")})
