"""Frozen values are named tuples, where devices load them: a dataclass takes six times as long to be defined.

The functions of one are compiled whenever its module is loaded; an update loads 45 such types (docs/adr/0016).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any


class Checked:
    """Goes before a named tuple whose values have to fit, whichever way one is made: by name, _make or _replace."""

    __slots__ = ()

    if not TYPE_CHECKING:

        def __new__(cls, *values: Any, **named: Any) -> Any:
            made = super().__new__(cls, *values, **named)
            made.check()
            return made

        @classmethod
        def _make(cls, values: Iterable[Any]) -> Any:
            return cls(*values)

    def check(self) -> None:
        """Raises the error that says what does not fit."""
        raise NotImplementedError
