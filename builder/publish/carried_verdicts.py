"""Verdicts that come home from another machine: the files in a bundle's folder of verdicts, and their records here."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import IntegrityError, UsageError
from builder.host import records
from builder.model.bundles import EVIDENCE_FOLDER, VERDICT_FOLDER
from builder.model.verdicts import Verdict
from builder.publish import statements
from builder.publish.statements import ContradictoryVerdictError
from builder.recipe.levels import levels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.publish.statements import Statement

_OTHER = "not a verdict"
_FIELDS = {field.name for field in dataclasses.fields(Verdict)}


@dataclass(frozen=True, kw_only=True, slots=True)
class _CarriedVerdict:
    """A verdict's file; `statement` is None if the file holds something else, and `flaw` is then the reason."""

    path: Path
    statement: Statement | None
    flaw: str = ""

    def rank(self, digest: str) -> int:
        """Return the place of its level among all levels; -1 if it does not show that the image passed."""
        level = self.statement.level if self.statement and digest in self.statement.digests else None
        return levels().index(level) if level in levels() else -1

    @property
    def words(self) -> str:
        """Its name and what it states."""
        if self.statement is None:
            return f"{self.path.name} ({self.flaw})"
        predicate, about = self.statement.predicate, ", ".join(self.statement.digests)
        return f"{self.path.name} ({predicate.get('result')} at level {predicate.get('level')}, about {about})"


def verdict_file(path: Path, digest: str) -> Path | None:
    """Return the file of a verdict: `path` itself, or the best passed verdict about an image in the folder `path`.

    Of a bundle, the folder is its folder of verdicts. None: no file there shows that the image passed.

    Raises:
        UsageError: a file of the folder cannot be read.
    """
    if not path.is_dir():
        return path
    ranked = sorted(_verdicts_in(_folder(path)), key=lambda verdict: verdict.rank(digest))
    return ranked[-1].path if ranked and ranked[-1].rank(digest) >= 0 else None


def no_verdict(path: Path, digest: str) -> UsageError:
    """Return the error for a folder in which no file shows that an image passed; it names a folder nearby that has one.

    Raises:
        UsageError: a file nearby cannot be read.
    """
    folder = _folder(path)
    there = ", ".join(verdict.words for verdict in _verdicts_in(folder)) or "no verdict"
    hint = "run `jbuild smoke --bundle FOLDER` on the other machine, and bring its folder `verdict` back"
    if verdict := next((other for other in _nearby(folder) if other.rank(digest) >= 0), None):
        hint = f"`--verdict {verdict.path.parent}` names the folder that has {verdict.words}; or {hint}"
    message = f"no verdict in the folder shows that {digest} passed; it has: {there}"
    return UsageError(message, where=str(folder), hint=hint)


def _folder(path: Path) -> Path:
    inside = path / VERDICT_FOLDER
    return inside if inside.is_dir() else path


def _nearby(folder: Path) -> Iterator[_CarriedVerdict]:
    """Yield the verdicts in folders that a user may have meant: those of a bundle, and those below."""
    beside = [folder.parent / name for name in (VERDICT_FOLDER, EVIDENCE_FOLDER)]
    for other in (*beside, *sorted(folder.glob("*/")), *sorted(folder.glob("*/*/"))):
        files = (path for path in sorted(other.glob("verdict*.json")) if path.is_file() and os.access(path, os.R_OK))
        yield from map(_carried, files)


def _verdicts_in(folder: Path) -> list[_CarriedVerdict]:
    files = (_carried(path) for path in sorted(folder.glob("*.json")) if path.is_file())
    return [file for file in files if file.statement or file.path.name.startswith("verdict")]


def _carried(path: Path) -> _CarriedVerdict:
    try:
        payload, _ = statements.opened(path.read_bytes(), str(path))
        statement = statements.parse(payload, str(path))
    except ContradictoryVerdictError as error:
        return _CarriedVerdict(path=path, statement=None, flaw=error.message)
    except IntegrityError:
        return _CarriedVerdict(path=path, statement=None, flaw=_OTHER)
    except OSError as error:
        hint = "check its owner"
        raise UsageError(f"cannot read the verdict: {error.strerror}", where=str(path), hint=hint) from error
    is_verdict = statement.predicate_type == statements.VERDICT
    return _CarriedVerdict(path=path, statement=statement if is_verdict else None, flaw=_OTHER)


def verdict_of(statement: Statement, path: Path) -> Verdict | None:
    """Return the record of a verdict from its statement in a file; None if another program wrote it."""
    known = {name: value for name, value in statement.predicate.items() if name in _FIELDS}
    try:
        verdict: Verdict = records.from_json({**known, "log": str(path)}, Verdict)
    except (ValueError, KeyError, TypeError):
        return None
    return verdict
