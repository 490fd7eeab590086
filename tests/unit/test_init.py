"""A first recipe: from options or questions to a commented file that loads, expands and explains every key."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
import pytest

from builder.host.paths import shipped
from builder.jetson.boards import boards
from builder.project.init.proposals import NO_BOARD, Answers, board_choices, l4t_choices, propose
from builder.project.init.write import render
from builder.recipe.load import load, recipe_schema
from builder.recipe.matrix import expand, specify

if TYPE_CHECKING:
    from collections.abc import Callable

    CommandLine = Callable[..., tuple[int, str, str]]

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CHECKOUT = Path(__file__).parents[2]
# Where a recipe is for the board's releases: the others need a --vllm.
KNOWN = [name for name in board_choices() if name == NO_BOARD or set(l4t_choices(name)[0][:2]) & set("9")]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jbuild.toml").touch()
    return tmp_path


def uncommented(text: str) -> str:
    """Return a recipe with everything said that could be said."""
    return re.sub(r'^# (?=(?:[a-z-]+|"[a-z.]+"|[A-Z_]+) = |\[)', "", text, flags=re.MULTILINE)


def keys(text: str) -> set[str]:
    """Return the keys of a recipe's tables and of the tables within lines."""
    return set(re.findall(r'(?:^(?:# )?|[{,] )("?[A-Za-z][\w.-]*"?) = ', text, re.MULTILINE))


def test_there_are_boards_with_a_recipe_like_theirs() -> None:
    assert {"orin-nx-16", "orin-nano-8", "agx-thor-128", NO_BOARD} <= set(KNOWN)


@pytest.mark.parametrize("board", KNOWN)
def test_what_is_written_loads_and_has_a_cell_that_can_be_built(
    project: Path, command_line: CommandLine, board: str
) -> None:
    code, out, err = command_line("init", "mine", "--board", board, "--registry", "registry.example.com/edge", "--json")
    assert (code, err) == (0, "")
    recipe = load(Path(json.loads(out)["path"]))
    (cell,) = expand(recipe)
    assert cell.impossible is None
    assert specify(recipe, cell).publish.registries == ("registry.example.com/edge",)
    assert recipe.boards == (() if board == NO_BOARD else (board,))


@pytest.mark.parametrize("board", KNOWN)
def test_everything_that_could_be_said_can_be_said(project: Path, board: str) -> None:
    text = uncommented(render(propose(Answers(board=board), (shipped("recipes"),))))
    assert not re.search(r"^# [a-z-]+ = ", text, re.MULTILINE)
    path = project / "all.toml"
    path.write_text(text)
    recipe = load(path)
    assert recipe.overrides
    assert recipe.runners.smoke == "jetson"
    assert len(expand(recipe)) == 2


def test_every_key_of_the_reference_is_in_it() -> None:
    reference = re.search(r"```toml\n(.*?)```", (CHECKOUT / "docs" / "recipes.md").read_text(), re.DOTALL)
    assert reference
    text = render(propose(Answers(board=NO_BOARD), (shipped("recipes"),)))
    # Values of the two examples differ: environment variables, labels, axes.
    missing = {key for key in keys(reference[1]) - keys(text) if not re.match(r'[A-Z"]', key)}
    assert missing <= {"l4t", "distribution"}


def test_every_line_with_a_key_that_is_not_plain_is_explained() -> None:
    text = render(propose(Answers(board="orin-nx-16"), (shipped("recipes"),)))
    lines = [line for line in text.splitlines() if re.match(r"(# )?[a-z-]+ = |(# )?\[", line)]
    plain = [re.match(r"(?:# )?(\S+)", line)[1] for line in lines if "  # " not in line]  # type: ignore[index]
    assert len(plain) < len(lines) / 2
    assert all(len(line) <= 125 for line in text.splitlines())


def test_it_follows_the_recipe_that_is_most_like_it(project: Path, command_line: CommandLine) -> None:
    folders = (shipped("recipes"),)
    newest = propose(Answers(board="orin-nx-16"), folders)
    assert (newest.like and newest.like.name, dict(newest.axes)["l4t"]) == ("vllm-0.33.0", "39.2.0")
    older = propose(Answers(board="orin-nx-16", l4t="36.4.7"), folders)
    assert (older.like and older.like.name, older.answers.vllm) == ("vllm-0.10.2", "0.10.2")
    assert dict(older.axes) == {"l4t": "36.4.7", "cuda": "12.6", "python": "3.10"}
    assert propose(Answers(board="orin-nx-16", l4t="36.4.0", vllm="0.9.3"), folders).like.name == "vllm-0.9.3"  # type: ignore[union-attr]
    cpu = propose(Answers(board=NO_BOARD), folders)
    assert cpu.spec.replace == ("torch==2.11.0",)
    other = propose(Answers(board=NO_BOARD, vllm="0.21.0"), folders)
    assert (other.spec.replace, other.spec.constraints) == ((), ())
    assert other.spec.server.environment == cpu.spec.server.environment


def test_the_release_is_that_of_a_recipe_with_this_vllm(project: Path, command_line: CommandLine) -> None:
    _, out, _ = command_line("init", "old", "--board", "orin-nx-16", "--vllm", "0.9.3")
    assert "modelled on vllm-0.9.3" in out
    text = (project / "recipes" / "old.toml").read_text()
    assert 'l4t = ["36.4.4"]' in text
    assert 'cuda = ["12.6"]' in text


def test_a_vllm_without_a_recipe_for_the_board_has_the_newest_release_of_a_recipe() -> None:
    folders = (shipped("recipes"),)
    newest = propose(Answers(board="orin-nx-16"), folders).answers.l4t
    assert propose(Answers(board="orin-nx-16", vllm="0.15.1"), folders).answers.l4t == newest
    assert propose(Answers(board="orin-nx-16", vllm="0.7.1"), folders).answers.l4t == newest


def test_it_has_the_gpu_of_its_board_and_the_reasons_of_its_model(project: Path, command_line: CommandLine) -> None:
    assert command_line("init", "mine", "--board", "agx-thor-128", "--vllm", "0.33.0")[0] == 0
    text = (project / "recipes" / "mine.toml").read_text()
    assert '\nsm = ["11.0"]\n' in text
    assert "# An image for Orin, one for Thor" not in text
    reason = "# FlashInfer's sampler, the default on Thor, compiles itself with nvcc and g++ at the first request."
    assert f'{reason}\nVLLM_USE_FLASHINFER_SAMPLER = "0"' in text
    assert text.count("# humming-kernels requires nvcc") == 1


def test_a_machine_that_is_no_jetson_has_a_recipe_to_copy(project: Path, command_line: CommandLine) -> None:
    code, _, err = command_line("init", "mine", "--board", "h100-80")
    assert code == 2
    assert 'vllm-0.20.2-gpu.toml, with `sm = ["9.0"]` under [matrix]' in err
    assert not (project / "recipes" / "mine.toml").exists()


def test_releases_of_a_board_come_from_the_tables() -> None:
    for board in boards():
        releases = l4t_choices(board.name)
        assert releases
        assert {release.split(".")[0] for release in releases} <= set(board.l4t)


def test_a_python_that_the_like_recipe_does_not_have(project: Path, command_line: CommandLine) -> None:
    code, out, err = command_line(
        "init", "mine", "--board", "orin-nx-16", "--l4t", "36.4.0", "--cuda", "12.8", "--python", "3.12", "--json"
    )
    assert code == 0, err
    axes = {"l4t": "36.4.0", "cuda": "12.8", "python": "3.12", "vllm": "0.10.2"}
    assert json.loads(out)["axes"] == axes


def test_a_model_is_named_after_its_source(project: Path, command_line: CommandLine) -> None:
    model = "hf://Qwen/Qwen2.5-0.5B-Instruct@main"
    assert command_line("init", "mine", "--board", "none", "--model", model)[0] == 0
    (found,) = load(project / "recipes" / "mine.toml").spec.models
    assert (found.name, found.source, found.licence) == ("qwen2.5-0.5b-instruct", model, None)


def test_a_model_that_is_not_there_is_remarked(project: Path, command_line: CommandLine) -> None:
    said = f"the model's folder {project / 'tiny'} "
    code, _, err = command_line("init", "one", "--board", "none", "--model", "../tiny")
    assert (code, f"warning: {said}does not exist: correct `source` in the recipe" in err) == (0, True)
    hub = "a model of the hub is `hf://Qwen/Qwen2.5-0.5B@main`"
    assert hub in " ".join(command_line("init", "hub", "--board", "none", "--model", "Qwen/Qwen2.5-0.5B")[2].split())
    code, _, err = command_line("init", "long", "--board", "none", "--model", f"../{'x' * 300}/m")
    assert (code, "cannot be read: File name too long" in " ".join(err.split())) == (0, True)
    (project / "tiny").mkdir()
    assert f"{said}has no config.json" in command_line("init", "two", "--board", "none", "--model", "../tiny")[2]
    (project / "tiny" / "config.json").write_text("{}")
    assert said not in command_line("init", "three", "--board", "none", "--model", "../tiny")[2]


def test_what_is_written_names_its_schema(project: Path, command_line: CommandLine) -> None:
    schema = project / "schemas" / "recipe.schema.json"
    schema.parent.mkdir()
    schema.write_text("an older one")
    assert command_line("init", "mine", "--board", "none")[0] == 0
    path = project / "recipes" / "mine.toml"
    first, rest = path.read_text().split("\n", 1)
    assert (path.parent / first.removeprefix("#:schema ")).resolve() == schema.resolve()
    assert schema.read_text() == json.dumps(recipe_schema(), indent=2) + "\n"
    jsonschema.validate(tomllib.loads(rest), json.loads(schema.read_text()))


def test_a_tag_that_another_recipe_plans_is_remarked(project: Path, command_line: CommandLine) -> None:
    assert "the tag" not in command_line("init", "one", "--board", "none")[2]
    (project / "recipes" / "broken.toml").write_text("x")
    err = command_line("init", "two", "--board", "none")[2]
    assert re.search(r"warning: the tag vllm:\S+ belongs to recipe one, too: change ", err)
    two = project / "recipes" / "two.toml"
    two.write_text(two.read_text().replace('repository = "vllm"', 'repository = "mine"'))
    assert "belongs to recipe one, too" in command_line("init", "three", "--board", "none")[2]
    for name in ("four", "five"):
        command_line("init", name, "--board", "none")
    assert "belongs to recipes five, four, one and 1 more, too" in command_line("init", "six", "--board", "none")[2]


def test_shipped_recipes_may_have_the_tag_of_a_new_one(
    project: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In a checkout, the recipes of jbuild are those of the project.
    shutil.copytree(shipped("recipes"), project / "recipes")
    for module in ("builder.host.paths", "builder.project.init.write"):
        monkeypatch.setattr(f"{module}.shipped", lambda name: project / name)
    assert "the tag" not in command_line("init", "one", "--board", "none")[2]
    assert "belongs to recipe one, too" in command_line("init", "two", "--board", "none")[2]


def test_a_model_is_named_as_a_shell_completes_it(project: Path, command_line: CommandLine) -> None:
    (project / "models" / "tiny").mkdir(parents=True)
    (project / "models" / "tiny" / "config.json").write_text("{}")
    code, _, err = command_line("init", "mine", "--board", "none", "--model", "models/tiny/")
    assert (code, "not there" in err) == (0, False)
    (found,) = load(project / "recipes" / "mine.toml").spec.models
    assert found.source == "../models/tiny"


def test_nothing_is_overwritten(project: Path, command_line: CommandLine) -> None:
    assert command_line("init", "mine", "--board", "none")[0] == 0
    path = project / "recipes" / "mine.toml"
    path.write_text("# mine\n")
    code, out, err = command_line("init", "mine", "--board", "none")
    assert (code, out, path.read_text()) == (2, "", "# mine\n")
    assert "the recipe `mine` exists already" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no board is given"),
        (("--board", "orin-nx-61"), "did you mean `orin-nx-16`?"),
        (("--board", "orin-nx-16", "--l4t", "38.2.0"), "L4T 38.2.0 does not run on orin-nx-16"),
        (("--board", "orin-nx-16", "--l4t", "7.1"), "unknown L4T release `7.1`"),
        (("--board", "none", "--cuda", "12.6"), "--l4t and --cuda need a board"),
        (("--board", "xavier-nx-8"), "name a release with --vllm"),
        (("--board", "orin-nx-16", "--l4t", "36.5.0", "--vllm", "0.33.0"), "vllm 0.33.0 runs on Python"),
        (("--board", "orin-nx-16", "--l4t", "36.5.0", "--cuda", "11.4"), "CUDA 11.4 is not published for L4T 36.5.0"),
        (("--board", "none", "--python", "2"), "`2` is not a python version"),
        (("--board", "none", "--model", "hf://nothing"), "models[0].source"),
        (("--board", "none", "--model", 'a"\n[x]'), "models[0].source"),
        (("mine", "--board", "none", "--vllm", '1"]'), "matrix.vllm"),
        (("--board", "none", "--registry", "a b"), "is not a registry"),
        (("UPPER", "--board", "none"), "`UPPER` is not a recipe name"),
        (("../out", "--board", "none"), "`../out` is not a recipe name"),
    ],
)
def test_answers_that_make_no_recipe(
    project: Path, command_line: CommandLine, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = command_line("init", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "next: " in err
    assert not (project / "recipes").exists()


def converse(folder: Path, *arguments: str, answers: list[tuple[str, str]], code: int = 0) -> str:
    """Run jbuild on a terminal of its own, and answer its questions; it ends with this exit code."""
    control, terminal = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "TERM": "xterm", "COLUMNS": "120"}
    argv = [sys.executable, "-m", "builder", *arguments]
    child = subprocess.Popen(argv, cwd=folder, env=environment, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    said = ""
    while True:
        if select.select([control], [], [], 0.1)[0]:
            try:
                said += os.read(control, 4096).decode()
            except OSError:  # the other end is closed
                break
        if answers and said.rstrip(" ").endswith(":") and answers[0][0] in said.rsplit("\n", 1)[-1]:
            os.write(control, f"{answers.pop(0)[1]}\n".encode())
            said += "\n"
    os.close(control)
    assert child.wait() == code, said
    assert not answers, said
    return said


def test_on_a_terminal_what_is_missing_is_asked(project: Path) -> None:
    (project / "models" / "tiny").mkdir(parents=True)
    said = converse(
        project,
        "init",
        answers=[
            ("Board", "orin-nx-16"),
            ("L4T release", "36.4.7"),
            ("vLLM", ""),
            ("Model", "./models/tiny"),
            ("Registry", "127.0.0.1:5000/edge"),
            ("Name", "asked"),
        ],
    )
    assert "Jetson Orin NX 16 GB" in said
    recipe = load(project / "recipes" / "asked.toml")
    assert recipe.matrix.all_values()["l4t"] == ("36.4.7",)
    assert recipe.spec.publish.registries == ("127.0.0.1:5000/edge",)
    assert recipe.spec.models[0].source == "../models/tiny"


def test_the_end_of_the_input_at_a_question_is_one_error(project: Path) -> None:
    end_of_input = "\x04"
    said = converse(project, "init", answers=[("Board", "orin-nx-16"), ("L4T release", end_of_input)], code=2)
    assert "error: the input ended at a question" in said
    assert not (project / "recipes").exists()


def test_hints_are_about_the_options(project: Path, command_line: CommandLine) -> None:
    _, _, err = command_line("init", "--board", "orin-nx-16", "--cuda", "99.1")
    assert "next: name other versions with --cuda, --python or --l4t, or leave the options out" in err
    _, _, err = command_line("init", "--board", "")
    (hint,) = re.findall("next: boards known: (.*)", err)
    assert set(hint.split(", ")) == set(board_choices())
