"""Finding a recipe by its name or path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import UsageError
from builder.host.wording import printable, suggest

if TYPE_CHECKING:
    from collections.abc import Sequence


def recipe_paths(search: Sequence[Path]) -> dict[str, Path]:
    """Return all recipes in these folders by name, sorted; earlier folders take precedence."""
    paths: dict[str, Path] = {}
    for folder in search:
        for path in folder.glob("*.toml"):
            if not path.name.startswith("."):
                paths.setdefault(path.stem, path)
    return dict(sorted(paths.items()))


def find(name_or_path: str, search: Sequence[Path]) -> Path:
    """Return the path of a recipe: an existing `.toml` file, else a name in the search folders.

    Raises:
        UsageError: there is no such recipe.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" and _is_file(path):
        return path
    paths = recipe_paths(search)
    name = name_or_path.removesuffix(".toml")
    if name in paths:
        return paths[name]
    if "/" in name_or_path:
        raise UsageError(
            f"there is no recipe at `{printable(name_or_path)}`", hint="a recipe is a .toml file; see: jbuild list"
        )
    folders = ", ".join(map(str, search)) or None
    raise UsageError(
        f"there is no recipe `{printable(name)}`", where=folders, hint=suggest(name, paths, noun="recipes")
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or not a file name
        return False
