"""One trial: a run with a fault or a kill, the checks, and the same run again without them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from campaign.checks import leftovers, registry_flaws
from campaign.front import Plan

if TYPE_CHECKING:
    from pathlib import Path

    from campaign.front import Fault, Repeat
    from campaign.ways import Attempt, Way
    from campaign.workshop import Workshop

HANG_S = 60.0
_UNEXPECTED = 1
KILLED = -signal.SIGKILL
_STAGES = ("lock", "audit", "render", "build", "smoke", "push")
_STAGE_DONE = re.compile(r": (lock|audit|render|build|smoke|push): ")
# Lines of a log that is shown begin with a bar.
_TRACEBACK = re.compile(r"^(?!  \|).*Traceback", re.MULTILINE)
_ERROR = re.compile(r"^error: (.*)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """What a trial does: a fault at a request, or a kill after some seconds."""

    number: int
    way: Way
    fault: Fault | None = None
    nth: int = 1
    repeat: Repeat = "once"
    seed: int = 0
    kill_after_s: float = 0.0

    @property
    def kind(self) -> str:
        """The kind of fault."""
        return self.fault.kind if self.fault else "SIGKILL"


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A trial's outcome; `at` is the request that failed first, or the stage that was killed."""

    number: int
    kind: str
    way: str
    at: str
    repeat: str
    hits: int
    code: int
    seconds: float
    again: int
    again_s: float
    error: str = ""
    violations: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The trial in one line."""
        outcome = f"exit {self.code} in {self.seconds:.1f} s, again {self.again} in {self.again_s:.1f} s"
        flaws = "".join(f"\n    VIOLATION: {flaw}" for flaw in self.violations)
        what = f"{self.kind} ({self.repeat})" if self.repeat else self.kind
        return f"{self.number:3d}  {what}: {self.way}, {self.at or 'not reached'}: {outcome}{flaws}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A run that has ended; the code is None if it had to be ended after `HANG_S`."""

    code: int | None
    stdout: str
    stderr: str
    seconds: float

    @property
    def error(self) -> str:
        """The first error that it reports."""
        match = _ERROR.search(self.stderr)
        return match[1] if match else ""

    def flaws(self) -> list[str]:
        """Return what no fault excuses."""
        if self.code is None:
            return [f"it hangs: no end within {HANG_S:.0f} s; last line: {_last(self.stderr)}"]
        found = [f"unexpected error: {self.error}"] if self.code == _UNEXPECTED else []
        return [*found, *(["a traceback"] if _TRACEBACK.search(self.stderr) else [])]


def run(attempt: Attempt, workshop: Workshop, *, kill_after_s: float = 0.0) -> Ended:
    """Run the command to its end; with `kill_after_s`, kill its process group then."""
    began = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "builder", *attempt.argv],
        cwd=attempt.folder,
        env=attempt.environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    workshop.started.add(child.pid)
    killer = threading.Timer(kill_after_s or HANG_S, lambda: _kill(child.pid))
    killer.start()
    try:
        stdout, stderr = child.communicate()
    finally:
        killer.cancel()
    seconds = time.monotonic() - began
    code = None if child.returncode == KILLED and not kill_after_s else child.returncode
    return Ended(code=code, stdout=stdout, stderr=stderr, seconds=round(seconds, 2))


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def carry_out(draw: Draw, workshop: Workshop, folder: Path, log: Path) -> Result:
    """Run a trial in a folder, which is removed at its end."""
    name = f"{workshop.project.name}-{draw.number}"
    attempt = draw.way.begin(workshop, folder, name)
    plan = Plan(fault=draw.fault, nth=draw.nth, repeat=draw.repeat, seed=draw.seed)
    workshop.use(plan)
    first = run(attempt, workshop, kill_after_s=draw.kill_after_s)
    workshop.use(Plan())
    violations = [*first.flaws(), *_registry(attempt, workshop, first)]
    attempt = attempt.mended()
    again = run(attempt, workshop)
    violations += [f"again: {flaw}" for flaw in (*again.flaws(), *_registry(attempt, workshop, again))]
    if again.code != 0:
        violations.append(f"again: exit code {again.code}: {again.error}")
    violations += [f"left: {flaw}" for flaw in leftovers(attempt, workshop)]
    result = Result(
        number=draw.number,
        kind=draw.kind,
        way=draw.way.name,
        at=plan.at if draw.fault else _stage(attempt, first),
        repeat=draw.repeat if draw.fault else "",
        hits=plan.hits,
        code=-1 if first.code is None else first.code,
        seconds=first.seconds,
        again=-1 if again.code is None else again.code,
        again_s=again.seconds,
        error=first.error,
        violations=tuple(violations),
    )
    texts = (result.line, " ".join(attempt.argv), first.stderr, first.stdout, "-- again", again.stderr, again.stdout)
    log.write_text("\n".join((*texts, "-- requests", *plan.log)))
    if not violations:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _registry(attempt: Attempt, workshop: Workshop, ended: Ended) -> list[str]:
    if not attempt.repository:
        return []
    flaws = list(
        registry_flaws(workshop.registry, attempt.repository, set() if attempt.is_unproven else attempt.proven())
    )
    tags = set(workshop.registry.tags(attempt.repository))
    if ended.code == 0 and tags != attempt.tags:
        flaws.append(f"exit code 0, but the registry has the tags {sorted(tags)}, not {sorted(attempt.tags)}")
    if tags - attempt.tags:
        flaws.append(f"tags that nothing earned: {sorted(tags - attempt.tags)}")
    return flaws


def _stage(attempt: Attempt, ended: Ended) -> str:
    """Return the stage that ran when the process was killed."""
    if ended.code != KILLED:
        return "after its end"
    if attempt.argv[0] == "promote":
        return "promote"
    done = _STAGE_DONE.findall(ended.stderr)
    if not done:
        return "start or lock"
    position = _STAGES.index(done[-1]) + 1
    return _STAGES[position] if position < len(_STAGES) else "end"


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "nothing"


def as_result(row: dict[str, Any]) -> Result:
    """Return a result that was written as JSON."""
    return Result(**{**row, "violations": tuple(row["violations"])})
