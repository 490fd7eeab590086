"""The smoke stage keeps what it has found out, whatever the engine does afterwards."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from factories import DIGEST, make_lock, make_run

from builder.errors import EngineError
from builder.host import records
from builder.model.images import Descriptor, Image
from builder.model.recipes import SmokeSpec
from builder.model.verdicts import SmokeFailedError, Verdict
from builder.pipeline.runner import bring_up_to_date
from builder.pipeline.stage import stage_of
from builder.smoke import stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.session import Session
    from builder.pipeline.cell import CellRun

BLOB = Descriptor(media_type="application/vnd.oci.image.manifest.v1+json", digest=DIGEST, size=1)


class Engine:
    """Stands in for the engine and the runner: counts how often the image is asked, names it or does not."""

    architecture = "amd64"
    runtimes = ()
    gpu = None

    def __init__(self) -> None:
        self.names_it = True
        self.passes = True
        self.asked = 0
        self.named = 0

    @contextmanager
    def loaded(self, *_: Any, **__: Any) -> Iterator[str]:
        yield DIGEST
        if not self.names_it:
            raise EngineError("the engine could not tag the image")
        self.named += 1

    def smoke(self, *_: Any, **__: Any) -> Verdict:
        self.asked += 1
        verdict = Verdict(
            level="emulated",
            digest=DIGEST,
            passed=self.passes,
            when="2026-11-24",
            log=Path("smoke.log"),
            failure=None if self.passes else "it does not answer",
        )
        if not self.passes:
            raise SmokeFailedError("it does not answer", verdict=verdict, where="", hint="", log="")
        return verdict


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Engine:
    found = Engine()
    monkeypatch.setattr(stage, "find_engine", lambda *_: found)
    monkeypatch.setattr(stage, "loaded", found.loaded)
    monkeypatch.setattr(stage, "smoke", found.smoke)
    return found


@pytest.fixture
def run(session: Session) -> CellRun:
    return new_run(session)


def new_run(session: Session, **options: Any) -> CellRun:
    image = Image(platform="linux/arm64", manifest=BLOB, config=BLOB, layers=(), labels=())
    return make_run(session, make_lock(), image, **options)


def smoke(run: CellRun) -> tuple[CellRun, bool]:
    return bring_up_to_date(stage_of("smoke"), run)


def kept(run: CellRun) -> Verdict | None:
    return records.read(run.folder.record("smoke"), None, Verdict)


def test_an_image_that_could_not_be_named_is_not_asked_again(fake: Engine, run: CellRun) -> None:
    fake.names_it = False
    for _ in range(2):
        with pytest.raises(EngineError):
            smoke(run)
    assert (fake.asked, kept(run)) == (1, None)
    fake.names_it = True
    done, ran = smoke(run)
    assert ran
    assert (fake.asked, fake.named) == (1, 1)
    assert kept(run) == done.find(Verdict)
    assert smoke(run) == (done, False)
    assert sorted(path.name for path in run.folder.path.iterdir()) == ["smoke-emulated.json", "smoke.json"]


def test_a_forced_run_asks_again(fake: Engine, session: Session) -> None:
    fake.names_it = False
    for count in (1, 2):
        with pytest.raises(EngineError):
            smoke(new_run(session, again="smoke"))
        assert fake.asked == count


def test_what_passed_once_does_not_hide_a_later_failure(fake: Engine, session: Session) -> None:
    fake.names_it = False
    with pytest.raises(EngineError):
        smoke(new_run(session))
    fake.passes = False
    with pytest.raises(SmokeFailedError):
        smoke(new_run(session, again="smoke"))
    run = new_run(session)
    with pytest.raises(SmokeFailedError):
        smoke(run)
    found = kept(run)
    assert found is not None
    assert not found.passed


def test_a_failure_with_the_same_inputs_is_remembered(fake: Engine, run: CellRun) -> None:
    assert stage_of("smoke").last_failure(run) is None
    fake.passes = False
    with pytest.raises(SmokeFailedError):
        smoke(run)
    assert stage_of("smoke").last_failure(run) == "it does not answer"
    other = replace(run.job.spec, smoke=SmokeSpec(ready_within_s=1))
    assert stage_of("smoke").last_failure(replace(run, job=replace(run.job, spec=other))) is None
    assert stage_of("build").last_failure(run) is None
