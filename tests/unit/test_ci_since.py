"""What changed since a commit, in real repositories of git."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tomli_w
from factories import make_lock, make_locked_wheel
from recipe_factory import read, recipe_data

import builder
from builder.ci import git, since
from builder.ci.inputs import cells_of
from builder.cli.cell_selection import open_session
from builder.errors import UsageError
from builder.jetson import advisories
from builder.resolve import lockfile

if TYPE_CHECKING:
    from collections.abc import Callable

    CommandLine = Callable[..., tuple[int, str, str]]

FIRST, SECOND = "r36_4_0-v0_20_2", "r39_2_0-v0_20_2"


class Repository:
    """A clone in which somebody works."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        for key, value in (("user.name", "A"), ("user.email", "a@example.com"), ("commit.gpgsign", "false")):
            self.git("config", key, value)

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.root, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", "state")
        return self.git("rev-parse", "HEAD")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def recipe(self, name: str = "demo", **changes: Any) -> None:
        self.write(f"recipes/{name}.toml", tomli_w.dumps(recipe_data(**changes)))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    made = Repository(tmp_path / "clone")
    monkeypatch.chdir(made.root)
    made.recipe()
    made.commit()
    return made


@pytest.fixture
def changed(command_line: CommandLine) -> Callable[..., dict[str, list[str]]]:
    """Ask which cells changed and in what."""

    def ask(ref: str = "HEAD", recipe: str = "demo") -> dict[str, list[str]]:
        code, out, err = command_line("matrix", recipe, "--changed-since", ref, "--json")
        assert code == 0, err
        return {cell["id"]: cell["changed"] for cell in json.loads(out)["cells"]}

    return ask


def test_what_has_another_spelling_has_not_changed(repository: Repository, changed: Any) -> None:
    path = repository.root / "recipes" / "demo.toml"
    path.write_text("# a comment\n" + path.read_text().replace("two Jetsons", 'two Jetsons"  # and more') + "\n\n")
    path.write_text(path.read_text().replace('more"', "more"))
    repository.write("README.md", "news")
    assert changed() == {}


def test_only_the_cells_that_an_override_reaches(repository: Repository, changed: Any) -> None:
    repository.recipe(overrides=[{"when": {"l4t": "36.*"}, "constraints": ["numpy<2"]}])
    assert changed() == {FIRST: ["recipe"]}
    repository.commit()
    assert list(changed("HEAD~1")) == [FIRST]


def test_only_the_rows_that_speak_of_a_cell(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    (recipe, cells), session = read(repository.root / "recipes" / "demo.toml"), open_session()
    before = cells_of(recipe, cells, session)
    rows = list(advisories.advisories())
    about = advisories.Advisory(id="new", when=("vllm==0.20.2",), symptom="", source="", l4t=("39.*",))
    monkeypatch.setattr(advisories, "advisories", lambda: (*rows, about))
    after = cells_of(recipe, cells, session)
    changed = {cell: [part for part in after[cell] if after[cell][part] != before[cell][part]] for cell in after}
    assert changed == {FIRST: [], SECOND: ["knowledge"]}


def test_a_lock_a_template_and_settings(repository: Repository, changed: Any) -> None:
    lock = make_lock(make_locked_wheel("vllm", "0.20.2"), recipe="demo", cell=SECOND)
    lockfile.write(repository.root / "locks" / "demo" / f"pylock.{SECOND}.toml", lock)
    assert changed() == {SECOND: ["lock"]}
    repository.commit()
    repository.write("dockerfiles/mine.j2", "FROM x\n")
    repository.write("recipes/golden/demo.toml", "")
    assert changed() == {FIRST: ["golden", "templates"], SECOND: ["golden", "templates"]}
    repository.commit()
    repository.write("jbuild.toml", '[publish]\nregistries = ["registry.example.com/edge"]\ncosign-key = "key"\n')
    repository.write("key", "a key")
    assert changed() == {FIRST: ["settings"], SECOND: ["settings"]}


def test_a_new_cell_and_a_new_recipe(repository: Repository, changed: Any) -> None:
    repository.recipe(matrix={"l4t": ["36.4.0", "39.2.0"], "vllm": ["0.20.2", "0.25.1"]}, publish={"tags": ["{cell}"]})
    found = changed()
    assert [cell for cell, parts in found.items() if parts == ["new"]] == ["r36_4_0-v0_25_1", "r39_2_0-v0_25_1"]
    repository.recipe("other")
    assert changed(recipe="other") == {FIRST: ["new"], SECOND: ["new"]}


def test_a_models_folder_in_the_repository(repository: Repository, changed: Any) -> None:
    repository.recipe(models=[{"name": "tiny", "source": "../models/tiny"}])
    repository.write("models/tiny/config.json", "{}")
    repository.commit()
    assert changed() == {}
    repository.write("models/tiny/more.json", "{}")
    assert changed() == {FIRST: ["models"], SECOND: ["models"]}


def test_what_git_ignores_is_the_same_then(repository: Repository, changed: Any) -> None:
    repository.write(".gitignore", "jbuild.local.toml\n/locks/\ncompany.pem\n")
    repository.write("jbuild.toml", '[network]\nca-bundle = "company.pem"\n')
    repository.write("company.pem", "a certificate")
    repository.write("jbuild.local.toml", '[publish]\nregistries = ["127.0.0.1:5000/x"]\n')
    lock = make_lock(recipe="demo", cell=FIRST)
    lockfile.write(repository.root / "locks" / "demo" / f"pylock.{FIRST}.toml", lock)
    repository.commit()
    assert changed() == {}


def test_a_mirror_of_models_outside_the_project_is_the_same_then(
    repository: Repository, changed: Any, tmp_path: Path
) -> None:
    (tmp_path / "far").mkdir()
    mirrors = [("org/far", str(tmp_path / "far")), ("org/near", "near"), ("org/beside", "../beside")]
    repository.recipe(
        models=[{"name": source[4:], "source": f"hf://{source}@main"} for source, _ in mirrors], server={"model": "far"}
    )
    rules = "".join(f'[[model-mirrors]]\nsource = "hf://{source}"\nfolder = "{at}"\n' for source, at in mirrors)
    repository.write(".gitignore", "jbuild.local.toml\n")
    repository.write("jbuild.local.toml", rules)
    repository.commit()
    assert changed() == {}


def test_a_recipe_that_could_not_be_read_is_new(
    repository: Repository, command_line: CommandLine, changed: Any
) -> None:
    repository.write("recipes/demo.toml", "description = 1\n")
    repository.commit()
    repository.recipe()
    assert changed() == {FIRST: ["new"], SECOND: ["new"]}
    _, _, err = command_line("matrix", "demo", "--changed-since", "HEAD")
    assert "its state then cannot be read, so all of it counts as new (error: recipe demo.toml has mistakes)" in err


def test_before_a_branchs_first_push_there_was_nothing(repository: Repository, changed: Any) -> None:
    assert changed("0" * 40) == {FIRST: ["new"], SECOND: ["new"]}


def test_unchanged_cells_get_no_job(repository: Repository, command_line: CommandLine) -> None:
    code, out, err = command_line("matrix", "demo", "--changed-since", "main", "--format", "github")
    assert (code, out) == (0, 'matrix={"include":[]}\ncells=0\n')
    assert f"demo {FIRST}: unchanged: nothing that it is made from changed since main" in err


def test_a_repository_that_holds_jbuild_itself(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of its tables, scripts of its images and its version count; its other code does not."""
    package = Path(builder.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("builder", "dockerfiles"):
        shutil.copytree(package.parent / name, repository.root / name, ignore=ignored)
    repository.commit()
    monkeypatch.setattr(builder, "__file__", str(repository.root / "builder" / "__init__.py"))
    with git.files_at(repository.root, repository.commit()) as files:
        repository.write("builder/later.py", "VALUE = 1\n")
        for path in ("jetson/boards.toml", "image/runtime/entrypoint.py"):
            (repository.root / "builder" / path).write_text("changed")
        assert since._package_of(repository.root, files) == files
        assert (files / "builder" / "later.py").is_file()
        for path in ("jetson/boards.toml", "image/runtime/entrypoint.py"):
            assert (files / "builder" / path).read_text() != "changed"
        kept = files / "builder" / "__init__.py"
        kept.write_text(kept.read_text().replace("0.1.0", "0.0.9"))
        argv = [since.sys.executable, "-c", since._RUN, str(files), "matrix", "demo", "--format", "inputs"]
        told = json.loads(subprocess.run(argv, cwd=files, check=True, capture_output=True, text=True).stdout)
        argv[3] = str(repository.root)
        now = json.loads(subprocess.run(argv, cwd=repository.root, check=True, capture_output=True, text=True).stdout)
    before, after = told["recipes"]["demo"][FIRST], now["recipes"]["demo"][FIRST]
    assert [part for part in after if before[part] != after[part]] == ["templates", "jbuild"]


@pytest.mark.parametrize("ignored", [True, False])
def test_a_jbuild_that_lies_in_the_clone_but_is_not_its_own(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, ignored: bool
) -> None:
    """In a virtual environment that git ignores, or checked out beside the project."""
    if ignored:
        repository.write(".gitignore", "/.venv/\n")
    commit = repository.commit()
    repository.write(".venv/site-packages/builder/__init__.py", "")
    monkeypatch.setattr(
        builder, "__file__", str(repository.root / ".venv" / "site-packages" / "builder" / "__init__.py")
    )
    with git.files_at(repository.root, commit) as files:
        assert since._package_of(repository.root, files) == repository.root / ".venv" / "site-packages"
        assert not (files / ".venv" / "site-packages" / "builder" / "errors.py").exists()


def test_no_such_commit(repository: Repository) -> None:
    repository.git("branch", "release")
    with pytest.raises(UsageError) as caught:
        git.commit_of(repository.root, "relaese")
    assert (caught.value.message, caught.value.hint) == ("there is no commit `relaese`", "did you mean `release`?")
    with pytest.raises(UsageError, match="there is no commit `--all`"):
        git.commit_of(repository.root, "--all")


def test_a_clone_that_is_damaged(repository: Repository) -> None:
    commit = repository.git("rev-parse", "HEAD")
    tree = repository.git("rev-parse", "HEAD^{tree}")
    (repository.root / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    with pytest.raises(UsageError) as caught, git.files_at(repository.root, commit):
        pytest.fail("there are no files")
    assert caught.value.message == "`git read-tree` failed"
    assert "failed to unpack tree object" in (caught.value.log or "")


def test_large_files_links_and_submodules_of_then(repository: Repository) -> None:
    repository.write("models/big.bin", "x" * (git._LARGEST + 1))
    repository.write("models/small.bin", "x")
    (repository.root / "link").symlink_to("models/small.bin")
    (repository.root / "odd \u00e4\n name").write_text("x")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub")
    with git.files_at(repository.root, repository.commit()) as files:
        found = {str(path.relative_to(files)) for path in files.rglob("*") if not path.is_dir()}
    assert found == {"recipes/demo.toml", "models/small.bin", "link", "odd \u00e4\n name"}
    assert not files.exists()


def test_a_shallow_clone(repository: Repository, tmp_path: Path) -> None:
    first = repository.commit()
    repository.commit()
    clone = tmp_path / "shallow"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{repository.root}", clone], check=True)
    with pytest.raises(UsageError) as caught:
        git.commit_of(clone, first)
    assert "shallow" in caught.value.message
    assert "fetch-depth: 0" in (caught.value.hint or "")


def test_no_repository_and_no_git(tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "demo.toml").write_text(tomli_w.dumps(recipe_data()))
    code, out, err = command_line("matrix", "demo", "--changed-since", "HEAD")
    assert (code, out) == (2, "")
    assert "in no git repository" in err
    assert "leave --changed-since out" in err
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = command_line("matrix", "demo", "--changed-since", "HEAD")
    assert code == 2
    assert "`git` is not installed" in err
