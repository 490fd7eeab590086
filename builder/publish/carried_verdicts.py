"""Verdicts that come home from another machine: the files in a bundle's folder of verdicts, and their records here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import IntegrityError, UsageError
from builder.host import records
from builder.model.bundles import VERDICT_FOLDER
from builder.model.verdicts import Verdict
from builder.publish import statements
from builder.recipe.levels import levels

if TYPE_CHECKING:
    from pathlib import Path

    from builder.publish.statements import Statement

_FIELDS = {field.name for field in dataclasses.fields(Verdict)}


@dataclass(frozen=True, kw_only=True, slots=True)
class _CarriedVerdict:
    """A verdict's file; `statement` is None if the file holds something else."""

    path: Path
    statement: Statement | None

    def rank(self, digest: str) -> int:
        """Return the place of its level among all levels; -1 if it does not show that the image passed."""
        level = self.statement.level if self.statement and digest in self.statement.digests else None
        return levels().index(level) if level in levels() else -1

    @property
    def words(self) -> str:
        """Its name and what it states."""
        if self.statement is None:
            return f"{self.path.name} (not a verdict)"
        predicate, about = self.statement.predicate, ", ".join(self.statement.digests)
        return f"{self.path.name} ({predicate.get('result')} at level {predicate.get('level')}, about {about})"


def verdict_file(path: Path, digest: str) -> Path | None:
    """Return the file of a verdict: `path` itself, or the best passed verdict about an image in the folder `path`.

    The folder is a bundle or its folder of verdicts. None: no file there shows that the image passed.

    Raises:
        UsageError: a file of the folder cannot be read.
    """
    if not path.is_dir():
        return path
    ranked = sorted(_verdicts_in(path), key=lambda found: found.rank(digest))
    return ranked[-1].path if ranked and ranked[-1].rank(digest) >= 0 else None


def no_verdict(path: Path, digest: str) -> UsageError:
    """Return the error for a folder in which no file shows that an image passed."""
    there = ", ".join(found.words for found in _verdicts_in(path)) or "no verdict"
    return UsageError(
        f"no verdict in the folder shows that {digest} passed; it has: {there}",
        where=str(path),
        hint="run `jbuild smoke --bundle FOLDER` on the other machine, and bring its folder `verdict` back",
    )


def _verdicts_in(path: Path) -> list[_CarriedVerdict]:
    inside = path / VERDICT_FOLDER
    folder = inside if inside.is_dir() else path
    return [_CarriedVerdict(path=file, statement=_statement(file)) for file in sorted(folder.glob("verdict-*.json"))]


def _statement(path: Path) -> Statement | None:
    try:
        payload, _ = statements.opened(path.read_bytes(), str(path))
        statement = statements.parse(payload, str(path))
    except IntegrityError:
        return None
    except OSError as error:
        hint = "check its owner"
        raise UsageError(f"cannot read the verdict: {error.strerror}", where=str(path), hint=hint) from error
    return statement if statement.predicate_type == statements.VERDICT else None


def verdict_of(statement: Statement, path: Path) -> Verdict | None:
    """Return the record of a verdict from its statement in a file; None if another program wrote it."""
    known = {name: value for name, value in statement.predicate.items() if name in _FIELDS}
    try:
        verdict: Verdict = records.from_json({**known, "log": str(path)}, Verdict)
    except (ValueError, KeyError, TypeError):
        return None
    return verdict
