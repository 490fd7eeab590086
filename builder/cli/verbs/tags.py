"""`jbuild tags`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

import click

from builder.cli.options import cell_option, json_option, lookup_registry_option, recipe_argument
from builder.cli.results import show
from builder.cli.selection import open_recipe, open_session
from builder.errors import RegistryError
from builder.publish.overview import TagState, overview
from builder.publish.where import required_targets
from builder.resolve.jobs import job_of


@dataclass(frozen=True, kw_only=True, slots=True)
class TagsResult:
    """Where the tags of a recipe point to."""

    recipe: str
    tags: tuple[TagState, ...]


@click.command("tags")
@recipe_argument
@cell_option
@lookup_registry_option
@json_option
def command(recipe: str, selectors: tuple[str, ...], registries: tuple[str, ...], as_json: bool) -> int:
    """Show which image each tag of RECIPE points to in every registry, and tags that are missing or left over."""
    session = open_session(as_json=as_json)
    loaded, cells = open_recipe(recipe, selectors, session.workspace)
    jobs = [job_of(loaded, cell) for cell in cells if not cell.impossible]
    targets = required_targets(loaded.spec.publish, registries, session.config, where=str(loaded.path))
    with session.console.task(f"reading the tags of {loaded.name}", unit="tags"):
        rows = overview(jobs, targets, session)
    table = session.console.table(("repository", "tag", "state", "level", "age", "image"), [_row(row) for row in rows])
    show(TagsResult(recipe=loaded.name, tags=tuple(rows)), table, session.console)
    unknown = [row for row in rows if row.state == "unknown"]
    for row in unknown:
        session.console.warn(f"{row.repository}: {row.note}")
    return RegistryError.exit_code if unknown else 0


def _row(row: TagState) -> tuple[str, ...]:
    image = row.digest[:19] if row.digest else row.note or ""
    return (row.repository, row.tag or "-", row.state, row.level or "-", _age(row.proved), image)


def _age(proved: str | None) -> str:
    try:
        since = datetime.now(timezone.utc) - datetime.fromisoformat((proved or "").replace("Z", "+00:00"))
    except (ValueError, TypeError):
        return "-"
    hours = int(since.total_seconds() // 3600)
    return f"{hours // 24} days" if hours >= 48 else f"{hours} hours"  # noqa: PLR2004  # two days
