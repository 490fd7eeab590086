"""`jbuild tags`."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click

from builder import records
from builder.commands.common import as_json, cell_option, open_recipe, open_session, recipe_argument
from builder.commands.working import registry_option
from builder.errors import RegistryError
from builder.publish.overview import overview
from builder.publish.where import required_targets
from builder.resolve.jobs import job_of

if TYPE_CHECKING:
    from builder.publish.overview import TagState


@click.command("tags")
@recipe_argument
@cell_option
@registry_option
@as_json
def command(recipe: str, selectors: tuple[str, ...], registries: tuple[str, ...], as_json: bool) -> int:
    """Show where the tags of RECIPE are: digest, level and age in every registry, missing and stray ones."""
    session = open_session(as_json=as_json)
    found, cells = open_recipe(recipe, selectors, session.workspace)
    jobs = [job_of(found, cell) for cell in cells if not cell.impossible]
    targets = required_targets(found.spec.publish, registries, session.config, where=str(found.path))
    with session.console.task(f"reading the tags of {found.name}", unit="tags"):
        rows = overview(jobs, targets, session)
    table = session.console.table(("repository", "tag", "state", "level", "age", "image"), [_row(row) for row in rows])
    session.console.result({"recipe": found.name, "tags": records.plain(rows)}, table)
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
