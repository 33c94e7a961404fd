from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import swupd
from swupd.agent import report
from swupd.agent.report import DEBUG, NORMAL, QUIET, VERBOSE, Json, Report, Steps, Text
from tests.agent.devices import Device

LIB = str(Path(swupd.__file__).parents[1])
ODD = [
    'quote " back \\ slash',
    "new\nline",
    "tab\t",
    "\0\x1b[2J\x7f",
    "ünï 😀",
    "\udcff\udc80",
    " \r\n",
    "'",
    "</script>",
    "",
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def text(level: int = NORMAL, terminal: bool = False, progress: bool = True) -> tuple[Text, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), Terminal() if terminal else io.StringIO()
    return Text(out, err, level, progress), out, err


@given(st.lists(st.text(st.characters(), max_size=20) | st.sampled_from(ODD), max_size=10))
def test_json_is_valid_whatever_is_said(words: list[str]) -> None:
    out = io.StringIO()
    made = Json(out, DEBUG)
    made.start("update")
    for number, word in enumerate(words):
        tell: tuple[Callable[[str], None], ...] = (made.say, made.warn, made.error, made.detail)
        tell[number % 4](word)
        made.step(number, 10, word)
        made.progress(number, len(words), "bytes")
    made.end("update", 0)
    found = json.loads(out.getvalue())
    assert found[0] == {"type": "start", "section": "update"}
    assert found[-1] == {"type": "end", "section": "update", "status": 0}
    assert len(out.getvalue().splitlines()) == len(found) + 2


@pytest.mark.parametrize("word", ODD)
def test_odd_names_cannot_play_tricks_on_a_terminal(word: str) -> None:
    made, out, err = text()
    made.say(word)
    made.warn(word)
    made.error(word)
    for line in (out.getvalue(), *err.getvalue().splitlines(keepends=True)):
        assert line.endswith("\n") and line[:-1].replace("\t", "").isprintable()
    assert len(err.getvalue().splitlines()) == 2


def test_json_has_the_words_of_the_old_client() -> None:
    out = io.StringIO()
    made = Json(out, NORMAL)
    made.start("update")
    steps = Steps(made, ("load_manifests", "update_files"))
    steps.begin("load_manifests")
    progress = steps.begin("update_files")
    for done in (0, 1, 1, 2):
        progress(done, 2, "files")
    made.say("Update started ")
    made.detail("not shown")
    made.end("update", 5)
    step = {"type": "progress", "totalSteps": 2}
    last = {**step, "currentStep": 2, "stepDescription": "update_files"}
    assert json.loads(out.getvalue()) == [
        {"type": "start", "section": "update"},
        {**step, "currentStep": 1, "stepCompletion": -1, "stepDescription": "load_manifests"},
        {**last, "stepCompletion": -1},
        {**last, "stepCompletion": 0},
        {**last, "stepCompletion": 50},
        {**last, "stepCompletion": 100},
        {"type": "info", "msg": "Update started"},
        {"type": "end", "section": "update", "status": 5},
    ]


def test_json_of_two_processes_is_one_array() -> None:
    out = io.StringIO()
    first = Json(out, NORMAL)
    first.start("update")
    first.left_open = True
    second = Json(out, NORMAL, continued=True)
    second.start("update")
    second.end("update", 0)
    assert [m["type"] for m in json.loads(out.getvalue())] == ["start", "start", "end"]


@pytest.mark.parametrize(
    ("level", "shown"), [(QUIET, ""), (NORMAL, "say\n"), (VERBOSE, "say\ndetail\n"), (DEBUG, "say\ndetail\n")]
)
def test_how_much_is_said(level: int, shown: str) -> None:
    made, out, err = text(level)
    made.say("say")
    made.detail("detail")
    made.warn("warn")
    made.error("error")
    assert out.getvalue() == shown
    assert err.getvalue() == "Warning: warn\nError: error\n"


def test_a_terminal_gets_a_progress_line_that_goes_away() -> None:
    made, out, err = text(terminal=True)
    steps = Steps(made, ("download_packs",))
    progress = steps.begin("download_packs")
    progress(500_000, 1_000_000, "bytes")
    progress(1_000_000, 1_000_000, "bytes")
    made.say("done")
    assert "download packs [##########          ]  50% 500.0 kB of 1.0 MB" in err.getvalue()
    assert err.getvalue().endswith("\r\x1b[K") and out.getvalue() == "done\n"


def test_a_log_gets_a_line_for_each_step_and_no_control_codes() -> None:
    made, _, err = text()
    progress = Steps(made, ("a", "update_files")).begin("update_files")
    progress(1, 2, "files")
    assert err.getvalue().startswith("[2/2] ") and err.getvalue().count("\n") == 1
    assert "\x1b" not in err.getvalue() and "\r" not in err.getvalue()


@pytest.mark.parametrize(("level", "wanted"), [(QUIET, True), (NORMAL, False)])
def test_progress_can_be_switched_off(level: int, wanted: bool) -> None:
    for terminal in (True, False):
        made, out, err = text(level, terminal, wanted)
        Steps(made, ("a",)).begin("a")(1, 2, "files")
        made.end("x", 0)
        assert (out.getvalue(), err.getvalue()) == ("", "")


def test_steps_that_a_command_does_not_have_are_silent() -> None:
    made, _, err = text()
    Steps(made, ("a",)).begin("b")(1, 0, "files")
    assert err.getvalue() == ""


def test_progress_without_a_total_is_no_division_by_zero() -> None:
    reports: tuple[Report, ...] = (text(terminal=True)[0], Json(io.StringIO(), NORMAL))
    for made in reports:
        made.step(1, 1, "x")
        made.progress(0, 0, "bytes")
        made.progress(5, 0, "bytes")


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (1_500_000, "1.5 MB"),
        (2 * 10**9, "2.0 GB"),
        (10**13, "10000.0 GB"),
    ],
)
def test_sizes(count: int, shown: str) -> None:
    assert report.size(count) == shown


def test_a_terminal_of_another_charset_shows_names_escaped(device: Device) -> None:
    words = ["bundle-info", "--files", "os-core", "--path", str(device.root), *device.options()]
    done = subprocess.run(
        [sys.executable, "-m", "swupd.agent.start", *words],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": LIB, "PYTHONIOENCODING": "ascii"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "/usr/share/demo/\\xfcn\\xefcode.txt" in done.stdout
