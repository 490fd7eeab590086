"""Which cells are made from other inputs than at a commit: both states are rendered to fingerprints and compared."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import builder
from builder import process
from builder.ci import git
from builder.ci.inputs import cells_of
from builder.errors import ProgramFailedError
from builder.image import runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.ci.inputs import Parts
    from builder.recipe.model import Cell, Recipe
    from builder.session import Session

    States = dict[str, dict[str, Parts]]
    Selected = Sequence[tuple[Recipe, Sequence[Cell]]]

_STATE_TIMEOUT_S = 300.0
# Run as `python -c`: the first argument is where the package lies, whatever is in the current folder.
_RUN = "import sys; sys.path[0] = sys.argv.pop(1); from builder.cli.main import main; main()"
NEW = ("new",)


def changes(selected: Selected, session: Session, ref: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return for every cell, by recipe and id, which parts of its inputs are others than at a commit.

    A cell that was not there is new. Where the commit's state cannot be read, that is said, and all cells count as new.

    Raises:
        UsageError: there is no git, no repository or no such commit.
    """
    if git.is_none(ref):
        return {(cell.recipe, cell.id): NEW for _, cells in selected for cell in cells if not cell.impossible}
    project = session.workspace.project
    root = git.root_of(project)
    commit = git.commit_of(root, ref)
    found = {}
    title = f"comparing with {ref}"
    with session.console.task(title, unit="recipes"), git.files_at(root, commit) as files:
        then = _Then(root=root, files=files, session=session).cells_of([recipe for recipe, _ in selected])
        for recipe, cells in selected:
            before = then.get(recipe.name, {})
            models = ("models",) if _models_changed(recipe, root, commit) else ()
            for cell, parts in cells_of(recipe, cells, session).items():
                found[recipe.name, cell] = (*_different(before.get(cell), parts), *models)
    return found


def _different(before: Parts | None, now: Parts) -> tuple[str, ...]:
    return NEW if before is None else tuple(part for part, value in now.items() if before.get(part) != value)


class _Then:
    """The project as it was; what its cells were made from is told by this jbuild with the knowledge of that time."""

    def __init__(self, *, root: Path, files: Path, session: Session) -> None:
        self._root, self._files, self._session = root.resolve(), files, session
        self._package = _package_of(self._root, files)

    def cells_of(self, recipes: Sequence[Recipe]) -> States:
        """Return the fingerprints of recipes' cells; one that was not there, or cannot be read, has none."""
        there = [recipe for recipe in recipes if self._moved(recipe.path.resolve()).is_file()]
        try:
            return self._told(there) if there else {}
        except ProgramFailedError as error:
            if len(there) > 1:
                # One that is damaged must not hide the others.
                return {name: cells for recipe in there for name, cells in self.cells_of([recipe]).items()}
            lines = error.output.splitlines()
            reason = next((line for line in lines if line.startswith("error: ")), error.message)
            name = there[0].name
            self._session.console.warn(f"{name}: its state then cannot be read, so all of it counts as new ({reason})")
            return {}

    def _told(self, recipes: Sequence[Recipe]) -> States:
        project = self._moved(self._session.workspace.project.resolve())
        project.mkdir(parents=True, exist_ok=True)
        paths = [str(self._moved(recipe.path.resolve())) for recipe in recipes]
        argv = [sys.executable, "-c", _RUN, str(self._package), "matrix", *paths, "--format", "inputs"]
        done = process.run(argv, cwd=project, timeout_s=_STATE_TIMEOUT_S)
        told: States = json.loads(done.stdout)["recipes"]
        return told

    def _moved(self, path: Path) -> Path:
        """Return where a path of now lies then; what came with a jbuild that is not the repository's own stays."""
        beside = self._package != self._root and path.is_relative_to(self._package)
        return self._files / path.relative_to(self._root) if path.is_relative_to(self._root) and not beside else path


def _package_of(root: Path, files: Path) -> Path:
    """Return the folder of the package that reads the old state.

    Where the repository holds jbuild itself, that is today's code with the tables of that time and the files of that
    time that go into images; else the package that runs now.
    """
    package = Path(builder.__file__).resolve().parent
    then = files / package.relative_to(root) if package.is_relative_to(root) else None
    # One that is installed or checked out below the root, but not the repository's own, is the same now and then.
    if then is None or not (then / "__init__.py").resolve().is_relative_to(files) or not then.is_dir():
        return package.parent
    scripts = {package / "image" / "runtime" / path.name for path in runtime.scripts()}
    of_then = {*scripts, package / "__init__.py"}
    for path in package.rglob("*"):
        there = then / path.relative_to(package)
        if path.is_file() and (path.suffix == ".py" or not there.exists()) and path not in of_then:
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, there)
    return then.parent


def _models_changed(recipe: Recipe, root: Path, commit: str) -> bool:
    """Return whether a model's folder in the repository changed: its files may be too large to be looked at twice."""
    for model in recipe.spec.models:
        if "://" in model.source or "{" in model.source:
            continue
        folder = (recipe.path.parent / Path(model.source).expanduser()).resolve()
        if folder.is_relative_to(root.resolve()) and git.changed(root, commit, folder):
            return True
    return False
