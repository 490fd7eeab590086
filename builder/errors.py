"""The tree of errors; each branch has an exit code.

Exit codes are part of the command's interface: 1 unexpected, 2 usage, 3 recipe or configuration, 4 lock,
5 index or network, 6 integrity, 7 engine, 8 build, 9 model, 10 smoke, 11 registry or publication,
12 disk, 13 some of several cells failed, 14 audit, 130 interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class JbuildError(Exception):
    """An expected failure; subclasses name the branch.

    `where` is a file, URL, cell or image; `hint` is the next step, a command if there is one; `log` is the end of a
    program's output, if it helps. `record` is the record of a stage that ran to its end and failed: it never counts as
    done.
    """

    exit_code: ClassVar[int] = 1
    record: object | None = None

    def __init__(
        self, message: str, *, where: str | None = None, hint: str | None = None, log: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint
        self.log = log

    def as_json(self) -> dict[str, object]:
        """Return the error as `--json` shows it."""
        return {
            "error": type(self).__name__,
            "message": self.message,
            "where": self.where,
            "hint": self.hint,
            "log": self.log,
            "exit_code": self.exit_code,
        }


class UsageError(JbuildError):
    """The command line asks for something that does not exist."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One mistake in a document, located."""

    path: Path
    line: int | None
    key: str
    message: str
    hint: str | None = None

    @property
    def location(self) -> str:
        """File, line and key path, as editors and people read them."""
        at = f"{self.path}:{self.line}" if self.line else str(self.path)
        return f"{at}: {self.key}" if self.key else at


class DocumentError(JbuildError):
    """A recipe or a configuration file has mistakes; all of them are reported at once."""

    exit_code = 3

    def __init__(self, title: str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(title)

    def as_json(self) -> dict[str, object]:
        """Return the error with its problems, one object each."""
        problems = [
            {"file": str(p.path), "line": p.line, "key": p.key, "message": p.message, "hint": p.hint}
            for p in self.problems
        ]
        return {**super().as_json(), "problems": problems}


class RecipeError(JbuildError):
    """A recipe or cell is impossible."""

    exit_code = 3


class LockError(JbuildError):
    """A cell cannot be locked, or its lock is stale or damaged."""

    exit_code = 4


class NoWheelsError(LockError):
    """No wheels fit a cell and each other; asking again the same day will not help."""


class OldLockError(LockError):
    """The lock was written by an older jbuild; locking again keeps its versions."""


class NetworkError(JbuildError):
    """An index, hub or other server did not answer as it should."""

    exit_code = 5


class IntegrityError(JbuildError):
    """Content differs from the lock."""

    exit_code = 6


class EngineError(JbuildError):
    """The container engine, buildx or emulation is missing or does not answer."""

    exit_code = 7


class BuildError(JbuildError):
    """The image build failed."""

    exit_code = 8


class ModelError(JbuildError):
    """A model is unavailable or unusable."""

    exit_code = 9


class SmokeError(JbuildError):
    """The built image failed its smoke run."""

    exit_code = 10


class RegistryError(JbuildError):
    """A registry refused a request, or its content is wrong."""

    exit_code = 11


class DiskError(JbuildError):
    """The disk is full or cannot be written."""

    exit_code = 12


class CellsFailedError(JbuildError):
    """Some of several cells failed; each failure has been shown."""

    exit_code = 13


class AuditError(JbuildError):
    """The wheels' binaries lack something: the image would not load or not run."""

    exit_code = 14


class ProgramMissingError(EngineError):
    """A program that jbuild runs is not installed."""


class ProgramFailedError(JbuildError):
    """A program ended with a failure's exit code; callers turn this into a branch of their own."""

    def __init__(self, argv: tuple[str, ...], code: int, output: str) -> None:
        super().__init__(f"`{argv[0]}` ended with exit code {code}", log=output)
        self.argv = argv
        self.code = code
        self.output = output


class ProgramTimeoutError(ProgramFailedError):
    """A program did not end within its time."""


class ProgramSilentError(ProgramTimeoutError):
    """A program printed nothing for too long."""
