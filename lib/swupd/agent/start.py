"""Where the `swupd` program begins: with what takes longest to load, in a process of its own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from swupd import program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_ASKS_NOBODY = frozenset({"info", "autoupdate", "mirror", "rollback", "confirm", "clean", "hashdump"})
"""Commands that read nothing that would have to be signed, as a rule."""
_UNSIGNED = frozenset({"-h", "--help", "-n", "--nosigcheck"})


def main(words: Sequence[str]) -> int:
    """Runs a command; gives its exit code."""
    with contextlib.ExitStack() as stack:
        checks = None
        if _verifies(words):
            from swupd.agent import checker  # noqa: PLC0415  info does without

            # Before the command line is read: it loads what it needs while all else is loaded.
            checks = stack.enter_context(checker.started())
        from swupd.agent import cli  # noqa: PLC0415

        return cli.main(words, checks)


def run() -> NoReturn:
    """The program."""
    program.leave(main(sys.argv[1:]))


def _verifies(words: Sequence[str]) -> bool:
    """Whether signatures will be checked, as far as can be told without the settings."""
    return bool(words) and words[0][:1] != "-" and words[0] not in _ASKS_NOBODY and _UNSIGNED.isdisjoint(words)


if __name__ == "__main__":
    run()
