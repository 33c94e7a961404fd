from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swupd import paths
from swupd.agent import plan
from swupd.agent.plan import Changes, Facts, Pack, Plan
from swupd.errors import ApplyError, ManifestError
from swupd.manifest import Entry, Manifest

NOTHING: frozenset[str] = frozenset()


def entry(line: str) -> Entry:
    """ "F a 10 /path" or ".d 0 10 /path": flags, one letter as digest, version, path."""
    flags, letter, version, name = line.split()
    kind, status, modifier, misc = (flags + "...")[:4]
    return Entry(kind, letter * 64, int(version), name, status, modifier, misc)


def entries(*lines: str) -> dict[str, Entry]:
    return {e.name: e for e in map(entry, lines)}


def bundle(name: str, *lines: str) -> Manifest:
    return Manifest(name, 30, 10, entries=tuple(map(entry, lines)))


def facts(kinds: dict[str, str], right: set[str] | None = None, below: dict[str, set[str]] | None = None) -> Facts:
    return Facts(
        frozenset(right or ()),
        kinds,
        {path: frozenset(names) for path, names in (below or {}).items()},
    )


def put(changes: Changes) -> set[str]:
    return {e.name for e in changes.put}


CORE = ("D d 10 /usr", "D d 10 /usr/bin", "F a 10 /usr/bin/a")


@pytest.mark.parametrize(
    ("old", "new", "written", "dropped"),
    [
        ((), ("F a 20 /usr/a",), {"/usr/a"}, set()),
        (("F a 10 /usr/a",), ("F a 10 /usr/a",), set(), set()),
        (("F a 10 /usr/a",), ("F b 20 /usr/a",), {"/usr/a"}, set()),
        (("F a 10 /usr/a",), ("F a 20 /usr/a",), {"/usr/a"}, set()),
        (("F a 10 /usr/a",), ("F b 10 /usr/a",), {"/usr/a"}, set()),
        (("F a 10 /usr/a",), (".d 0 20 /usr/a",), set(), {"/usr/a"}),
        (("F a 10 /usr/a",), (), set(), {"/usr/a"}),
        (("F a 10 /usr/a",), (".g 0 20 /usr/a",), set(), set()),
        ((".d 0 10 /usr/a",), (".d 0 10 /usr/a",), set(), set()),
        ((), (".d 0 10 /usr/a",), set(), set()),
        ((".d 0 10 /usr/a",), ("F a 20 /usr/a",), {"/usr/a"}, set()),
        ((".g 0 10 /usr/a",), (), set(), set()),
        (("D d 10 /usr/a",), ("L a 20 /usr/a",), {"/usr/a"}, set()),
        (("F a 10 /etc/a",), ("F b 20 /etc/a",), set(), set()),
        (("F a 10 /var/a",), ("F b 20 /var/a",), set(), set()),
        (("F a 10 /etc/a",), (), set(), set()),
        (("F a 10 /boot/a",), ("F b 20 /boot/a",), {"/boot/a"}, set()),
        (("F a 10 /boot/a",), (".d 0 20 /boot/a",), set(), set()),
        (("F a 10 /usr/lib/modules/a",), (), set(), set()),
        (("F a 10 /mnt/disk",), ("F b 20 /mnt/disk",), set(), set()),
        (("F a 10 /mnt/disk",), (), set(), set()),
    ],
)
def test_what_an_update_writes_and_drops(
    old: tuple[str, ...], new: tuple[str, ...], written: set[str], dropped: set[str]
) -> None:
    changes = plan.update(entries(*old), entries(*new), frozenset({"/mnt/disk"}))
    assert put(changes) == written
    assert set(changes.drop) == dropped


def test_a_deletion_told_for_a_file_that_was_never_owned_is_left_alone() -> None:
    assert plan.update({}, entries(".d 0 20 /usr/a"), NOTHING) == Changes()


def test_adding_leaves_out_what_is_there_and_what_is_protected() -> None:
    added = entries("F a 10 /usr/new", "F a 10 /usr/old", "F a 10 /etc/x", "F a 10 /var/x", ".d 0 10 /usr/gone")
    owned = entries("F a 10 /usr/old")
    assert plan.add(owned, added, NOTHING) == Changes(put=(added["/usr/new"],))


def test_taking_away_spares_what_others_ship_and_what_is_the_devices() -> None:
    removed = entries("F a 10 /usr/a", "F a 10 /usr/shared", "F a 10 /etc/x", "F a 10 /var/x", "F a 10 /usr/ghost")
    remaining = entries("F a 10 /usr/shared", ".g 0 10 /usr/ghost", ".d 0 10 /usr/a")
    assert plan.take_away(removed, remaining, NOTHING) == Changes(drop=("/usr/a",))


def test_restoring_puts_all_back_and_drops_what_the_release_deleted() -> None:
    wanted = entries("F a 10 /usr/a", "F a 10 /etc/x", ".d 0 10 /usr/old", ".d 0 10 /etc/old", ".d 0 10 /boot/old")
    changes = plan.restore(wanted, NOTHING, ["/usr/extra"])
    assert put(changes) == {"/usr/a"}
    assert set(changes.drop) == {"/usr/old", "/usr/extra"}


def test_installing_writes_configuration_and_state_that_is_not_there_yet() -> None:
    wanted = entries("D d 10 /etc", "F a 10 /etc/x", "F a 10 /etc/y", "D d 10 /var/lib", "F a 10 /usr/a", ".d 0 10 /z")
    changes = plan.install(wanted, {"/etc", "/etc/x", "/usr/a", "/var/lib"}.__contains__)
    assert put(changes) == {"/etc", "/etc/y", "/var/lib", "/usr/a"}


def test_what_is_right_already_is_not_written() -> None:
    changes = Changes(put=tuple(map(entry, ("F a 10 /a", "F b 10 /b"))))
    made = plan.settle(changes, facts({"/a": "F", "/b": "F"}, {"/a"}), {})
    assert [e.name for e in made.write] == ["/b"]


def test_what_is_not_there_is_not_removed() -> None:
    made = plan.settle(Changes(drop=("/a", "/b")), facts({"/b": "F"}), {})
    assert made == Plan(remove=("/b",))


def test_parents_come_before_children_and_os_release_last() -> None:
    lines = ("F a 10 /usr/lib/os-release", "F b 10 /z", "F c 10 /usr/lib/b/c", "D d 10 /usr/lib/b", "D d 10 /usr/lib.d")
    made = plan.settle(Changes(put=tuple(map(entry, lines))), facts({"/usr": "D", "/usr/lib": "D"}), {})
    assert [e.name for e in made.write] == [
        "/usr/lib.d",
        "/usr/lib/b",
        "/usr/lib/b/c",
        "/z",
        "/usr/lib/os-release",
    ]


def test_children_are_removed_before_their_parents() -> None:
    drop = ("/a", "/a/b", "/a.x", "/a/b/c", "/ü")
    made = plan.settle(Changes(drop=drop), facts(dict.fromkeys(drop, "D")), {})
    assert made.remove.index("/a/b/c") < made.remove.index("/a/b") < made.remove.index("/a")


def test_missing_parents_come_from_the_release() -> None:
    wanted = entries("D d 10 /usr", "D d 10 /usr/bin", "F a 10 /usr/bin/a")
    made = plan.settle(Changes(put=(wanted["/usr/bin/a"],)), facts({"/usr": "D"}), wanted)
    assert [e.name for e in made.write] == ["/usr/bin", "/usr/bin/a"]


@pytest.mark.parametrize("known", [(), ("F a 10 /usr/bin",), (".d 0 10 /usr/bin",)])
def test_a_missing_parent_that_nobody_ships_is_an_error(known: tuple[str, ...]) -> None:
    with pytest.raises(ApplyError, match="/usr/bin is missing"):
        plan.settle(Changes(put=(entry("F a 10 /usr/bin/a"),)), facts({"/usr": "D"}), entries(*known))


@pytest.mark.parametrize("kind", ["L", "F", "?"])
def test_a_parent_that_is_no_folder_on_the_device_is_never_replaced_in_passing(kind: str) -> None:
    # What else the release has in that folder would be lost.
    wanted = entries("D d 10 /usr", "D d 10 /usr/lib", "F a 10 /usr/lib/a")
    with pytest.raises(ApplyError, match="/usr/lib is no folder here"):
        plan.settle(Changes(put=(wanted["/usr/lib/a"],)), facts({"/usr": "D", "/usr/lib": kind}), wanted)


def test_a_release_with_a_file_below_a_link_is_refused() -> None:
    changes = Changes(put=(entry("L a 20 /usr/lib"), entry("F b 20 /usr/lib/x")))
    with pytest.raises(ApplyError, match="inconsistent"):
        plan.settle(changes, facts({"/usr": "D", "/usr/lib": "D"}), {})


def test_a_folder_becomes_a_file_where_all_in_it_goes() -> None:
    changes = Changes(put=(entry("F a 20 /x"),), drop=("/x/a", "/x/a/b"))
    made = plan.settle(changes, facts({"/x": "D", "/x/a": "D", "/x/a/b": "F"}, below={"/x": {"/x/a", "/x/a/b"}}), {})
    assert [e.name for e in made.write] == ["/x"]
    assert made.remove == ("/x/a/b", "/x/a")


@pytest.mark.parametrize("kind", ["F", "L"])
def test_foreign_files_in_a_folder_that_is_to_become_something_else_stop_everything(kind: str) -> None:
    changes = Changes(put=(entry(f"{kind} a 20 /x"),), drop=("/x/a",))
    with pytest.raises(ApplyError, match="/x/mine"):
        plan.settle(changes, facts({"/x": "D", "/x/a": "F"}, below={"/x": {"/x/a", "/x/mine"}}), {})


def test_nothing_is_removed_through_a_symlink() -> None:
    made = plan.settle(
        Changes(drop=("/lib/x", "/usr/y")), facts({"/lib": "L", "/lib/x": "F", "/usr": "D", "/usr/y": "F"}), {}
    )
    assert made.remove == ("/usr/y",)


def test_what_is_written_is_not_removed() -> None:
    made = plan.settle(Changes(put=(entry("F a 20 /x"),), drop=("/x",)), facts({"/x": "F"}), {})
    assert made.remove == ()


def test_facts_are_asked_for_paths_and_their_parents() -> None:
    assert plan.look_at(Changes(put=(entry("F a 1 /a/b/c"),), drop=("/d/e",))) == ("/a", "/a/b", "/a/b/c", "/d", "/d/e")


@settings(max_examples=40, deadline=None)
@given(st.sets(st.from_regex(r"\A(/[ab]){1,4}\Z")), st.sets(st.from_regex(r"\A(/[cd]){1,4}\Z")))
def test_any_plan_is_in_an_order_that_can_be_carried_out(written: set[str], removed: set[str]) -> None:
    folders = {p for path in written for p in paths.parents(path)}
    wanted = {p: entry(f"{'D' if p in folders else 'F'} a 10 {p}") for p in written | folders}
    there = {p for path in removed for p in (*paths.parents(path), path)}
    made = plan.settle(
        Changes(tuple(e for p, e in wanted.items() if p in written), tuple(removed)),
        facts(dict.fromkeys(there, "D")),
        wanted,
    )
    seen: set[str] = set()
    for found in made.write:
        assert set(paths.parents(found.name)) <= seen
        seen.add(found.name)
    gone: set[str] = set()
    for path in made.remove:
        assert not {p for p in removed if p.startswith(path + "/")} - gone
        gone.add(path)
    assert (seen, gone) == (written | folders, removed)


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        ("F a 10 /x", "F a 20 /x", "F a 10 /x"),
        ("F a 10 /x", ".d 0 20 /x", "F a 10 /x"),
        (".d 0 10 /x", "F a 5 /x", "F a 5 /x"),
        (".d 0 10 /x", ".d 0 20 /x", ".d 0 20 /x"),
        (".g 0 10 /x", ".d 0 20 /x", ".g 0 10 /x"),
        (".g 0 10 /x", "F a 20 /x", "F a 20 /x"),
        ("D a 10 /x", "Z b 20 /x", "D a 10 /x"),
    ],
)
def test_of_two_bundles_lines_for_a_path_one_is_left(first: str, second: str, left: str) -> None:
    for one, other in ((first, second), (second, first)):
        assert plan.consolidate([bundle("a", one), bundle("b", other)]) == entries(left)


def test_two_bundles_that_disagree_are_an_error_that_names_both() -> None:
    with pytest.raises(ManifestError, match="bundles a and b disagree about /x"):
        plan.consolidate([bundle("b", "F a 10 /x"), bundle("a", "F b 10 /x")])


LEVELS = ("", "2", "5", "25")


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        ("F...", {"": 1, "2": 1, "5": 1, "25": 1}),
        *((f"F.{old}.", {"": 1, "2": 1, "5": 1, "25": 1}) for old in "Csb"),
        ("F.a.", {"": 1, "2": 0, "5": 1, "25": 0}),
        ("F.c.", {"": 1, "2": 1, "5": 0, "25": 0}),
        ("F.d.", {"": 1, "2": 0, "5": 0, "25": 0}),
        ("F.e.", {"": 0, "2": 1, "5": 0, "25": 1}),
        ("F.f.", {"": 0, "2": 1, "5": 0, "25": 0}),
        ("F.g.", {"": 0, "2": 0, "5": 1, "25": 1}),
        ("F.h.", {"": 0, "2": 0, "5": 1, "25": 1}),
        ("F.i.", {"": 1, "2": 1, "5": 1, "25": 1}),
        ("F.j.", {"": 1, "2": 0, "5": 1, "25": 0}),
        ("F.q.", {"": 0, "2": 0, "5": 0, "25": 0}),
        ("F.u.", {"": 0, "2": 0, "5": 0, "25": 0}),
        ("F.v.", {"": 0, "2": 0, "5": 0, "25": 0}),
        ("F.Z.", {"": 0, "2": 0, "5": 0, "25": 0}),
        ("F.?.", {"": 1, "2": 1, "5": 1, "25": 1}),
    ],
)
def test_the_variant_for_a_processor(flags: str, chosen: dict[str, int]) -> None:
    line = entry(f"{flags} a 10 /x")
    assert {level: len(plan.select([line], frozenset(level))) for level in LEVELS} == chosen


@pytest.mark.parametrize("codes", ["ae", "cg", "dfh", "jmr", "lnpu", "iq", "kot"])
@pytest.mark.parametrize("levels", LEVELS)
def test_of_all_variants_of_a_file_exactly_one_suits(codes: str, levels: str) -> None:
    lines = [entry(f"F.{code}. a 10 /x") for code in codes]
    assert len(plan.select(lines, frozenset(levels))) == 1


def test_packs_are_asked_for_where_they_pay() -> None:
    many = [f"F {i % 16:x} 20 /{i}" for i in range(16)]
    core, other, same = (
        Manifest(name, 30, 20, entries=tuple(map(entry, many))) for name in ("os-core", "other", "same")
    )
    made = Plan(write=tuple(map(entry, many[:12])))
    found = plan.packs({"os-core": core, "other": other, "same": same}, {"os-core": 10, "same": 20}, made)
    assert found == (Pack("os-core", 20, 10), Pack("other", 20, 0))
    assert plan.packs({"other": other}, {}, Plan(write=made.write[:5])) == ()
    assert plan.packs({"os-core": core}, {"os-core": 10}, Plan()) == ()


def test_services_and_boot_files_that_a_plan_touches() -> None:
    lines = ("F a 1 /usr/lib/systemd/system/x.service", "D d 1 /usr/lib/systemd/system/y.service.d", "F b 1 /boot/k")
    made = Plan(tuple(map(entry, lines)), ("/usr/lib/systemd/system/z.timer", "/usr/lib/systemd/system/readme"))
    assert plan.touched(made) == (("x.service", "z.timer"), ("/boot/k",))


def test_mount_points_and_the_machines_own_are_protected() -> None:
    assert plan.protected("/usr/x", frozenset({"/usr/x"}))
    assert not plan.protected("/usr/x/y", frozenset({"/usr/x"}))
    assert plan.protected("/etc/x") and plan.protected("/home/x") and not plan.protected("/boot/x")
