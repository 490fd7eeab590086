"""The one place that decides where files live, and how they are written."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import DiskError, UsageError
from builder.host.files import disk_errors, sha256_of

if TYPE_CHECKING:
    from filelock import FileLock


def cache_folder() -> Path:
    """Return the user's cache: `$JBUILD_CACHE`, else the platform's cache folder for jbuild."""
    own = os.environ.get("JBUILD_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "jbuild"


def shipped(name: str) -> Path:
    """Return a folder that ships with jbuild (`recipes`, `dockerfiles`): in the wheel, else in the checkout."""
    package = Path(__file__).parents[1]
    inside = package / "share" / name
    return inside if inside.is_dir() else package.parent / name


def project_folder(start: Path | None = None) -> Path:
    """Return the folder that the user works in: the nearest one up from `start` with a `jbuild.toml` or `recipes/`."""
    start = (start or _here()).absolute()
    for folder in (start, *start.parents):
        if (
            (folder / "jbuild.toml").is_file()
            or (folder / "jbuild.local.toml").is_file()
            or (folder / "recipes").is_dir()
        ):
            return folder
    return start


def _here() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise UsageError("the current folder no longer exists", hint="`cd` to a folder that does") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class CellFolder:
    """Everything of one cell: the plan that `docker buildx build` can build, and the stages' records."""

    path: Path

    @property
    def dockerfile(self) -> Path:
        """The rendered Dockerfile."""
        return self.path / "Dockerfile"

    @property
    def layers(self) -> Path:
        """The context's trees, one folder a layer."""
        return self.path / "layers"

    @property
    def system_layer(self) -> Path:
        """The folder in which the cell's system layer is built by itself."""
        return self.path / "system-layer"

    @property
    def history(self) -> Path:
        """What became of the cell's runs, a line each."""
        return self.path / "history.jsonl"

    def record(self, stage: str) -> Path:
        """Return the record of a stage: `render.json`, `build.json`, and so on."""
        return self.path / f"{stage}.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspace:
    """Where the files of a project and of the user's cache lie."""

    project: Path
    cache: Path

    @classmethod
    def current(cls) -> Workspace:
        """Return the workspace of the current folder."""
        return cls(project=project_folder(), cache=cache_folder())

    @property
    def recipe_folders(self) -> tuple[Path, ...]:
        """Folders with recipes, the user's own first."""
        return _distinct(self.project / "recipes", shipped("recipes"))

    @property
    def template_folders(self) -> tuple[Path, ...]:
        """Folders with Dockerfile templates, the user's own first."""
        return _distinct(self.project / "dockerfiles", shipped("dockerfiles"))

    @property
    def config_files(self) -> tuple[Path, ...]:
        """Configuration files, weakest first; absent ones are skipped by the reader."""
        home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
        return (home / "jbuild" / "jbuild.toml", self.project / "jbuild.toml", self.project / "jbuild.local.toml")

    def lock(self, recipe: str, cell: str) -> Path:
        """Return a cell's lock file."""
        return self.project / "locks" / recipe / f"pylock.{cell}.toml"

    def model_lock(self, recipe: str) -> Path:
        """Return the file with the models that all cells of a recipe share."""
        return self.project / "locks" / recipe / "models.toml"

    def golden(self, recipe: Path) -> Path:
        """Return the file with the golden tokens of a recipe, given the recipe's own: beside it, in a folder."""
        return recipe.parent / "golden" / recipe.name

    def verdict(self, sha256: str, name: str) -> Path:
        """Return where a verdict on an image is kept, whichever cell it is of."""
        return self.cache / "verdicts" / sha256 / f"{name}.json"

    @property
    def systems(self) -> Path:
        """The system layers that the project pins, beside its locks."""
        return self.project / "locks" / "systems.toml"

    def cell(self, recipe: str, cell: str) -> CellFolder:
        """Return a cell's folder."""
        return CellFolder(path=self.project / "build" / recipe / cell)

    @property
    def report(self) -> Path:
        """The page of `jbuild report`."""
        return self.project / "build" / "report.html"

    @property
    def wheels(self) -> Path:
        """The wheelhouse: wheels by sha256."""
        return self.cache / "wheels"

    def wheel(self, sha256: str, filename: str) -> Path:
        """Return where a wheel lies in the wheelhouse."""
        return wheel_file(self.wheels, sha256, filename)

    def metadata(self, sha256: str) -> Path:
        """Return where a wheel's METADATA is kept once it has been read."""
        return self.cache / "metadata" / sha256[:2] / sha256

    def advised(self, question: str) -> Path:
        """Return where the advisories are kept that a question (by its fingerprint) leads to."""
        return self.cache / "advised" / f"{question}.json"

    @property
    def index_states(self) -> Path:
        """Since when package indexes fail, a file an index."""
        return self.cache / "indexes"

    @property
    def trees(self) -> Path:
        """Unpacked wheels by sha256 and format."""
        return self.cache / "trees"

    @property
    def facts(self) -> Path:
        """What the audit has read of wheels and base images, by digest."""
        return self.cache / "facts"

    @property
    def interpreters(self) -> Path:
        """Interpreters that uv fetched: archives for images by sha256, and those that compile here."""
        return self.cache / "interpreters"

    @property
    def models(self) -> Path:
        """Model files by sha256."""
        return self.cache / "models"

    @property
    def images(self) -> Path:
        """Built images: one OCI layout whose blobs are shared by all cells."""
        return self.cache / "images"

    def packed(self, key: str) -> Path:
        """Return the record of a packed layer, by what decides its bytes."""
        return self.cache / "packed" / key[:2] / f"{key}.json"

    def system(self, key: str) -> Path:
        """Return the record of a system image, by what it is built from."""
        return self.cache / "systems" / f"{key}.json"

    @property
    def signatures(self) -> Path:
        """Signatures that were made here, by key and content."""
        return self.cache / "signatures"

    @property
    def locks_in_use(self) -> Path:
        """Lock files that keep several jbuild processes apart."""
        return self.cache / "run"

    def file_lock(self, name: str) -> FileLock:
        """Return a lock by a name, which other jbuild processes of this user take, too.

        Raises:
            DiskError: it cannot be made.
        """
        from filelock import FileLock  # noqa: PLC0415  # `list` does without

        folder = self.locks_in_use
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / name)

    @property
    def engine_record(self) -> Path:
        """What `scripts/engine up` says of the engine that it started."""
        return self.cache / "engine" / "engine.json"


def wheel_file(house: Path, sha256: str, filename: str) -> Path:
    """Return where a wheel lies in a wheelhouse; its file name is kept, since tools read it."""
    return house / sha256[:2] / sha256 / filename


def _distinct(*folders: Path) -> tuple[Path, ...]:
    kept: dict[Path, None] = {}
    for folder in folders:
        if folder.is_dir():
            kept.setdefault(folder.resolve())
    return tuple(kept)


def check_cache(workspace: Workspace) -> None:
    """Make sure that the cache is there and can be written.

    Raises:
        DiskError: it cannot.
    """
    folder = workspace.locks_in_use
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise DiskError(
            f"the cache cannot be used: {error.strerror}",
            where=str(workspace.cache),
            hint="set JBUILD_CACHE to a folder that can be made and written",
        ) from error


def sha256_of_file(path: Path) -> str | None:
    """Return the sha256 of a file, in hex, or None where there is no file."""
    return sha256_of(path) if path.is_file() else None
