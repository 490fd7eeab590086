"""The sandbox of a build: the folder in the cache, what is mounted, and the run of the project's backend in it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.foundry.build_environment import CUDA, REQUIREMENTS, SYSROOT, TARGET, TORCH
from builder.foundry.build_python import HOME, header_in_sandbox, write_target_python
from builder.foundry.build_requirements import requirements_folder
from builder.foundry.cmake_toolchain import write_toolchain
from builder.foundry.cuda_tree import cuda_tree
from builder.foundry.sandbox import Mount, Sandbox
from builder.foundry.sandbox_root import sandbox_root, sysroot
from builder.foundry.torch_tree import torch_tree
from builder.host.files import write_text

if TYPE_CHECKING:
    from builder.foundry.build_python import BuildPython
    from builder.host.session import Session
    from builder.model.builds import LockedBuild

_HOOK = Path(__file__).with_name("inside") / "pep517_hook.py"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildCost:
    """What a build cost, over all its runs: seconds, the memory of its largest process in bytes, compiled units."""

    seconds: float = 0.0
    peak_memory: int = 0
    units: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildFolder:
    """The files of a build in the cache: they stay when it is interrupted."""

    path: Path

    @property
    def source(self) -> Path:
        """The unpacked and patched source, with the backend's own build folder."""
        return self.path / "source"

    @property
    def wheel(self) -> Path:
        """The folder for the finished wheel."""
        return self.path / "wheel"

    @property
    def target(self) -> Path:
        """What makes compilers and Python work for the target."""
        return self.path / "target"

    @property
    def log(self) -> Path:
        """The build's whole output."""
        return self.path / "build.log"

    def cost(self) -> BuildCost:
        """Return what all runs so far have cost."""
        try:
            return BuildCost(**json.loads(self._total.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return BuildCost()

    def add_cost(self, seconds: float, units: int) -> None:
        """Add a run's cost, with the memory that its hook wrote down, if it came to an end."""
        before, ended = self.cost(), self._measured.is_file()
        peak = json.loads(self._measured.read_text(encoding="utf-8"))["peak_memory"] if ended else 0
        total = BuildCost(
            seconds=before.seconds + seconds,
            peak_memory=max(before.peak_memory, peak),
            units=before.units + units,
        )
        write_text(self._total, json.dumps(dataclasses.asdict(total)))

    @property
    def _measured(self) -> Path:
        return self.path / "cost.json"

    @property
    def _total(self) -> Path:
        return self.path / "total.json"

    def raw_wheel(self) -> Path | None:
        """Return the wheel as the backend wrote it, if the build has ended: its cost is written after it."""
        return next(iter(sorted(self.wheel.glob("*.whl"))), None) if self._measured.is_file() else None


def prepare_target(build: LockedBuild, folder: BuildFolder, python: BuildPython) -> None:
    """Write what makes compilers and Python work for the target; the source is in the folder."""
    for name in ("home", "temp", "wheel"):
        (folder.path / name).mkdir(exist_ok=True)
    write_toolchain(folder.target, build)
    write_target_python(folder.target, python, build)
    shutil.copyfile(_HOOK, folder.target / _HOOK.name)


def sandbox_of(build: LockedBuild, folder: BuildFolder, python: BuildPython, session: Session) -> Sandbox:
    """Return the sandbox of a build, after making what it lacks.

    Raises:
        BuildError: this machine cannot make it.
        NetworkError, IntegrityError, DiskError: what is mounted cannot be fetched, verified or stored.
    """
    root = sandbox_root(build, session)
    return Sandbox(root=root, mounts=tuple(_mounts(build, folder, python, root, session)))


def hook_command(*arguments: str) -> list[str]:
    """Return the command that runs the project's backend: the hook with its arguments besides the source."""
    return ["python", f"{TARGET}/{_HOOK.name}", "/build/source", *arguments]


def _mounts(build: LockedBuild, folder: BuildFolder, python: BuildPython, root: Path, session: Session) -> list[Mount]:
    mounts = [
        Mount(source=folder.path, target="/build", writable=True),
        Mount(source=folder.target, target=TARGET),
        Mount(source=python.prefix, target=HOME),
        Mount(source=folder.target / "pyconfig.h", target=header_in_sandbox(python)),
        Mount(source=requirements_folder(build, python, root, session), target=REQUIREMENTS),
    ]
    trees = {CUDA: cuda_tree(build, session), TORCH: torch_tree(build, session), SYSROOT: sysroot(build, session)}
    for target, tree in trees.items():
        if tree:
            mounts.append(Mount(source=tree, target=target))
    return mounts
