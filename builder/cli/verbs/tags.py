"""`jbuild tags`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from builder.cli.cell_selection import CellSelection, recipe_verb
from builder.cli.results import show
from builder.cli.verb_options import lookup_registry_option
from builder.errors import RegistryError
from builder.publish.stage import required_targets
from builder.publish.tag_status import TagState, overview


@dataclass(frozen=True, kw_only=True, slots=True)
class TagsResult:
    """Where the tags of a recipe point to."""

    recipe: str
    tags: tuple[TagState, ...]


@recipe_verb("tags", lookup_registry_option)
def command(selection: CellSelection, registries: tuple[str, ...]) -> int:
    """Show which image each tag of RECIPE points to in every registry, and tags that are missing or left over."""
    session, recipe = selection.session, selection.recipe
    targets = required_targets(recipe.spec.publish, registries, session.config, location=str(recipe.path))
    with session.console.task(f"reading the tags of {recipe.name}", unit="tags"):
        rows = overview(selection.possible_jobs(), targets, session)
    table = session.console.table(("repository", "tag", "state", "level", "age", "image"), [_row(row) for row in rows])
    show(TagsResult(recipe=recipe.name, tags=tuple(rows)), table, session.console)
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
