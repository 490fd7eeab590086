"""`jbuild why`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from builder.cli.cell_selection import CellSelection, recipe_verb
from builder.cli.results import first_of, show
from builder.errors import LockError, RecipeError
from builder.host import records
from builder.host.paths import check_cache
from builder.lock.explanation import Reason, Why, why
from builder.lock.inspect_index import IndexContents
from builder.recipe.matrix import job_of

_MOST = 6
_LINES = 14


@dataclass(frozen=True, kw_only=True, slots=True)
class UnexplainedCell:
    """A cell that is declared impossible."""

    cell: str
    impossible: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainedCell:
    """A cell and its explanation."""

    cell: str
    impossible: None = None
    why: Why = field(metadata=records.FLAT)


AnyCell = UnexplainedCell | ExplainedCell


@dataclass(frozen=True, kw_only=True, slots=True)
class WhyResult:
    """Why cells have no wheels, or why packages have their versions."""

    recipe: str
    cells: tuple[AnyCell, ...]


def text(cell: AnyCell) -> str:
    """Return the explanation of a cell as text."""
    if isinstance(cell, UnexplainedCell):
        return f"{cell.cell}\n  impossible: {cell.impossible}"
    lines = _resolved(cell.why) if cell.why.resolves else _unresolved(cell.why)
    return "\n".join([cell.cell, *(f"  {line}" for line in lines)])


def _resolved(why: Why) -> Iterator[str]:
    for reason in why.reasons:
        yield from _reason(reason)
    if why.rules:
        yield "applied:"
        yield from (f"  {rule}" for rule in why.rules)


def _reason(reason: Reason) -> Iterator[str]:
    newest = "the newest" if reason.newest in (None, reason.version) else f"the newest is {reason.newest}"
    source = f"built from {reason.built}" if reason.built else f"from {reason.index} ({newest})"
    yield f"{reason.name} {reason.version} {source}"
    for requirement in sorted(reason.asks, key=lambda text: text not in reason.held_by)[:_MOST]:
        yield f"  {requirement}" + ("  <- this excludes the newest" if requirement in reason.held_by else "")
    if len(reason.asks) > _MOST:
        yield f"  and {len(reason.asks) - _MOST} more requirements"
    if not reason.built and not reason.held_by and reason.newest not in (None, reason.version):
        yield "  no requirement excludes the newest: the lock keeps this version, or newer ones have unmet requirements"


def _unresolved(why: Why) -> Iterator[str]:
    yield f"does not resolve: {why.error}"
    yield from why.never_released
    for examined in why.examined:
        yield from _examined(examined)
    if why.explanation:
        yield "the solver says:"
        yield from (f"  {line}" for line in why.explanation.strip().splitlines()[:_LINES])
    resolving = [cell for cell in why.neighbours if cell.resolves]
    if resolving:
        yield "similar cells that resolve:"
        yield from (f"  {cell.differs}: {cell.found}" for cell in resolving)
    failing = [cell for cell in why.neighbours if not cell.resolves]
    if failing:
        yield "similar cells that do not resolve:" if resolving else "no similar cell resolves; tried:"
        for reason in dict.fromkeys(cell.failed for cell in failing):
            yield f"  {'; '.join(cell.differs for cell in failing if cell.failed == reason)}: {reason}"


def _examined(examined: IndexContents) -> Iterator[str]:
    yield f"{examined.requirement}: asked {examined.index} ({examined.url})"
    if examined.said:
        yield f"  {examined.said}"
        return
    if examined.fitting:
        yield f"  has wheels for this cell: {first_of(examined.fitting, _MOST)}"
    reasons = Counter(unfit.why for unfit in examined.unfit)
    for reason, count in reasons.most_common(_MOST):
        name = next(unfit.filename for unfit in examined.unfit if unfit.why == reason)
        yield f"  {name}{f' and {count - 1} more' if count > 1 else ''}: {reason}"
    if not examined.fitting and not examined.unfit:
        yield "  has no wheels of such versions"
    if examined.others:
        yield f"  has wheels of other versions for this cell: {first_of(examined.others, _MOST)}"


@recipe_verb("why")
def command(selection: CellSelection) -> int:
    """Explain why a cell of RECIPE has no wheels and which similar cells have, or why its packages have their versions.

    Explains the large packages. Exits with code 4 if a cell does not resolve.
    """
    session, recipe = selection.session, selection.recipe
    check_cache(session.workspace)
    explained = tuple(
        UnexplainedCell(cell=cell.id, impossible=cell.impossible)
        if cell.impossible
        else ExplainedCell(cell=cell.id, why=why(job_of(recipe, cell), session))
        for cell in selection.cells
    )
    show(WhyResult(recipe=recipe.name, cells=explained), "\n\n".join(map(text, explained)), session.console)
    explanations = [cell.why for cell in explained if isinstance(cell, ExplainedCell)]
    if not explanations:
        return RecipeError.exit_code
    return 0 if all(explanation.resolves for explanation in explanations) else LockError.exit_code
