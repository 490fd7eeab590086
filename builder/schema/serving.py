"""Results of the verbs that put images to work: `compose`, `run`, `pick`, `bench`; and of `report`."""

from __future__ import annotations

from typing import Annotated, TypedDict

from builder.schema.convert import Beside
from builder.serve.here import Followed, Started
from builder.serve.images import Chosen
from builder.serve.model import Service
from builder.serve.pick import Candidate, Host


class Compose(TypedDict):
    """A compose file: its text, and the service that it was rendered from. `file` is None where it was printed."""

    recipe: str
    cell: str
    image: Chosen
    board: str | None
    file: str | None
    key_file: str | None
    text: str
    service: Service


class _Nothing(TypedDict):
    pass


Running = Annotated[_Nothing, Beside(kind=Started)]


class Ended(TypedDict):
    """A server that ended while jbuild looked on; what was started stands beside."""

    recipe: str
    cell: str
    container: str
    image: str
    url: str
    ask: str
    docker: str


RunResult = Running | Annotated[Ended, Beside(kind=Followed)]


class Pick(TypedDict):
    """The image for a host, and every candidate, the best first; `image` is None where there is none."""

    recipe: str
    host: Host
    image: str | None
    candidates: list[Candidate]


class ReportCell(TypedDict):
    """How far a cell is."""

    cell: str
    state: str
    detail: str
    reason: str | None


class ReportRecipe(TypedDict):
    """A recipe of the page."""

    recipe: str
    mistakes: list[str]
    cells: list[ReportCell]


class Report(TypedDict):
    """A page that was written: its path, its bytes, and how many cells are in which state."""

    path: str
    size: int
    counts: dict[str, int]
    recipes: list[ReportRecipe]
