"""Results of the verbs that look at recipes: `init`, `list`, `show`, `matrix`, `why`, `fit`."""

from __future__ import annotations

from typing import Annotated, TypedDict

from builder.ci.model import CiPlan
from builder.fit.model import CellFit
from builder.jetson.model import Platform
from builder.recipe.model import Spec
from builder.resolve.model import LockedAdvisory, LockedBase, LockedIndex, LockedRule, LockedWarning
from builder.resolve.why import Why
from builder.schema.convert import Beside
from builder.schema.errors import Failure


class Init(TypedDict):
    """A recipe that was written, and the one that it is after."""

    recipe: str
    path: str
    like: str | None
    axes: dict[str, str]


class _Listed(TypedDict):
    name: str
    path: str
    description: str


class Listed(_Listed, total=False):
    """One recipe: how many cells it has, or, in `error`, its mistakes."""

    error: str
    cells: int
    impossible: int
    unresolved: int


class Recipes(TypedDict):
    """The recipes of a project and those that ship with jbuild."""

    recipes: list[Listed]


class _MatrixCell(TypedDict):
    id: str
    values: dict[str, str]
    impossible: str | None
    unresolved: str | None
    note: str | None


class MatrixCell(_MatrixCell, total=False):
    """One cell; `changed` names, with --changed-since, the inputs that did (`new`: the file does not have the cell)."""

    changed: list[str]


class Matrix(TypedDict):
    """The cells of a recipe."""

    recipe: str
    axes: list[str]
    cells: list[MatrixCell]


class Inputs(TypedDict):
    """With --format inputs: fingerprints by recipe, cell and input."""

    recipes: dict[str, dict[str, dict[str, str]]]


class ShownModel(TypedDict):
    """A locked model."""

    name: str
    revision: str | None
    size: int
    stand_in: str | None


class ShownLock(TypedDict):
    """What a cell is locked to; `packages` are versions by name."""

    path: str
    base: LockedBase
    advisories: list[LockedAdvisory]
    indexes: list[LockedIndex]
    rules: list[LockedRule]
    warnings: list[LockedWarning]
    torch_cuda: str | None
    packages: dict[str, str]
    models: list[ShownModel]


class _ShownCell(TypedDict):
    cell: str
    values: dict[str, str]
    impossible: str | None
    note: str | None
    unresolved: str | None


class ShownCell(_ShownCell, total=False):
    """One cell; an impossible one has no more than its reason. `stages` are `run`, `unchanged` or `failed`.

    `failed` names the stage that failed with the same inputs, and why.
    """

    platform: Platform
    spec: Spec
    lock: ShownLock | None
    stages: dict[str, str] | None
    failed: str | None
    error: Failure


class Show(TypedDict):
    """A recipe, cell by cell."""

    recipe: str
    path: str
    description: str
    architecture: str
    cells: list[ShownCell]


class WhyNot(TypedDict):
    """A cell that is declared impossible."""

    cell: str
    impossible: str


class _Explained(TypedDict):
    cell: str
    impossible: None


class WhyCells(TypedDict):
    """Why cells have no wheels, or why packages have their versions."""

    recipe: str
    cells: list[WhyNot | Annotated[_Explained, Beside(kind=Why)]]


class _Fits(TypedDict):
    fits_somewhere: bool


class Fit(TypedDict):
    """What memory models need; sizes in bytes."""

    recipe: str
    cells: list[Annotated[_Fits, Beside(kind=CellFit)]]


MatrixResult = Matrix | CiPlan | Inputs
