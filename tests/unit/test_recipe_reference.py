"""The recipes in docs/index.md and docs/recipes.md load, and the reference names every key that a recipe may have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from builder.host.toml.tables import Table
from builder.recipe.load import load
from builder.recipe.matrix import expand

CHECKOUT = Path(__file__).parents[2]
PAGES = [CHECKOUT / "docs" / f"{name}.md" for name in ("recipes", "smoke", "publishing", "ci", "audit")]


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> set[tuple[str, str]]:
    """Each key that was read with the reference, with its table."""
    keys: set[tuple[str, str]] = set()
    path, done = tmp_path / "reference.toml", Table.done

    def noted(table: Table, more: tuple[str, ...] = ()) -> None:
        # Tables of data are read on the way, too.
        if table.document.path == path:
            name = ".".join(str(key) for key in table.path if isinstance(key, str))
            keys.update((name, key) for key in {*table._keys, *more})
        done(table, more)

    monkeypatch.setattr(Table, "done", noted)
    reference = re.search(r"```toml\n(.*?)```", PAGES[0].read_text(), re.DOTALL)
    assert reference
    path.write_text(reference[1])
    assert load(path).overrides
    return keys


def test_every_key_that_is_read_is_told_of(accepted: set[tuple[str, str]]) -> None:
    assert len(accepted) > 60
    text = "\n".join(page.read_text() for page in PAGES)
    missing = {(table, key) for table, key in accepted if not re.search(rf"(?<![\w-]){re.escape(key)}(?![\w-])", text)}
    assert missing == set()


def test_first_recipe_of_the_quick_start_loads(tmp_path: Path) -> None:
    page = (CHECKOUT / "docs" / "index.md").read_text()
    block = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert block
    path = tmp_path / "mine.toml"
    path.write_text(block[1])
    (cell,) = expand(load(path))
    assert not cell.impossible
    assert f"`{cell.id}`" in page
