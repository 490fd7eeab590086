"""Which image of a cell is run, and with what on this machine's engine; neither registry nor engine is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from engine_factory import make_engine
from factories import DIGEST, make_jetson, make_job, make_spec

from builder.device import image_choice, local_server
from builder.device.image_choice import ImageCandidate, SelectedImage, choose, image_of
from builder.device.local_server import service_here
from builder.device.service import Memory
from builder.errors import UsageError
from builder.host import records
from builder.host.config import Config
from builder.host.console import Console
from builder.host.session import Session
from builder.jetson.boards import board
from builder.model.images import Descriptor, Image
from builder.model.publications import Publication, RegistryPublication
from builder.model.recipes import PublishSpec, SmokeSpec
from builder.model.verdicts import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.paths import Workspace

OTHER = DIGEST.replace("0", "f")
HERE = make_engine(architecture="arm64", emulated=())
JOB = make_job()
CHOSEN = SelectedImage(reference="r/x@sha256:1", digest="sha256:1", where="registry")


@pytest.fixture
def session(workspace: Workspace) -> Session:
    return Session(workspace=workspace, config=Config(registries=("r.example/edge",)), console=Console(quiet=True))


def write(session: Session, stage: str, record: Any) -> None:
    records.write(session.workspace.cell("demo", "one").record(stage), "x", record)


def build(session: Session, digest: str = DIGEST, *, passed: bool = True) -> None:
    blob = Descriptor(media_type="x", digest=digest, size=1)
    write(session, "build", Image(platform="linux/arm64", manifest=blob, config=blob, layers=(), labels=()))
    log = session.workspace.project / "log"
    write(session, "smoke", Verdict(level="cpu", digest=digest, passed=passed, when="2026-01-02", log=log))


def publish(session: Session, digest: str = DIGEST) -> None:
    there = RegistryPublication(
        repository="r.example/edge/vllm",
        digest=digest,
        tags=(),
        bytes_sent=0,
        bytes_mounted=0,
        bytes_there=0,
        seconds=0,
    )
    write(session, "push", Publication(digest=digest, registries=(there,)))


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Who was asked; they have the image."""
    asked: list[tuple[str, ...]] = []

    def answer(_: Any, targets: tuple[str, ...], __: Any) -> SelectedImage:
        asked.append(targets)
        return SelectedImage(reference=f"there/vllm@{OTHER}", digest=OTHER, where="registry")

    monkeypatch.setattr(image_choice, "published_image", answer)
    return asked


def test_the_one_that_is_named_goes_before_all(session: Session) -> None:
    build(session)
    publish(session)
    assert image_of(JOB, session, "some/image:1") == SelectedImage(reference="some/image:1", digest=None, where="given")


def test_the_published_one_is_named_by_its_digest(session: Session, registry: list[tuple[str, ...]]) -> None:
    build(session)
    publish(session)
    found = image_of(JOB, session)
    assert found == SelectedImage(reference=f"r.example/edge/vllm@{DIGEST}", digest=DIGEST, where="registry")
    assert registry == []


def test_one_that_was_built_since_goes_before_the_published_one(session: Session) -> None:
    build(session, OTHER)
    publish(session)
    assert image_of(JOB, session) == SelectedImage(reference="jbuild/demo:one", digest=OTHER, where="engine")


def test_one_that_did_not_prove_itself_is_none(session: Session, registry: list[tuple[str, ...]]) -> None:
    build(session, passed=False)
    assert image_of(JOB, session).reference == f"there/vllm@{OTHER}"
    assert registry == [("r.example/edge",)]


def test_a_registry_that_is_named_is_asked_whatever_was_made_here(
    session: Session, registry: list[tuple[str, ...]]
) -> None:
    build(session)
    publish(session)
    assert image_of(JOB, session, None, ("mine.example",)).digest == OTHER
    assert registry == [("mine.example",)]


def test_the_recipes_registries_go_before_the_configured_ones(
    session: Session, registry: list[tuple[str, ...]]
) -> None:
    job = make_job(spec=make_spec(publish=PublishSpec(repository="vllm", registries=("own.example",))))
    image_of(job, session)
    assert registry == [("own.example",)]


def test_an_image_that_is_nowhere(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_choice, "published_image", lambda *_: None)
    with pytest.raises(UsageError, match=r"this machine has none, and none is in r\.example/edge") as caught:
        image_of(JOB, session)
    assert "jbuild recipe demo --cell one" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no registry is configured"):
        image_of(JOB, replace(session, config=Config()))


def candidate(cell: str, *out: str) -> ImageCandidate:
    facts: dict[str, Any] = dict.fromkeys(("tag", "level", "vllm", "l4t", "cuda"))
    image = None if out else "r/x@sha256:1"
    return ImageCandidate(cell=cell, image=image, digest="sha256:1", fit="fits", out=out, **facts)


def choose_of(session: Session, *cells: str) -> tuple[str, SelectedImage]:
    jobs = [replace(JOB, cell=replace(JOB.cell, id=cell)) for cell in cells]
    job, chosen = choose(jobs, session, board="orin-nx-16", given=None, registries=())
    return job.cell.id, chosen


def test_of_several_cells_the_best_one(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_choice, "pick", lambda *_: (candidate("two"), candidate("one", "no")))
    assert choose_of(session, "one", "two") == ("two", CHOSEN)


def test_of_several_cells_none(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        image_choice, "pick", lambda *_: (candidate("one", "too old", "x"), candidate("two", "too new"))
    )
    with pytest.raises(UsageError, match="no image for orin-nx-16: one: too old; two: too new") as caught:
        choose_of(session, "one", "two")
    assert "jbuild pick demo" in str(caught.value.hint)


@pytest.fixture
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setattr("builder.device.service.this_device", lambda: None)
    monkeypatch.setattr(local_server, "memory_of", lambda *_: Memory(fit=None, unknown="x"))


def test_a_key_of_the_environment_goes_along(
    session: Session, monkeypatch: pytest.MonkeyPatch, nothing_known: None, tmp_path: Path
) -> None:
    assert service_here(JOB, CHOSEN, session, HERE).environment == ()
    monkeypatch.setenv("VLLM_API_KEY", "s3cret")
    assert service_here(JOB, CHOSEN, session, HERE).environment == (("VLLM_API_KEY", "s3cret"),)
    by_file = service_here(JOB, CHOSEN, session, HERE, key_file=tmp_path / "key")
    assert by_file.environment == ()


def test_emulation_is_made_bearable_as_in_the_smoke_run(session: Session, nothing_known: None) -> None:
    smoke = SmokeSpec(environment=(("JBUILD_EXTRA_ARGS", "--max-num-seqs=4"),))
    service = service_here(make_job(spec=make_spec(smoke=smoke)), CHOSEN, session, make_engine(architecture="amd64"))
    assert dict(service.environment) == {"QEMU_CPU": "max,sve=off", "JBUILD_EXTRA_ARGS": "--max-num-seqs=4"}


def test_a_boards_memory_sets_what_vllm_may_take(
    session: Session, monkeypatch: pytest.MonkeyPatch, nothing_known: None
) -> None:
    settings = (("JBUILD_GPU_MEMORY_UTILIZATION", "0.47"),)
    monkeypatch.setattr(local_server, "memory_of", lambda *_: Memory(fit=None, unknown="x", environment=settings))
    job = make_job(platform=make_jetson())
    service = service_here(job, CHOSEN, session, HERE, board="orin-nano-8")
    assert service.environment == settings
    cpus = board("orin-nano-8").cpus
    assert cpus
    assert service.cpus == cpus - 1
