"""The one place that starts processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from builder.errors import ProgramFailedError, ProgramMissingError, ProgramSilentError, ProgramTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import IO, Any

_Text = TypeVar("_Text", str, bytes)

_KILL_AFTER_S = 10
_DEFERRED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The time for other programs of a group to end after its leader.
_LINGER_S = 1.0
_TAIL_LINES = 400
_running: set[subprocess.Popen[Any]] = set()


@dataclass(frozen=True, kw_only=True, slots=True)
class Completed:
    """A program that ended: its exit code and output."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str


def find_program(name: str) -> str | None:
    """Return the path of a program on PATH, or None."""
    return shutil.which(name)


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    timeout_s: float | None = None,
    silent_s: float | None = None,
    check: bool = True,
    on_line: Callable[[str], None] | None = None,
) -> Completed:
    """Run a program to its end and return its output.

    `env` is added to this process's environment. `on_line` gets every line of standard error at once (programs report
    progress there). The program has a process group of its own, which is ended on any exception, Ctrl-C included.

    Raises:
        ProgramMissingError: the program is not on PATH.
        ProgramFailedError: its exit code is not 0 and `check` is true.
        ProgramTimeoutError: it ran longer than `timeout_s` seconds.
        ProgramSilentError: it printed no line for `silent_s` seconds.
    """
    clock = _Clock(timeout_s, silent_s)
    child = _started(argv[0], lambda: _start(argv, env, cwd, feed=stdin is not None))
    out: list[str] = []
    err: deque[str] = deque(maxlen=_TAIL_LINES)
    failures: list[BaseException] = []
    try:
        readers = [
            _reader(child, child.stdout, clock.heard(out.append), failures),
            _reader(child, child.stderr, clock.heard(lambda line: _take(line, err, on_line)), failures),
        ]
        if stdin is not None and child.stdin:
            _feed(child.stdin, stdin)
        # The pipes first: their end is seen at once, that of a process by polling every 50 ms.
        for reader in readers:
            _join(reader, clock)
        child.wait(clock.left_s())
    except (subprocess.TimeoutExpired, TimeoutError):
        _end(child)
        kind = ProgramSilentError if clock.is_silent else ProgramTimeoutError
        raise kind(tuple(argv), -1, "".join(err)) from None
    except BaseException:
        _end(child)
        raise
    finally:
        _running.discard(child)
    if failures:
        raise failures[0]
    done = Completed(argv=tuple(argv), code=child.returncode, stdout="".join(out), stderr="".join(err))
    if check and done.code != 0:
        raise ProgramFailedError(done.argv, done.code, done.stderr or done.stdout)
    return done


class _Clock:
    """The time that a program may still run: its own limit, and the limit of its silence."""

    def __init__(self, timeout_s: float | None, silent_s: float | None) -> None:
        self._last = time.monotonic()
        self._ends_at = None if timeout_s is None else self._last + timeout_s
        self._silent_s = silent_s

    def heard(self, take: Callable[[str], None]) -> Callable[[str], None]:
        """Return `take` with the time of every line noted."""

        def listen(line: str) -> None:
            self._last = time.monotonic()
            take(line)

        return listen

    def left_s(self) -> float | None:
        ends = [self._ends_at, None if self._silent_s is None else self._last + self._silent_s]
        return min((max(0.0, end - time.monotonic()) for end in ends if end is not None), default=None)

    @property
    def is_silent(self) -> bool:
        return self._silent_s is not None and time.monotonic() - self._last >= self._silent_s


class PipedProgram:
    """A program that answers requests through its pipes until it is closed."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        """Start the program; `env` is added to this process's environment.

        Raises:
            ProgramMissingError: the program is not on PATH.
        """
        self._argv = tuple(argv)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the program
        self._child = _started(argv[0], lambda: _piped(argv, env, cwd, self._errors))

    def send(self, *blocks: bytes) -> None:
        """Write a request.

        Raises:
            ProgramFailedError: the program has ended.
        """
        pipe = self._child.stdin
        try:
            if pipe:
                pipe.writelines(blocks)
                pipe.flush()
        except (BrokenPipeError, ValueError) as error:
            raise self._failure() from error

    def read(self, size: int) -> bytes:
        """Read `size` bytes of an answer.

        Raises:
            ProgramFailedError: the program ended before.
        """
        data = self._child.stdout.read(size) if self._child.stdout else b""
        if len(data) != size:
            raise self._failure()
        return bytes(data)

    def end(self) -> None:
        """End the program at once, from any thread."""
        _end(self._child)

    def close(self) -> None:
        """End the program and close its pipes, in the thread that uses them."""
        self.end()
        _running.discard(self._child)
        for pipe in (self._child.stdin, self._child.stdout, self._errors):
            with suppress(BrokenPipeError):
                if pipe:
                    pipe.close()

    def _failure(self) -> ProgramFailedError:
        code = self._child.wait()
        self._errors.seek(0)
        return ProgramFailedError(self._argv, code, self._errors.read().decode("utf-8", "replace"))


def _piped(argv: Sequence[str], env: Mapping[str, str], cwd: Path, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env={**os.environ, **env},
        cwd=cwd,
        start_new_session=True,
    )


def end_all() -> None:
    """End every running program with its group; waiting threads see it fail."""
    for child in tuple(_running):
        _end(child)


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Defer signals that end this process until the block is done; outside of the main thread none arrives."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    taken = [number for number in _DEFERRED_SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    handlers = {number: signal.signal(number, lambda n, _: pending.append(n)) for number in taken}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in pending:
            signal.raise_signal(late)


def _started(name: str, start: Callable[[], subprocess.Popen[_Text]]) -> subprocess.Popen[_Text]:
    """Start a program; a signal that arrives meanwhile ends it, too.

    Raises:
        ProgramMissingError: the program is not on PATH.
    """
    started: list[subprocess.Popen[_Text]] = []
    try:
        with signals_deferred():
            started.append(start())
            _running.add(started[0])
    except (FileNotFoundError, PermissionError) as error:
        raise ProgramMissingError(f"`{name}` is not installed", hint="run `jbuild doctor`") from error
    except BaseException:
        for child in started:
            _end(child)
            _running.discard(child)
        raise
    return started[0]


def _start(
    argv: Sequence[str], env: Mapping[str, str] | None, cwd: Path | None, *, feed: bool
) -> subprocess.Popen[str]:
    return subprocess.Popen(  # its group is ended in `_end`
        list(argv),
        stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **env} if env else None,
        cwd=cwd,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def _feed(pipe: IO[str], text: str) -> None:
    # A program that ends without reading says why by its exit code.
    with suppress(BrokenPipeError):
        pipe.write(text)
        pipe.close()


def _take(line: str, tail: deque[str], on_line: Callable[[str], None] | None) -> None:
    tail.append(line)
    if on_line:
        on_line(line.rstrip("\n"))


def _reader(
    child: subprocess.Popen[str],
    pipe: IO[str] | None,
    take: Callable[[str], None],
    failures: list[BaseException],
) -> threading.Thread:
    def read() -> None:
        if pipe is None:
            return
        try:
            with pipe:
                for line in pipe:
                    take(line)
        except BaseException as error:  # noqa: BLE001  # raised again in the thread that waits for the program
            failures.append(error)
            _end(child)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def _join(reader: threading.Thread, clock: _Clock) -> None:
    """Wait until a pipe is closed: after the program's end, another one may hold it open."""
    while reader.is_alive():
        left_s = clock.left_s()
        if left_s == 0:
            raise TimeoutError
        # Output in the meantime extends the limit.
        reader.join(left_s)


def _end(child: subprocess.Popen[Any]) -> None:
    """End a program and its whole group, by force after a while."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_KILL_AFTER_S)
            _await_group(child.pid)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _await_group(group: int) -> None:
    ends_at = time.monotonic() + _LINGER_S
    while time.monotonic() < ends_at:
        os.killpg(group, 0)
        time.sleep(0.01)
