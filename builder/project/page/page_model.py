"""The data of the page: times in seconds, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from builder.model.audits import Finding
    from builder.model.locks import Lock
    from builder.model.recipes import Pairs
    from builder.model.verdicts import Verdict
    from builder.pipeline.history import Failure, HistoryRun
    from builder.project.diff.difference import Difference

# The progress of a cell; `stale`: the image was built from an older lock.
State = Literal[
    "impossible", "no wheels", "not begun", "locked", "audited", "planned", "built", "smoked", "published", "stale",
    "failed",
]  # fmt: skip
StepState = Literal["done", "failed", "stale", "to do"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageView:
    """One stage of a cell; `seconds` is the time of its last run, if the history has it."""

    name: str
    state: StepState
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerBar:
    """A layer in a chart; `part` is its share of the largest one, in percent."""

    name: str
    size: int
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One figure over past runs, oldest first, as columns of these heights in percent of the highest."""

    title: str
    heights: tuple[int, ...]
    last: str
    range: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditView:
    """An audit: its findings, the gravest first, the number of further ones, and the GPU code by SM."""

    findings: tuple[Finding, ...]
    more: int
    tally: str
    gpu: tuple[str, ...]
    assumed: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageView:
    """A built image."""

    digest: str
    size: int
    layers: tuple[LayerBar, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CellView:
    """One cell. `detail` is the second line of its box in the map; `command` is the next command."""

    recipe: str
    id: str
    values: Pairs
    state: State
    detail: str = ""
    reason: str | None = None
    note: str | None = None
    command: str | None = None
    failure: Failure | None = None
    steps: tuple[StageView, ...] = ()
    lock: Lock | None = None
    audit: AuditView | None = None
    image: ImageView | None = None
    verdict: Verdict | None = None
    tags: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    difference: Difference | None = None
    same_as_published: bool = False
    runs: tuple[HistoryRun, ...] = ()
    charts: tuple[Chart, ...] = ()
    stand_ins: tuple[str, ...] = ()

    @property
    def anchor(self) -> str:
        """The anchor of the cell on the page."""
        return f"{self.recipe}.{self.id}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of the map: its values on the row axes, and a cell or None for each column."""

    head: tuple[str, ...]
    cells: tuple[CellView | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A matrix in two dimensions; `fixed` are axes with one value."""

    column_axis: str
    columns: tuple[str, ...]
    row_axes: tuple[str, ...]
    rows: tuple[Row, ...]
    fixed: Pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeView:
    """One recipe; one with `mistakes` has no cells."""

    name: str
    description: str = ""
    architecture: str = ""
    grid: Grid | None = None
    cells: tuple[CellView, ...] = ()
    mistakes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportPage:
    """The whole page: the project's name, when it was made (UTC, ISO 8601), and how many cells are in each state."""

    project: str
    made: str
    version: str
    recipes: tuple[RecipeView, ...]
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def troubled(self) -> tuple[CellView, ...]:
        """The cells that need attention first."""
        cells = (cell for recipe in self.recipes for cell in recipe.cells)
        return tuple(cell for cell in cells if cell.state in {"failed", "no wheels"})
