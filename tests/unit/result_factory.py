"""Results of cells: of each stage a record with sensible values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from factories import DIGEST, make_lock, make_plan, make_run

from builder.model.images import Descriptor, Image
from builder.model.locks import Locked
from builder.model.publications import Publication, RegistryPublication, TagPut
from builder.model.verdicts import Answer, Verdict
from builder.pipeline.history import StageResult
from builder.pipeline.runner import CellResult

if TYPE_CHECKING:
    from builder.errors import JbuildError
    from builder.host.session import Session


IMAGE = Image(
    platform="linux/arm64",
    manifest=Descriptor(media_type="m", digest=DIGEST, size=1_000),
    config=Descriptor(media_type="c", digest=DIGEST, size=1_000),
    layers=(Descriptor(media_type="l", digest=DIGEST, size=500_000_000),),
    labels=(),
)
VERDICT = Verdict(
    level="emulated",
    digest=DIGEST,
    passed=True,
    when="2026-01-01T00:00:00Z",
    log=Path("smoke.log"),
    ready_s=93.4,
    answers=(Answer(question="Capital of France?", text=" The capital\nis Paris.\x1b[31m ", seconds=2.0, tokens=5),),
)


def publication(*tags: str) -> Publication:
    put = RegistryPublication(
        repository="localhost:5000/vllm",
        digest=DIGEST,
        tags=tuple(TagPut(name=tag, previous=None) for tag in tags),
        bytes_sent=1,
        bytes_mounted=2,
        bytes_there=3,
        seconds=4.0,
    )
    return Publication(digest=DIGEST, registries=(put,))


def result(
    session: Session, *, ran: bool = True, error: JbuildError | None = None, job: Any = None, **made: object
) -> CellResult:
    run = make_run(session, *filter(None, made.values()), job=job)
    return CellResult(
        run=run,
        stages=(StageResult(stage="lock", ran=ran, seconds=61.0),),
        error=error,
        failed_at="audit" if error else None,
    )


def everything(session: Session, **changes: Any) -> CellResult:
    plan = make_plan()
    made: dict[str, Any] = {
        "lock": Locked(lock=make_lock()),
        "plan": plan,
        "image": IMAGE,
        "verdict": VERDICT,
        "publication": publication("1.0-cpu"),
    }
    return result(session, **(made | changes))
