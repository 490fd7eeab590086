"""The index pins of a cell: which packages come from which index, and why."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from builder.errors import RecipeError
from builder.host import records
from builder.host.index_rows import DEFAULT
from builder.host.paths import sha256_of_file
from builder.host.wording import suggest
from builder.jetson.packages import with_own
from builder.model.locks import LOCK_FORMAT
from builder.remote.index.listing import Index, IndexPin, IndexPins, addresses

if TYPE_CHECKING:
    from builder.host.config import Config
    from builder.host.index_rows import IndexRow
    from builder.model.locks import Job


PTXAS = "ptxas"


def index_pins_of(job: Job, config: Config) -> IndexPins:
    """Return the packages of a cell that come from one index only.

    The recipe's `from` comes first, then its `indexes`, or else the usual indexes of the platform.

    Raises:
        RecipeError: the recipe names an unknown index, or one without wheels for the cell's platform.
    """
    rows = with_own(config.indexes)
    # A package's exact name comes before a glob, in any order.
    named = sorted(job.spec.sources, key=lambda pair: bool(re.search(r"[*?]", pair[0])))
    indexes = [(package, name if name == DEFAULT else _row(name, rows, job).name) for package, name in named]
    ties = [IndexPin(packages=package, index=index, why="`from` of the recipe") for package, index in indexes]
    if job.spec.indexes is None:
        chosen, why = [row for row in rows if row.usual and row.serves(job.platform)], f"usual for {_platform(job)}"
    else:
        chosen, why = [_row(name, rows, job) for name in job.spec.indexes], "`indexes` of the recipe"
    ties += [IndexPin(packages=packages, index=row.name, why=why) for row in chosen for packages in row.packages]
    names = {tie.index for tie in ties}
    return IndexPins(pins=tuple(ties), indexes=tuple(_index(row, config) for row in rows if row.name in names))


def asked_of(job: Job, config: Config) -> tuple[tuple[object, ...], tuple[tuple[str, str], ...]]:
    """Return what a lock is solved from besides platform and base: parts of the recipe, and packages with their index.

    Raises:
        RecipeError: the recipe names an index that is not known.
    """
    spec = job.spec
    asked = (spec.requires, spec.constraints, spec.replace, spec.ignored_advisories, spec.models, spec.released_before)
    return asked, tuple((tie.packages, tie.index) for tie in index_pins_of(job, config).pins)


def lock_inputs(job: Job, config: Config) -> str:
    """Return the fingerprint of everything that a lock is made from.

    Raises:
        RecipeError: the recipe names an index that is not known.
    """
    asked, ties = asked_of(job, config)
    # Without build tools and builds, the same inputs as ever.
    tools = (PTXAS,) if locks_tools(job) else ()
    builds = (job.spec.builds, patch_digests(job)) if job.spec.builds else ()
    return records.fingerprint(LOCK_FORMAT, asked, ties, job.platform, job.base, *tools, *builds)


def patch_digests(job: Job) -> list[tuple[str, str | None]]:
    """Return the patches of a cell's builds with their sha256, None for one that is missing."""
    builds = job.spec.builds.packages if job.spec.builds else ()
    paths = {patch: job.recipe.path.parent / patch for build in builds for patch in build.all_patches}
    return [(patch, sha256_of_file(path)) for patch, path in sorted(paths.items())]


def locks_tools(job: Job) -> bool:
    """Return whether the build of a cell compiles kernels, and so needs `ptxas`."""
    platform = job.platform
    return job.spec.image.compiles and bool(platform.sms) and platform.cuda is not None


def _row(name: str, rows: tuple[IndexRow, ...], job: Job) -> IndexRow:
    called = [row for row in rows if row.is_called(name)]
    location = f"{job.recipe.path}, cell {job.cell.id}"
    if not called:
        names = {DEFAULT, *(row.name for row in rows), *(row.family for row in rows if row.family)}
        hint = f"{suggest(name, names, noun='known')}; one of your own goes into [[indexes]] of jbuild.toml"
        raise RecipeError(f"there is no package index `{name}`", where=location, hint=hint)
    serving = [row for row in called if row.serves(job.platform)]
    if not serving:
        has = ", ".join(f"{row.name} (L4T {' '.join(row.l4t)}, CUDA {' '.join(row.cuda)})" for row in called)
        hint = f"it has {has}; leave it out for this cell with an override"
        raise RecipeError(f"the index `{name}` has nothing for {_platform(job)}", where=location, hint=hint)
    return serving[0]


def _platform(job: Job) -> str:
    platform = job.platform
    return f"L4T {platform.l4t} with CUDA {platform.cuda}" if platform.l4t else platform.name


def _index(row: IndexRow, config: Config) -> Index:
    return Index(
        name=row.name,
        addresses=addresses(row.url, config.index_mirrors),
        foreign_files=row.foreign_files,
        upload_times=row.upload_times,
    )
