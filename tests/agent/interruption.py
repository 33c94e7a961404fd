"""Power cuts within a process: a child is killed just before its n-th change of the file system."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from swupd.agent import syscalls

CHANGES = (
    "chmod", "chown", "fchmod", "fchown", "fsync", "link", "mkdir", "removexattr", "rename", "replace", "rmdir",
    "setxattr", "symlink", "unlink", "utime", "write",
)  # fmt: skip
"""Functions of os that change the file system, or make a change durable."""
KILLED = 137


def killed(at: int, action: Callable[[], Any]) -> bool:
    """Carries an action out in a child that dies before its at-th change; whether it did. at: 0 for never."""
    child = os.fork()
    if child == 0:
        try:
            _arm(at)
            action()
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, KILLED}, code
    return code == KILLED


def _arm(at: int) -> None:
    left = at

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(KILLED)
            return function(*arguments, **named)

        return call

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))
    for name in ("exchange", "syncfs"):
        setattr(syscalls, name, counted(getattr(syscalls, name)))


def points(action: Callable[[int], bool], start: int = 1) -> Iterator[int]:
    """1, 2, 3, … as long as an action, which is told the number, says that it was killed."""
    at = start
    while action(at):
        yield at
        at += 1
