"""JSON that came from outside, read without trust in its shape: no field twice, no unexpected type, nothing endless."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from typing import Any

from swupd.errors import DocumentError

_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)
_MAX_NUMBER = 2**53


def dump(value: Mapping[str, object]) -> bytes:
    """The bytes of an object, always the same for the same."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True) + "\n").encode("ascii")


def load(data: bytes) -> Any:
    """Reads an object. Raises DocumentError."""

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise DocumentError("it names a field twice")
        return found

    def refuse(text: str) -> Any:
        raise DocumentError(f"it has the number {text[:40]}, which is not a whole one")

    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=table, parse_float=refuse, parse_constant=refuse, parse_int=_whole
        )
    except (UnicodeDecodeError, ValueError, RecursionError) as e:
        raise DocumentError("it is no JSON") from e


def _whole(text: str) -> int:
    if len(text) > 17:
        raise DocumentError(f"it has the number {text[:40]}, which is too large")
    return int(text)


def moment(when: datetime.datetime) -> str:
    """A point in time, in seconds of UTC."""
    return when.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Fields:
    """The fields of an object, each of which must be what it is taken for. Raises DocumentError."""

    def __init__(self, value: Any) -> None:
        if not isinstance(value, dict):
            raise DocumentError("it is no object")
        self._value = value

    def __contains__(self, name: str) -> bool:
        return name in self._value

    def _get(self, name: str, kind: type, default: Any = None) -> Any:
        value = self._value.get(name, default)
        if type(value) is not kind:
            raise DocumentError(f"its field {name} is {'missing' if name not in self._value else 'malformed'}")
        return value

    def number(self, name: str, least: int, default: int | None = None) -> int:
        """A whole number from `least` on."""
        value: int = self._get(name, int, default)
        if not least <= value < _MAX_NUMBER:
            raise DocumentError(f"its field {name} is out of range")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A text."""
        value: str = self._get(name, str, default)
        return value

    def moment(self, name: str) -> datetime.datetime:
        """A point in time."""
        text = self.text(name)
        try:
            if not _MOMENT.fullmatch(text):
                raise ValueError
            return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)
        except ValueError as e:
            raise DocumentError(f"its field {name} is no point in time") from e

    def table(self, name: str) -> dict[str, Any]:
        """An object."""
        value: dict[str, Any] = self._get(name, dict)
        return value

    def items(self, name: str) -> list[Any]:
        """A list; empty where it is missing."""
        value: list[Any] = self._get(name, list, [])
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; empty where it is missing."""
        found = self.items(name)
        if not all(type(text) is str for text in found):
            raise DocumentError(f"its field {name} is malformed")
        return tuple(found)
