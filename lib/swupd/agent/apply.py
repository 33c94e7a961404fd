"""Turns a plan into a change and has it carried out: the one way in which a device's tree changes.

Everything that the change needs is made first, in the agent's own folders, and made durable; until then any failure
leaves the tree as it was. What follows are renames, which `transaction` finishes or undoes whatever happens. Work is
done below folder descriptors: no symlink is followed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

from swupd import paths
from swupd.agent import pending, transaction
from swupd.agent.backend import TOP, obstacle
from swupd.agent.journal import Journal
from swupd.agent.objects import XattrRule
from swupd.agent.plan import Plan
from swupd.agent.preparation import PLAIN, How, Moved, Preparation, Progress, Staging, Unable
from swupd.errors import ApplyError, DiskSpace, WriteError, write_error
from swupd.tree import Root


class Outcome(NamedTuple):
    """What was done. written, removed: numbers of paths; kept: folders that stay because foreign files are in them.

    damaged: paths that the release has, which the change did not touch and which are missing or of another kind.
    """

    written: int
    removed: int
    kept: tuple[str, ...]
    damaged: tuple[str, ...] = ()


def apply(made: Plan, staging: Staging, root: Root, rule: XattrRule, progress: Progress, how: How = PLAIN) -> Outcome:
    """Makes a tree what a plan says. Raises ApplyError, HashMismatch, DiskSpace, WriteError.

    The caller ends the change with `transaction.acted`, once what has to follow ran.
    """
    try:
        return _apply(made, staging, root, rule, progress, how)
    except transaction.Undone:
        if not how.exchange:
            raise
        # What a file system refuses to exchange (an overlay's lower folders) can be replaced piece by piece.
        return _apply(made, staging, root, rule, progress, how._replace(exchange=False))


def _apply(made: Plan, staging: Staging, root: Root, rule: XattrRule, progress: Progress, how: How) -> Outcome:
    kept = kept_folders(made, root)
    try:
        change, damaged = _prepared(made, staging, root, rule, progress, how, kept)
        transaction.commit(root, change, _second_half(progress, len(made.write), len(change.ops)))
    except BaseException as e:
        if pending.status(root.path).state in {"", "undone"}:
            with contextlib.suppress(WriteError, DiskSpace):
                transaction.discard(root.path)
        if isinstance(e, OSError):
            raise write_error(root.path, e) from e
        raise
    finally:
        root.forget()
    return Outcome(len(made.write), len(made.remove) - len(kept), kept, damaged)


def _second_half(progress: Progress, written: int, steps: int) -> Callable[[], None]:
    """Tells progress of a commit in as many steps as the preparation had."""
    half = max(1, written)
    done = iter(range(1, steps + 1))
    # Attempts after the first count no further than to the end.
    return lambda: progress(half + half * next(done, steps) // steps, 2 * half, "files")


def kept_folders(made: Plan, root: Root) -> tuple[str, ...]:
    """The folders among what a plan removes that stay, since something else is in them."""
    gone = set(made.remove)
    kept = []
    for path in made.remove:
        if any(f"{path}/{name}" not in gone for name in root.names(path)):
            gone.discard(path)
            kept.append(path)
    return tuple(kept)


def _prepared(
    made: Plan, staging: Staging, root: Root, rule: XattrRule, progress: Progress, how: How, kept: tuple[str, ...]
) -> tuple[Journal, tuple[str, ...]]:
    """Makes everything that a change needs, durably; gives damage that was seen, too. Raises what `apply` raises."""
    if how.exchange and _wants_exchange(made) and not obstacle(root):
        try:
            return _with_shadow(lambda: Preparation(made, staging, root, rule, progress, how, kept, TOP))
        except Unable:
            pass
    return Preparation(made, staging, root, rule, progress, how, kept).run(), ()


def _with_shadow(preparation: Callable[[], Preparation]) -> tuple[Journal, tuple[str, ...]]:
    for _ in range(2):
        with contextlib.suppress(Moved):
            attempt = preparation()
            return attempt.run(), attempt.damaged
    raise ApplyError(
        f"something else changes files below {TOP} while the update is prepared",
        "See what it is (another installer?), then run the command again. Nothing was changed.",
    )


def _wants_exchange(made: Plan) -> bool:
    names = (*(e.name for e in made.write), *made.remove)
    replaced = TOP in made.remove or any(e.name == TOP and e.kind != "D" for e in made.write)
    return not replaced and any(paths.inside(name, TOP) for name in names)
