"""`jbuild why`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from builder import records
from builder.commands.common import as_json, cell_option, open_recipe, open_session, recipe_argument
from builder.errors import LockError, RecipeError
from builder.resolve.jobs import job_of
from builder.workspace import check_cache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.recipe.model import Cell
    from builder.resolve.examine import Examined
    from builder.resolve.why import Reason, Why

_SHOWN = 6
_LINES = 14


@click.command("why")
@recipe_argument
@cell_option
@as_json
def command(recipe: str, selectors: tuple[str, ...], as_json: bool) -> int:
    """Explain RECIPE's cells: why one has no wheels and what near it has, or why each big package has its version."""
    from builder.resolve.why import why  # noqa: PLC0415  # the whole of resolution: help does without

    session = open_session(as_json=as_json)
    check_cache(session.workspace)
    found, cells = open_recipe(recipe, selectors, session.workspace)
    explained = [(cell, None if cell.impossible else why(job_of(found, cell), session)) for cell in cells]
    text = "\n\n".join(_text(cell, said) for cell, said in explained)
    described = [_plain(cell, said) for cell, said in explained]
    session.console.result({"recipe": found.name, "cells": described}, text)
    if all(cell.impossible for cell in cells):
        return RecipeError.exit_code
    return LockError.exit_code if any(said and not said.resolves for _, said in explained) else 0


def _plain(cell: Cell, said: Why | None) -> dict[str, Any]:
    return {"cell": cell.id, "impossible": cell.impossible, **(records.plain(said) if said else {})}


def _text(cell: Cell, said: Why | None) -> str:
    if said is None:
        return f"{cell.id}\n  impossible: {cell.impossible}"
    lines = _resolved(said) if said.resolves else _unresolved(said)
    return "\n".join([cell.id, *(f"  {line}" for line in lines)])


def _resolved(said: Why) -> Iterator[str]:
    for reason in said.reasons:
        yield from _reason(reason)
    if said.rules:
        yield "applied:"
        yield from (f"  {rule}" for rule in said.rules)


def _reason(reason: Reason) -> Iterator[str]:
    newest = "the newest there" if reason.newest in (None, reason.version) else f"the newest there is {reason.newest}"
    yield f"{reason.name} {reason.version} from {reason.index} ({newest})"
    for ask in sorted(reason.asks, key=lambda ask: ask not in reason.held_by)[:_SHOWN]:
        yield f"  {ask}" + ("  <- this keeps it from the newest" if ask in reason.held_by else "")
    if len(reason.asks) > _SHOWN:
        yield f"  and {len(reason.asks) - _SHOWN} more ask for it"
    if not reason.held_by and reason.newest not in (None, reason.version):
        yield "  nothing asks for less than the newest: the lock keeps it, or a newer one's own requirements do not fit"


def _unresolved(said: Why) -> Iterator[str]:
    yield f"does not resolve: {said.error}"
    yield from said.never_released
    for examined in said.examined:
        yield from _examined(examined)
    if said.explanation:
        yield "the solver's words:"
        yield from (f"  {line}" for line in said.explanation.strip().splitlines()[:_LINES])
    resolving = [near for near in said.neighbours if near.resolves]
    if resolving:
        yield "near it, these resolve:"
        yield from (f"  {near.differs}: {near.found}" for near in resolving)
    failing = [near for near in said.neighbours if not near.resolves]
    if failing:
        yield "near it, these do not either:" if resolving else "nothing near it resolves; tried:"
        for reason in dict.fromkeys(near.failed for near in failing):
            yield f"  {'; '.join(near.differs for near in failing if near.failed == reason)}: {reason}"


def _examined(examined: Examined) -> Iterator[str]:
    yield f"{examined.requirement}: asked {examined.index} ({examined.url})"
    if examined.said:
        yield f"  {examined.said}"
        return
    if examined.fitting:
        yield f"  has wheels for this cell: {_some(examined.fitting)}"
    reasons = Counter(unfit.why for unfit in examined.unfit)
    for why_, count in reasons.most_common(_SHOWN):
        name = next(unfit.filename for unfit in examined.unfit if unfit.why == why_)
        yield f"  {name}{f' and {count - 1} more' if count > 1 else ''}: {why_}"
    if not examined.fitting and not examined.unfit:
        yield "  has no wheel of such a version"
    if examined.others:
        yield f"  has wheels for this cell of other versions: {_some(examined.others)}"


def _some(versions: tuple[str, ...]) -> str:
    more = len(versions) - _SHOWN
    return ", ".join(versions[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
