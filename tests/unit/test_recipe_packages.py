"""What a recipe says of indexes and of time: `indexes`, `from`, `released-before`, and overrides of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from builder.errors import DocumentError
from builder.recipe.load import load
from builder.recipe.matrix import expand, specify

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.recipes import Recipe, Spec

RECIPE = """description = "A recipe"
[matrix]
vllm = ["0.9.3", "0.10.2"]
l4t = ["36.4.0"]
[packages]
requires = ["vllm=={{vllm}}"]
{packages}
[[models]]
name = "tiny"
source = "hf://org/tiny@main"
[[smoke.questions]]
ask = "Anything?"
expect = "Yes"
{overrides}
"""


def loaded(folder: Path, packages: str = "", overrides: str = "") -> Recipe:
    path = folder / "demo.toml"
    path.write_text(RECIPE.format(packages=packages, overrides=overrides), encoding="utf-8")
    return load(path)


def problems(folder: Path, packages: str = "", overrides: str = "") -> list[tuple[str, str, str | None]]:
    with pytest.raises(DocumentError) as caught:
        loaded(folder, packages, overrides)
    return [(problem.key, problem.message, problem.hint) for problem in caught.value.problems]


def specs(folder: Path, packages: str = "", overrides: str = "") -> list[Spec]:
    recipe = loaded(folder, packages, overrides)
    return [specify(recipe, cell) for cell in expand(recipe)]


def test_a_recipe_need_not_say_anything(tmp_path: Path) -> None:
    spec = loaded(tmp_path).spec
    assert (spec.indexes, spec.sources, spec.released_before) == (None, (), None)


def test_indexes_are_named_or_expressly_none(tmp_path: Path) -> None:
    assert loaded(tmp_path, "indexes = []").spec.indexes == ()
    assert loaded(tmp_path, 'indexes = ["jetson-ai-lab", "mine"]').spec.indexes == ("jetson-ai-lab", "mine")


def test_single_packages_have_their_index(tmp_path: Path) -> None:
    found = loaded(tmp_path, 'from = { torch = "default", "flash-*" = "mine" }').spec.sources
    assert found == (("torch", "default"), ("flash-*", "mine"))


@pytest.mark.parametrize(
    ("written", "date"),
    [
        ("2026-11-01", "2026-11-01"),
        ('"2026-11-01"', "2026-11-01"),
        ("'2024-02-29'", "2024-02-29"),
        ("2024-02-29", "2024-02-29"),
    ],
)
def test_a_date_is_toml_s_own_or_a_string(tmp_path: Path, written: str, date: str) -> None:
    assert loaded(tmp_path, f"released-before = {written}").spec.released_before == date


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ('"2026-02-30"', "2026-02-30 is not a date"),
        ('"2026-13-01"', "2026-13-01 is not a date"),
        ('"0000-01-01"', "0000-01-01 is not a date"),
        ('"1.11.2026"', "`1.11.2026` is not a date such as 2026-11-01"),
        ('"20261101"', "`20261101` is not a date such as 2026-11-01"),
        ('"2026-W45-1"', "`2026-W45-1` is not a date such as 2026-11-01"),
        ('"2026-11-01T00:00:00Z"', "is not a date such as 2026-11-01"),
        ('""', "`` is not a date such as 2026-11-01"),
        ("2026-11-01T10:00:00Z", "must be a date without a time"),
        ("2026-11-01 10:00:00", "must be a date without a time"),
        ("10:00:00", "must be a date such as 2026-11-01, not a date or time"),
        ("20261101", "must be a date such as 2026-11-01, not a whole number"),
        ("true", "must be a date such as 2026-11-01, not true or false"),
        ("[2026-11-01]", "must be a date such as 2026-11-01, not a list"),
    ],
)
def test_what_is_no_day(tmp_path: Path, written: str, says: str) -> None:
    (found,) = problems(tmp_path, f"released-before = {written}")
    assert found[0] == "packages.released-before"
    assert says in found[1]


@pytest.mark.parametrize(
    ("packages", "key", "says"),
    [
        ('indexes = "mine"', "packages.indexes", "must be a list of strings"),
        ('indexes = ["My Index"]', "packages.indexes[0]", "`My Index` is not the name of a package index"),
        ("indexes = [1]", "packages.indexes[0]", "must be a string"),
        ('index = ["mine"]', "packages.index", "unknown key `index`"),
        ('from = ["torch"]', "packages.from", "must be a table"),
        ("from = { torch = 1 }", "packages.from.torch", "must be the name of a package index"),
        ('from = { torch = "https://x" }', "packages.from.torch", "`https://x` is not the name of a package index"),
        ('from = { Flash_Attn = "mine" }', "packages.from.Flash_Attn", "is not a package's name in lower case"),
        ('from = { "torch>2" = "mine" }', 'packages.from."torch>2"', "is not a package's name in lower case"),
        ("relased-before = 2026-11-01", "packages.relased-before", "unknown key `relased-before`"),
    ],
)
def test_mistakes_are_located(tmp_path: Path, packages: str, key: str, says: str) -> None:
    (found,) = problems(tmp_path, packages)
    assert found[0] == key
    assert says in found[1]


def test_a_misspelt_key_gets_the_nearest_name(tmp_path: Path) -> None:
    assert problems(tmp_path, "relased-before = 2026-11-01")[0][2] == "did you mean `released-before`?"


OVERRIDE = '[[overrides]]\nwhen = {{ vllm = "0.10.*" }}\n{0}\n'


def test_an_override_replaces_indexes(tmp_path: Path) -> None:
    first, second = specs(tmp_path, 'indexes = ["mine"]', OVERRIDE.format('indexes = ["jetson-ai-lab"]'))
    assert (first.indexes, second.indexes) == (("mine",), ("jetson-ai-lab",))
    first, second = specs(tmp_path, "", OVERRIDE.format("indexes = []"))
    assert (first.indexes, second.indexes) == (None, ())
    first, second = specs(tmp_path, 'indexes = ["mine"]', OVERRIDE.format('requires = ["x"]'))
    assert second.indexes == ("mine",)


def test_an_override_s_sources_are_merged_and_speak_first(tmp_path: Path) -> None:
    base = 'from = { "torch*" = "mine", numpy = "mine", vllm = "mine" }'
    _, changed = specs(tmp_path, base, OVERRIDE.format('from = { "t*" = "default", numpy = "default" }'))
    assert changed.sources == (("t*", "default"), ("numpy", "default"), ("torch*", "mine"), ("vllm", "mine"))


def test_of_two_overrides_the_later_speaks_first(tmp_path: Path) -> None:
    overrides = OVERRIDE.format('from = { torch = "one" }') + OVERRIDE.format('from = { torch = "two", x = "two" }')
    assert specs(tmp_path, "", overrides)[1].sources == (("torch", "two"), ("x", "two"))


@pytest.mark.parametrize(
    ("override", "key", "says"),
    [
        ("released-before = 2026-11-01", "overrides[0].released-before", "unknown key"),
        ('indexes = ["No"]', "overrides[0].indexes[0]", "is not the name of a package index"),
        ('from = { torch = "No" }', "overrides[0].from.torch", "is not the name of a package index"),
        ("", "overrides[0]", "this override changes nothing"),
    ],
)
def test_mistakes_in_overrides_are_located(tmp_path: Path, override: str, key: str, says: str) -> None:
    found = problems(tmp_path, "", OVERRIDE.format(override))
    assert found[0][0] == key
    assert says in found[0][1]


@pytest.mark.parametrize("packages", ["indexes = []", "from = {}", "released-before = 2026-01-01"])
def test_none_of_it_changes_which_cells_there_are(tmp_path: Path, packages: str) -> None:
    def ids(recipe: Recipe) -> list[Any]:
        return [(cell.id, cell.impossible) for cell in expand(recipe)]

    assert ids(loaded(tmp_path, packages)) == ids(loaded(tmp_path))
