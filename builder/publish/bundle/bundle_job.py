"""The cell of a bundle, from the project in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import IntegrityError
from builder.host.paths import shipped
from builder.recipe.find import recipe_paths
from builder.recipe.load import load
from builder.recipe.matrix import expand, job_of

if TYPE_CHECKING:
    from builder.model.locks import Job
    from builder.publish.bundle.opened import OpenBundle


def job_of_bundle(bundle: OpenBundle) -> Job:
    """Return the cell of a bundle.

    Raises:
        IntegrityError: the bundle's project has no such cell.
        DocumentError: the recipe has mistakes.
    """
    recipe_name, cell_id = bundle.bundle.recipe, bundle.bundle.cell
    path = recipe_paths([bundle.project / "recipes"]).get(recipe_name)
    recipe = load(path, (bundle.project / "dockerfiles", shipped("dockerfiles"))) if path else None
    cell = next((cell for cell in expand(recipe) if cell.id == cell_id), None) if recipe else None
    if recipe is None or cell is None:
        raise IntegrityError(
            f"the bundle's project has no cell {cell_id} of a recipe {recipe_name}",
            where=str(bundle.folder),
            hint="make the bundle again",
        )
    return job_of(recipe, cell)
