"""`jbuild models lock`, `fetch` and `verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from builder import records
from builder.cache.use import in_use
from builder.commands.common import (
    as_json,
    cell_option,
    help_without_verb,
    open_recipe,
    open_session,
    recipe_argument,
)
from builder.errors import IntegrityError, ModelError, RecipeError
from builder.report.models import fetched, locked, verified
from builder.resolve.jobs import job_of
from builder.resolve.models import fetch_models, lock_models, used_models, verify_models
from builder.workspace import check_cache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.resolve.model import Job
    from builder.resolve.models import UsedModel
    from builder.session import Session


@click.group("models", epilog="Each of them has --json.", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Lock, fetch or verify the models of a recipe without its wheels; each once, whatever cells use it."""
    help_without_verb(context)


@command.command("lock")
@recipe_argument
@cell_option
@as_json
def lock(recipe: str, selectors: tuple[str, ...], as_json: bool) -> None:
    """Lock the models of RECIPE for all its cells: every file by sha256 and size, in locks/RECIPE/models.toml.

    `jbuild lock` takes them from there, so that all cells have the same revision until this is run again.
    """
    session = open_session(as_json=as_json)
    jobs = _jobs(recipe, selectors, session)
    with in_use(session.workspace):
        found = lock_models(jobs, _jobs(recipe, (), session), session)
    path = session.workspace.model_lock(jobs[0].recipe.name)
    _show(session, jobs, found, {"path": str(path)}, locked(found, path))


@command.command("fetch")
@recipe_argument
@cell_option
@as_json
def fetch(recipe: str, selectors: tuple[str, ...], as_json: bool) -> None:
    """Fetch the locked models of RECIPE into the cache: in parallel, resumed, verified, every file once."""
    session = open_session(as_json=as_json)
    jobs = _jobs(recipe, selectors, session)
    found = used_models(jobs, session)
    with in_use(session.workspace):
        fetch_models(found, jobs[0].recipe.path.parent, session)
    _show(session, jobs, found, {}, fetched(found, session.workspace.models))


@command.command("verify")
@recipe_argument
@cell_option
@as_json
def verify(recipe: str, selectors: tuple[str, ...], as_json: bool) -> int:
    """Read the locked models of RECIPE in the cache, byte by byte, and compare them with their locks.

    A damaged file is taken away. Ends with 6 if there was one, with 9 if one is missing.
    """
    session = open_session(as_json=as_json)
    jobs = _jobs(recipe, selectors, session)
    with in_use(session.workspace):
        found = verify_models(used_models(jobs, session), session)
    damaged, missing = any(each.damaged for each in found), any(each.missing for each in found)
    described = [
        {**_described(each.used), "missing": list(each.missing), "damaged": list(each.damaged)} for each in found
    ]
    result = {"recipe": jobs[0].recipe.name, "whole": not (damaged or missing), "models": described}
    session.console.result(result, verified(found, jobs[0].recipe.name))
    if damaged:
        return IntegrityError.exit_code
    return ModelError.exit_code if missing else 0


def _jobs(recipe: str, selectors: Sequence[str], session: Session) -> list[Job]:
    check_cache(session.workspace)
    found, cells = open_recipe(recipe, selectors, session.workspace)
    jobs = [job_of(found, cell) for cell in cells if not cell.impossible]
    if not jobs:
        hint = f"`jbuild matrix {found.name}` shows every cell, and why it cannot be built"
        raise RecipeError(f"none of the selected cells of {found.name} can be built", where=str(found.path), hint=hint)
    return jobs


def _show(session: Session, jobs: Sequence[Job], found: Sequence[UsedModel], more: dict[str, Any], text: str) -> None:
    described = [_described(each) for each in found]
    session.console.result({"recipe": jobs[0].recipe.name, **more, "models": described}, text)


def _described(used: UsedModel) -> dict[str, Any]:
    return {**records.plain(used.model), "size": used.model.size, "cells": list(used.cells)}
