"""The cause of a failed build, from its output: the failing unit's last errors, not the whole log."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from builder.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.model.builds import LockedBuild

_LONGEST_LOG = 30
# Our own programs in the sandbox mark the sentence that explains a failure.
_MARKED = re.compile(r"(?:^|\b)jbuild: (?P<text>.+)")
_FAILED = re.compile(r"FAILED: (?:\[code=[0-9]+\] )?(?P<unit>\S+)")
_ERROR = re.compile(r"\berror\b[:\s#]|\bfatal error\b|undefined reference|cannot find -l|\bError:|\bERROR:|CMake Error")
# The next status line of ninja ends the output of a unit.
_STATUS = re.compile(r"\[[0-9]+/[0-9]+\] |ninja: ")
_KILLED = re.compile(
    r"\bKilled\b|signal 9\b|SIGKILL|Kill signal|exit status -9\b|died with <Signals\.SIGKILL|\[code=137\]"
)
_NETWORK = re.compile(
    r"Temporary failure in name resolution|Could not resolve host|Name or service not known|Network is unreachable"
    r"|Could not resolve hostname|unable to access 'https?://"
)
_GCC_TOO_NEW = re.compile(r"unsupported GNU version! gcc versions later than (?P<newest>[0-9]+)")
_MODULE = re.compile(r"(?:ModuleNotFoundError|ImportError): No module named '(?P<name>[\w.]+)'")
_HEADER = re.compile(r"fatal error: (?P<name>\S+): No such file or directory")


def failure_of(build: LockedBuild, lines: Sequence[str], jobs: int) -> BuildError:
    """Return the error of a failed build: its cause, and what to do."""
    text = "\n".join(lines)
    log = "\n".join(cause_lines(lines))
    where = f"{build.name} {build.version}"
    for pattern, explain in _CAUSES:
        # The last mention: earlier ones may be attempts that the project tolerates.
        matches = list(pattern.finditer(text))
        if matches:
            message, hint = explain(matches[-1], jobs)
            return BuildError(message, where=where, hint=hint, log=log)
    unit = failed_unit(lines)
    if unit:
        return BuildError(
            f"{unit} does not compile",
            where=where,
            hint="the log has the compiler's errors; a patch can fix it",
            log=log,
        )
    return BuildError("the project's build failed", where=where, hint="the log has its last lines", log=log)


def failed_unit(lines: Sequence[str]) -> str | None:
    """Return the first unit that ninja reports as failed."""
    return next((match["unit"] for line in lines if (match := _FAILED.search(line))), None)


def cause_lines(lines: Sequence[str]) -> list[str]:
    """Return the lines that explain a failure: the errors of the first failed unit, or else the last lines."""
    starts = [number for number, line in enumerate(lines) if _FAILED.search(line)]
    part = list(lines)
    if starts:
        rest = lines[starts[0] + 1 :]
        end = next((number for number, line in enumerate(rest) if _STATUS.match(line)), len(rest))
        # The line after FAILED is the whole command.
        part = list(rest[1:end]) or list(rest[:end])
    errors = [number for number, line in enumerate(part) if _ERROR.search(line)]
    if errors and starts:
        # The lines around the first errors: later ones follow from them.
        return part[max(0, errors[0] - 2) :][:_LONGEST_LOG]
    return part[-_LONGEST_LOG:]


def _marked(match: re.Match[str], _jobs: int) -> tuple[str, str]:
    message, __, hint = match["text"].partition(": ")
    return message, hint or "the log has the project's own messages"


def _killed(_: re.Match[str], jobs: int) -> tuple[str, str]:
    message = "the kernel killed a compiler, as it does when memory is short"
    if jobs > 1:
        return message, "run the same command with --jobs 1: finished units are kept"
    return (
        message,
        "one unit needs more memory than this machine has free: close programs, add swap, or build elsewhere",
    )


def _network(_: re.Match[str], __: int) -> tuple[str, str]:
    return (
        "the build asked for the network, which its sandbox does not have",
        "make what it downloads an input: a Git source with submodules, a folder that a variable names, or `requires`",
    )


def _gcc_too_new(match: re.Match[str], _: int) -> tuple[str, str]:
    return (
        f"gcc is too new for this nvcc, which accepts gcc {match['newest']} and older",
        "run `jbuild lock` again: the row in builder/foundry/toolchains.toml decides the compiler",
    )


def _module(match: re.Match[str], _: int) -> tuple[str, str]:
    name = match["name"].partition(".")[0]
    return (
        f"the build imports {name}, which the project does not state as a build requirement",
        f'add it: `requires = ["{name}"]` of the build, then `jbuild lock`',
    )


def _header(match: re.Match[str], _: int) -> tuple[str, str]:
    return (
        f"the build includes {match['name']}, which neither the source nor the toolchain has",
        "if a library's development package has it, build without that feature (`environment`), or add it with a patch",
    )


_CAUSES = (
    (_MARKED, _marked),
    (_GCC_TOO_NEW, _gcc_too_new),
    (_KILLED, _killed),
    (_NETWORK, _network),
    (_MODULE, _module),
    (_HEADER, _header),
)
