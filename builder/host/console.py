"""The one place that prints: progress and messages to standard error, results to standard output.

People on a terminal get live progress and colour; CI logs and pipes get plain lines, and folded groups on GitHub.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from builder.errors import DocumentError, JbuildError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console as RichConsole
    from rich.progress import Progress

# The first and the longest interval of the lines that stand for live progress in a log: each is twice the last one.
_PLAIN_EVERY_S = 10.0
_PLAIN_AT_LEAST_EVERY_S = 60.0
# The length of a note in such a line.
_NOTE_LENGTH = 90
TAIL_LINES = 25
_MOST_SHOWN = 8


class Task:
    """Progress of one long piece of work; `advance` may be called from any thread."""

    def __init__(self, console: Console, title: str, total: float | None, unit: str) -> None:
        """Start showing `title`; `unit` is `B` for bytes, else a noun."""
        self._console, self.title, self._unit = console, title, unit
        self.total, self.done = total, 0.0
        self._mutex = threading.Lock()
        self._started = self._shown = time.monotonic()
        self._every_s = _PLAIN_EVERY_S
        self._ended = False
        self._live: ProgressLine | None = console.live(self)

    def advance(self, amount: float) -> None:
        """Count `amount` more as done."""
        self._console.check()
        with self._mutex:
            self.done += amount
            self._show(f"{self.title}: {self._measure()}", completed=self.done, measure=self._measure())

    def note(self, text: str) -> None:
        """Show the current step."""
        self._console.check()
        with self._mutex:
            seconds = time.monotonic() - self._started
            line = f"{self.title} ({seconds:.0f} s): {text[:_NOTE_LENGTH]}"
            self._show(line, measure=text[: self._console.room_for_notes()] if self._live else "")

    def _show(self, line: str, **fields: Any) -> None:
        """Show the progress as a live line, or now and then as a plain one."""
        if self._ended:
            return
        if self._live:
            self._live.show(self, **fields)
        elif time.monotonic() - self._shown >= self._every_s:
            self._shown = time.monotonic()
            self._every_s = min(2 * self._every_s, _PLAIN_AT_LEAST_EVERY_S)
            self._console.say(line)

    def end(self) -> None:
        """Stop showing it; threads that still run may go on counting."""
        with self._mutex:
            self._ended = True
        if self._live:
            self._console.live_end(self._live, self)

    def _measure(self) -> str:
        scale, unit = (1e6, "MB") if self._unit == "B" else (1, self._unit)
        total = f" of {self.total / scale:.0f}" if self.total else ""
        return f"{self.done / scale:.0f}{total} {unit}"


class ProgressLine:
    """A live line, shared by nested tasks of one thread: the innermost task has it."""

    def __init__(self, progress: Progress) -> None:
        """Add a line to the live display."""
        self._progress = progress
        self._id = progress.add_task("", total=None, measure="")
        self._tasks: list[Task] = []

    def begin(self, task: Task) -> None:
        """Show a task."""
        self._tasks.append(task)
        self._head(task)

    def show(self, task: Task, **fields: Any) -> None:
        """Show a task's progress, unless another task has the line."""
        if self._tasks and self._tasks[-1] is task:
            self._progress.update(self._id, **fields)

    def end(self, task: Task) -> bool:
        """Return the line to the task around this one; return whether there is none."""
        self._tasks.remove(task)
        if self._tasks:
            self._head(self._tasks[-1])
        else:
            self._progress.remove_task(self._id)
        return not self._tasks

    def _head(self, task: Task) -> None:
        self._progress.update(self._id, description=task.title, total=task.total, completed=task.done, measure="")


class Console:
    """Prints for people or for machines; one per process."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        """Find out whether a terminal, a CI log or a pipe reads."""
        self.as_json = as_json
        self.quiet = quiet
        self.github = os.environ.get("GITHUB_ACTIONS") == "true"
        self.terminal = sys.stderr.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"
        self._rich: RichConsole | None = None
        self._progress: Progress | None = None
        self._lines = 0
        self._here = threading.local()
        self._cancelled = False
        self._warned: set[str] = set()
        self._mutex = threading.RLock()

    def say(self, text: str) -> None:
        """Print a line about progress."""
        if not self.quiet:
            self._print(text)

    def note(self, text: str) -> None:
        """Print a line that even a quiet run shows."""
        self._print(text)

    def end(self) -> None:
        """Remove live progress from the terminal."""
        with self._mutex:
            if self._progress is not None:
                self._progress.stop()
                self._progress = None

    def warn(self, text: str) -> None:
        """Print a warning, once a run: several cells may have the same one."""
        with self._mutex:
            if text in self._warned:
                return
            self._warned.add(text)
        self._print(f"warning: {text}", style="yellow")
        if self.github:
            self._command("warning", text)

    def success(self, text: str) -> None:
        """Print a line about success."""
        if not self.quiet:
            self._print(text, style="green")

    def result(self, value: Any, text: str | None = None) -> None:
        """Print the outcome of a verb: with `--json` the value, else the text."""
        lines = json.dumps(value, indent=2) if self.as_json else text
        if lines is None:
            return
        try:
            sys.stdout.write(lines + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader of the output went away (`| head`).
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def can_ask(self) -> bool:
        """Return whether a person sees questions and can answer them."""
        return self.terminal and sys.stdin.isatty()

    def ask(self, question: str, choices: Sequence[str] = (), *, default: str | None = None) -> str:
        """Ask the person at the terminal until the answer is one of the choices, if there are any.

        Raises:
            UsageError: the input ended.
        """
        import click  # noqa: PLC0415  # verbs that ask have loaded it already

        kind = click.Choice(tuple(choices)) if choices else click.STRING
        try:
            answer: str = click.prompt(
                question, default=default, type=kind, show_choices=len(choices) < _MOST_SHOWN, err=True
            )
        except click.Abort as abort:
            # click raises the same for Ctrl-C.
            if not isinstance(abort.__context__, EOFError):
                raise
            self.end()
            raise UsageError("the input ended at a question", hint="give the answers as options: see --help") from abort
        return answer

    @contextmanager
    def task(self, title: str, total: float | None = None, *, unit: str = "B") -> Iterator[Task]:
        """Show the progress of a piece of work while the block runs."""
        cell = getattr(self._here, "cell", None)
        named = title if cell is None or title.startswith(cell) else f"{cell}: {title}"
        task = Task(self, named, total, unit)
        try:
            yield task
        finally:
            task.end()

    @contextmanager
    def working_on(self, cell: str) -> Iterator[None]:
        """Name the cell that this thread works on in the titles of its tasks within the block."""
        self._here.cell = cell
        try:
            yield
        finally:
            self._here.cell = None

    @contextmanager
    def group(self, title: str) -> Iterator[None]:
        """Fold the lines of the block in a GitHub log; elsewhere print a heading."""
        if self.github:
            self._command("group", title)
        else:
            self._print(title, style="bold")
        try:
            yield
        finally:
            if self.github:
                self._command("endgroup")

    def failure(self, error: JbuildError, *, as_result: bool = True) -> None:
        """Print an error: message, location, the end of its log, next step.

        With `--json` it is the verb's result too, unless it is only part of one.
        """
        if self.as_json and as_result:
            self.result(error.as_json())
        self._print(f"error: {error.message}", style="bold red")
        if error.where:
            self._print(f"  where: {error.where}")
        if isinstance(error, DocumentError):
            for problem in error.problems:
                self._print(f"  {problem.location}: {problem.message}" + (f" ({problem.hint})" if problem.hint else ""))
        if error.log:
            rows = error.log.rstrip().splitlines()[-TAIL_LINES:]
            self._print("  its log:" if len(rows) == 1 else f"  the last {len(rows)} lines of its log:")
            for row in rows:
                # A single failure's log begins with its location, which stands above.
                self._print(f"  | {row.removeprefix(f'{error.where}: ') if len(rows) == 1 else row}")
        if error.hint:
            self._print(f"  next: {error.hint}", style="cyan")
        if self.github:
            self._annotate(error)

    def cancel(self) -> None:
        """Make the next step of every task, in any thread, raise KeyboardInterrupt."""
        self._cancelled = True

    def check(self) -> None:
        """End the calling task if the work was cancelled.

        Raises:
            KeyboardInterrupt: `cancel` was called.
        """
        if self._cancelled:
            raise KeyboardInterrupt

    def live(self, task: Task) -> ProgressLine | None:
        """Show a task on its thread's line, if a person is watching."""
        if not self.terminal or self.quiet:
            return None
        with self._mutex:
            line: ProgressLine | None = getattr(self._here, "line", None)
            if line is None:
                if self._progress is None:
                    self._progress = self._new_progress()
                    self._progress.start()
                self._lines += 1
                line = self._here.line = ProgressLine(self._progress)
            line.begin(task)
            return line

    def room_for_notes(self) -> int:
        """Return how many characters of a note fit beside a live task's title, bar and time."""
        return max(20, self._rich_console().width - 72)

    def live_end(self, line: ProgressLine, task: Task) -> None:
        """Take a task off its line, and remove the line after its last task."""
        with self._mutex:
            if not line.end(task):
                return
            self._here.line = None
            self._lines -= 1
            if self._lines == 0:
                self.end()

    def _new_progress(self) -> Progress:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415
        from rich.table import Column  # noqa: PLC0415

        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[measure]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=self._rich_console(),
            transient=True,
        )

    def _rich_console(self) -> RichConsole:
        if self._rich is None:
            from rich.console import Console as RichConsole  # noqa: PLC0415  # slow to import; `list` does without

            self._rich = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        return self._rich

    def _annotate(self, error: JbuildError) -> None:
        """Show an error on GitHub's page of the run, mistakes in files beside their lines."""
        if not isinstance(error, DocumentError):
            hint = f"\nnext: {error.hint}" if error.hint else ""
            self._command("error", f"{error.message}{hint}", title="jbuild")
            return
        root = os.environ.get("GITHUB_WORKSPACE") or os.curdir
        for problem in error.problems:
            row = {} if problem.line is None else {"line": str(problem.line)}
            hint = f" ({problem.hint})" if problem.hint else ""
            message = f"{problem.key}: {problem.message}{hint}" if problem.key else f"{problem.message}{hint}"
            self._command("error", message, file=os.path.relpath(problem.path, root), **row, title=error.message)

    def _command(self, name: str, text: str = "", **properties: str) -> None:
        """Print a command for GitHub's runner."""
        fields = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
        self._write(f"::{name}{f' {fields}' if fields else ''}::{_escaped(text)}")

    def _print(self, text: str, *, style: str | None = None) -> None:
        if self.github:
            # Output of programs and models must not be a command to the runner.
            text = re.sub(r"^(\s*):(?=:)|##(?=\[)", lambda match: f"{match[0]} ", text, flags=re.MULTILINE)
        self._write(text, style=style)

    def _write(self, text: str, *, style: str | None = None) -> None:
        with self._mutex:
            if self.terminal:
                self._rich_console().print(text, style=style, markup=False)
            else:
                sys.stderr.write(text + "\n")
                sys.stderr.flush()


def _escaped(text: str, separators: str = "") -> str:
    return "".join(f"%{ord(c):02X}" if c in f"%\r\n{separators}" else c for c in text)
