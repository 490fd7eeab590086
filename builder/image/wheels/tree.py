"""Unpacks wheels into trees: each wheel once, for the image's environment, shared by all cells.

A tree holds the files that one wheel adds to the virtual environment at `ENVIRONMENT`, with the same modes and times
on every machine.
"""

from __future__ import annotations

import configparser
import csv
import fnmatch
import lzma
import os
import shutil
import warnings
import zipfile
import zlib
from concurrent.futures import as_completed
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from filelock import FileLock

from builder.errors import IntegrityError, ProgramFailedError
from builder.host.concurrency import workers
from builder.host.files import atomic_folder, disk_errors, mark_used, sha256_of
from builder.host.process import run
from builder.host.toml import documents
from builder.image.slim.slim_wheel import ALGORITHM
from builder.image.wheels.slim_tree import slim_installed, slim_key
from builder.model.images import ENVIRONMENT, site_packages
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from builder.host.interpreters import Compiler
    from builder.host.paths import Workspace
    from builder.host.session import Session
    from builder.host.toml.documents import Table
    from builder.model.precompiled import CompiledWheel
    from builder.model.slimming import SlimRules
    from builder.model.wheels import LockedWheel

# The time of every file, 1980-01-01: the earliest in a zip archive.
EPOCH = 315532800
# Part of each tree's name: raise it when the same wheel unpacks to something else.
_FORMAT = "3"
# Errors of reading an invalid wheel, besides those of `installer` itself.
_FLAWS = (
    *(ValueError, LookupError, RuntimeError, AssertionError, EOFError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, csv.Error, configparser.Error),
    *(NotADirectoryError, IsADirectoryError, FileExistsError),
)
# Run as text: a script's folder would be where the interpreter looks for modules first.
_COMPILE = Path(__file__).with_name("compile_tree.py").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Unpacking:
    """One wheel to unpack: source, destination, Python version, and the compiler of its bytecode, if any.

    `slim` are the rules for its GPU code, None if all of it stays; `compiled` are modules in the cache to add.
    """

    locked: LockedWheel
    wheel: Path
    tree: Path
    python: str
    compiler: Compiler | None
    workspace: Workspace
    slim: SlimRules | None = None
    compiled: CompiledWheel | None = None


def unpacking(
    wheel: LockedWheel,
    python: str,
    compiler: Compiler | None,
    workspace: Workspace,
    slim: SlimRules | None = None,
    compiled: CompiledWheel | None = None,
) -> Unpacking:
    """Return how to unpack a wheel for a Python minor version."""
    kind = variant(python, compiler) + (f"-{slim_key(slim, compiled)}" if slim else "")
    return Unpacking(
        workspace=workspace,
        compiled=compiled,
        locked=wheel,
        wheel=workspace.wheel(wheel.sha256, wheel.filename),
        tree=workspace.trees / wheel.sha256[:2] / f"{wheel.sha256}-{kind}",
        python=python,
        compiler=compiler,
        slim=slim,
    )


def variant(python: str, compiler: Compiler | None) -> str:
    """Return the other inputs of a tree's bytes besides the wheel: format, Python version and compiler."""
    return f"{_FORMAT}-py{python}" + (f"-c{compiler.version}" if compiler else "")


def is_current(name: str) -> bool:
    """Return whether a tree of this name has the current format; others are not used again."""
    kind, _, slim = name.partition("-")[2].partition("-slim")
    return kind.startswith(f"{_FORMAT}-py") and (not slim or slim.startswith(f"{ALGORITHM}-"))


def unpack(work: Unpacking) -> None:
    """Unpack a wheel into its tree, unless it exists.

    Raises:
        IntegrityError: the wheel is not a valid wheel, or reaches outside the environment.
        DiskError: the disk is full.
    """

    def fill(folder: Path) -> None:
        _install(work, folder)
        if work.slim:
            packages = folder / site_packages(work.python).lstrip("/")
            slim_installed(work.locked, packages, work.slim, work.compiled, work.workspace)
        write_aliases(work.locked.name, work.locked.version, folder / site_packages(work.python).lstrip("/"))

    make_tree(work.tree, fill, work.compiler, work.wheel.name)


def make_tree(tree: Path, fill: Callable[[Path], None], compiler: Compiler | None, artifact: str) -> None:
    """Make a tree, unless it exists: fill a folder, compile its sources, and normalise it.

    Raises:
        IntegrityError: the compiler failed.
        DiskError: the disk is full.
    """
    if tree.is_dir():
        return
    with disk_errors(tree):
        tree.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{tree}.lock"):
            if tree.is_dir():
                return
            for remains in tree.parent.glob(f".{tree.name}.*"):
                # Of a killed process: only the lock's holder writes here.
                shutil.rmtree(remains)
            with atomic_folder(tree) as folder:
                fill(folder)
                if compiler:
                    _compile_sources(compiler, folder, artifact)
                normalise(folder)
    Path(f"{tree}.lock").unlink(missing_ok=True)


def normalise(folder: Path) -> None:
    """Set one time for a folder and all files below it, and modes that depend on execute bits only."""
    for base, names, files in os.walk(folder, topdown=False):
        for name in (*names, *files):
            path = os.path.join(base, name)  # noqa: PTH118  # a stack has 100,000 files; Path objects double the time
            if not os.path.islink(path):  # noqa: PTH114
                mode = 0o755 if os.stat(path).st_mode & 0o100 else 0o644  # noqa: PTH116
                os.chmod(path, mode)  # noqa: PTH101
            os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
        os.chmod(base, 0o755)  # noqa: PTH101, S103  # the image's user must be able to enter
        os.utime(base, (EPOCH, EPOCH))


def _install(work: Unpacking, folder: Path) -> None:
    from installer import install  # noqa: PLC0415  # slow to import; `list` does without
    from installer.destinations import SchemeDictionaryDestination  # noqa: PLC0415
    from installer.exceptions import InstallerError  # noqa: PLC0415
    from installer.sources import WheelFile  # noqa: PLC0415

    packages = site_packages(work.python)
    try:
        with warnings.catch_warnings(), WheelFile.open(work.wheel) as source:
            # Many wheels contain bytecode, which `installer` skips with a warning: jbuild compiles it.
            warnings.filterwarnings("ignore", "Skip installing .*__pycache__", RuntimeWarning)
            scheme = {
                "purelib": packages,
                "platlib": packages,
                "headers": f"{ENVIRONMENT}/include/site/python{work.python}/{source.distribution}",
                "scripts": f"{ENVIRONMENT}/bin",
                "data": ENVIRONMENT,
            }
            destination = SchemeDictionaryDestination(
                scheme,
                interpreter=f"{ENVIRONMENT}/bin/python",
                script_kind="posix",
                destdir=str(folder),
                # Like pip: wheels with duplicate files, or with files that an installer writes, are common.
                overwrite_existing=True,
            )
            install(source, destination, {"INSTALLER": b"jbuild"})
    except (InstallerError, *_FLAWS) as error:
        raise _unusable(work, error) from error


def _unusable(work: Unpacking, error: Exception) -> IntegrityError:
    name, location = work.wheel.name, str(work.wheel)
    if sha256_of(work.wheel) != work.locked.sha256:
        work.wheel.unlink(missing_ok=True)
        hint = "run the same command again to fetch it again"
        return IntegrityError(f"{name} was damaged on this disk: {error}", where=location, hint=hint)
    hint = "exclude this version with `constraints` in the recipe, or report it to its authors"
    return IntegrityError(f"{name} is not a valid wheel: {error}", where=location, hint=hint)


def _compile_sources(compiler: Compiler, folder: Path, artifact: str) -> None:
    """Compile in a separate process with a fixed hash seed, so that the same source gives the same bytes."""
    argv = [compiler.path, "-S", "-c", _COMPILE, str(folder)]
    # Empty counts as unset: the user's settings must not change the output or its location.
    unset = dict.fromkeys(("PYTHONDONTWRITEBYTECODE", "PYTHONOPTIMIZE", "PYTHONPYCACHEPREFIX", "PYTHONPATH"), "")
    try:
        run(argv, env={"PYTHONHASHSEED": "0", **unset}, cwd=folder)
    except ProgramFailedError as error:
        raise IntegrityError(f"{artifact} could not be compiled", where=compiler.path, log=error.output) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Alias:
    """A row of `aliases.toml`: the distributions (a glob), and the name, version and folder of their extra metadata."""

    wheels: str
    name: str
    version: str
    folder: str
    source: str


@cache
def aliases() -> tuple[Alias, ...]:
    """Return the rows of `aliases.toml`.

    Raises:
        DocumentError: the file has mistakes.
    """
    return documents.load(Path(__file__).with_name("aliases.toml"), "the aliases have mistakes", _parse)


def write_aliases(distribution: str, version: str, packages: Path) -> None:
    """Write the extra metadata of a distribution into a site-packages folder."""
    for name, alias_version, folder_name in alias_versions(distribution, version):
        folder = packages / folder_name
        folder.mkdir(exist_ok=True)
        lines = (
            "Metadata-Version: 2.1",
            f"Name: {name}",
            f"Version: {alias_version}",
            f"Summary: metadata that {distribution} would write when first imported",
        )
        (folder / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / "RECORD").write_text(f"{folder_name}/METADATA,,\n{folder_name}/RECORD,,\n", encoding="utf-8")


def alias_versions(distribution: str, version: str) -> list[tuple[str, str, str]]:
    """Return name, version and folder of each extra metadata of a distribution."""
    return [
        (alias.name, alias.version.format(version=version), alias.folder)
        for alias in aliases()
        if fnmatch.fnmatchcase(distribution, alias.wheels)
    ]


def _parse(root: Table) -> tuple[Alias, ...]:
    rows = []
    for table in root.tables("aliases"):
        rows.append(Alias(**{field.name: table.string(field.name) for field in fields(Alias)}))
        table.done()
    return tuple(rows)


def prepare(
    wheels: Sequence[LockedWheel],
    python: str,
    compiler: Compiler | None,
    session: Session,
    slim: Mapping[str, SlimRules] = MappingProxyType({}),
    compiled: Mapping[str, CompiledWheel] = MappingProxyType({}),
) -> dict[str, Path]:
    """Return the tree of each wheel by its sha256, after fetching and unpacking missing ones.

    `slim` are the rules for the GPU code of wheels, by their sha256, and `compiled` the modules to add to it.

    Raises:
        NetworkError, IntegrityError, DiskError: a wheel cannot be fetched, verified or stored.
    """
    plans = {
        wheel.sha256: unpacking(
            wheel, python, compiler, session.workspace, slim.get(wheel.sha256), compiled.get(wheel.sha256)
        )
        for wheel in wheels
    }
    for plan in plans.values():
        mark_used(plan.wheel.parent)
    missing = [wheel for wheel in wheels if not mark_used(plans[wheel.sha256].tree)]
    # The largest first: started last, one would keep a single processor busy after all others.
    missing.sort(key=lambda wheel: wheel.size or 0, reverse=True)
    if missing:
        _unpack(missing, plans, session)
    return {sha256: plan.tree for sha256, plan in plans.items()}


def _unpack(missing: Sequence[LockedWheel], plans: dict[str, Unpacking], session: Session) -> None:
    title = f"unpacking {len(missing)} wheels"
    with session.console.task(title, len(missing), unit="wheels") as task, workers() as pool:
        running: list[Future[None]] = []

        def begin(wheel: LockedWheel) -> None:
            future = pool.submit(unpack, plans[wheel.sha256])
            future.add_done_callback(done)
            running.append(future)

        def done(_: Future[None]) -> None:
            # Runs in the pool's own thread, which an exception would end; `check` below raises the same one.
            with suppress(KeyboardInterrupt):
                task.advance(1)

        fetch(missing, session, on_fetched=begin)
        for future in as_completed(running):
            session.console.check()
            future.result()
