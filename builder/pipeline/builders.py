"""Spreads builds over several buildx builders and docker contexts.

A builder that dies gets no more builds; another one repeats its current build.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, TypeVar

from builder.errors import EngineError, JbuildError, ProgramMissingError
from builder.host.engine.contexts import is_context
from builder.host.process import run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from builder.host.console import Console
    from builder.host.engine.docker import Engine

_T = TypeVar("_T")
_ANSWER_S = 30
_NO_ANSWER = "it does not answer"
_DEAD = re.compile(r"^Error: +(.+)", re.MULTILINE)
_UNKNOWN = re.compile(r"no builder .* found")


class HangingBuilderError(EngineError):
    """A builder had no output for so long that it seems to hang."""


def buildx(verb: str, builder: str | None) -> list[str]:
    """Return the first words of a command for a builder, a docker context, or (None) the engine's own builder."""
    if builder is None:
        return ["docker", "buildx", verb]
    if is_context(builder):
        return ["docker", "--context", builder, "buildx", verb]
    return ["docker", "buildx", verb, "--builder", builder]


def hanging(name: str, silent_s: float, log: Path, output: str) -> HangingBuilderError:
    """Return the error for a cell whose builder gave no output for so many seconds."""
    return HangingBuilderError(
        f"{name}: no output from the builder for {silent_s:.0f} s; giving up on it",
        where=str(log),
        hint="restart it (`docker buildx ls`), or raise `silent-s` under [build] in jbuild.toml",
        log=output,
    )


class Builders:
    """The builders of one run, shared by its cells' threads; without names, the engine's own."""

    def __init__(self, names: Sequence[str], console: Console) -> None:
        """Start with all of them alive and idle."""
        self.names = tuple(dict.fromkeys(names))
        self._console = console
        self._mutex = threading.Lock()
        self._busy = dict.fromkeys(self.names, 0)
        self._dead: dict[str, str] = {}

    def build(self, cell: str, engine: Engine, work: Callable[[str | None], _T]) -> _T:
        """Return the result of `work` on the least busy builder; on another one if that dies meanwhile.

        Raises:
            EngineError: no builder is left.
            JbuildError: the build failed on a builder that is alive.
        """
        if not self.names:
            return work(None)
        while True:
            name = self._take()
            try:
                return work(name)
            except JbuildError as error:
                if len(self.names) == 1 or not self._died(name, cell, engine, error):
                    raise
                if len(self._dead) == len(self.names):
                    raise self._none_left() from error
            finally:
                with self._mutex:
                    self._busy[name] -= 1

    def _take(self) -> str:
        with self._mutex:
            alive = [name for name in self.names if name not in self._dead]
            if not alive:
                raise self._none_left()
            name = min(alive, key=lambda builder: self._busy[builder])
            self._busy[name] += 1
            return name

    def _died(self, name: str, cell: str, engine: Engine, error: JbuildError) -> bool:
        """Return whether a builder is dead after a failed build, and remember that; a hanging one may still answer."""
        reason = "it hangs" if isinstance(error, HangingBuilderError) else ask(name, engine.environment())
        if reason is None:
            return False
        with self._mutex:
            self._dead.setdefault(name, reason)
            left = [builder for builder in self.names if builder not in self._dead]
        if left:
            self._console.warn(f"{cell}: builder {name} has died ({reason}); its cells go to {', '.join(left)}")
        return True

    def _none_left(self) -> EngineError:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self._dead.items())
        return EngineError(
            f"no builder is left: {reasons}",
            where=", ".join(self.names),
            hint="restart them, then run the same command: finished stages stay; `docker buildx ls` lists them",
        )


def ask(name: str, environment: Mapping[str, str]) -> str | None:
    """Return why a builder cannot build any more, or None if it can.

    Raises:
        EngineError: there is no such builder.
    """
    try:
        done = run(buildx("inspect", name), env=environment, timeout_s=_ANSWER_S, check=False)
    except ProgramMissingError:
        raise
    except JbuildError:
        return _NO_ANSWER
    if _UNKNOWN.search(done.stderr):
        raise EngineError("there is no such builder", where=name, hint="`docker buildx ls` lists them")
    dead = _DEAD.search(done.stdout)
    if dead or done.code:
        return dead[1] if dead else (done.stderr.strip().splitlines() or [_NO_ANSWER])[-1]
    return None
