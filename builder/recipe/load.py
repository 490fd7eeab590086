"""Reads a recipe's file into its record, or reports all of its mistakes at once."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from builder.errors import DocumentError
from builder.host.toml import documents
from builder.host.toml.declarations import Field, TableDeclaration, choice, choices, nested, string, tables
from builder.host.wording import printable, suggest
from builder.jetson.boards import boards, machines
from builder.model import patterns
from builder.model.recipes import Architecture, Matrix, Recipe, Spec
from builder.recipe.axes import MATRIX
from builder.recipe.build_keys import check_builds
from builder.recipe.cross_checks import check_cells, check_texts
from builder.recipe.questions import SMOKE
from builder.recipe.sections import (
    AUDIT,
    BASE,
    IMAGE,
    MODEL,
    OVERRIDES,
    PACKAGES,
    PUBLISH,
    RUNNERS,
    SERVER,
    served_model,
)
from builder.recipe.slots import LABELS, Slots

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from builder.host.toml.declarations import Schema
    from builder.host.toml.tables import Table

# Fields of the recipe; the others are the spec's.
_RECIPE_FIELDS = ("description", "architecture", "boards", "matrix", "overrides", "runners")

_DESCRIPTION = string(patterns.TEXT, "a description on one line")
_ARCHITECTURE = choice(get_args(Architecture), "unknown architecture {}", "architectures")
_TEMPLATE = string(patterns.TEMPLATE, "a template's file name")
_BOARDS = choices(lambda: [board.name for board in (*boards(), *machines())], "there is no board {}", "boards known")
_NO_MATRIX = ("a recipe needs a matrix", 'such as `[matrix]` with `vllm = ["0.15.1"]`')
_NO_MODEL = ("a recipe needs a model: without one the image cannot answer", "add a [[models]] table")
_RECIPE = TableDeclaration[dict[str, Any]](
    dict,
    Field("description", _DESCRIPTION, "One line about the images of the recipe.", required=True),
    Field("architecture", _ARCHITECTURE, "Architecture of the images; default arm64."),
    Field("template", _TEMPLATE, "Dockerfile template: a file in dockerfiles/, of the project or of jbuild."),
    Field("boards", _BOARDS, "Boards whose memory the models must fit; default all boards of the platform."),
    Field("matrix", MATRIX, "Axes; a cell is a combination of one value of each.", required=_NO_MATRIX),
    *BASE,
    *PACKAGES,
    Field("image", nested(IMAGE), "What becomes of the wheels in the image."),
    Field("models", tables(MODEL), "Models in the image.", required=_NO_MODEL),
    Field("server", nested(SERVER), "The image's server: options of `vllm serve`."),
    Field("smoke", nested(SMOKE), "The smoke run: questions to the built image.", required=True),
    Field("publish", nested(PUBLISH), "Registries and tags of the images."),
    Field("ci", nested(RUNNERS), "CI runners for the cells.", argument="runners"),
    *AUDIT,
    Field("labels", LABELS, "Labels of the image."),
    Field("overrides", OVERRIDES, "Changes for the cells with these axis values."),
    tables={
        "base": "The base image and its packages.",
        "packages": "The Python packages of the image.",
        "audit": "The audit of the wheels.",
    },
    record=Spec,
)


def recipe_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of recipe files."""
    return _RECIPE.document_schema("jbuild recipe", "A recipe: images of vLLM with models, for a matrix of platforms.")


def load(path: Path, templates: Sequence[Path] = ()) -> Recipe:
    """Read a recipe; with folders `templates`, its Dockerfile template must be in one of them, and its patches exist.

    Raises:
        DocumentError: the file cannot be read, or has mistakes: all of them, with file, line, key and next step.
    """
    return documents.load(path, f"recipe {path.name} has mistakes", partial(_recipe, path=path, templates=templates))


def load_valid(paths: Iterable[Path]) -> Iterator[Recipe]:
    """Yield the recipes of some files, without those that have mistakes: `jbuild list` reports these."""
    for path in paths:
        with suppress(DocumentError):
            yield load(path)


def _recipe(root: Table, path: Path, templates: Sequence[Path]) -> Recipe:
    name = path.stem
    if not re.fullmatch(patterns.RECIPE_NAME, name):
        hint = "lower-case letters, digits, `.`, `_` and `-`"
        root.problem(None, f"`{printable(name)}` is not a recipe name", hint)
    slots = Slots()
    values: dict[str, Any] = {"matrix": Matrix(axes=()), "architecture": "arm64"} | _RECIPE.read(root, slots)
    fields = {field: values.pop(field) for field in _RECIPE_FIELDS if field in values}
    spec = Spec(**values)
    server = replace(spec.server, model=served_model(root.document, spec.server.model, spec.models))
    recipe = Recipe(name=name, path=path, **fields, spec=replace(spec, server=server))
    if templates:
        _check_template(root, recipe.spec.template, templates)
    check_builds(root.document, recipe, files=bool(templates))
    # Cells are checked only if the axes are right.
    right = not any(re.match(r"(matrix|architecture)\b", problem.key) for problem in root.document.problems)
    if "matrix" in root:
        check_texts(root.document, recipe, slots.collected)
    if right:
        check_cells(root.document, recipe, slots.collected)
    return recipe


def _check_template(root: Table, name: str, folders: Sequence[Path]) -> None:
    if any((folder / name).is_file() for folder in folders):
        return
    templates = [path.name for folder in folders for path in folder.glob("*.j2")]
    hint = f"{suggest(name, templates, noun='templates')}; yours belong in `dockerfiles/`, beside `recipes/`"
    root.problem("template", f"there is no template `{printable(name)}`", hint)
