"""From a recipe's file to its record, or to all of its mistakes at once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from builder import tomldoc
from builder.jetson.boards import boards
from builder.recipe import patterns
from builder.recipe.axes import read_matrix
from builder.recipe.model import Architecture, Matrix, Recipe
from builder.recipe.sections import read_overrides, read_runners, read_spec
from builder.recipe.slots import Slots
from builder.recipe.verify import check_cells, check_texts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.tomldoc import Table

_ARCHITECTURES = ("amd64", "arm64")


def load(path: Path, templates: Sequence[Path] = ()) -> Recipe:
    """Read a recipe; `templates` are the folders in which its Dockerfile's template must lie, if that is to be seen.

    Raises:
        DocumentError: the file cannot be read, or has mistakes: all of them, with file, line, key and next step.
    """
    document = tomldoc.read(path)
    return tomldoc.collect(document, f"recipe {path.name} has mistakes", lambda root: _recipe(root, path, templates))


def _recipe(root: Table, path: Path, templates: Sequence[Path]) -> Recipe:
    name = path.stem
    if not re.fullmatch(patterns.RECIPE_NAME, name):
        root.problem(
            None, f"`{tomldoc.shown(name)}` is not a recipe name", "lower-case letters, digits, `.`, `_` and `-`"
        )
    description = root.string("description", pattern=patterns.TEXT, noun="a description on one line")
    before = len(root.document.problems)
    architecture = _architecture(root)
    if "matrix" not in root:
        root.problem("matrix", "a recipe needs a matrix", 'such as `[matrix]` with `vllm = ["0.15.1"]`')
    matrix = read_matrix(root.table("matrix")) if "matrix" in root else Matrix(axes=())
    # What is wrong with the cells is worth telling only when the axes themselves are right.
    sound = len(root.document.problems) == before
    slots = Slots()
    spec = read_spec(root, slots)
    if templates:
        _check_template(root, spec.template, templates)
    recipe = Recipe(
        name=name,
        path=path,
        description=description,
        architecture=architecture,
        matrix=matrix,
        spec=spec,
        overrides=read_overrides(root, matrix.known(), slots),
        boards=_boards(root),
        runners=read_runners(root, slots),
    )
    if "matrix" in root:
        check_texts(root.document, recipe, slots.found)
    if sound:
        check_cells(root.document, recipe, slots.found)
    return recipe


def _check_template(root: Table, name: str, folders: Sequence[Path]) -> None:
    if any((folder / name).is_file() for folder in folders):
        return
    known = [path.name for folder in folders for path in folder.glob("*.j2")]
    hint = f"{tomldoc.suggest(name, known, noun='templates')}; your own lie in `dockerfiles/`, beside `recipes/`"
    root.problem("template", f"there is no template `{tomldoc.shown(name)}`", hint)


def _boards(root: Table) -> tuple[str, ...]:
    found = root.strings("boards")
    known = [board.name for board in boards()] if found else []
    for index, name in enumerate(found):
        if name not in known:
            hint = tomldoc.suggest(name, known, noun="boards known")
            root.document.problem(("boards", index), f"there is no board `{tomldoc.shown(name)}`", hint)
    return found


def _architecture(root: Table) -> Architecture:
    found = root.string("architecture", "arm64")
    if found not in _ARCHITECTURES:
        hint = tomldoc.suggest(found, _ARCHITECTURES, noun="architectures")
        root.problem("architecture", f"unknown architecture `{tomldoc.shown(found)}`", hint)
    return cast("Architecture", found)
