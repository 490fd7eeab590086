"""Programs: what they print, how they fail, and that nothing of them is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder.errors import (
    EngineError,
    ProgramFailedError,
    ProgramMissingError,
    ProgramSilentError,
    ProgramTimeoutError,
)
from builder.host import process

if TYPE_CHECKING:
    from collections.abc import Callable

# A parent with a child; both write their ids. The second form of the child does not end when asked to.
_FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {child!r}])
print(child.pid, flush=True)
open({ready!r}, "w").write(str(child.pid))
time.sleep(600)
"""
_OBEDIENT = "import time; time.sleep(600)"
_STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def shell(code: str) -> list[str]:
    """A program that starts at once, unlike Python: its time is limited."""
    return ["sh", "-c", code]


def is_running(pid: int) -> bool:
    """A process that has ended but was not waited for yet is not running."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until(condition: Callable[[], object]) -> None:
    """Wait as long as the test may take."""
    while not condition():
        time.sleep(0.02)


def written(path: Path) -> bool:
    return path.exists() and bool(path.read_text())


def test_output_and_code() -> None:
    done = process.run(python("import sys; print('out'); print('err', file=sys.stderr)"))
    assert (done.code, done.stdout, done.stderr) == (0, "out\n", "err\n")


def test_lines_of_standard_error_come_as_they_are_written() -> None:
    lines: list[str] = []
    process.run(python("import sys; sys.stderr.write('one\\ntwo\\rthree')"), on_line=lines.append)
    assert lines == ["one", "two", "three"]


def test_standard_input_is_given_and_otherwise_empty() -> None:
    echo = python("import sys; print(sys.stdin.read().upper(), end='')")
    assert process.run(echo, stdin="hello").stdout == "HELLO"
    assert process.run(echo).stdout == ""


def test_a_program_that_does_not_read_its_input() -> None:
    with pytest.raises(ProgramFailedError) as caught:
        process.run(python("import os; os.close(0); raise SystemExit(4)"), stdin="x" * 1_000_000)
    assert caught.value.code == 4


def test_environment_is_added_to_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "1")
    code = "import os; print(os.environ['KEPT'], os.environ['ADDED'])"
    assert process.run(python(code), env={"ADDED": "2"}).stdout == "1 2\n"


def test_bytes_that_are_no_text_are_shown_somehow() -> None:
    assert process.run(python("import sys; sys.stdout.buffer.write(b'a\\xffb')")).stdout == "a\ufffdb"


def test_failure_carries_code_and_output() -> None:
    with pytest.raises(ProgramFailedError, match="exit code 3") as caught:
        process.run(python("import sys; print('why', file=sys.stderr); sys.exit(3)"))
    assert caught.value.code == 3
    assert caught.value.log == "why\n"


def test_failure_without_standard_error_shows_standard_output() -> None:
    with pytest.raises(ProgramFailedError) as caught:
        process.run(python("print('only here'); raise SystemExit(1)"))
    assert caught.value.output == "only here\n"


def test_failure_may_be_accepted() -> None:
    assert process.run(python("raise SystemExit(5)"), check=False).code == 5


def test_only_the_end_of_a_long_log_is_kept() -> None:
    done = process.run(python("import sys\nfor i in range(2000): print(i, file=sys.stderr)"))
    lines = done.stderr.splitlines()
    assert len(lines) == 400
    assert lines[-1] == "1999"


def test_missing_program_says_what_to_do() -> None:
    with pytest.raises(ProgramMissingError, match="`no-such-program-here` is not installed") as caught:
        process.run(["no-such-program-here"])
    assert isinstance(caught.value, EngineError)
    assert caught.value.hint == "run `jbuild doctor`"


def test_file_that_may_not_be_executed(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    with pytest.raises(ProgramMissingError):
        process.run([str(tmp_path / "tool")])


def test_timeout_ends_the_program() -> None:
    with pytest.raises(ProgramTimeoutError) as caught:
        process.run(shell("echo so far >&2; sleep 600"), timeout_s=2)
    assert caught.value.output == "so far\n"


def test_timeout_holds_when_something_left_behind_keeps_the_pipe_open(tmp_path: Path) -> None:
    with pytest.raises(ProgramTimeoutError):
        process.run(shell(f"sleep 600 & echo $! > '{tmp_path / 'pid'}'"), timeout_s=2)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_running(pid))


@pytest.mark.parametrize("child", [_OBEDIENT, _STUBBORN])
def test_end_all_ends_the_whole_group(tmp_path: Path, child: str) -> None:
    ready, failures = tmp_path / "ready", []

    def work() -> None:
        try:
            process.run(python(_FAMILY.format(child=child, ready=str(ready))))
        except ProgramFailedError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: written(ready))
    process.end_all()
    thread.join()
    assert failures[0].code == -signal.SIGTERM
    wait_until(lambda: not is_running(int(ready.read_text())))


@pytest.mark.parametrize("child", [_OBEDIENT, _STUBBORN])
def test_interrupt_ends_the_whole_group(tmp_path: Path, child: str) -> None:
    ready = tmp_path / "ready"
    code = f"""
import sys
from builder.host import process
try:
    process.run([sys.executable, "-c", {_FAMILY.format(child=child, ready=str(ready))!r}])
except KeyboardInterrupt:
    sys.exit(130)
"""
    started = subprocess.Popen(python(code))
    wait_until(lambda: written(ready))
    os.kill(started.pid, signal.SIGINT)
    assert started.wait() == 130
    wait_until(lambda: not is_running(int(ready.read_text())))


def test_an_exception_in_on_line_ends_the_program_and_arrives(capfd: pytest.CaptureFixture[str]) -> None:
    def refuse(_line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.run(python("import sys,time; print('x', file=sys.stderr, flush=True); time.sleep(600)"), on_line=refuse)
    assert capfd.readouterr().err == ""


def test_nothing_is_remembered_of_programs_that_ended() -> None:
    process.run(python(""))
    with suppress(ProgramFailedError):
        process.run(python("raise SystemExit(1)"))
    assert process._running == set()


def test_silence_ends_the_program() -> None:
    with pytest.raises(ProgramSilentError) as caught:
        process.run(shell("echo so far >&2; sleep 600"), silent_s=2)
    assert caught.value.output == "so far\n"


@pytest.mark.parametrize("stream", [1, 2])
def test_whoever_speaks_now_and_then_may_go_on(stream: int) -> None:
    code = f"for n in 1 2 3 4 5 6 7 8 9 10 11; do echo $n >&{stream}; sleep 0.3; done"
    assert process.run(shell(code), silent_s=3).code == 0


def test_whoever_speaks_has_no_more_time_than_others() -> None:
    with pytest.raises(ProgramTimeoutError) as caught:
        process.run(shell("while true; do echo 1; sleep 0.05; done"), silent_s=20, timeout_s=2)
    assert not isinstance(caught.value, ProgramSilentError)
