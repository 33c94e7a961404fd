"""How a program ends, whichever it is."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def leave(code: int) -> NoReturn:
    """Ends the process once all is said; gives 1 for 0 where it cannot be said.

    Python does not take itself apart first: that takes 20 ms.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        # Nobody listens any more, or there is no room for what was said.
        code = code or 1
    os._exit(code)
