"""What the author of a new recipe should know of it before the first run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.host.config import Config
from builder.models.selection import CONFIG
from builder.recipe.find import recipe_paths
from builder.recipe.load import load
from builder.recipe.matrix import expand, specify
from builder.remote.hub.model_sources import FolderSource, locate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


_FEW = 3


def remarks(path: Path) -> Iterator[str]:
    """Yield what is to be done about a recipe that was just written, beside those that lie in its folder."""
    yield from _absent_models(path)
    own = _tags(path)
    others = {name: _tags(other) for name, other in recipe_paths([path.parent]).items() if name != path.stem}
    shared = {name: own & tags for name, tags in others.items() if own & tags}
    if shared:
        repository, tag = min(min(tags) for tags in shared.values())
        yield (
            f"the tag {repository}:{tag} is planned by {_names(sorted(shared))} too: "
            "give one another `publish.repository`, or `publish.tags`"
        )


def _names(names: Sequence[str]) -> str:
    if len(names) <= _FEW:
        return f"recipe{'s' if names[1:] else ''} {', '.join(names)}"
    return f"recipes {', '.join(names[:_FEW])} and {len(names) - _FEW} more"


def _absent_models(path: Path) -> Iterator[str]:
    for model in load(path).spec.models:
        place = locate(model.source, path.parent, Config())
        if isinstance(place, FolderSource) and not (place.path / CONFIG).is_file():
            what = f"has no {CONFIG}" if place.path.is_dir() else "is not there"
            yield f"the model's folder {place.path.resolve()} {what}: sources are relative to the recipe"


def _tags(path: Path) -> frozenset[tuple[str, str]]:
    """Return repository and tag of everything that a recipe publishes; nothing of one with mistakes."""
    try:
        recipe = load(path)
        published = [specify(recipe, cell).publish for cell in expand(recipe) if not cell.impossible]
    except JbuildError:
        return frozenset()
    return frozenset((each.repository, rule.name) for each in published for rule in each.tags)
