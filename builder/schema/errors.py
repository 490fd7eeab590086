"""The object that `--json` prints where a verb failed."""

from __future__ import annotations

from typing import Any, TypedDict


class Mistake(TypedDict):
    """One mistake in a document."""

    file: str
    line: int | None
    key: str
    message: str
    hint: str | None


class _Failure(TypedDict):
    error: str
    message: str
    where: str | None
    hint: str | None
    log: str | None
    exit_code: int


class Failure(_Failure, total=False):
    """Why a verb failed: `error` names the branch, `hint` the next step, `log` is the tail of what a program said.

    `problems` come with documents; `step` and `level` with a smoke run; `publication` with an incomplete push.
    """

    problems: list[Mistake]
    step: str | None
    level: str
    publication: Any
