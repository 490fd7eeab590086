"""`jbuild show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from builder import records
from builder.commands.common import as_json, cell_option, open_recipe, open_session, recipe_argument
from builder.errors import JbuildError
from builder.pipeline.order import STAGES, RunOptions
from builder.pipeline.runner import preview
from builder.recipe.placeholders import unmarked
from builder.resolve import lockfile
from builder.resolve.jobs import job_of
from builder.resolve.model import LEADING
from builder.resolve.unresolved import reasons

if TYPE_CHECKING:
    from builder.recipe.model import Cell, Recipe
    from builder.session import Session


@click.command("show")
@recipe_argument
@cell_option
@as_json
def command(recipe: str, selectors: tuple[str, ...], as_json: bool) -> None:
    """Show RECIPE: what each cell asks for, what it is locked to, and which stages are done."""
    session = open_session(as_json=as_json)
    found, cells = open_recipe(recipe, selectors, session.workspace)
    described = [_describe(found, cell, session) for cell in cells]
    heading = f"{found.name}: {found.description}\n{found.path}, for {found.architecture}"
    text = "\n\n".join([heading, *(_text(cell) for cell in described)])
    summary = {"recipe": found.name, "path": str(found.path), "description": found.description}
    session.console.result({**summary, "architecture": found.architecture, "cells": described}, text)


def _describe(recipe: Recipe, cell: Cell, session: Session) -> dict[str, Any]:
    shown: dict[str, Any] = {"cell": cell.id, "values": dict(cell.values), "impossible": cell.impossible}
    shown["note"] = cell.note
    shown["unresolved"] = reasons(recipe, (cell,), session.workspace, lambda: session.config).get(cell.id)
    if cell.impossible:
        return shown
    job = job_of(recipe, cell)
    shown |= {"platform": records.plain(job.platform), "spec": records.plain(job.spec), "lock": None, "stages": None}
    try:
        lock = lockfile.read(session.workspace.lock(recipe.name, cell.id), recipe=recipe.name, cell=cell.id)
        states = preview(job, session, RunOptions(until=STAGES[-1]))
        shown["stages"] = {each.stage: each.state for each in states}
        shown["failed"] = next((f"{each.stage}: {each.why}" for each in states if each.why), None)
    except JbuildError as error:
        return shown | {"error": error.as_json()}
    if lock:
        shown["lock"] = {
            "path": str(session.workspace.lock(recipe.name, cell.id)),
            "base": records.plain(lock.base),
            "advisories": records.plain(lock.advisories),
            "indexes": records.plain(lock.indexes),
            "rules": records.plain(lock.rules),
            "warnings": records.plain(lock.warnings),
            "torch_cuda": lock.torch_cuda,
            "packages": {wheel.name: wheel.version for wheel in lock.wheels},
            "models": [
                {"name": m.name, "revision": m.revision, "size": m.size, "stand_in": m.stand_in} for m in lock.models
            ],
        }
    return shown


def _text(cell: dict[str, Any]) -> str:
    if cell["impossible"]:
        return f"{cell['cell']}\n  impossible  {cell['impossible']}"
    platform, spec = cell["platform"], cell["spec"]
    lines = [
        cell["cell"],
        f"  platform    {platform['name']}: Python {platform['python']}, glibc {platform['glibc']}",
        *([f"  note        {cell['note']}"] if cell["note"] else []),
        f"  base        {spec['base'] or platform['base']}",
        f"  requires    {', '.join(spec['requires'])}",
        *([f"  constraints {', '.join(spec['constraints'])}"] if spec["constraints"] else []),
        *([f"  apt         {', '.join(spec['apt'])}"] if spec["apt"] else []),
        *(f"  model       {model['name']} from {model['source']}" for model in spec["models"]),
        *(f"  question    {_question(q)}" for q in spec["smoke"]["questions"]),
        f"  tags        {', '.join(map(_tag, spec['publish']['tags']))}",
        *(["  lock        not read, see the error"] if cell.get("error") else _lock_lines(cell["lock"])),
    ]
    if cell["unresolved"]:
        lines.append(f"  no wheels   {cell['unresolved']}")
    if cell.get("error"):
        lines.append(f"  error       {cell['error']['message']}")
    if cell["stages"]:
        words = {"unchanged": "done", "run": "to do", "failed": "failed"}
        lines.append("  stages      " + ", ".join(f"{stage} {words[state]}" for stage, state in cell["stages"].items()))
    if cell.get("failed"):
        lines.append(f"  failed      {cell['failed']}")
    return "\n".join(lines)


def _question(question: dict[str, Any]) -> str:
    asked = question["ask"] or question["prompt"] or question["chat"][-1]["content"]
    names = ("expect", "text", "tokens", "min_tokens", "schema")
    expected = [f"{name.replace('_', '-')} {question[name]}" for name in names if question[name]]
    times = f", {question['at_once']} at once" if question["at_once"] > 1 else ""
    return f"{asked} ({', '.join(expected)}{times})"


def _tag(rule: dict[str, Any]) -> str:
    conditions = [f"from level {rule['level']}"] if rule["level"] else []
    conditions += [name for name in ("moving", "immutable") if rule[name]]
    name = unmarked(rule["name"])
    return f"{name} ({', '.join(conditions)})" if conditions else name


def _lock_lines(lock: dict[str, Any] | None) -> list[str]:
    if not lock:
        return ["  lock        none yet"]
    packages = lock["packages"]
    leading = ", ".join(f"{name} {packages[name]}" for name in LEADING if name in packages)
    lines = [f"  lock        {lock['path']}", f"  wheels      {len(packages)}: {leading}, …"]
    lines += [f"  torch       a build for CUDA {lock['torch_cuda']}"] if lock["torch_cuda"] else []
    lines += [f"  applied     {r['rule']} ({r['why']})" for r in lock["rules"]]
    lines += [f"  warning     {w['symptom']} ({w['source']}); {w['hint']}" for w in lock["warnings"]]
    lines += [f"  index       {i['name']}: {i['url']}" for i in lock["indexes"]]
    lines += [f"  stand-in    index {i['name']}: {i['stand_in']}" for i in lock["indexes"] if i["stand_in"]]
    lines += [f"  advisory    {a['id']}: {', '.join(a['constrain'])} ({a['source']})" for a in lock["advisories"]]
    lines.append(f"  base digest {lock['base']['digest']}")
    if lock["base"].get("stand_in"):
        lines.append(f"  stand-in    {lock['base']['used']}: {lock['base']['stand_in']}")
    lines += [f"  stand-in    model {m['name']}: {m['stand_in']}" for m in lock["models"] if m["stand_in"]]
    return lines
