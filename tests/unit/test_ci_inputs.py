"""The inputs of cells, and which of them differ from those in a file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import tomli_w
from factories import make_lock, make_locked_wheel
from recipe_factory import read, recipe_data

import builder
from builder.cli.cell_selection import open_session
from builder.image.render import stage as render
from builder.jetson import advisories
from builder.lock import lockfile
from builder.model.recipes import Question
from builder.model.verdicts import Token
from builder.project.ci.cell_inputs import inputs_of
from builder.smoke import golden

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    CommandLine = Callable[..., tuple[int, str, str]]

FIRST, SECOND = "r36_4_0-v0_20_2", "r39_2_0-v0_20_2"
QUESTION = "What is the capital of France?"


class SmallProject:
    """A project with one recipe, and the inputs that its cells had before."""

    def __init__(self, root: Path, command_line: CommandLine) -> None:
        self.root, self._run, self.before = root, command_line, root / "before.json"

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def recipe(self, name: str = "demo", **changes: Any) -> None:
        self.write(f"recipes/{name}.toml", tomli_w.dumps(recipe_data(**changes)))

    def keep(self, recipe: str = "demo") -> None:
        """Write the inputs as they are now."""
        code, out, err = self._run("matrix", recipe, "--format", "inputs")
        assert code == 0, err
        self.before.write_text(out)

    def changed(self, recipe: str = "demo") -> dict[str, list[str]]:
        """Return which cells changed, and in what."""
        code, out, err = self._run("matrix", recipe, "--changed-since", str(self.before), "--json")
        assert code == 0, err
        return {cell["id"]: cell["changed"] for cell in json.loads(out)["cells"]}


@pytest.fixture
def project(tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> SmallProject:
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    small = SmallProject(root, command_line)
    small.recipe()
    small.keep()
    return small


def test_what_has_another_spelling_has_not_changed(project: SmallProject) -> None:
    path = project.root / "recipes" / "demo.toml"
    path.write_text("# a comment\n" + path.read_text().replace("two Jetsons", 'two Jetsons"  # and more') + "\n\n")
    path.write_text(path.read_text().replace('more"', "more"))
    project.write("README.md", "news")
    assert project.changed() == {}


def test_only_the_cells_that_an_override_reaches(project: SmallProject) -> None:
    project.recipe(overrides=[{"when": {"l4t": "36.*"}, "constraints": ["numpy<2"]}])
    assert project.changed() == {FIRST: ["recipe"]}


def test_only_the_rows_that_speak_of_a_cell(project: SmallProject, monkeypatch: pytest.MonkeyPatch) -> None:
    (recipe, cells), session = read(project.root / "recipes" / "demo.toml"), open_session()
    before = inputs_of(recipe, cells, session)
    rows = list(advisories.advisories())
    about = advisories.Advisory(id="new", when=("vllm==0.20.2",), symptom="", source="", l4t=("39.*",))
    monkeypatch.setattr(advisories, "advisories", lambda: (*rows, about))
    after = inputs_of(recipe, cells, session)
    changed = {cell: [name for name in after[cell] if after[cell][name] != before[cell][name]] for cell in after}
    assert changed == {FIRST: [], SECOND: ["advisories"]}


def test_a_lock_a_template_and_settings(project: SmallProject) -> None:
    lock = make_lock(make_locked_wheel("vllm", "0.20.2"), recipe="demo", cell=SECOND)
    lockfile.write(project.root / "locks" / "demo" / f"pylock.{SECOND}.toml", lock)
    assert project.changed() == {SECOND: ["lock"]}
    project.keep()
    project.write("dockerfiles/mine.j2", "FROM x\n")
    assert project.changed() == {FIRST: ["templates"], SECOND: ["templates"]}
    project.keep()
    project.write("locks/systems.toml", "")
    assert project.changed() == {FIRST: ["lock"], SECOND: ["lock"]}
    project.keep()
    project.write("key", "a key")
    project.write("jbuild.toml", '[publish]\nregistries = ["registry.example.com/edge"]\ncosign-key = "key"\n')
    assert project.changed() == {FIRST: ["settings"], SECOND: ["settings"]}


def recorded(asked: str) -> golden.Golden:
    return golden.Golden(prompt=asked, model="", title="t", source="s", tokens=(Token(text="Paris", logprob=-0.5),))


def test_only_golden_answers_to_the_questions_of_a_cell(project: SmallProject) -> None:
    project.recipe(smoke={"questions": [{"ask": QUESTION, "expect": "Paris"}]})
    project.keep()
    (recipe, _), session = read(project.root / "recipes" / "demo.toml"), open_session()
    (question,) = recipe.spec.smoke.questions
    path = session.workspace.golden(recipe.path)
    other = golden.prompt_of(Question(ask="Another?", expect="x"))
    golden.write(path, [recorded(other)])
    assert project.changed() == {}
    golden.write(path, [recorded(golden.prompt_of(question))])
    assert project.changed() == {FIRST: ["golden"], SECOND: ["golden"]}


def test_a_new_cell_and_a_new_recipe(project: SmallProject) -> None:
    project.recipe(matrix={"l4t": ["36.4.0", "39.2.0"], "vllm": ["0.20.2", "0.25.1"]}, publish={"tags": ["{cell}"]})
    changed = project.changed()
    assert [cell for cell, names in changed.items() if names == ["new"]] == ["r36_4_0-v0_25_1", "r39_2_0-v0_25_1"]
    project.recipe("other")
    assert project.changed("other") == {FIRST: ["new"], SECOND: ["new"]}


def test_a_models_folder_in_the_project(project: SmallProject) -> None:
    project.recipe(models=[{"name": "tiny", "source": "../models/tiny"}])
    project.write("models/tiny/config.json", "{}")
    project.keep()
    assert project.changed() == {}
    project.write("models/tiny/config.json", "[]")
    assert project.changed() == {FIRST: ["models"], SECOND: ["models"]}


def test_a_models_folder_elsewhere_is_not_read(project: SmallProject, tmp_path: Path) -> None:
    project.recipe(models=[{"name": "tiny", "source": str(tmp_path / "far")}])
    project.keep()
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "config.json").write_text("{}")
    assert project.changed() == {}


def test_another_folder_has_the_same_inputs(project: SmallProject, tmp_path: Path) -> None:
    """A file of another checkout is one to compare with."""
    project.write("dockerfiles/mine.j2", "FROM x\n")
    project.keep()
    moved = tmp_path / "elsewhere"
    project.root.rename(moved)
    project.root.mkdir()
    moved.rename(project.root / "inside")
    (recipe, cells), session = read(project.root / "inside" / "recipes" / "demo.toml"), open_session()
    session = type(session)(
        workspace=type(session.workspace)(project=project.root / "inside", cache=session.workspace.cache),
        config=session.config,
        console=session.console,
    )
    before = json.loads((project.root / "inside" / "before.json").read_text())["recipes"]["demo"]
    assert inputs_of(recipe, cells, session) == before


def test_another_version_of_jbuild(project: SmallProject, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vars(render)["__version__"] == builder.__version__
    monkeypatch.setattr(render, "__version__", "0.0.9")
    assert project.changed() == {FIRST: ["jbuild"], SECOND: ["jbuild"]}


def test_unchanged_cells_get_no_job(project: SmallProject, command_line: CommandLine) -> None:
    code, out, err = command_line("matrix", "demo", "--changed-since", "before.json", "--format", "github")
    assert (code, out) == (0, 'matrix={"include":[]}\ncells=0\n')
    assert f"demo {FIRST}: unchanged: no input changed since before.json" in err


@pytest.mark.parametrize("text", ["", "[]", '{"recipes": []}', '{"recipes": {"demo": {"one": {"lock": 1}}}}', "\x00"])
def test_a_file_of_something_else(project: SmallProject, command_line: CommandLine, text: str) -> None:
    project.before.write_text(text)
    code, out, err = command_line("matrix", "demo", "--changed-since", "before.json")
    assert (code, out) == (2, "")
    assert "not an inputs file" in err
    assert "jbuild matrix RECIPE --format inputs > FILE" in err


def test_no_file(project: SmallProject, command_line: CommandLine) -> None:
    """A name of git's is the likeliest mistake."""
    code, out, err = command_line("matrix", "demo", "--changed-since", "origin/main")
    assert (code, out) == (2, "")
    assert "cannot read the inputs file: No such file" in err
    assert "--format inputs > FILE" in err
