"""The paths of all files: the project's, the cache's and jbuild's own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder.errors import UsageError
from builder.host.files import check_writable, disk_errors, sha256_of

if TYPE_CHECKING:
    from filelock import FileLock


def cache_folder() -> Path:
    """Return the user's cache: `$JBUILD_CACHE`, else the platform's cache folder for jbuild."""
    if folder := os.environ.get("JBUILD_CACHE"):
        return Path(folder).expanduser().absolute()
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "jbuild"


def shipped(name: str) -> Path:
    """Return a folder that ships with jbuild (`recipes`, `dockerfiles`): in the wheel, else in the checkout."""
    package = Path(__file__).parents[1]
    inside = package / "share" / name
    return inside if inside.is_dir() else package.parent / name


# The program that starts jbuild's own engine; only a checkout of jbuild has it.
ENGINE_SCRIPT = Path(__file__).parents[2] / "scripts" / "engine"
# Beside the packages of a jbuild that a bundle brought: `publish/bundle/unpack_jbuild.py` writes it.
CARRIED_PROGRAM = "start_jbuild.py"


def is_carried() -> bool:
    """Return whether a bundle brought the running jbuild to this machine."""
    return (Path(__file__).parents[2] / CARRIED_PROGRAM).is_file()


def project_folder(start: Path | None = None) -> Path:
    """Return the project: the nearest folder up from `start` with a `jbuild.toml` or `recipes/`, else `start`."""
    start = (start or _current_folder()).absolute()
    for folder in (start, *start.parents):
        files = (folder / "jbuild.toml", folder / "jbuild.local.toml")
        if (folder / "recipes").is_dir() or any(file.is_file() for file in files):
            return folder
    return start


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise UsageError("the current folder no longer exists", hint="`cd` to a folder that does") from error


@dataclass(frozen=True, slots=True)
class _Place:
    """A fixed place below one of an object's folders: an attribute whose value is the path."""

    folder: Literal["path", "project", "cache", "layout", "results"]
    name: str

    def __get__(self, instance: CellFolder | Workspace, _: type) -> Path:
        return Path(getattr(instance, self.folder), self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class CellFolder:
    """The files of one cell: the plan, and the stages' records."""

    path: Path
    dockerfile = _Place("path", "Dockerfile")  # rendered
    layers = _Place("path", "layers")  # of a standalone plan: the files of layers, one folder a layer
    system_layer = _Place("path", "system-layer")  # for the build of the cell's system layer alone
    history = _Place("path", "history.jsonl")  # the outcomes of the cell's runs, a line each
    running = _Place("path", "running.jsonl")  # the line of a run that has not ended, locked by its process
    warm = _Place("path", "warm")  # the warm image of the last smoke run: an OCI layout without the layers below
    inspection_log = _Place("path", "model-infos.log")  # of the container in which vLLM inspected the models' classes

    def record(self, stage: str) -> Path:
        """Return the record of a stage: `render.json`, `build.json`, and so on."""
        return self.path / f"{stage}.json"

    def smoke_log(self, level: str) -> Path:  # noqa: ARG002  # for bundles
        """Return the file for the container's log of a smoke run at a level."""
        return self.path / "smoke.log"


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleCellFolder(CellFolder):
    """The files of a bundle's cell: records in the cache, logs beside the verdicts in `results`."""

    results: Path
    warm = _Place("results", "warm")

    def smoke_log(self, level: str) -> Path:
        """Return the file for the container's log of a smoke run at a level."""
        return self.results / f"smoke-{level}.log"


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspace:
    """The files of a project and of the user's cache."""

    project: Path
    cache: Path
    systems = _Place("project", "locks/systems.toml")  # the system layers that the project pins, beside its locks
    report = _Place("project", "build/report.html")  # the page of `jbuild report`
    wheels = _Place("cache", "wheels")  # the wheelhouse: wheels by sha256
    index_states = _Place("cache", "indexes")  # the times since when package indexes fail, a file an index
    facts = _Place("cache", "facts")  # facts about wheels, base images and layers, by digest
    # Interpreters that uv fetched: archives for images by sha256, and compilers for this machine.
    interpreters = _Place("cache", "interpreters")
    models = _Place("cache", "models")  # model files by sha256
    images = _Place("cache", "images")  # built images: one OCI layout whose blobs are shared by all cells
    bundles = _Place("cache", "bundles")  # the small files of split bundles, while they are open
    signatures = _Place("cache", "signatures")  # made on this machine, by key and content
    verdicts = _Place("cache", "verdicts")  # the results of smoke runs by image
    bundle_runs = _Place("cache", "bundle-runs")  # the records of smoke runs of bundles by image
    cubins = _Place("cache", "cubins")  # kernels that were compiled from PTX, by PTX, GPU and compiler
    foundry = _Place("cache", "foundry")  # wheels built from source: sources, compilers, sandboxes, builds
    tools = _Place("cache", "tools")  # programs of wheels, by the wheel's sha256
    locks_in_use = _Place("cache", "run")  # lock files that several jbuild processes share
    engine_record = _Place("cache", "engine/engine.json")  # of the engine that `scripts/engine up` started

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
        """Return the file with the golden tokens of a recipe, given the recipe's file."""
        return recipe.parent / "golden" / recipe.name

    def recorded_golden(self, recipe: Path) -> Path:
        """Return the file to which new golden tokens of a recipe are written."""
        return self.golden(recipe)

    def verdict(self, sha256: str, name: str) -> Path:
        """Return the file of a verdict on an image, of any cell."""
        return self.verdicts / sha256 / f"{name}.json"

    def cell(self, recipe: str, cell: str) -> CellFolder:
        """Return a cell's folder."""
        return CellFolder(path=self.project / "build" / recipe / cell)

    def wheel(self, sha256: str, filename: str) -> Path:
        """Return a wheel's file in the wheelhouse; it keeps its name, since tools read it."""
        return self.wheels / sha256[:2] / sha256 / filename

    def source(self, sha256: str, filename: str) -> Path:
        """Return the file of a source archive or of a package of a compiler."""
        return self.foundry / "files" / sha256[:2] / sha256 / filename

    def tool(self, sha256: str, name: str) -> Path:
        """Return the file of a program of a wheel."""
        return self.tools / sha256 / name

    def cubin(self, key: str) -> Path:
        """Return the file of a compiled module, by the fingerprint of its inputs."""
        return self.cubins / key[:2] / key

    def built(self, fingerprint: str) -> Path:
        """Return the record of a wheel that was built, by the fingerprint of its inputs."""
        return self.cache / "built" / fingerprint[:2] / f"{fingerprint}.json"

    def metadata(self, sha256: str) -> Path:
        """Return the file of a wheel's cached METADATA."""
        return self.cache / "metadata" / sha256[:2] / sha256

    def advised(self, question: str) -> Path:
        """Return the file of the cached advisories for a question, by its fingerprint."""
        return self.cache / "advised" / f"{question}.json"

    def packed(self, key: str) -> Path:
        """Return the record of a packed layer, by the fingerprint of its inputs."""
        return self.cache / "packed" / key[:2] / f"{key}.json"

    def system(self, key: str) -> Path:
        """Return the record of a system image, by the fingerprint of its inputs."""
        return self.cache / "systems" / f"{key}.json"

    def model_infos(self, key: str) -> Path:
        """Return the record of vLLM's model infos, by the fingerprint of vLLM and the classes."""
        return self.cache / "model-infos" / f"{key}.json"

    def file_lock(self, name: str) -> FileLock:
        """Return a named lock that all jbuild processes of this user share.

        Raises:
            DiskError: its folder cannot be created.
        """
        from filelock import FileLock  # noqa: PLC0415  # `list` does without

        folder = self.locks_in_use
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / name)


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleWorkspace(Workspace):
    """The files of an opened bundle, which stay as they are, and of the user's cache.

    `project` and `layout` are the bundle's recipe with its lock, and its image. `results` is the folder for verdicts;
    `digest` is the image's.
    """

    layout: Path
    results: Path
    digest: str
    images = _Place("layout", "")

    def cell(self, recipe: str, cell: str) -> BundleCellFolder:  # noqa: ARG002  # a bundle has one cell
        """Return the folder of the bundle's cell: on this machine, bundles of the same image share it."""
        return BundleCellFolder(path=self.bundle_runs / self.digest.partition(":")[2], results=self.results)

    def recorded_golden(self, recipe: Path) -> Path:
        """Return the file to which new golden tokens of a recipe are written."""
        return self.results / "golden" / recipe.name


def _distinct(*folders: Path) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(folder.resolve() for folder in folders if folder.is_dir()))


def check_cache(workspace: Workspace) -> None:
    """Create the cache and make sure that it is writable.

    Raises:
        DiskError: it is not.
    """
    hint = "set JBUILD_CACHE to a writable folder"
    check_writable(workspace.locks_in_use, "the cache cannot be used", where=workspace.cache, hint=hint)


def sha256_of_file(path: Path) -> str | None:
    """Return the sha256 of a file, in hex, or None if there is no file."""
    return sha256_of(path) if path.is_file() else None
