"""Expands a recipe to its cells, and a cell to its spec."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache, reduce
from itertools import product
from typing import TYPE_CHECKING

from builder.errors import RecipeError
from builder.jetson.boards import board
from builder.jetson.packages import python_problem
from builder.jetson.platform import PLATFORM_AXES, ImpossibleError, platform_for
from builder.model.recipes import Cell, PackageBuilds, Pairs, TagRule
from builder.recipe import placeholders
from builder.recipe.select import matches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from builder.jetson.boards import Board
    from builder.model.locks import Job
    from builder.model.platforms import Platform
    from builder.model.recipes import Architecture, ImageSpec, Override, Recipe, Spec

JETSON_TAG = "{vllm}-r{l4t}-cu{cuda-nodots}-{release}"
GPU_TAG = "{vllm}-cu{cuda-nodots}-{release}"
CPU_TAG = "{vllm}-cpu-{release}"
_SM_TAG = "-sm{sm-nodots}"

_PREFIXES = {"vllm": "v", "python": "py", "cuda": "cu", "l4t": "r", "ubuntu": "u", "distribution": "", "sm": "sm"}
# Axes that decide whether a cell is possible.
_DECIDING = (*PLATFORM_AXES, "vllm")
_WITHOUT_DOTS = ("python", "cuda", "ubuntu", "sm")


def expand(recipe: Recipe) -> tuple[Cell, ...]:
    """Return all cells: the product of the axes in file order, then the included ones.

    Impossible cells stay, with their reason. The checks of `load` ensure that ids are unique and axis values known.
    """
    cells = [_cell(recipe, values, _excluded(recipe, values)) for values in _product(recipe)]
    cells += [_cell(recipe, values, None) for values in recipe.matrix.include]
    return tuple(cells)


def variant(recipe: Recipe, cell: Cell, axis: str, value: str) -> Cell:
    """Return the cell that differs from another in one value, whether or not the matrix has it."""
    values = tuple((name, value if name == axis else current) for name, current in cell.values)
    return _cell(recipe, values, _excluded(recipe, values))


def specify(recipe: Recipe, cell: Cell) -> Spec:
    """Return the spec of a cell: the recipe's spec with overrides applied and placeholders filled.

    Raises:
        RecipeError: the cell is declared impossible.
    """
    facts = placeholders.facts(cell, platform_of(recipe, cell))
    spec = recipe.spec
    for override in recipe.overrides:
        if matches(override.when, cell.values):
            spec = _merge(spec, override)
    if not spec.publish.tags:
        spec = replace(spec, publish=replace(spec.publish, tags=(TagRule(name=default_tag(cell, facts)),)))
    return _filled(spec, facts | placeholders.marks())


def default_tag(cell: Cell, facts: Mapping[str, str]) -> str:
    """Return the template of the tag of a cell with these facts whose recipe names none."""
    tag = JETSON_TAG if "l4t" in facts else GPU_TAG if "cuda" in facts else CPU_TAG
    return tag + _SM_TAG if cell.names_sms else tag


def platform_of(recipe: Recipe, cell: Cell) -> Platform:
    """Return the platform of a cell, with the recipe's base image if it names one.

    Raises:
        RecipeError: the cell is declared impossible.
    """
    if cell.impossible:
        raise RecipeError(
            f"this cell cannot be built: {cell.impossible}",
            where=f"{recipe.name} {cell.id}",
            hint=f"see the cells that can be built: jbuild matrix {recipe.name}",
        )
    platform = platform_for(cell.values, recipe.architecture)
    base = recipe.spec.base
    for override in recipe.overrides:
        if override.base and matches(override.when, cell.values):
            base = override.base
    if base is None:
        return platform
    return replace(platform, base=placeholders.fill(base, placeholders.facts(cell, platform)))


def image_of(recipe: Recipe, cell: Cell) -> ImageSpec:
    """Return what becomes of the wheels in the image of a cell."""
    rules = (override for override in recipe.overrides if matches(override.when, cell.values))
    return reduce(_merged_image, rules, recipe.spec.image)


def unused_boards(recipe: Recipe, cells: Iterable[Cell]) -> tuple[Board, ...]:
    """Return the boards that a recipe names and none of these cells, its possible ones, is for."""
    named = tuple(map(board, recipe.boards))
    platforms = {platform_of(recipe, cell) for cell in cells if not cell.impossible} if named else set()
    return tuple(row for row in named if platforms and all(map(row.mismatch, platforms)))


def runners_of(recipe: Recipe, cell: Cell) -> tuple[str | None, str | None]:
    """Return the labels of the CI runner that builds a cell and of the one for its smoke run, if the recipe has any."""
    facts = placeholders.facts(cell, platform_of(recipe, cell))
    build, smoke = (label and placeholders.fill(label, facts) for label in (recipe.runners.build, recipe.runners.smoke))
    return build, smoke


def job_of(recipe: Recipe, cell: Cell) -> Job:
    """Return a cell with its recipe, spec and platform.

    Raises:
        RecipeError: the cell is declared impossible.
    """
    from builder.model.locks import Job  # noqa: PLC0415  # slow to import; lists of cells do without

    return Job(recipe=recipe, cell=cell, spec=specify(recipe, cell), platform=platform_of(recipe, cell))


def cell_id(values: Iterable[tuple[str, str]]) -> str:
    """Return a cell's id: its axis values in short form, of letters, digits, `_` and `-`.

    PEP 751 does not allow a dot in the name of a lock, `pylock.<cell>.toml`.
    """
    return "-".join(_short(axis, value) for axis, value in values)


@lru_cache(maxsize=4096)
def _short(axis: str, value: str) -> str:
    if axis in _WITHOUT_DOTS:
        value = value.replace(".", "").replace("+", "-")
    elif axis == "distribution":
        value = re.sub(r"[.-]", "", value)
    return _PREFIXES.get(axis, axis) + re.sub(r"[^A-Za-z0-9_-]", "_", value)


def _product(recipe: Recipe) -> Iterator[Pairs]:
    axes = recipe.matrix.axes
    # One pair an axis value, not one a cell: ten thousand cells share them.
    return product(*([(axis.name, value) for value in axis.values] for axis in axes))


def _excluded(recipe: Recipe, values: Pairs) -> str | None:
    return next((rule.reason for rule in recipe.matrix.exclude if matches(rule.when, values)), None)


def _cell(recipe: Recipe, values: Pairs, excluded: str | None) -> Cell:
    axes = tuple(pair for pair in values if pair[0] in _DECIDING)
    reason, note = (excluded, None) if excluded else _feasibility(recipe.architecture, axes)
    return Cell(id=cell_id(values), recipe=recipe.name, values=values, impossible=reason, note=note)


@lru_cache(maxsize=4096)
def _feasibility(architecture: Architecture, axes: Pairs) -> tuple[str | None, str | None]:
    """Return the reason why no platform has these axis values, and a note on an unusual platform."""
    try:
        platform = platform_for(axes, architecture)
    except ImpossibleError as error:
        return error.reason, None
    vllm = dict(axes).get("vllm")
    reason = python_problem("vllm", vllm, platform.python) if vllm else None
    return reason, None if reason else platform.note


def _merge(spec: Spec, override: Override) -> Spec:
    server = replace(
        spec.server,
        arguments=spec.server.arguments + override.arguments,
        environment=_merged(spec.server.environment, override.environment),
    )
    return replace(
        spec,
        base=override.base or spec.base,
        apt=_distinct(spec.apt + override.apt),
        requires=_distinct(spec.requires + override.requires),
        constraints=_distinct(spec.constraints + override.constraints),
        replace=_distinct(spec.replace + override.replace),
        indexes=spec.indexes if override.indexes is None else override.indexes,
        # The first glob that matches applies, so the override's come first.
        sources=_merged(
            override.sources, tuple(pair for pair in spec.sources if pair[0] not in dict(override.sources))
        ),
        image=_merged_image(spec.image, override),
        builds=_merged_builds(spec.builds, override.builds),
        server=server,
    )


def _merged_image(image: ImageSpec, override: Override) -> ImageSpec:
    slim = image.slim if override.slim is None else override.slim
    return replace(image, slim=slim, precompile=override.precompile or image.precompile)


def _merged_builds(builds: PackageBuilds | None, more: PackageBuilds | None) -> PackageBuilds | None:
    if builds is None or more is None:
        return more or builds
    packages = {build.name: build for build in (*builds.packages, *more.packages)}
    return PackageBuilds(packages=tuple(packages.values()), missing=builds.missing or more.missing)


def _merged(first: Pairs, second: Pairs) -> Pairs:
    return tuple({**dict(first), **dict(second)}.items())


def _distinct(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _filled(spec: Spec, facts: Mapping[str, str]) -> Spec:
    def one(text: str) -> str:
        return placeholders.fill(text, facts)

    def maybe(text: str | None) -> str | None:
        return None if text is None else one(text)

    def many(texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(one(text) for text in texts)

    def pairs(items: Pairs) -> Pairs:
        return tuple((name, one(value)) for name, value in items)

    server, smoke, publish = spec.server, spec.smoke, spec.publish
    return replace(
        spec,
        builds=spec.builds and _filled_builds(spec.builds, one),
        base=maybe(spec.base),
        apt=many(spec.apt),
        requires=many(spec.requires),
        constraints=many(spec.constraints),
        replace=many(spec.replace),
        models=tuple(replace(model, source=one(model.source)) for model in spec.models),
        server=replace(
            server,
            served_name=maybe(server.served_name),
            arguments=many(server.arguments),
            environment=pairs(server.environment),
        ),
        smoke=replace(smoke, environment=pairs(smoke.environment)),
        publish=replace(
            publish,
            repository=one(publish.repository),
            tags=tuple(
                replace(rule, name=placeholders.fill(rule.name, placeholders.in_tag(facts))) for rule in publish.tags
            ),
        ),
        labels=pairs(spec.labels),
    )


def _filled_builds(builds: PackageBuilds, fill: Callable[[str], str]) -> PackageBuilds:
    packages = tuple(
        replace(
            build,
            environment=tuple((name, fill(value)) for name, value in build.environment),
            version=None if build.version is None else fill(build.version),
            requires=None if build.requires is None else tuple(map(fill, build.requires)),
            build_requires=tuple(map(fill, build.build_requires)),
        )
        for build in builds.packages
    )
    return replace(builds, packages=packages)
