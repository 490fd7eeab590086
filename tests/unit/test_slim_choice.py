"""Which packages lose their GPU code for other GPUs: the recipe's rules, the table, and the cell."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from factories import make_jetson, make_job, make_platform, make_spec
from recipe_factory import recipe_data

from builder.audit.slim_choice import choose
from builder.audit.slim_tables import slim_tables
from builder.errors import DocumentError
from builder.model.recipes import Cell, ImageSpec
from builder.recipe.load import load

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.locks import Job


def job(image: ImageSpec | None = None, *, sm: str | None = "8.7", cpu: bool = False) -> Job:
    platform = make_platform() if cpu else make_jetson(sms=("8.7",))
    made = make_job(platform=platform, spec=make_spec(image=image or ImageSpec()))
    values = (("sm", sm),) if sm else ()
    return replace(made, cell=Cell(id="cell", recipe="recipe", values=values))


@pytest.mark.parametrize(
    ("image", "sm", "package", "slim"),
    [
        (ImageSpec(), "8.7", "torch", True),
        (ImageSpec(), None, "torch", False),
        (ImageSpec(), "8.7", "nvidia-cublas", False),
        (ImageSpec(slim=True), None, "torch", True),
        (ImageSpec(slim=True), "8.7", "nvidia-cublas", False),
        (ImageSpec(slim=False), "8.7", "torch", False),
        (ImageSpec(slim_packages=(("nvidia-*", True),)), "8.7", "nvidia-cublas", True),
        (ImageSpec(slim_packages=(("torch", True),)), None, "torch", True),
        (ImageSpec(slim_packages=(("torch", True),)), None, "vllm", False),
        (ImageSpec(slim_packages=(("torch", False), ("*", True))), "8.7", "torch", False),
        (ImageSpec(slim=False, slim_packages=(("torch", True),)), "8.7", "torch", True),
    ],
)
def test_rules_of_the_recipe_come_before_the_table_and_the_cell(
    image: ImageSpec, sm: str | None, package: str, slim: bool
) -> None:
    choice = choose(job(image, sm=sm), package)
    assert choice.slim is slim
    assert choice.why


def test_the_reason_names_the_licence() -> None:
    assert "licence" in choose(job(), "nvidia-cublas").why
    assert choose(job(sm=None), "nvidia-cublas").why == "the cell does not name its GPUs"
    assert all(row.source and row.why for row in slim_tables().unchanged)


def test_nothing_is_slimmed_for_a_processor() -> None:
    assert not choose(job(ImageSpec(slim=True, slim_packages=(("*", True),)), cpu=True), "torch").slim


def test_keys_of_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(_toml('slim = false\nslim-packages = { "nvidia-*" = true, torch = false }'))
    assert load(path).spec.image == ImageSpec(slim=False, slim_packages=(("nvidia-*", True), ("torch", False)))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('slim = "yes"', "true or false"),
        ("slim-packages = { Torch = true }", "lower case"),
        ("slim-packages = { torch = 1 }", "true or false"),
        ("slim-packages = true", "a table"),
        ("slimm = true", "slim"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(_toml(text))
    with pytest.raises(DocumentError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert part in f"{problem.message} {problem.hint}"
    assert problem.key.startswith("image")


def _toml(image: str) -> str:
    data = recipe_data()
    return f"""description = "{data["description"]}"
[matrix]
l4t = ["36.4.0"]
vllm = ["0.20.2"]
[packages]
requires = ["vllm=={{vllm}}"]
[image]
{image}
[[models]]
name = "tiny"
source = "hf://org/tiny@main"
[[smoke.questions]]
ask = "Hello?"
expect = "Hi"
"""
