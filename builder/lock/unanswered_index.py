"""Explains a cell whose index does not answer: what comes from this index only, and what exists elsewhere."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import InvalidSdistFilename, canonicalize_name, parse_sdist_filename

from builder.errors import JbuildError
from builder.jetson.packages import never_released
from builder.lock.alternatives import nearest_versions
from builder.lock.situation import pinned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.lock.inspect_index import IndexInspector
    from builder.remote.index.index_client import IndexUnreachableError

_NEAREST = 2


def explained(error: IndexUnreachableError, inspector: IndexInspector) -> IndexUnreachableError:
    """Return the error of an index with what a cell takes from this index, and with what to do."""
    result = copy.copy(error)
    result.log = "\n".join(filter(None, (error.log, *_lines(inspector))))
    recipe, cell = inspector.job.recipe.name, inspector.job.cell.id
    result.hint = (
        f"name a vault or a mirror with these files in [[index-mirrors]] of jbuild.toml; or, when the index answers "
        f"again, run `jbuild lock {recipe} --cell {cell}`, then `jbuild vault {recipe} --output FOLDER`, which keeps "
        "its files for good; cells that are locked already still build from the wheelhouse"
    )
    return result


def _lines(inspector: IndexInspector) -> Iterator[str]:
    requires = inspector.job.spec.requires
    pins = pinned(requires)
    yield from filter(None, (never_released(name, version) for name, version in pins.items()))
    indexes: dict[tuple[str, str], list[str]] = {}
    for pin in inspector.ties.pins:
        if inspector.ties.of(pin.packages) == pin:
            indexes.setdefault((pin.index, pin.why), []).append(pin.packages)
    for (index, why), packages in indexes.items():
        yield f"from the index {index} only ({why}): {', '.join(packages)}"
    platform = inspector.job.platform
    cuda = platform.cuda or ""
    # Public wheels of torch for aarch64 have CUDA code from CUDA 13 on.
    if platform.l4t and cuda.startswith(("11.", "12.")) and inspector.ties.of("torch"):
        yield f"public builds of torch have no code for CUDA {cuda} on this board, so nothing replaces the index's own"
    for text in requires:
        name = str(canonicalize_name(Requirement(text).name))
        if inspector.ties.of(name):
            yield from _sources(name, pins.get(name), inspector)


def _sources(name: str, pin: str | None, inspector: IndexInspector) -> Iterator[str]:
    """Yield which source archives of a package uv's default index has: the pinned version's, or the nearest ones."""
    versions = set[str]()
    # Without an answer of this index, nothing can be said about it.
    with suppress(JbuildError):
        page = inspector.default_page(name)
        for file in page.files if page else ():
            with suppress(InvalidSdistFilename):
                versions.add(str(parse_sdist_filename(file.filename)[1]))
    if not versions:
        return
    where = f"uv's default index has source archives of {name}"
    if pin is None:
        yield f"{where}, the newest is {nearest_versions('0', versions)[-1]}"
    elif pin in versions:
        yield f"{where}, {pin} among them"
    else:
        yield f"{where}, not of {pin}; the nearest are {' and '.join(nearest_versions(pin, versions)[:_NEAREST])}"
