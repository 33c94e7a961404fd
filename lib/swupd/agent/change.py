"""The one flow of every command that changes a device: plan, fetch, apply, then what has to run afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

from swupd import folding
from swupd.agent import actions, ahead, fetch, limits, offers, pending, plan, routes, shadow, space, survey, transaction
from swupd.agent.ahead import Ahead
from swupd.agent.apply import Outcome, apply
from swupd.agent.backend import TOP, back_end, obstacle
from swupd.agent.changing import act
from swupd.agent.objects import XattrRule
from swupd.agent.plan import Changes, Plan
from swupd.agent.preparation import How
from swupd.agent.report import Steps, size
from swupd.agent.routes import Between, Hop, Route
from swupd.agent.session import Session
from swupd.agent.state import State
from swupd.errors import DiskSpace, SwupdError
from swupd.lengths import Length
from swupd.manifest import Entry, Manifest
from swupd.tree import Node, Root

_NOTES = 4
"""Files that are written down after a change, beside one for each bundle."""
_SHRINKS = 3
"""About how much less a file takes when it is compressed: what a detour over several packs is held against."""


class Wish(NamedTuple):
    """What a command wants.

    changes: what must be put and dropped.
    wanted: entries by path that the tree shall have, for parents that are missing.
    owned: entries that the tree has now, as sources.
    manifests: bundles wanted, by name. old: versions of those there now. bundles: names to tell the user.
    boot_always: run the boot manager whatever changed. keep_cache: leave downloads. download_only: stop before apply.
    undo: whether there is a tree before to go back to. trial: whether the change may have to prove itself.
    share: part of a bundle's objects that must be missing for its zero pack to pay.
    measure: the signed length of an object of the stream, None where there is none.
    between: versions of a bundle after one version and before another.
    """

    changes: Changes
    wanted: Mapping[str, Entry]
    owned: Mapping[str, Entry]
    manifests: Mapping[str, Manifest]
    old: Mapping[str, int]
    rule: XattrRule
    bundles: tuple[str, ...] = ()
    boot_always: bool = False
    keep_cache: bool = False
    download_only: bool = False
    undo: bool = True
    trial: bool = False
    share: float = 0.2
    measure: Callable[[str], Length | None] = lambda _: None
    between: Between = lambda *_: ()


class Result(NamedTuple):
    """What became of a wish. fetched: bytes that came from the server. failed: sentences about what had to follow."""

    plan: Plan
    outcome: Outcome
    fetched: int = 0
    failed: tuple[str, ...] = ()


def carry_out(session: Session, wish: Wish, steps: Steps) -> Result:
    """Plans, fetches, applies. With --dry-run it says what it would do. Raises what its parts raise."""
    with session.root() as root, _ahead(session, root, wish) as linked:
        facts, seen = survey.observe(root, wish.changes, wish.rule, steps, wish.owned)
        made = plan.settle(wish.changes, facts, wish.wanted)
        packs = plan.packs(wish.manifests, wish.old, made, wish.share)
        expected = estimate(wish.manifests, made)
        if session.settings.dry_run or session.state is None:
            _describe(session, wish, made, expected, _routes(session, wish, expected, packs))
            return Result(made, Outcome(0, 0, ()))
        if not made.empty:
            pending.refuse_on_trial(root.path)
        _fetch(session, session.state, root, wish, made, expected, seen, packs, steps)
        if wish.download_only:
            return Result(made, Outcome(0, 0, ()), session.content.received)
        outcome = _put_in_place(session, session.state, root, wish, made, linked, steps)
    if outcome.damaged:
        some = f"{', '.join(outcome.damaged[:3])}{' …' if len(outcome.damaged) > 3 else ''}"
        session.report.warn(f"{len(outcome.damaged)} files that did not change are damaged: {some}; run: swupd repair")
    for folder in outcome.kept:
        session.report.warn(f"The folder {folder} is kept: it holds files that no bundle ships.")
    if not wish.keep_cache:
        session.state.clean()
    failed = _act(session, wish, made, steps)
    return Result(made, outcome, session.content.received, failed)


def _ahead(session: Session, root: Root, wish: Wish) -> AbstractContextManager[Ahead]:
    """What can be linked before the change is planned."""
    if session.state is None or session.settings.dry_run or wish.download_only:
        return contextlib.nullcontext(ahead.nothing())
    changed = (*(entry.name for entry in wish.changes.put), *wish.changes.drop)
    return ahead.linking(root, session.state.ahead, changed, wish.wanted, wish.rule is not XattrRule.HASHED)


def _put_in_place(
    session: Session, state: State, root: Root, wish: Wish, made: Plan, linked: Ahead, steps: Steps
) -> Outcome:
    """Applies a plan as one change, in the room that the undo of the one before leaves."""
    progress = steps.begin("update_files")
    if made.empty:
        return Outcome(0, 0, ())
    settings = session.settings
    transaction.discard(root.path)
    exchange = _has_room(session, state, root, made, linked)
    how = How(
        keep=wish.undo and (settings.keep_undo or bool(wish.trial and settings.trial)),
        trial=settings.trial if wish.trial else 0,
        actions=_words(session, wish, made),
        exchange=exchange,
        wanted=wish.wanted,
        take=linked.take,
    )
    with state.reserved(_NOTES + len(wish.manifests)):
        return apply(made, state.staged, root, wish.rule, progress, how)


def _has_room(session: Session, state: State, root: Root, made: Plan, linked: Ahead) -> bool:
    """Whether there is room for a second /usr beside the new files. Raises DiskSpace where there is none for those."""
    if session.settings.skip_space_check:
        return True
    if not obstacle(root):
        with contextlib.suppress(DiskSpace):
            # There mostly is room for all that could be there, which takes a moment to know.
            most = space.folders_at_most(root)
            if most[0]:
                space.check(state.staged, made, root, most)
                return True
        # What is linked is among the folders that are counted.
        linked.discard()
        try:
            space.check(state.staged, made, root, shadow.folders(root, TOP))
            return True
        except DiskSpace as e:
            space.check(state.staged, made, root)
            session.report.warn(
                f"There is no room to exchange {TOP} as a whole ({e.problem}); files are replaced singly."
            )
            return False
    space.check(state.staged, made, root)
    return True


def _fetch(
    session: Session,
    state: State,
    root: Root,
    wish: Wish,
    made: Plan,
    expected: int,
    seen: Mapping[str, Node],
    packs: tuple[plan.Pack, ...],
    steps: Steps,
) -> None:
    if not session.settings.skip_space_check:
        space.check_download(state.layout.here, expected)
    fetch.Fetcher(
        source=session.content,
        state=state,
        root=root,
        rule=wish.rule,
        owned=tuple(wish.owned.values()),
        limits=limits.allowed(wish.manifests, wish.measure),
        parallel=session.settings.parallel,
        report=session.report,
        unpacker=session.catalog.unpacker,
        seen=seen,
        repack=session.settings.repack,
    ).obtain(made, lambda: _routes(session, wish, expected, packs), steps)


def _routes(session: Session, wish: Wish, expected: int, packs: tuple[plan.Pack, ...]) -> tuple[Route, ...]:
    """By which packs the bundles get where they shall be, as far as single files do not take fewer bytes."""
    repack = session.settings.repack
    variants, in_part = folding.variants(repack), () if repack else folding.variants()

    def listed(name: str) -> bool:
        with contextlib.suppress(SwupdError):
            return wish.measure(name) is not None
        return False

    def chosen(pack: plan.Pack) -> Hop:
        return offers.chosen(session.content, pack, variants, listed, in_part)

    return routes.found(packs, wish.between, chosen, expected // _SHRINKS)


def estimate(manifests: Mapping[str, Manifest], made: Plan) -> int:
    """About how many bytes the objects of a plan have: manifests give the sum of a bundle, not of a file."""
    needed = made.digests
    total = 0.0
    for found in manifests.values():
        files = [e.digest for e in found.entries if e.kind == "F" and e.present]
        total += found.contentsize * sum(map(needed.__contains__, files)) / max(1, len(files))
    return int(total)


def _words(session: Session, wish: Wish, made: Plan) -> tuple[str, ...]:
    """What has to run after a change."""
    if not session.settings.scripts or (made.empty and not wish.boot_always):
        return ()
    return actions.needed([*(e.name for e in made.write), *made.remove], wish.boot_always)


def _act(session: Session, wish: Wish, made: Plan, steps: Steps) -> tuple[str, ...]:
    """Runs what has to follow, and ends the change; gives a sentence for each program that failed."""
    words = _words(session, wish, made)
    if words:
        steps.begin("run_postupdate_scripts")
    failed = act(session.settings, session.report, words)
    if not made.empty:
        transaction.acted(session.settings.root)
    return failed


def _describe(session: Session, wish: Wish, made: Plan, expected: int, ways: tuple[Route, ...]) -> None:
    say = session.report.say
    to_fetch, unknown = offers.download_size(session.content, made, ways)
    units, boot = plan.touched(made)
    say("Dry run: nothing is changed.")
    if wish.bundles:
        say(f"Bundles: {', '.join(wish.bundles)}")
    say(f"Files to write: {len(made.write)}; to remove: {len(made.remove)}")
    say(f"To download: {size(to_fetch)}{f' and {unknown} files of unknown size' if unknown else ''}")
    say(f"Disk needed: about {size(2 * expected)}, half of it until the command ends")
    with session.root() as root:
        say(f"Back end: {back_end(root)}")
    say(f"Services touched: {', '.join(units) if units else 'none'}")
    say(f"Boot files touched: {', '.join(boot) if boot else 'none'}")
    for entry in made.write:
        session.report.detail(f"  write   {entry.name}")
    for path in made.remove:
        session.report.detail(f"  remove  {path}")
