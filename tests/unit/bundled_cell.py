"""A cell whose image has been built, for tests that write its bundle."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from factories import make_job, make_lock, make_plan

from builder.host import records
from builder.host.records import as_bytes
from builder.image.oci.layout import put, put_image
from builder.lock import lockfile
from builder.model.verdicts import Verdict
from builder.pipeline.cell import CellRecords

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.images import Descriptor, Image
    from builder.model.locks import Job

LOCK = make_lock()
PLAN = make_plan(layers=("x", "y", "z"), system="FROM debian")
CREATED = "1980-01-01T00:00:00Z"
TESTED = "2026-01-02T03:04:05+00:00"
RECIPE = "description = 'A demonstration'\n"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def make_layers(session: Session, *sizes: int) -> tuple[Descriptor, ...]:
    """Put layers of random bytes into the cache."""
    return tuple(put(session.workspace.images, os.urandom(size), _LAYER) for size in sizes)


def make_cell(session: Session, layers: tuple[Descriptor, ...] = (), *, proven: bool = False, cell: str = "one") -> Job:
    """Leave the records and the files of a cell whose image has been built, from jbuild's own layers."""
    workspace = session.workspace
    lock = replace(LOCK, cell=cell)
    labels = {"io.jbuild.recipe": "demo", "io.jbuild.cell": cell, "io.jbuild.lock": lockfile.content(lock)}
    layers = layers or make_layers(session, 30_000, 2_000, 100)
    config = {
        "os": "linux",
        "architecture": "arm64",
        "created": CREATED,
        "config": {"Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    image = put_image(workspace.images, as_bytes(config), layers, "linux/arm64")
    folder = workspace.cell("demo", cell)
    records.write(folder.record("build"), "x", image)
    records.write(folder.record("render"), "x", PLAN)
    if proven:
        log = Path("/home/somebody/smoke.log")
        verdict = Verdict(level="cpu", digest=image.digest, passed=True, when=TESTED, log=log)
        records.write(folder.record("smoke"), "x", verdict)
    lockfile.write(workspace.lock("demo", cell), lock)
    recipe = workspace.project / "recipes" / "demo.toml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(RECIPE)
    workspace.golden(recipe).parent.mkdir(exist_ok=True)
    workspace.golden(recipe).write_text("golden = true\n")
    return make_job(path=recipe, cell=cell)


def image_of(session: Session, job: Job) -> Image:
    """Return the image of a cell."""
    image = CellRecords(session.workspace.cell("demo", job.cell.id)).image()
    assert image
    return image
