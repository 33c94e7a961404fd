"""What the agent says: sentences for people, lines for logs, JSON for programs (stream format, 6.12)."""

from __future__ import annotations

import time
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

QUIET, NORMAL, VERBOSE, DEBUG = range(4)
CONTINUED = "SWUPD_JSON_CONTINUED"
"""In the environment of an agent that goes on with the JSON that another began."""
_INTERVAL = 0.2
_LABELS = {
    "load_manifests": "look manifests up",
    "extract_packs": "unpack",
    "check_files_hash": "compare files",
    "remove_extra_files": "look for extra files",
    "validate_fullfiles": "see what is still missing",
    "download_fullfiles": "download files",
    "update_files": "put files in place",
    "run_postupdate_scripts": "run what has to follow",
}
"""What people read for the names that programs know."""


class Report:
    """Whoever is told what happens. This one keeps it to itself."""

    def start(self, section: str) -> None:
        """A command begins."""

    def end(self, section: str, status: int) -> None:
        """It is over, with an exit code."""

    def step(self, number: int, total: int, description: str) -> None:
        """One of its steps begins."""

    def progress(self, done: int, total: int, unit: str) -> None:
        """How far the step is."""

    def say(self, text: str) -> None:
        """A result."""

    def detail(self, text: str) -> None:
        """What only some want to know."""

    def warn(self, text: str) -> None:
        """What may need somebody."""

    def error(self, text: str) -> None:
        """Why the command failed."""


class Text(Report):
    """For people: results on out, warnings and errors on err, a progress line where err is a terminal."""

    def __init__(self, out: TextIO, err: TextIO, level: int, progress: bool) -> None:
        self._out, self._err, self._level = out, err, level
        self._bar = progress and err.isatty() and level > QUIET
        self._lines = progress and not self._bar and level > QUIET
        self._drawn = 0.0
        self._since = 0.0
        self._label = ""
        self._open = False

    def start(self, section: str) -> None:
        """Nothing to say."""

    def end(self, section: str, status: int) -> None:
        """Closes the progress line."""
        self._clear()

    def step(self, number: int, total: int, description: str) -> None:
        """Remembers what the progress line is about; a log gets a line for each step instead."""
        self._clear()
        self._label, self._since, self._drawn = (
            _LABELS.get(description, description.replace("_", " ")),
            time.monotonic(),
            0.0,
        )
        if self._lines:
            self._print(self._err, f"[{number}/{total}] {self._label}")

    def progress(self, done: int, total: int, unit: str) -> None:
        """Draws the progress line, a few times a second."""
        now = time.monotonic()
        if not self._bar or (now - self._drawn < _INTERVAL and done != total):
            return
        self._drawn = now
        share = min(1.0, done / total) if total else 0.0
        bar = "#" * int(share * 20)
        left = (now - self._since) * (1 - share) / share if share > 0.02 else 0.0
        amount = f"{size(done)} of {size(total)}" if unit == "bytes" else f"{done} of {total} {unit}"
        self._err.write(f"\r\x1b[K  {self._label} [{bar:<20}] {share:4.0%} {amount}, {left:.0f} s left")
        self._err.flush()
        self._open = True

    def say(self, text: str) -> None:
        """A result."""
        if self._level > QUIET:
            self._print(self._out, text)

    def detail(self, text: str) -> None:
        """What only --verbose shows."""
        if self._level >= VERBOSE:
            self._print(self._out, text)

    def warn(self, text: str) -> None:
        """Something to know, which stops nothing."""
        self._print(self._err, f"Warning: {text}")

    def error(self, text: str) -> None:
        """Why the command failed."""
        self._print(self._err, f"Error: {text}")

    def _print(self, to: TextIO, text: str) -> None:
        self._clear()
        to.write(_printable(text) + "\n")
        to.flush()

    def _clear(self) -> None:
        if self._open:
            self._err.write("\r\x1b[K")
            self._open = False


class Json(Report):
    """For programs: one JSON array, one object a line, closed whatever happens."""

    def __init__(self, out: TextIO, level: int, continued: bool = False) -> None:
        import json  # noqa: PLC0415 - people read no JSON

        self._out, self._level, self._encode = out, level, json.dumps
        self._first = not continued
        self._begun = continued
        self._at = (0, 0, "")
        self._percent = -2
        self.left_open = False
        """Set where another process goes on with the same array."""

    def start(self, section: str) -> None:
        """Opens the array."""
        self._write({"type": "start", "section": section})

    def end(self, section: str, status: int) -> None:
        """Closes the array."""
        self._write({"type": "end", "section": section, "status": status})
        if not self.left_open:
            self._out.write("\n]\n")
            self._out.flush()

    def step(self, number: int, total: int, description: str) -> None:
        """A step begins."""
        self._at, self._percent = (number, total, description), -2
        self._step(-1)

    def progress(self, done: int, total: int, unit: str) -> None:
        """The share of the step that is done, once a percent."""
        percent = min(100, 100 * done // total) if total else -1
        if percent != self._percent:
            self._step(percent)

    def say(self, text: str) -> None:
        """A result."""
        self._message("info", text)

    def detail(self, text: str) -> None:
        """What only --verbose and --debug show."""
        if self._level >= VERBOSE:
            self._message("debug", text)

    def warn(self, text: str) -> None:
        """Something to know, which stops nothing."""
        self._message("warning", text)

    def error(self, text: str) -> None:
        """Why the command failed."""
        self._message("error", text)

    def _step(self, percent: int) -> None:
        self._percent = percent
        number, total, description = self._at
        self._write(
            {
                "type": "progress",
                "currentStep": number,
                "totalSteps": total,
                "stepCompletion": percent,
                "stepDescription": description,
            }
        )

    def _message(self, kind: str, text: str) -> None:
        self._write({"type": kind, "msg": _printable(text).rstrip()})

    def _write(self, value: dict[str, object]) -> None:
        if not self._begun:
            self._out.write("[\n")
            self._begun = True
        self._out.write(("" if self._first else ",\n") + self._encode(value))
        self._first = False
        self._out.flush()


def _nobody(done: int, total: int, unit: str) -> None:
    """Hears progress that nobody shows."""


class Steps:
    """The steps of a command, by their names in the old client (stream format, 6.12)."""

    def __init__(self, report: Report, names: tuple[str, ...]) -> None:
        self._report, self._names = report, names

    def begin(self, name: str) -> Callable[[int, int, str], None]:
        """Begins a step; gives the function to tell its progress to. Steps that a command does not have are silent."""
        if name not in self._names:
            return _nobody
        self._report.step(self._names.index(name) + 1, len(self._names), name)
        return self._report.progress


def size(count: int) -> str:
    """A number of bytes as people read it."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{count} bytes"


def _printable(text: str) -> str:
    """A text that a terminal can show, in one line, whatever file names are in it."""
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)
