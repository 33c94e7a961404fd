"""How far the last change of a tree is, by the names in its folder (transaction has them all). Touches nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from swupd import paths
from swupd.errors import Refused

STATE = re.compile(r"commit\.[1-9]|back|done|undone")
"""The journal's names, which are the states."""
_TRIAL = re.compile(r"trial\.(\d+)\.([0-9a-z-]*)")


class Status(NamedTuple):
    """What a tree's folder says. state: "" for nothing, else the journal's name without the number.

    boots: how many boots are left to confirm, None where nobody waits for that. pending: actions did not run yet.
    """

    state: str = ""
    boots: int | None = None
    pending: bool = False

    @property
    def unfinished(self) -> bool:
        """Whether the tree is between two states, or may be."""
        return self.state in {"commit", "back"}


def folder(root: Path, area: str = "") -> Path:
    """The agent's folder on one of a tree's file systems."""
    return root / area[1:] / paths.RESERVED


def status(root: Path) -> Status:
    """What there is. Raises Refused where only root may look."""
    try:
        names = os.listdir(folder(root))
    except (FileNotFoundError, NotADirectoryError):
        return Status()
    except PermissionError as e:
        raise Refused(f"only root can look into {folder(root)}", "Run the command as root.") from e
    state = next(filter(STATE.fullmatch, sorted(names)), "").partition(".")[0]
    trial = next(filter(None, map(_TRIAL.fullmatch, names)), None)
    boots = int(trial[1]) if trial is not None and state == "done" else None
    return Status(state, boots, bool(state) and "pending" in names)


def refuse_on_trial(root: Path) -> None:
    """Raises Refused while the last change waits to be confirmed: another one would take its undo away."""
    if status(root).boots is not None:
        raise Refused(
            "the last update is on trial", "Keep it: swupd confirm; or go back: swupd rollback. Then try again."
        )
