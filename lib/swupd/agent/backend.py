"""Which back end a tree allows: /usr exchanged as a whole, or a journal of single moves."""

from __future__ import annotations

import os
import stat

from swupd.tree import Root

TOP = "/usr"
"""The folder that is exchanged as a whole where that is possible."""


def obstacle(root: Root) -> str:
    """Why /usr cannot be exchanged as a whole, as far as looking tells; "" where nothing speaks against it."""
    try:
        found = os.stat(TOP[1:], dir_fd=root.fd, follow_symlinks=False)
    except FileNotFoundError:
        return "there is no /usr yet"
    if not stat.S_ISDIR(found.st_mode):
        return "/usr is no folder"
    mounts = sorted(m for m in root.mount_points() if m == TOP or m.startswith(TOP + "/"))
    if mounts:
        return f"something is mounted at {mounts[0]}"
    if found.st_dev != os.fstat(root.fd).st_dev:
        return "/usr is another file system"
    return ""


def back_end(root: Root) -> str:
    """How a change of a tree would be carried out, in words."""
    why = obstacle(root)
    return f"journal ({why})" if why else "exchange of /usr, where the file system can do that"
