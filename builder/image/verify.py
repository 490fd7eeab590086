"""Builds a cell a second time, from its locked files on and without any cache, and compares the two images."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.errors import BuildError
from builder.image.build import build_image
from builder.image.compare import first_difference
from builder.image.plan import render
from builder.scratch import scratch
from builder.workspace import Workspace, disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.engine import Engine
    from builder.image.compare import Difference
    from builder.image.model import Image
    from builder.resolve.model import Job, Lock
    from builder.session import Session


class NotReproducibleError(BuildError):
    """Two builds of one lock are not the same image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """What a cell's build stage has made, and who builds: `run` gives the builder's name to what it is handed."""

    lock: Lock
    image: Image
    run: Callable[[Callable[[str | None], Image]], Image]


def verify(job: Job, built: Built, engine: Engine, session: Session) -> str:
    """Unpack, compile, lay out and build again; return the digest that both builds have.

    Nothing is taken from the first but wheels, model files and interpreter archives, which their sha256 vouches for.

    Raises:
        NotReproducibleError: the images differ; it names the first layer and file that do.
        JbuildError: the second build failed.
    """
    with _elsewhere(session) as scratch:
        plan = render(job, built.lock, scratch)
        second = built.run(lambda name: build_image(job, built.lock, plan, engine, scratch, builder=name, fresh=True))
        difference = first_difference(built.image, session.workspace.images, second, scratch.workspace.images)
    if difference:
        raise _differs(job, built, second, difference)
    return second.digest


def _differs(job: Job, built: Built, second: Image, difference: Difference) -> NotReproducibleError:
    hint = "this is a bug in jbuild; please report it with what is said above"
    if difference.layer.startswith("RUN"):
        hint = "let this step of your template give the same bytes each time"
    if "/run/jbuild/install.sh" in difference.layer:
        hint = "the package mirror may have moved between the builds: `jbuild system` pins this step's layer"
    return NotReproducibleError(
        f"{job.name}: two builds are not the same image ({built.image.digest} and {second.digest}); "
        f"they differ first in {difference.words}",
        where=difference.layer,
        hint=hint,
    )


@contextmanager
def _elsewhere(session: Session) -> Iterator[Session]:
    """Give a session with a project and a cache of its own, which sees what was fetched and the user's templates."""
    own = session.workspace
    with disk_errors(own.cache), scratch(own.cache) as folder:
        project, cache = folder / "project", folder / "cache"
        project.mkdir()
        cache.mkdir()
        for fetched in (own.wheels, own.models, own.interpreters):
            fetched.mkdir(exist_ok=True)
            (cache / fetched.name).symlink_to(fetched.resolve())
        for templates in own.template_folders[:-1]:
            (project / "dockerfiles").symlink_to(templates)
        locks = own.project / "locks"
        if locks.is_dir():
            (project / "locks").symlink_to(locks.resolve())
        yield replace(session, workspace=Workspace(project=project, cache=cache))
