"""The progress of a build, from the lines of ninja and setuptools."""

from __future__ import annotations

import re
from typing import Any

from builder.foundry.build_progress import PROGRESS, BuildLog
from builder.host.console import Console


class _Notes:
    """What a build's task would show, and a clock that advances by a minute a call."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.minutes = 0

    def now(self) -> float:
        self.minutes += 1
        return 60.0 * self.minutes


def _notes(*lines: str) -> tuple[list[str], BuildLog]:
    shown = _Notes()
    task: Any
    with Console(quiet=True).task("building", unit="units") as task:
        task.note = shown.notes.append
        log = BuildLog(task, shown.now)
        for line in lines:
            log.take(line)
    return shown.notes, log


def test_ninja_gives_units_of_how_many_and_the_time_left() -> None:
    notes, log = _notes("[1/3] nvcc a.cu", "warning: x", "[2/3] nvcc b.cu", "[3/3] nvcc c.cu")
    assert notes == ["1 of 3 units, 2 min left", "2 of 3 units, 1 min left", "3 of 3 units"]
    assert log.units == 3


def test_setuptools_gives_units_alone() -> None:
    line = "aarch64-linux-gnu-gcc-12 -Wall -fPIC -c {} -o build/x.o"
    notes, log = _notes(line.format("a.c"), "copying a.py", line.format("b.c"))
    assert notes == ["unit 1", "unit 2"]
    assert log.units == 2


def test_hours_are_hours() -> None:
    notes, _ = _notes("[1/400] nvcc a.cu")
    assert notes == ["1 of 400 units, 6.7 h left"]


def test_the_shortest_forms_of_lines_show_the_same_progress() -> None:
    lines = ["[1/3] nvcc --options a.cu", "/usr/bin/g++-12 -Wall -fPIC -c b.cpp -o b.o", "copying c.py"]
    matches = ((re.match(pattern, line), form) for line in lines for pattern, form in PROGRESS)
    short = [match.expand(form) for match, form in matches if match]
    assert short == ["[1/3] ", "cc -c b.cpp"]
    assert _notes(*short)[0] == _notes(*lines)[0]


def test_the_whole_output_takes_the_place_of_what_showed_progress() -> None:
    _, log = _notes("[1/2] ", "[2/2] ")
    log.replace(["[1/2] nvcc a.cu", "error: no"])
    assert list(log.lines) == ["[1/2] nvcc a.cu", "error: no"]
    assert log.units == 2
