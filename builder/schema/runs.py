"""Results of the verbs that work on cells: `recipe` and its stages, `lock --check`, `audit`, `system`, `models`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

from builder.audit.model import Finding, GpuVerdict, Severity
from builder.models.model import LockedModel
from builder.publish.model import Publication
from builder.report.outcome import Outcome
from builder.resolve.checking import Finding as LockFinding
from builder.resolve.model import LockChange
from builder.schema.convert import Beside
from builder.schema.errors import Failure
from builder.smoke.model import Verdict


class Stage(TypedDict):
    """One stage: whether it ran, and for how many seconds."""

    ran: bool
    seconds: float


class _Words(TypedDict):
    words: str


class Counts(TypedDict):
    """Findings of an audit that nobody waived, by severity, and those waived."""

    error: int
    warning: int
    info: int
    waived: int


class Made(TypedDict):
    """What became of a cell. `lock` and `plan` are paths, `size` is in bytes, compressed."""

    cell: str
    status: Literal["done", "unchanged", "failed"]
    error: Failure | None
    stages: dict[str, Stage]
    lock: str | None
    changes: list[Annotated[_Words, Beside(kind=LockChange)]]
    audit: Counts | None
    plan: str | None
    digest: str | None
    verified: str | None
    size: int | None
    verdict: Verdict | None
    publication: Publication | None


class Impossible(TypedDict):
    """A cell that is declared impossible."""

    cell: str
    status: Literal["impossible"]
    reason: str


class Run(TypedDict):
    """What became of the cells of a recipe."""

    recipe: str
    seconds: float
    cells: list[Made | Impossible]


class DryRun(TypedDict):
    """With --dry-run: `run`, `unchanged` or `failed` for every stage of every cell, and why those failed that did."""

    recipe: str
    dry_run: dict[str, dict[str, str]]
    failed: dict[str, str]


class CheckedLock(TypedDict):
    """A lock that was checked."""

    cell: str
    current: bool
    error: Failure | None
    findings: list[LockFinding]


class Check(TypedDict):
    """With `lock --check`: whether locks are current and their files are still served."""

    recipe: str
    cells: list[CheckedLock]


class _Audited(TypedDict):
    cell: str
    base: str
    findings: list[Finding]
    counts: Counts
    gpu: dict[str, dict[str, GpuVerdict]]
    warnings: list[str]
    assumed: str | None
    elapsed_s: float


class Audited(_Audited, total=False):
    """What the audit of one cell found; `files` and `injected` come with --files, `recipe` where one cell is shown."""

    recipe: str
    files: dict[str, str]
    injected: dict[str, list[str]]


class Explained(TypedDict):
    """With --explain: a rule, the gravest that its findings can be, and what it finds, in Markdown."""

    id: str
    severity: Severity
    title: str
    says: str


class NotAudited(TypedDict):
    """A cell of several that could not be audited."""

    cell: str
    error: Failure


class Audits(TypedDict):
    """What the audits of several cells found."""

    recipe: str
    cells: list[Audited | NotAudited]


class PinnedCell(TypedDict):
    """A cell's system layer; `made` just now or before."""

    cell: str
    image: str
    digest: str
    made: bool


class System(TypedDict):
    """System layers that are pinned, and the file that pins them."""

    recipe: str
    pins: str
    cells: list[PinnedCell]


class _Used(TypedDict):
    size: int
    cells: list[str]


class _Verified(_Used):
    missing: list[str]
    damaged: list[str]


class _Models(TypedDict):
    recipe: str
    models: list[Annotated[_Used, Beside(kind=LockedModel)]]


class Models(_Models, total=False):
    """Models that were locked (`path` is where) or fetched; sizes in bytes."""

    path: str


class VerifiedModels(TypedDict):
    """Models in the cache, compared with their locks."""

    recipe: str
    whole: bool
    models: list[Annotated[_Verified, Beside(kind=LockedModel)]]


class Summary(TypedDict):
    """What runs in several places made of a plan's cells."""

    cells: list[Outcome]


class Publications(TypedDict):
    """Where images were brought to."""

    publications: list[Publication]


RunResult = Run | DryRun
LockResult = Run | Check
AuditResult = Audited | Audits | Explained
ModelsResult = Models | VerifiedModels
Schema = dict[str, Any]
