"""Unpacks wheels into trees: each wheel once, as it will lie in the image's environment, shared by all cells.

A tree holds what one wheel adds to the virtual environment at `ENVIRONMENT`, with every mode and time the same on
every machine.
"""

from __future__ import annotations

import configparser
import csv
import lzma
import os
import shutil
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from builder.errors import IntegrityError, ProgramFailedError
from builder.host.files import atomic_folder, disk_errors, sha256_of
from builder.host.process import run
from builder.image.wheels.metadata_aliases import write_aliases
from builder.model.images import ENVIRONMENT, site_packages
from builder.remote.wheelhouse import path_of

if TYPE_CHECKING:
    from installer.destinations import SchemeDictionaryDestination

    from builder.host.interpreters import Compiler
    from builder.host.paths import Workspace
    from builder.model.locks import LockedWheel

# The one time of every file, 1980-01-01: the earliest that a zip archive can hold.
EPOCH = 315532800
# Part of each tree's name: raise it when the same wheel unpacks to something else.
_FORMAT = "3"
# What reading a file that is no sound wheel may raise, besides the errors of `installer` itself.
_FLAWS = (
    *(ValueError, LookupError, RuntimeError, AssertionError, EOFError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, csv.Error, configparser.Error),
    *(NotADirectoryError, IsADirectoryError, FileExistsError),
)
# Run as text: a script's folder would be where the interpreter looks for modules first.
_COMPILE = Path(__file__).with_name("compile_tree.py").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Unpacking:
    """One wheel to unpack: from where, to where, for which Python, and which interpreter compiles it, if any."""

    distribution: str
    version: str
    sha256: str
    wheel: Path
    tree: Path
    python: str
    compiler: Compiler | None


def unpacking(wheel: LockedWheel, python: str, compiler: Compiler | None, workspace: Workspace) -> Unpacking:
    """Describe how a wheel becomes a tree for a Python minor version."""
    return Unpacking(
        distribution=wheel.name,
        version=wheel.version,
        sha256=wheel.sha256,
        wheel=path_of(wheel, workspace.wheels),
        tree=workspace.trees / wheel.sha256[:2] / f"{wheel.sha256}-{variant(python, compiler)}",
        python=python,
        compiler=compiler,
    )


def variant(python: str, compiler: Compiler | None) -> str:
    """Return what, besides the wheel, decides a tree's bytes: our format, the Python, and what compiles it."""
    return f"{_FORMAT}-py{python}" + (f"-c{compiler.version}" if compiler else "")


def is_current(name: str) -> bool:
    """Tell whether a tree of this name is laid out as trees are now; others are never used again."""
    return name.partition("-")[2].startswith(f"{_FORMAT}-py")


def unpack(work: Unpacking) -> None:
    """Unpack a wheel into its tree, unless it is there.

    Raises:
        IntegrityError: the wheel is not a valid wheel, or reaches outside the environment.
        DiskError: the disk is full.
    """
    if work.tree.is_dir():
        return
    with disk_errors(work.tree):
        work.tree.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(work.tree), FileLock(f"{work.tree}.lock"):
        if work.tree.is_dir():
            return
        for left in work.tree.parent.glob(f".{work.tree.name}.*"):
            # Of a process that was killed: whoever holds the lock is the only one at work here.
            shutil.rmtree(left)
        with atomic_folder(work.tree) as folder:
            _install(work, folder)
            write_aliases(work.distribution, work.version, folder / site_packages(work.python).lstrip("/"))
            if work.compiler:
                compile_sources(work.compiler, folder, work.wheel.name)
            normalise(folder)
    Path(f"{work.tree}.lock").unlink(missing_ok=True)


def normalise(folder: Path) -> None:
    """Give every file below a folder, and the folder itself, one time and a mode that depends on execute bits only."""
    for base, names, files in os.walk(folder, topdown=False):
        for name in files:
            path = os.path.join(base, name)  # noqa: PTH118  # a stack has 100,000 files; Path objects double the time
            if not os.path.islink(path):  # noqa: PTH114
                mode = 0o755 if os.stat(path).st_mode & 0o100 else 0o644  # noqa: PTH116
                os.chmod(path, mode)  # noqa: PTH101
            os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
        for name in names:
            path = os.path.join(base, name)  # noqa: PTH118
            if os.path.islink(path):  # noqa: PTH114
                os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
        os.chmod(base, 0o755)  # noqa: PTH101, S103  # the image's user must be able to enter
        os.utime(base, (EPOCH, EPOCH))


def _install(work: Unpacking, folder: Path) -> None:
    from installer import install  # noqa: PLC0415  # slow to import; `list` does without
    from installer.exceptions import InstallerError  # noqa: PLC0415
    from installer.sources import WheelFile  # noqa: PLC0415

    try:
        with warnings.catch_warnings(), WheelFile.open(work.wheel) as source:
            # Many wheels ship bytecode, which `installer` leaves out and warns of: it is compiled here.
            warnings.filterwarnings("ignore", "Skip installing .*__pycache__", RuntimeWarning)
            install(source, _destination(work, folder, source.distribution), {"INSTALLER": b"jbuild"})
    except (InstallerError, *_FLAWS) as error:
        raise _unusable(work, error) from error


def _unusable(work: Unpacking, error: Exception) -> IntegrityError:
    name, where = work.wheel.name, str(work.wheel)
    if sha256_of(work.wheel) != work.sha256:
        work.wheel.unlink(missing_ok=True)
        hint = "run the same command again: it is fetched anew"
        return IntegrityError(f"{name} was damaged on this disk: {error}", where=where, hint=hint)
    hint = "exclude this version with `constraints` in the recipe, or report it to its authors"
    return IntegrityError(f"{name} is not a wheel that can be installed: {error}", where=where, hint=hint)


def _destination(work: Unpacking, folder: Path, distribution: str) -> SchemeDictionaryDestination:
    from installer.destinations import SchemeDictionaryDestination  # noqa: PLC0415

    packages = site_packages(work.python)
    return SchemeDictionaryDestination(
        {
            "purelib": packages,
            "platlib": packages,
            "headers": f"{ENVIRONMENT}/include/site/python{work.python}/{distribution}",
            "scripts": f"{ENVIRONMENT}/bin",
            "data": ENVIRONMENT,
        },
        interpreter=f"{ENVIRONMENT}/bin/python",
        script_kind="posix",
        destdir=str(folder),
        # As pip does: wheels that hold a file twice, or a file that an installer writes, are common enough.
        overwrite_existing=True,
    )


def compile_sources(compiler: Compiler, folder: Path, what: str) -> None:
    """Compile in a process of its own with a fixed hash seed: the same source gives the same bytes.

    Raises:
        IntegrityError: it cannot be done.
    """
    argv = [compiler.path, "-S", "-c", _COMPILE, str(folder)]
    # Empty counts as unset: the user's own settings must not change what is written, or where.
    unset = dict.fromkeys(("PYTHONDONTWRITEBYTECODE", "PYTHONOPTIMIZE", "PYTHONPYCACHEPREFIX", "PYTHONPATH"), "")
    try:
        run(argv, env={"PYTHONHASHSEED": "0", **unset}, cwd=folder)
    except ProgramFailedError as error:
        raise IntegrityError(f"{what} could not be compiled", where=compiler.path, log=error.output) from error
