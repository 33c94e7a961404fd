"""The oracle finds what it is there to find."""

from __future__ import annotations

from dataclasses import replace

from tests.power import oracle
from tests.power.oracle import Promise, Seen

OLD = {"/usr/a": "old", "/usr/b": "old", "/opt/c": "old", "/home/me": "mine"}
NEW = {"/usr/a": "new", "/usr/b": "new", "/opt/c": "new", "/home/me": "mine"}
PROMISE = Promise(OLD, NEW, (10, 20), frozenset({"/home/me"}), atomic=True)
MIXED = {**OLD, "/usr/a": "new"}


def test_old_and_new_trees_are_right_where_their_version_is_reported() -> None:
    assert oracle.after_cut(Seen(OLD, 10, False), PROMISE) == []
    assert oracle.after_cut(Seen(NEW, 20, False), PROMISE) == []
    assert oracle.after_cut(Seen(NEW, 10, False), PROMISE)
    assert oracle.after_cut(Seen(OLD, 20, False), PROMISE)


def test_a_mixed_tree_must_be_reported_as_pending() -> None:
    half = replace(PROMISE, atomic=False)
    assert oracle.after_cut(Seen(MIXED, 10, True), half) == []
    assert "mixed" in oracle.after_cut(Seen(MIXED, 20, False), half)[0]
    assert oracle.after_cut(Seen(MIXED, None, False), half) == []  # it does not even say that it is a system


def test_an_exchanged_folder_is_never_between_old_and_new() -> None:
    assert oracle.after_cut(Seen({**NEW, "/opt/c": "old"}, 20, True), PROMISE) == []
    assert oracle.after_cut(Seen(MIXED, 10, True), PROMISE)


def test_files_of_the_user_stay_even_while_a_change_is_pending() -> None:
    assert oracle.after_cut(Seen({**OLD, "/home/me": "lost"}, 10, True), PROMISE)


def test_after_recovery_nothing_is_pending_and_nothing_is_left_over() -> None:
    good = Seen(NEW, 20, False, frozenset({"version"}))
    assert oracle.after_recovery(good, PROMISE, 0, {0}, good) == []
    assert oracle.after_recovery(replace(good, pending=True), PROMISE, 0, {0}, good)
    assert oracle.after_recovery(replace(good, tree=OLD), PROMISE, 0, {0}, good)
    assert oracle.after_recovery(good, PROMISE, 1, {0}, good)
    assert oracle.LEFTOVERS in oracle.after_recovery(replace(good, state=frozenset()), PROMISE, 0, {0}, good)[0]


def test_a_failed_run_names_the_cause_and_a_successful_one_did_its_work() -> None:
    assert oracle.after_error(Seen(OLD, 10, False), PROMISE, 10, "the disk is full") == []
    assert oracle.after_error(Seen(OLD, 10, False), PROMISE, 10, "oops")
    assert oracle.after_error(Seen(OLD, 10, False), PROMISE, 0, "")
    nothing_to_change = replace(PROMISE, new=OLD, versions=(10, 10))
    assert oracle.after_error(Seen(OLD, 10, False), nothing_to_change, 0, "") == []
    assert oracle.after_error(Seen(MIXED, 10, False), nothing_to_change, 0, "")
