"""Collects and caches the loader's results for a stack: an arm64 container opens every shared object."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from agreement.elves import shared_objects
from agreement.stand_in import make_stand_ins
from agreement.system import system_image
from agreement.wheel_files import write_wheels
from builder.audit.wheel_reader import listing
from builder.host import records, tarball
from builder.host.engine.docker import find_engine
from builder.host.engine.emulation import emulator_settings
from builder.host.process import run
from builder.image.layers.cell_layers import SYSTEM_HOME
from builder.image.layers.layer import environment_entries
from builder.image.layers.standalone import extract
from builder.lock.stage import lock_cell
from builder.model.images import ENVIRONMENT, site_packages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agreement.stack_project import StackProject
    from agreement.stacks import Stack
    from builder.host.engine.docker import Engine
    from builder.model.locks import Lock

# Part of every fingerprint: increment it when the results of the same stack change.
_FORMAT = 1
LOADER = Path(__file__).with_name("loader.py")
# Files per container; its results are stored when it ends.
_BATCH = 300
_FILE_LIMIT_S = 180
# The import of a large package may first have to compile its sources under emulation.
_IMPORTS_LIMIT_S = 1500
_CONTAINER_LIMIT_S = 3600
_SYSTEM_LIBRARIES = "/usr/lib/aarch64-linux-gnu"
# Each file is opened alone; after `import torch`, if the stack has torch; and after that import, but without the
# libraries that the NVIDIA runtime injects.
PLAIN, TORCH, BARE = "plain", "torch", "bare"
# Files that fail otherwise are opened after the import of their package.
PACKAGE = "own"

Answers = dict[str, str | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """The loader's results: by way of opening and path in site-packages, the error of a file (None: it loads)."""

    python: str
    image: str
    versions: dict[str, str]
    files: tuple[str, ...]
    answers: dict[str, dict[str, str | None]] = field(default_factory=dict)

    def error(self, file: str) -> str | None:
        """Return None if a file loads in one way, otherwise the error, preferably of the way with `import torch`."""
        errors = [self.answers[way][file] for way in (TORCH, PLAIN, PACKAGE) if file in self.answers.get(way, {})]
        return None if None in errors else errors[0]


def collect(stack: Stack, project: StackProject) -> Truth:
    """Return the loader's results for a stack, as far as possible from the cache.

    Raises:
        JbuildError: the stack cannot be locked or fetched, or the engine does not work.
    """
    lock = lock_cell(project.job(stack), project.session).lock
    path = project.truth(stack)
    fingerprint = truth_fingerprint(lock, stack)
    cached = records.read(path, fingerprint, Truth)
    if cached and _is_complete(cached, lock, stack):
        return cached
    engine = find_engine(project.session.workspace)
    engine.require("arm64")
    # Only one container and one environment at a time.
    with FileLock(project.folder / "lock"), _environment(lock, project) as root:
        packages = root / site_packages(lock.platform.python).lstrip("/")
        objects = tuple(shared_objects(root))
        truth = cached or Truth(
            python=lock.platform.python,
            image=system_image(lock, stack.apt, engine, project.session.config),
            versions=lock.versions,
            files=tuple(sorted(os.path.relpath(path, packages) for path in objects)),
        )
        stand_ins = make_stand_ins(stack.runtime, objects, root.parent / "stand-ins")
        opener = _Opener(
            engine=engine, root=root, truth=truth, stand_ins=stand_ins, project=project, stack=stack, lock=lock
        )
        for way in _ways(lock, stack):
            opener.open(way, truth.files, imports=_imports(way, lock))
            records.write(path, fingerprint, truth)
        opener.open_after_package()
        records.write(path, fingerprint, truth)
    return truth


def _imports(way: str, lock: Lock) -> tuple[str, ...]:
    return ("torch",) if way != PLAIN and "torch" in lock.versions else ()


def truth_fingerprint(lock: Lock, stack: Stack) -> str:
    """Return the fingerprint of all inputs that affect the loader's results."""
    wheels = [wheel.sha256 for wheel in lock.wheels]
    return records.fingerprint(_FORMAT, wheels, lock.base.digest, lock.platform.python, stack.apt, stack.runtime)


def _ways(lock: Lock, stack: Stack) -> tuple[str, ...]:
    torch = (TORCH,) if "torch" in lock.versions else ()
    return (PLAIN, *torch, *((BARE,) if stack.runtime else ()))


def _is_complete(truth: Truth, lock: Lock, stack: Stack) -> bool:
    ways = _ways(lock, stack)
    return all(len(truth.answers.get(way, {})) == len(truth.files) for way in ways) and PACKAGE in truth.answers


@contextmanager
def _environment(lock: Lock, project: StackProject) -> Iterator[Path]:
    """Write the environment of a lock as in the image, and remove it afterwards; yield its root."""
    python = lock.platform.python
    folder = project.folder / "environments" / lock.recipe
    shutil.rmtree(folder, ignore_errors=True)
    root = folder / "root"
    root.mkdir(parents=True)
    try:
        extract(tarball.blocks(tarball.segments(environment_entries(python, SYSTEM_HOME))), root)
        write_wheels(lock.wheels, python, project.compiler(lock), project.session, root)
        yield root
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opener:
    """Opens the files of a stack in the container."""

    engine: Engine
    root: Path
    truth: Truth
    stand_ins: tuple[Path, ...]
    project: StackProject
    stack: Stack
    lock: Lock

    def open(self, way: str, files: tuple[str, ...], imports: tuple[str, ...] = ()) -> None:
        """Open files after some imports, except files with a cached result."""
        answers = self.truth.answers.setdefault(way, {})
        waiting = [file for file in files if file not in answers]
        with self.project.session.console.task(f"{self.stack.name}: {way}", len(files), unit="files") as task:
            task.advance(len(files) - len(waiting))
            for at in range(0, len(waiting), _BATCH):
                batch = waiting[at : at + _BATCH]
                answers |= self._container(batch, imports, stand_ins=way != BARE)
                task.advance(len(batch))

    def open_after_package(self) -> None:
        """Import the package of each file that did not load, then open the file again."""
        ways = [errors for way, errors in self.truth.answers.items() if way in (PLAIN, TORCH)]
        failing = [file for file in self.truth.files if all(errors[file] for errors in ways)]
        packages: dict[tuple[str, ...], list[str]] = {}
        for file in failing:
            if imports := self._packages_of(file):
                packages.setdefault(imports, []).append(file)
        self.truth.answers.setdefault(PACKAGE, {})
        for imports, files in packages.items():
            self.open(PACKAGE, tuple(files), imports=imports)

    def _packages_of(self, file: str) -> tuple[str, ...]:
        """Return the package that contains a file, else the packages of its wheel, as for auditwheel's libraries."""
        first, _, rest = file.partition("/")
        if rest and first.isidentifier():
            return (first,)
        workspace = self.project.session.workspace
        for wheel in self.lock.wheels:
            paths = {member.path for member in listing(workspace.wheel(wheel.sha256, wheel.filename)).members}
            if file in paths:
                modules = (path.split("/") for path in paths if path.endswith("/__init__.py"))
                return tuple(sorted(parts[0] for parts in modules if len(parts) == len(("package", "__init__.py"))))
        return ()

    def _container(self, files: list[str], imports: tuple[str, ...], *, stand_ins: bool) -> Answers:
        packages = site_packages(self.truth.python)
        absolute = {os.path.normpath(f"{packages}/{file}"): file for file in files}
        request = self.root.parent / "request.json"
        content = {"imports": imports, "files": list(absolute), "limit_s": _FILE_LIMIT_S}
        content["imports_limit_s"] = _IMPORTS_LIMIT_S
        request.write_text(json.dumps(content), encoding="utf-8")
        name = f"jbuild-agreement-{self.stack.name}-{os.getpid()}"
        argv = ["docker", "run", "--rm", f"--name={name}", "--platform=linux/arm64", "--network=none"]
        argv += [f"--volume={self.root}{ENVIRONMENT}:{ENVIRONMENT}:ro", f"--volume={request}:/run/request.json:ro"]
        argv += [f"--volume={LOADER}:/run/loader.py:ro"]
        if stand_ins:
            argv += [f"--volume={path}:{_SYSTEM_LIBRARIES}/{path.name}:ro" for path in self.stand_ins]
        # Initialisers may write files, but the environment must stay unchanged.
        argv += ["--tmpfs=/tmp", "--env=HOME=/tmp", "--env=XDG_CACHE_HOME=/tmp", "--env=PYTHONDONTWRITEBYTECODE=1"]
        argv += [f"--env={name}={value}" for name, value in emulator_settings("arm64")]
        argv += [self.truth.image, f"{ENVIRONMENT}/bin/python", "/run/loader.py", "/run/request.json"]
        try:
            done = run(argv, env=self.engine.environment(), timeout_s=_CONTAINER_LIMIT_S)
        except BaseException:
            # A signal ends the docker command, but not the container.
            run(["docker", "rm", "--force", name], env=self.engine.environment(), check=False)
            raise
        results = [json.loads(row) for row in done.stdout.splitlines() if row.startswith("{")]
        failed = next((result for result in results if "import" in result), None)
        if failed:
            return dict.fromkeys(files, f"import {failed['import']}: {failed['error']}")
        return {absolute[result["file"]]: result["error"] for result in results}
