"""Publications for tests: images in a layout that are pushed, and cells whose images have proved themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from factories import make_job, make_spec
from proofs import LOCK, PLAN, labels, make_verdict
from servers import make_image

from builder.host import records
from builder.host.config import Config
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.lock import lockfile
from builder.model.recipes import PublishSpec, TagRule
from builder.publish.image_source import from_layout
from builder.publish.promotion import PromoteOptions, from_cell, promote
from builder.publish.push import PublishOptions, publish
from builder.remote.http import Retry

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.images import Image
    from builder.model.locks import Job
    from builder.model.publications import Publication


RULES = (TagRule(name="1-rc", level="emulated"), TagRule(name="1", level="gpu", immutable=True))
TAGS = ("0.15.1", "latest")
RETRY = Retry(first_wait_s=0.01, longest_wait_s=2.0)


def push(image: Image, layout: Path, *targets: str, **options: Any) -> Publication:
    rules = options.pop("rules", None) or tuple(TagRule(name=name) for name in options.pop("tags", TAGS))
    config, retry = options.pop("config", Config()), options.pop("retry", RETRY)
    wish = PublishOptions(**{"repository": "vllm", "tags": rules, "level": "cpu", **options})
    return publish(from_layout(image, layout), targets, wish, config=config, console=Console(quiet=True), retry=retry)


def all_on(image: Image) -> dict[str, str]:
    return dict.fromkeys(TAGS, image.digest)


def blob_bytes(image: Image) -> int:
    return image.size - image.manifest.size


def versioned(layout: Path, vllm: str, **more: str) -> Image:
    facts = {"vllm": vllm, "recipe": "r", "cell": "c", **more}
    return make_image(
        layout, sizes=(1000,), labels=tuple((f"io.jbuild.{name}", value) for name, value in facts.items())
    )


@pytest.fixture
def session(tmp_path: Path) -> Session:
    workspace = Workspace(project=tmp_path / "project", cache=tmp_path / "cache")
    return Session(workspace=workspace, config=Config(), console=Console(quiet=True))


@pytest.fixture
def layout(session: Session) -> Path:
    return session.workspace.images


@pytest.fixture
def image(layout: Path) -> Image:
    return make_image(layout, labels=labels())


def job() -> Job:
    return make_job(spec=make_spec(publish=PublishSpec(repository="vllm", tags=RULES)))


def built(session: Session, image: Image, level: Any = "emulated") -> Job:
    """Leave the records that a cell has once its image has proved itself."""
    folder = session.workspace.cell("demo", "one")
    for stage, record in (("build", image), ("render", PLAN), ("smoke", make_verdict(image, level))):
        records.write(folder.record(stage), "x", record)
    lockfile.write(session.workspace.lock("demo", "one"), LOCK)
    return job()


def asked(*targets: str, **more: Any) -> PromoteOptions:
    return PromoteOptions(targets=targets, retry=RETRY, **more)


def promoted(job: Job, session: Session, wish: PromoteOptions) -> Publication:
    return promote(from_cell(job, session, wish), wish, session)
