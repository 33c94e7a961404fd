"""What was found so far: text, figures, rows for the picture; saved after each part."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.report import Row

_FOLDERS = re.compile(r"/(?:[^\s/'\":]+/)+")
_LONGEST = 160


@dataclass
class Results:
    """folder: where they are written. earlier: the figures of another run, whose peers may serve again."""

    folder: Path
    earlier: dict[str, Any]
    sections: dict[str, Sequence[str]] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, Sequence[Row]] = field(default_factory=dict)
    growth: dict[str, Any] = field(default_factory=dict)

    def add(self, heading: str, lines: Sequence[str], key: str, figures: Any) -> None:
        """A section and its figures; writes all that there is."""
        self.sections[heading] = [*self.sections.get(heading, ()), *lines]
        self.data[key] = figures
        report.write(self.folder, "Benchmarks", self.sections, self.data)

    def reusable(self, identity: str) -> dict[str, Row]:
        """Rows of the earlier run for the same trees, by name."""
        found: dict[str, Row] = {}
        for figures in self.earlier.values():
            if isinstance(figures, dict) and figures.get("facts", {}).get("identity") == identity:
                found = {r["name"]: {**r, "reused": True} for r in figures.get("rows", ()) if not r["failed"]}
        return found


def earlier(place: Path | None) -> dict[str, Any]:
    """The figures of another run."""
    found: dict[str, Any] = json.loads(place.read_text()) if place is not None else {}
    return found


def plain(text: str) -> str:
    """A message without the folders of this machine, on one line, fit for a table."""
    words = " ".join(_FOLDERS.sub("", text).replace("|", "/").split())
    return words if len(words) <= _LONGEST else "… " + words[-_LONGEST:]
