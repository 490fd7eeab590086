"""The cause of a failed build, from its output: the failing unit's errors, not the whole log."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from builder.errors import BuildError
from builder.host.console import TAIL_LINES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.model.builds import LockedBuild

    _Explain = Callable[[re.Match[str], int], tuple[str, str]]

_LAST_LINES = 200
_TRACEBACK = "Traceback "
# The exit codes of a program that the kernel killed.
_KILLED_CODES = (-9, 137)
_FAILED = re.compile(r"FAILED: (?:\[code=[0-9]+\] )?(?P<unit>\S+)")
# The next status line of ninja ends the output of a unit.
_STATUS = re.compile(r"\[[0-9]+/[0-9]+\] |ninja: ")
# gcc's and nvcc's own form, and those of linkers and CMake.
_ERROR = re.compile(
    r"\S+:[0-9]+(?::[0-9]+)?: (?:fatal )?error\b|\S+\([0-9]+\): (?:catastrophic )?error\b|\S*ld: |\S+: fatal error: "
    r"|nvcc error|CMake Error"
)
_SOURCE = re.compile(r"(?P<file>[^\s:()]+)(?::[0-9]+:[0-9]+|\([0-9]+\)): (?:fatal )?error\b")
_BUILD_FOLDER = re.compile(r"^/build/source/(?:build/temp[^/]*/)?")
# The whole command of a failed compiler, which setuptools repeats.
_REPEATED = re.compile(r"error: [Cc]ommand ")
_OWN_FRAME = re.compile(r'  File "(?:<string>|/build/source/)')
# Programs of the sandbox mark the sentence that explains a failure.
_MARKED = re.compile(r"\bjbuild: (?P<text>.+)")
_KILLED = re.compile(r"\bKilled\b|signal 9\b|SIGKILL|exit status -9\b|\[code=137\]")
_NETWORK = re.compile(
    r"Temporary failure in name resolution|Could not resolve host|Name or service not known|Network is unreachable"
    # CMake's FetchContent, whose clone fails before it asks for a host.
    r"|could not find git for clone of"
)
_GCC_TOO_NEW = re.compile(r"unsupported GNU version! gcc versions later than (?P<newest>[0-9]+)")
_PROGRAM = re.compile(
    r"(?:sh: |: line )[0-9]+: (?P<name>[\w.+-]+): (?:command )?not found"
    r"|FileNotFoundError: \[Errno 2\] No such file or directory: '(?P<file>[\w.+-]+)'"
)
_MODULE = re.compile(r"(?:ModuleNotFoundError|ImportError): No module named '(?P<name>[\w.]+)'")
_HEADER = re.compile(r"fatal error: (?P<name>\S+): No such file or directory")


def failure_of(build: LockedBuild, lines: Sequence[str], code: int, jobs: int) -> BuildError:
    """Return the error of a failed build: its cause, and what to do."""
    where, unit, shown = f"{build.name} {build.version}", failed_unit(lines), cause_lines(lines)
    log = "\n".join(shown)
    if code in _KILLED_CODES:
        message, hint = _killed(jobs)
        return BuildError(message, where=where, hint=hint, log=log)
    # A project may tolerate earlier failures, such as a download, so only the failed unit or the end counts.
    text = log if unit else "\n".join(lines[-_LAST_LINES:])
    for pattern, explain in _CAUSES:
        matches = list(pattern.finditer(text))
        if matches:
            message, hint = explain(matches[-1], jobs)
            return BuildError(message, where=where, hint=hint, log=log)
    unit = unit or _source_of(shown)
    if unit:
        return BuildError(
            f"{_short(unit)} does not compile", where=where, hint="a patch of the source can fix it", log=log
        )
    return BuildError("the project's build failed", where=where, hint="the log above names the cause", log=log)


def failed_unit(lines: Sequence[str]) -> str | None:
    """Return the first unit that ninja reports as failed."""
    return next((match["unit"] for line in lines if (match := _FAILED.search(line))), None)


def _source_of(shown: Sequence[str]) -> str | None:
    """Return the source file of the first error of a compiler, for builds without ninja."""
    return next((match["file"] for line in shown if (match := _SOURCE.match(line))), None)


def _short(unit: str) -> str:
    return _BUILD_FOLDER.sub("", unit)


def cause_lines(lines: Sequence[str]) -> list[str]:
    """Return the lines that explain a failure: the first errors of the failed unit, or else the last lines."""
    output = _unit_output(lines)
    output = [line for line in output if not _REPEATED.match(line)]
    errors = [number for number, line in enumerate(output) if _ERROR.match(line)]
    if errors:
        # Later errors mostly follow from the first ones, as does the backend's traceback.
        rest = itertools.takewhile(lambda line: not line.startswith(_TRACEBACK), output[errors[0] :])
        return [*output[max(0, errors[0] - 2) : errors[0]], *rest][:TAIL_LINES]
    return _own_frames(output)[-TAIL_LINES:]


def _own_frames(lines: list[str]) -> list[str]:
    """Return the end of the output; of a traceback, only the frames of the project and the exception."""
    start = max((number for number, line in enumerate(lines) if line.startswith(_TRACEBACK)), default=None)
    if start is None:
        return lines
    frames, rest = list[str](), lines[start + 1 :]
    end = next((number for number, line in enumerate(rest) if not line.startswith(" ")), len(rest))
    for number, line in enumerate(rest[:end]):
        if _OWN_FRAME.match(line):
            # A frame may be followed by its code, which is indented more.
            frames += [line, *(text for text in rest[number + 1 : number + 2] if text.startswith("    "))]
    return [*frames, *rest[end:]]


def _unit_output(lines: Sequence[str]) -> list[str]:
    """Return the output of the first failed unit, or all lines without one."""
    start = next((number for number, line in enumerate(lines) if _FAILED.search(line)), None)
    if start is None:
        return list(lines)
    rest = lines[start + 1 :]
    end = next((number for number, line in enumerate(rest) if _STATUS.match(line)), len(rest))
    # The line after FAILED is the whole command.
    return list(rest[1:end] or rest[:end])


def _killed(jobs: int) -> tuple[str, str]:
    message = "the kernel killed a compiler, as it does when memory is short"
    if jobs > 1:
        return (
            message,
            "compile one file at a time: `jbuild wheel PACKAGE==VERSION --for RECIPE --jobs 1`; finished units stay",
        )
    return (
        message,
        "one unit needs more memory than the machine has free: add swap, or name another machine (`runner` in [build])",
    )


def _killed_compiler(_match: re.Match[str], jobs: int) -> tuple[str, str]:
    return _killed(jobs)


def _marked(match: re.Match[str], _jobs: int) -> tuple[str, str]:
    message, _, hint = match["text"].partition(": ")
    return message, hint or "the log has the project's own messages"


def _network(_match: re.Match[str], _jobs: int) -> tuple[str, str]:
    return (
        "the build asked for the network, which its sandbox does not have",
        "make the download an input: `inputs` of the package, a Git source with submodules, or `build-requires`",
    )


def _gcc_too_new(match: re.Match[str], _jobs: int) -> tuple[str, str]:
    return (
        f"the host compiler is too new for this nvcc, which accepts gcc {match['newest']} and older",
        "run `jbuild lock` again: the row in builder/foundry/toolchains.toml decides the compiler",
    )


def _program(match: re.Match[str], _jobs: int) -> tuple[str, str]:
    name = match["name"] or match["file"]
    return (
        f"the build runs the program {name}, which its sandbox lacks",
        f'add its package (`build-requires = ["{name}"]`), then run `jbuild lock` again, or patch the call away',
    )


def _module(match: re.Match[str], _jobs: int) -> tuple[str, str]:
    name = match["name"].partition(".")[0]
    return (
        f"the build imports {name}, which the project does not state as a build requirement",
        f'add it: `build-requires = ["{name}"]`, then run `jbuild lock` again',
    )


def _header(match: re.Match[str], _jobs: int) -> tuple[str, str]:
    return (
        f"the build includes {match['name']}, which neither the source nor the toolchain has",
        "build without the feature that needs it (`environment`), or add the header with a patch",
    )


_CAUSES: tuple[tuple[re.Pattern[str], _Explain], ...] = (
    (_MARKED, _marked),
    (_GCC_TOO_NEW, _gcc_too_new),
    (_KILLED, _killed_compiler),
    (_NETWORK, _network),
    (_PROGRAM, _program),
    (_MODULE, _module),
    (_HEADER, _header),
)
