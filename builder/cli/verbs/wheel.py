"""`jbuild wheel`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import parse_wheel_filename

from builder.cli.cell_selection import naming, select_cells, session_verb
from builder.cli.results import show
from builder.cli.verb_options import cell_option, complete_recipes, runner_option
from builder.errors import JbuildError
from builder.foundry.cell_builds import request_of
from builder.foundry.obtain_wheel import obtain_wheel, wheel_path
from builder.foundry.remote_sandbox import docker_environment, require_builder
from builder.host.files import disk_errors
from builder.host.paths import check_cache
from builder.host.session import Session
from builder.host.units import count_of, duration, gib, size_of
from builder.lock.single_build import index_with_wheel, single_build
from builder.lock.stage import lock_with_history
from builder.model.builds import BuildOptions

if TYPE_CHECKING:
    from builder.model.builds import BuiltWheel
    from builder.model.locks import Job


@dataclass(frozen=True, kw_only=True, slots=True)
class ObtainedWheel:
    """The wheel for a cell. `path` is its file; `origin` is `built`, `cache` or `registry:REPOSITORY`.

    `in_recipe` is whether the recipe builds the package, `unmet` are its requirements that the cell does not meet.
    `size` and `peak_memory` are in bytes, `units` are compiled files; null if the build is not known.
    """

    cell: str
    path: str
    version: str
    tags: tuple[str, ...]
    sha256: str
    size: int
    origin: str
    fingerprint: str
    in_recipe: bool
    unmet: tuple[str, ...]
    seconds: float | None
    peak_memory: int | None
    units: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelResult:
    """The wheels of a package for the cells of a recipe."""

    package: str
    recipe: str
    wheels: tuple[ObtainedWheel, ...]


def _exact(_context: click.Context, _parameter: click.Parameter, text: str) -> Requirement:
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise click.BadParameter(f"{text!r} is not a requirement such as flash-attn==2.8.3") from error
    operators = [specifier.operator for specifier in requirement.specifier]
    if operators != ["=="] or "*" in str(requirement.specifier) or requirement.url or requirement.marker:
        raise click.BadParameter(f"{text!r} does not name one version: write PACKAGE==VERSION")
    return requirement


@session_verb(
    "wheel",
    click.argument("package", metavar="PACKAGE==VERSION", callback=_exact),
    click.option(
        "--for", "recipe", required=True, metavar="RECIPE", shell_complete=complete_recipes, help="Recipe of the cells."
    ),
    cell_option,
    click.option(
        "--jobs", type=click.IntRange(1, 256), help="Files to compile in parallel. Default: as many as fit into memory."
    ),
    runner_option,
    click.option("--fresh", is_flag=True, help="Build again, whatever the cache, registries or an earlier build have."),
    click.option(
        "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder to copy the wheel to, too."
    ),
)
def command(
    session: Session,
    package: Requirement,
    recipe: str,
    selectors: tuple[str, ...],
    jobs: int | None,
    runner: str | None,
    fresh: bool,
    output: Path | None,
) -> None:
    """Build a wheel of a package from source for the cells of a recipe, also if the recipe does not build it.

    A wheel in the cache or in a registry of the recipe is taken from there. An interrupted build goes on.
    """
    check_cache(session.workspace)
    selection = select_cells(recipe, selectors, session)
    selection.show_impossible()
    if runner:
        # Before locks are made, and whether or not the cache has the wheel.
        require_builder(runner, docker_environment(session))
    options = BuildOptions(jobs=jobs, fresh=fresh, runner=runner)
    try:
        wheels = tuple(_obtained(package, job, session, options, output) for job in selection.jobs())
    except JbuildError as error:
        raise naming(error, selection.recipe.name)  # noqa: B904  # the same error
    result = WheelResult(package=str(package), recipe=selection.recipe.name, wheels=wheels)
    show(result, "\n\n".join("\n".join(_lines(wheel)) for wheel in wheels), session.console)


def _obtained(
    package: Requirement, job: Job, session: Session, options: BuildOptions, output: Path | None
) -> ObtainedWheel:
    with session.console.working_on(job.cell.id):
        lock = lock_with_history(job, session)
        single = single_build(package, job, lock, session)
        if index := index_with_wheel(package, job, session):
            session.console.say(f"{job.cell.id}: {index} has a wheel of {package} with fitting tags; this one is built")
        built = obtain_wheel(request_of(single.build, job, lock, options, session), session)
    path = _copied(built, output, session) if output else wheel_path(built, session)
    if single.unmet:
        session.console.warn(f"{job.cell.id}: the cell lacks what the wheel requires: {', '.join(single.unmet)}")
    return ObtainedWheel(
        cell=job.cell.id,
        path=str(path),
        version=built.wheel.version,
        tags=tuple(sorted(map(str, parse_wheel_filename(built.wheel.filename)[3]))),
        sha256=built.wheel.sha256,
        size=built.wheel.size or path.stat().st_size,
        origin=built.origin,
        fingerprint=built.fingerprint,
        in_recipe=single.in_recipe,
        unmet=single.unmet,
        seconds=built.seconds,
        peak_memory=built.peak_memory,
        units=built.units,
    )


def _copied(built: BuiltWheel, output: Path, session: Session) -> Path:
    path = output / built.wheel.filename
    with disk_errors(path):
        output.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(wheel_path(built, session), path)
    return path


def _lines(wheel: ObtainedWheel) -> Iterator[str]:
    yield f"{wheel.cell}: {wheel.path}"
    yield f"  version     {wheel.version}"
    yield f"  tags        {', '.join(wheel.tags)}"
    yield f"  sha256      {wheel.sha256} ({size_of(wheel.size)})"
    yield f"  origin      {_origin(wheel)}"
    if not wheel.in_recipe:
        yield "  recipe      does not build it: add a [[packages.build]] table and the requirement to install it"
    if wheel.unmet:
        yield f"  lacks       {', '.join(wheel.unmet)}"


def _origin(wheel: ObtainedWheel) -> str:
    costs: Sequence[str] = [
        *([duration(wheel.seconds)] if wheel.seconds is not None else ()),
        *([count_of(wheel.units, "compiled file")] if wheel.units else ()),
        *([f"{gib(wheel.peak_memory)} GiB of memory"] if wheel.peak_memory else ()),
    ]
    return f"{wheel.origin} ({', '.join(costs)})" if costs else wheel.origin
