"""`jbuild why`."""

from __future__ import annotations

from builder.cli.cell_selection import CellSelection, recipe_verb
from builder.cli.results import show
from builder.errors import LockError, RecipeError
from builder.host.paths import check_cache
from builder.recipe.job import job_of


@recipe_verb("why")
def command(selection: CellSelection) -> int:
    """Explain why a cell of RECIPE has no wheels and which similar cells have, or why its packages have their versions.

    Explains the large packages. Ends with exit code 4 if a cell does not resolve.
    """
    from builder.cli.views.why_view import ExplainedCell, UnexplainedCell, WhyResult, text  # noqa: PLC0415  # resolution
    from builder.lock.explanation import why  # noqa: PLC0415  # and this: help does without

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
