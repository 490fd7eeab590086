"""Compares the audit's verdict on each file of a stack with the loader's result."""

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
    from agreement.stack_project import StackProject
    from agreement.stacks import Stack
    from agreement.truth import Truth

_LIMIT_S = 900
_LOADS = "loads"
_ERROR = "error"
# A finding of these rules means that a file does not load.
_LOADING = frozenset(
    {"missing-library", "symbol-version", "undefined-symbol", "executable-stack", "wrong-machine", "damaged-wheel"}
)
# The causes in the loader's messages.
_CAUSES = (
    re.compile(r"(?P<name>\S+): cannot open shared object file"),
    re.compile(r"version `(?P<name>[^']+)' not found"),
    re.compile(r"undefined symbol: (?P<name>[^,\s]+)"),
    re.compile(r"(?P<name>wrong ELF class|invalid ELF header|file too short)"),
)
# The loader finishes a file before its initialisers run: if an initialiser ends the process, the file was loaded.
_ENDED = re.compile(r"ended by SIG\w+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """A file with different results: the loader's error (None: the file loads), and the audit's verdict."""

    file: str
    loader: str | None
    audit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The results of one stack.

    `injected` are files that need libraries of the NVIDIA runtime; `differently_injected` are files on which the audit
    disagrees. `ended` are files whose initialiser ended the process. `same_cause` counts failing files for which both
    name the same library, version or symbol. `broken_rows` are expectations of the stack's row that the loader does not
    confirm. `false_errors` are files that load despite an error finding; `unreported` are files that do not load,
    although the findings name neither the file nor the cause.
    """

    stack: str
    special: str
    files: int
    fails: int
    injected: tuple[str, ...]
    ended: tuple[str, ...]
    same_cause: int
    disagreements: tuple[Disagreement, ...]
    differently_injected: tuple[str, ...]
    broken_rows: tuple[str, ...]
    false_errors: tuple[str, ...]
    unreported: tuple[str, ...]
    errors: int
    seconds: float

    @property
    def agreed(self) -> int:
        """The number of files with the same verdict."""
        return self.files - len(self.disagreements)


def audit(stack: Stack, project: StackProject) -> dict[str, Any]:
    """Return the audit of a stack's cell, as `jbuild audit --json --files` prints it.

    Raises:
        JbuildError: the audit failed.
    """
    argv = [sys.executable, "-m", "builder", "audit", "--json", "--files", *_arguments(stack, project)]
    done = run(argv, cwd=project.root, timeout_s=_LIMIT_S, check=False)
    if done.code not in (0, AuditError.exit_code):
        raise JbuildError(f"`jbuild audit {stack.name}` ended with {done.code}", log=done.stderr or done.stdout)
    return dict(json.loads(done.stdout))


def _arguments(stack: Stack, project: StackProject) -> list[str]:
    if not stack.loose:
        return [stack.name]
    lock = lock_cell(project.job(stack), project.session).lock
    wheels = [str(project.session.workspace.wheel(wheel.sha256, wheel.filename)) for wheel in lock.wheels]
    apt = [f"--apt={package}" for package in stack.apt]
    return [f"--base={lock.base.name}", f"--python={lock.platform.python}", *apt, "--wheels", *wheels]


def compare(stack: Stack, truth: Truth, audited: dict[str, Any]) -> Comparison:
    """Compare file by file; a file that only one of the two lists is a disagreement too."""
    verdicts: dict[str, str] = audited["files"]
    differing, same_cause, fails = [], 0, 0
    for file in sorted({*truth.files, *verdicts}):
        verdict = verdicts.get(file, "is not mentioned")
        if file not in truth.files:
            differing.append(Disagreement(file=file, loader="was not opened: not a shared object", audit=verdict))
            continue
        error = refusal(truth, file)
        fails += error is not None
        if (error is None) != (verdict == _LOADS):
            differing.append(Disagreement(file=file, loader=error, audit=verdict))
        elif error:
            same_cause += _names(verdict, error)
    findings = [finding for finding in audited["findings"] if finding["rule"] in _LOADING]
    return Comparison(
        stack=stack.name,
        special=stack.special,
        files=len({*truth.files, *verdicts}),
        fails=fails,
        injected=injected(truth),
        differently_injected=tuple(sorted(set(audited["injected"]) ^ {*injected(truth)})) if stack.runtime else (),
        ended=tuple(file for file in truth.files if truth.error(file) and not refusal(truth, file)),
        same_cause=same_cause,
        disagreements=tuple(differing),
        broken_rows=_broken_rows(stack, truth),
        false_errors=tuple(sorted(_named(findings, _ERROR) - _failing(truth))),
        unreported=_unreported(findings, truth),
        errors=sum(1 for finding in findings if finding["severity"] == _ERROR),
        seconds=float(audited["elapsed_s"]),
    )


def refusal(truth: Truth, file: str) -> str | None:
    """Return the loader's error, or None if it loads the file, even if the file's initialiser then ends the process."""
    error = truth.error(file)
    return None if error and _ENDED.fullmatch(error) else error


def cause(error: str) -> str:
    """Return the library, version or symbol that the loader names, or its whole message."""
    cause_match = next((match for pattern in _CAUSES if (match := pattern.search(error))), None)
    return cause_match["name"] if cause_match else error


def _names(text: str, error: str) -> bool:
    name = cause(error)
    return name in text or _demangled(name) in text


def _demangled(name: str) -> str:
    if not name.startswith("_Z") or not find_program("c++filt"):
        return name
    return run(["c++filt", name]).stdout.strip()


def _failing(truth: Truth) -> set[str]:
    return {file for file in truth.files if refusal(truth, file)}


def _named(findings: list[dict[str, Any]], severity: str | None = None) -> set[str]:
    chosen = [finding for finding in findings if severity in (None, finding["severity"])]
    return {file for finding in chosen for file in (finding["file"], *finding["also"])}


def _unreported(findings: list[dict[str, Any]], truth: Truth) -> tuple[str, ...]:
    """Return failing files without a finding; a finding that names the cause covers a file too."""
    details = "\n".join(str(finding["detail"]) for finding in findings)
    unnamed = sorted(_failing(truth) - _named(findings))
    return tuple(file for file in unnamed if not _names(details, refusal(truth, file) or ""))


def injected(truth: Truth) -> tuple[str, ...]:
    """Return the files that load only with libraries of the NVIDIA runtime."""
    bare, complete = truth.answers.get(BARE, {}), truth.answers.get(TORCH, truth.answers[PLAIN])
    return tuple(file for file, error in bare.items() if error and not complete[file])


def _broken_rows(stack: Stack, truth: Truth) -> tuple[str, ...]:
    broken = []
    for expected, patterns in (("fails", stack.breaks), (_LOADS, stack.loads)):
        for pattern in patterns:
            files = [file for file in truth.files if fnmatch.fnmatchcase(file, pattern)]
            if not files or any((truth.error(file) is None) != (expected == _LOADS) for file in files):
                broken.append(f"{pattern} should exist, with the result `{expected}`")
    return tuple(broken)
