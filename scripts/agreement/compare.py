"""The audit's verdict on each file of a stack against the loader's."""

from __future__ import annotations

import fnmatch
import json
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agreement.truth import BARE, PLAIN, TORCH
from builder.errors import AuditError, JbuildError
from builder.host.process import find_program, run
from builder.lock.stage import lock_cell

if TYPE_CHECKING:
    from agreement.place import Place
    from agreement.stacks import Stack
    from agreement.truth import Truth

_LIMIT_S = 900
_LOADS = "loads"
_ERROR = "error"
# The rules whose findings say that a file does not load.
_LOADING = frozenset(
    {"missing-library", "symbol-version", "undefined-symbol", "executable-stack", "wrong-machine", "damaged-wheel"}
)
# What the loader's messages name as the cause.
_CAUSES = (
    re.compile(r"(?P<name>\S+): cannot open shared object file"),
    re.compile(r"version `(?P<name>[^']+)' not found"),
    re.compile(r"undefined symbol: (?P<name>[^,\s]+)"),
    re.compile(r"(?P<name>wrong ELF class|invalid ELF header|file too short)"),
)
# The loader is done with a file before its initialisers run: what ends there was loaded.
_ENDED = re.compile(r"ended by SIG\w+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """One file on which the two differ: why the loader refuses it (None: it loads), and what the audit says."""

    file: str
    loader: str | None
    audit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What came of one stack.

    `injected` are files that need what the NVIDIA runtime gives, `other_injected` those on which the audit says
    otherwise. `ended` are files whose initialiser ended the process. `same_cause` counts failing files of which both
    name the same library, version or symbol. `broken_rows` are expectations of the stack's row that the loader does
    not share. `false_errors` are files that load in spite of an error finding, `unsaid` files that do not load and of
    which no finding names either the file or the cause.
    """

    stack: str
    special: str
    files: int
    fails: int
    injected: tuple[str, ...]
    ended: tuple[str, ...]
    same_cause: int
    disagreements: tuple[Disagreement, ...]
    other_injected: tuple[str, ...]
    broken_rows: tuple[str, ...]
    false_errors: tuple[str, ...]
    unsaid: tuple[str, ...]
    errors: int
    seconds: float

    @property
    def agreed(self) -> int:
        """How many files both say the same of."""
        return self.files - len(self.disagreements)


def audit(stack: Stack, place: Place) -> dict[str, Any]:
    """Return the audit of a stack's cell, as `jbuild audit --json --files` prints it.

    Raises:
        JbuildError: it could not be audited.
    """
    argv = [sys.executable, "-m", "builder", "audit", "--json", "--files", *_what(stack, place)]
    done = run(argv, cwd=place.project, timeout_s=_LIMIT_S, check=False)
    if done.code not in (0, AuditError.exit_code):
        raise JbuildError(f"`jbuild audit {stack.name}` ended with {done.code}", log=done.stderr or done.stdout)
    return dict(json.loads(done.stdout))


def _what(stack: Stack, place: Place) -> list[str]:
    if not stack.loose:
        return [stack.name]
    lock = lock_cell(place.job(stack), place.session).lock
    wheels = [str(place.session.workspace.wheel(wheel.sha256, wheel.filename)) for wheel in lock.wheels]
    apt = [f"--apt={package}" for package in stack.apt]
    return [f"--base={lock.base.name}", f"--python={lock.platform.python}", *apt, "--wheels", *wheels]


def compare(stack: Stack, truth: Truth, audited: dict[str, Any]) -> Comparison:
    """Compare file by file; one that only one of the two knows is a disagreement too."""
    verdicts: dict[str, str] = audited["files"]
    differing, same_cause, fails = [], 0, 0
    for file in sorted({*truth.files, *verdicts}):
        said = verdicts.get(file, "is not mentioned")
        if file not in truth.files:
            differing.append(Disagreement(file=file, loader="was not asked: no shared object", audit=said))
            continue
        error = refusal(truth, file)
        fails += error is not None
        if (error is None) != (said == _LOADS):
            differing.append(Disagreement(file=file, loader=error, audit=said))
        elif error:
            same_cause += _names(said, error)
    findings = [finding for finding in audited["findings"] if finding["rule"] in _LOADING]
    return Comparison(
        stack=stack.name,
        special=stack.special,
        files=len({*truth.files, *verdicts}),
        fails=fails,
        injected=injected(truth),
        other_injected=tuple(sorted(set(audited["injected"]) ^ {*injected(truth)})) if stack.runtime else (),
        ended=tuple(file for file in truth.files if truth.error(file) and not refusal(truth, file)),
        same_cause=same_cause,
        disagreements=tuple(differing),
        broken_rows=_broken_rows(stack, truth),
        false_errors=tuple(sorted(_named(findings, _ERROR) - _failing(truth))),
        unsaid=_unsaid(findings, truth),
        errors=sum(1 for finding in findings if finding["severity"] == _ERROR),
        seconds=float(audited["elapsed_s"]),
    )


def refusal(truth: Truth, file: str) -> str | None:
    """Return why the loader refuses a file, or None if it takes it, whatever its initialiser does then."""
    error = truth.error(file)
    return None if error and _ENDED.fullmatch(error) else error


def cause(error: str) -> str:
    """Return the library, version or symbol that the loader names, or all that it says."""
    found = next((match for pattern in _CAUSES if (match := pattern.search(error))), None)
    return found["name"] if found else error


def _names(said: str, error: str) -> bool:
    name = cause(error)
    return name in said or _demangled(name) in said


def _demangled(name: str) -> str:
    if not name.startswith("_Z") or not find_program("c++filt"):
        return name
    return run(["c++filt", name]).stdout.strip()


def _failing(truth: Truth) -> set[str]:
    return {file for file in truth.files if refusal(truth, file)}


def _named(findings: list[dict[str, Any]], severity: str | None = None) -> set[str]:
    chosen = [finding for finding in findings if severity in (None, finding["severity"])]
    return {file for finding in chosen for file in (finding["file"], *finding["also"])}


def _unsaid(findings: list[dict[str, Any]], truth: Truth) -> tuple[str, ...]:
    """Return failing files that findings leave out; one that fails by what it needs is told with that."""
    told = "\n".join(str(finding["detail"]) for finding in findings)
    left = sorted(_failing(truth) - _named(findings))
    return tuple(file for file in left if not _names(told, refusal(truth, file) or ""))


def injected(truth: Truth) -> tuple[str, ...]:
    """Return the files that load only with what the NVIDIA runtime gives."""
    bare, given = truth.answers.get(BARE, {}), truth.answers.get(TORCH, truth.answers[PLAIN])
    return tuple(file for file, error in bare.items() if error and not given[file])


def _broken_rows(stack: Stack, truth: Truth) -> tuple[str, ...]:
    broken = []
    for wanted, patterns in (("fails", stack.breaks), (_LOADS, stack.loads)):
        for pattern in patterns:
            found = [file for file in truth.files if fnmatch.fnmatchcase(file, pattern)]
            if not found or any((truth.error(file) is None) != (wanted == _LOADS) for file in found):
                broken.append(f"{pattern} should be there and say `{wanted}`")
    return tuple(broken)
