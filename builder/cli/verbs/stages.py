"""`jbuild lock`, `render`, `build`, `smoke` and `push`: aliases of `jbuild recipe --until STAGE`."""

from __future__ import annotations

import re
from typing import Any

import click

from builder.cli.cell_selection import CellSelection, recipe_verb
from builder.cli.verb_options import (
    RUN_OPTIONS,
    builder_option,
    force_tags_option,
    push_registry_option,
    refuse_options,
)
from builder.cli.verbs.recipe import run
from builder.pipeline.order import RunOptions

_ALL = "*"
_PACKAGE = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_EARLIER = "Earlier stages run first if they are missing or out of date."


def _packages(_context: click.Context, _parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name != _ALL and not re.fullmatch(_PACKAGE, name):
            raise click.BadParameter(f"{name!r} is not the name of a package")
    return tuple(re.sub(r"[-_.]+", "-", name).lower() for name in names)


# Verb, which is its last stage; its help; its options besides those of all.
ALIASES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "lock": (
        """Lock the cells of RECIPE: exact wheels, the digest of the base image, and model files.

        Keeps locked versions that still fit, and shows each change with its reason.
        """,
        (
            click.option("--check", is_flag=True, help="Check that locks are current and served; change nothing."),
            click.option(
                "--upgrade",
                is_flag=False,
                flag_value=_ALL,
                multiple=True,
                metavar="[PACKAGE]",
                callback=_packages,
                help="Upgrade this package, or all packages. Can be repeated.",
            ),
        ),
    ),
    "render": (
        f"Write a Dockerfile and build contexts for `docker buildx build` for each cell of RECIPE. {_EARLIER}",
        (),
    ),
    "build": (
        f"Build the images of RECIPE's cells. {_EARLIER}",
        (
            click.option("--verify", is_flag=True, help="Build again without a cache, and compare the two images."),
            builder_option,
        ),
    ),
    "smoke": (
        f"Run the images of RECIPE's cells and test their answers. {_EARLIER}",
        (
            click.option("--record", is_flag=True, help="Record the answers; later runs compare theirs with them."),
            builder_option,
        ),
    ),
    "push": (
        f"Push tested images of RECIPE by digest, then put their tags. {_EARLIER}",
        (force_tags_option, push_registry_option, builder_option),
    ),
}


def _alias(stage: str, text: str, options: tuple[Any, ...]) -> click.Command:
    @recipe_verb(stage, *options, *RUN_OPTIONS, text=text)
    def verb(selection: CellSelection, force: bool, locked: bool, jobs: int, check: bool = False, **more: Any) -> int:
        if check:
            from builder.cli.verbs.check_locks import check_locks  # noqa: PLC0415  # needs the room of indexes

            refuse_options(("force", "locked", "jobs", "upgrade"), "has no effect with --check")
            return check_locks(selection)
        run_options = RunOptions(until=stage, again=stage if force else None, locked_only=locked, **more)
        return run(selection, run_options, parallel=jobs)

    return verb


COMMANDS = {stage: _alias(stage, text, options) for stage, (text, options) in ALIASES.items()}
