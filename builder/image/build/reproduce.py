"""Builds a cell a second time, from its locked files on and without any cache, and compares the two images."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from builder.errors import BuildError
from builder.host.engine.docker import find_engine
from builder.host.file_locks import scratch
from builder.host.files import disk_errors
from builder.host.paths import Workspace
from builder.image.build.cell_image import build_image
from builder.image.oci.layout_diff import first_difference
from builder.image.render.plan import render

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.session import Session
    from builder.image.oci.layout_diff import LayoutDifference
    from builder.model.images import Image
    from builder.pipeline.cell import CellRun


class NotReproducibleError(BuildError):
    """Two builds of one lock are not the same image."""


def verify(run: CellRun) -> str:
    """Unpack, compile, lay out and build again; return the digest that both builds have.

    Nothing is taken from the first but wheels, model files and interpreter archives, which their sha256 vouches for.

    Raises:
        NotReproducibleError: the images differ; it names the first layer and file that do.
        JbuildError: the second build failed.
    """
    engine = find_engine(run.session.workspace)
    with _temporary_session(run.session) as scratch:
        again = replace(run, session=scratch).with_records(render(run.job, run.lock, scratch))
        second = run.builders.build(
            run.job.cell.id, engine, lambda name: build_image(again, engine, builder=name, fresh=True)
        )
        difference = first_difference(run.image, run.session.workspace.images, second, scratch.workspace.images)
    if difference:
        raise _differs(run, second, difference)
    return second.digest


def _differs(run: CellRun, second: Image, difference: LayoutDifference) -> NotReproducibleError:
    hint = "this is a bug in jbuild; please report it with what is said above"
    if difference.layer.startswith("RUN"):
        hint = "let this step of your template give the same bytes each time"
    if "/run/jbuild/install.sh" in difference.layer:
        hint = "the package mirror may have moved between the builds: `jbuild system` pins this step's layer"
    return NotReproducibleError(
        f"{run.job.name}: two builds are not the same image ({run.image.digest} and {second.digest}); "
        f"they differ first in {difference.words}",
        where=difference.layer,
        hint=hint,
    )


@contextmanager
def _temporary_session(session: Session) -> Iterator[Session]:
    """Give a session with a project and a cache of its own, which sees what was fetched and the user's templates."""
    workspace = session.workspace
    with disk_errors(workspace.cache), scratch(workspace.cache) as folder:
        project, cache = folder / "project", folder / "cache"
        project.mkdir()
        cache.mkdir()
        for fetched in (workspace.wheels, workspace.models, workspace.interpreters):
            fetched.mkdir(exist_ok=True)
            (cache / fetched.name).symlink_to(fetched.resolve())
        for templates in workspace.template_folders[:-1]:
            (project / "dockerfiles").symlink_to(templates)
        locks = workspace.project / "locks"
        if locks.is_dir():
            (project / "locks").symlink_to(locks.resolve())
        yield replace(session, workspace=Workspace(project=project, cache=cache))
