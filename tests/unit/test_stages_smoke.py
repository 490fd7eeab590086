"""The smoke stage keeps what it has found out, whatever the engine does afterwards."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from builder.stages import Made, Options, Work
from factories import DIGEST, make_job, make_lock

from builder import engine, records, stages
from builder.errors import EngineError
from builder.image.model import Image
from builder.recipe.model import SmokeSpec
from builder.registry.model import Descriptor
from builder.smoke import cell, load, runner
from builder.smoke.model import SmokeFailedError, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.session import Session

BLOB = Descriptor(media_type="application/vnd.oci.image.manifest.v1+json", digest=DIGEST, size=1)


class Engine:
    """Stands in for the engine and the runner: counts how often the image is asked, names it or does not."""

    architecture = "amd64"
    runtimes = ()

    def __init__(self) -> None:
        self.names_it = True
        self.passes = True
        self.asked = 0
        self.named = 0

    @contextmanager
    def loaded(self, *_: Any, **__: Any) -> Iterator[str]:
        yield DIGEST
        if not self.names_it:
            raise EngineError("the engine does not name the image")
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
    monkeypatch.setattr(engine, "find_engine", lambda _: found)
    monkeypatch.setattr(load, "loaded", found.loaded)
    monkeypatch.setattr(runner, "smoke", found.smoke)
    monkeypatch.setattr(cell, "_tidy", lambda _: None)
    return found


@pytest.fixture
def work(session: Session) -> Work:
    return new_work(session)


def new_work(session: Session, **options: Any) -> Work:
    image = Image(platform="linux/arm64", manifest=BLOB, config=BLOB, layers=(), labels=())
    made = Made(lock=make_lock(), image=image)
    return Work(job=make_job(), session=session, options=Options(**options), made=made)


def kept(work: Work) -> Verdict | None:
    return records.read(work.folder.record("smoke"), None, Verdict)


def test_an_image_that_could_not_be_named_is_not_asked_again(fake: Engine, work: Work) -> None:
    fake.names_it = False
    for _ in range(2):
        with pytest.raises(EngineError):
            stages.run("smoke", work)
    assert (fake.asked, kept(work)) == (1, None)
    fake.names_it = True
    assert stages.run("smoke", work)
    assert (fake.asked, fake.named) == (1, 1)
    assert kept(work) == work.made.verdict
    assert not stages.run("smoke", work)
    assert sorted(path.name for path in work.folder.path.iterdir()) == ["smoke-emulated.json", "smoke.json"]


def test_a_forced_run_asks_again(fake: Engine, session: Session) -> None:
    fake.names_it = False
    for count in (1, 2):
        with pytest.raises(EngineError):
            stages.run("smoke", new_work(session, again="smoke"))
        assert fake.asked == count


def test_what_passed_once_does_not_hide_a_later_failure(fake: Engine, session: Session) -> None:
    fake.names_it = False
    with pytest.raises(EngineError):
        stages.run("smoke", new_work(session))
    fake.passes = False
    with pytest.raises(SmokeFailedError):
        stages.run("smoke", new_work(session, again="smoke"))
    work = new_work(session)
    with pytest.raises(SmokeFailedError):
        stages.run("smoke", work)
    found = kept(work)
    assert found is not None
    assert not found.passed


def test_a_failure_with_the_same_inputs_is_remembered(fake: Engine, work: Work) -> None:
    assert stages.last_failure("smoke", work) is None
    fake.passes = False
    with pytest.raises(SmokeFailedError):
        stages.run("smoke", work)
    assert stages.last_failure("smoke", work) == "it does not answer"
    other = replace(work.job.spec, smoke=SmokeSpec(ready_within_s=1))
    assert stages.last_failure("smoke", replace(work, job=replace(work.job, spec=other))) is None
    assert stages.last_failure("build", work) is None
