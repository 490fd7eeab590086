"""Which packages lose their GPU code for other GPUs: the recipe's rules, the table, and the cell."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_jetson, make_job, make_platform, make_spec
from recipe_factory import image_recipe

from builder.audit.slim_choice import choose
from builder.audit.slim_tables import slim_tables
from builder.errors import DocumentError
from builder.model.recipes import Cell, ImageSpec
from builder.recipe.load import load
from builder.recipe.matrix import expand, job_of

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
    path.write_text(image_recipe('slim = false\nslim-packages = { "nvidia-*" = true, torch = false }'))
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
    path.write_text(image_recipe(text))
    with pytest.raises(DocumentError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert part in f"{problem.message} {problem.hint}"
    assert problem.key.startswith("image")


def test_cells_override_what_becomes_of_their_wheels(tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    thor = '[[overrides]]\nwhen = { l4t = "39.*" }\nslim = true\nprecompile = "needed"\n'
    path.write_text(image_recipe("slim-packages = { torch = true }", l4t='"36.4.0", "39.2.0"') + thor)
    recipe = load(path)
    torch = (("torch", True),)
    images = [job_of(recipe, cell).spec.image for cell in expand(recipe)]
    assert images == [
        ImageSpec(slim_packages=torch),
        ImageSpec(slim=True, slim_packages=torch, precompile="needed"),
    ]


@pytest.mark.parametrize(
    ("image", "more", "key", "message"),
    [
        ("slim = true", "", "image.slim", "`slim` has no effect: no cell has a GPU"),
        ("slim-packages = { torch = true }", "", "image.slim-packages", "no cell has a GPU"),
        ('precompile = "all"', "", "image.precompile", "no cell has a GPU"),
        ("", '[audit]\nkernels = "native"\n', "audit.kernels", "no cell has a GPU"),
        (
            "",
            '[[overrides]]\nwhen = { vllm = "*" }\nslim = true\n',
            "overrides[0].slim",
            "none of these cells has a GPU",
        ),
    ],
)
def test_gpu_code_that_no_cell_has_cannot_be_chosen(
    tmp_path: Path, image: str, more: str, key: str, message: str
) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(image_recipe(image).replace('l4t = ["36.4.0"]', 'distribution = ["debian-12"]') + more)
    with pytest.raises(DocumentError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert message in problem.message


def test_a_recipe_for_the_cpu_may_leave_code_alone(tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    image = 'slim = false\nslim-packages = { torch = false }\nprecompile = "off"'
    path.write_text(image_recipe(image).replace('l4t = ["36.4.0"]', 'distribution = ["debian-12"]'))
    assert load(path).spec.image.slim is False


def test_compiled_kernels_in_cells_that_are_not_slimmed(tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(image_recipe("slim = false") + '[[overrides]]\nwhen = { vllm = "*" }\nprecompile = "needed"\n')
    with pytest.raises(DocumentError) as caught:
        load(path)
    assert "compiled kernels need the room" in caught.value.problems[0].message
    assert caught.value.problems[0].message.endswith("(in cell r36_4_0-v0_20_2)")


def test_show_names_what_becomes_of_gpu_code(tmp_path: Path, command_line: Any, monkeypatch: Any) -> None:
    (tmp_path / "recipes").mkdir()
    audit = '[audit]\nkernels = "no-jit"\n'
    (tmp_path / "recipes" / "demo.toml").write_text(image_recipe('precompile = "needed"') + audit)
    monkeypatch.chdir(tmp_path)
    code, out, _ = command_line("show", "demo")
    assert code == 0
    assert "  precompile  needed\n  kernels     no-jit\n" in out
    assert "  slim        GPU code for SM 8.7 only, except nvidia-*" in out
