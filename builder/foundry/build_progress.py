"""The progress of a build from its output: compiled units of how many, and the time left."""

from __future__ import annotations

import re
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from builder.host.console import Task

# Lines of ninja with NINJA_STATUS="[%f/%t] ", and of CMake with make.
_NINJA = re.compile(r"\[(?P<done>[0-9]+)/(?P<total>[0-9]+)\] ")
# A compiler's call by setuptools without ninja.
_UNIT = re.compile(r"\S*(?:gcc|g\+\+|cc|c\+\+|nvcc)(?:-[0-9]+)? (?:.* )?-c (?P<file>\S+)")
# Lines that show progress, and their shortest forms, for outputs that are limited.
PROGRESS = ((_NINJA.pattern, r"\g<0>"), (_UNIT.pattern, r"cc -c \g<file>"))
_MOST_LINES = 20_000


class BuildLog:
    """The lines of a build so far; its progress is shown on a task."""

    def __init__(self, task: Task, now: Callable[[], float] = time.monotonic) -> None:
        """Start without lines."""
        self.lines: deque[str] = deque(maxlen=_MOST_LINES)
        self.units = 0
        self._task, self._now = task, now
        self._begun = now()

    def take(self, line: str) -> None:
        """Add a line."""
        self.lines.append(line)
        if match := _NINJA.match(line):
            self._show(int(match["done"]), int(match["total"]))
        elif _UNIT.match(line):
            self.units += 1
            self._task.note(f"unit {self.units}")

    def replace(self, lines: Iterable[str]) -> None:
        """Take the whole output in place of the lines that showed its progress."""
        self.lines.clear()
        self.lines.extend(lines)

    def _show(self, done: int, total: int) -> None:
        self.units = max(self.units, done)
        if done == 0:
            return
        self._task.note(f"{done} of {total} units{self._left(done, total)}")

    def _left(self, done: int, total: int) -> str:
        seconds = (self._now() - self._begun) / done * (total - done)
        return f", {_duration(seconds)} left" if done < total else ""


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    return f"{minutes} min" if minutes < 100 else f"{minutes / 60:.1f} h"  # noqa: PLR2004
