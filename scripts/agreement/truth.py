"""What the loader says of a stack: every shared object opened in the arm64 container, collected once and kept."""

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
from builder.host import records
from builder.host.engine.docker import emulator_settings, find_engine
from builder.host.process import run
from builder.image.render.context import SYSTEM_HOME, environment_layer, link_tree
from builder.image.wheels.tree import prepare
from builder.lock.stage import lock_cell
from builder.model.images import ENVIRONMENT, site_packages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agreement.place import Place
    from agreement.stacks import Stack
    from builder.host.engine.docker import Engine
    from builder.model.locks import Lock

# Part of every truth's fingerprint: raise it when the same stack gives another one.
_FORMAT = 1
LOADER = Path(__file__).with_name("loader.py")
# Files that one container opens; what it said is kept when it ends.
_BATCH = 300
_FILE_LIMIT_S = 180
# Of a large package whose sources must be compiled under emulation first.
_IMPORTS_LIMIT_S = 1500
_CONTAINER_LIMIT_S = 3600
_SYSTEM_LIBRARIES = "/usr/lib/aarch64-linux-gnu"
# The ways in which every file is opened: as it is; after `import torch`, where the stack has it; and after that, but
# without what the NVIDIA runtime injects.
PLAIN, TORCH, BARE = "plain", "torch", "bare"
# After importing the package that the file belongs to: only files that failed otherwise.
OWN = "own"

Answers = dict[str, str | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What the loader said: by way of opening, the error of each file (None: it loads), by path in site-packages."""

    python: str
    image: str
    versions: dict[str, str]
    files: tuple[str, ...]
    answers: dict[str, dict[str, str | None]] = field(default_factory=dict)

    def error(self, file: str) -> str | None:
        """Return why a file does not load in any way, or None if it loads in one; after `import torch`, if that is."""
        said = [self.answers[way][file] for way in (TORCH, PLAIN, OWN) if file in self.answers.get(way, {})]
        return None if None in said else said[0]


def collect(stack: Stack, place: Place) -> Truth:
    """Return what the loader says of a stack, from the cache as far as it is there.

    Raises:
        JbuildError: the stack cannot be locked or fetched, or the engine does not work.
    """
    lock = lock_cell(place.job(stack), place.session).lock
    path = place.truth(stack)
    made_from = made_from_what(lock, stack)
    known = records.read(path, made_from, Truth)
    if known and _is_whole(known, lock, stack):
        return known
    engine = find_engine(place.session.workspace)
    engine.require("arm64")
    # One container at a time, and one environment.
    with FileLock(place.folder / "lock"), _environment(lock, place) as (root, trees):
        packages = root / site_packages(lock.platform.python).lstrip("/")
        objects = tuple(shared_objects(root))
        truth = known or Truth(
            python=lock.platform.python,
            image=system_image(lock, stack.apt, engine, place.session.config),
            versions=lock.versions,
            files=tuple(sorted(os.path.relpath(path, packages) for path in objects)),
        )
        stand_ins = make_stand_ins(stack.runtime, objects, root.parent / "stand-ins")
        asking = _Asking(
            engine=engine, root=root, truth=truth, stand_ins=stand_ins, place=place, stack=stack, trees=trees
        )
        for way in _ways(lock, stack):
            asking.ask(way, truth.files, imports=_imports(way, lock))
            records.write(path, made_from, truth)
        asking.ask_own()
        records.write(path, made_from, truth)
    return truth


def _imports(way: str, lock: Lock) -> tuple[str, ...]:
    return ("torch",) if way != PLAIN and "torch" in lock.versions else ()


def made_from_what(lock: Lock, stack: Stack) -> str:
    """Return the fingerprint of all that decides what the loader says."""
    wheels = [wheel.sha256 for wheel in lock.wheels]
    return records.fingerprint(_FORMAT, wheels, lock.base.digest, lock.platform.python, stack.apt, stack.runtime)


def _ways(lock: Lock, stack: Stack) -> tuple[str, ...]:
    torch = (TORCH,) if "torch" in lock.versions else ()
    return (PLAIN, *torch, *((BARE,) if stack.runtime else ()))


def _is_whole(truth: Truth, lock: Lock, stack: Stack) -> bool:
    ways = _ways(lock, stack)
    return all(len(truth.answers.get(way, {})) == len(truth.files) for way in ways) and OWN in truth.answers


@contextmanager
def _environment(lock: Lock, place: Place) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """Lay the trees of a lock out as they will lie in the image, by hard links that are gone afterwards.

    Gives the root of the environment, and the trees.
    """
    python = lock.platform.python
    prepared = prepare(lock.wheels, python, place.compiler(lock), place.session)
    trees = tuple(prepared[wheel.sha256] for wheel in lock.wheels)
    folder = place.folder / "environments" / lock.recipe
    shutil.rmtree(folder, ignore_errors=True)
    layers = folder / "layers"
    layers.mkdir(parents=True)
    bare = layers / environment_layer(layers, python, SYSTEM_HOME)
    root = folder / "root"
    try:
        link_tree([bare, *trees], root)
        yield root, trees
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asking:
    """A stack laid out for the container."""

    engine: Engine
    root: Path
    truth: Truth
    stand_ins: tuple[Path, ...]
    place: Place
    stack: Stack
    trees: tuple[Path, ...]

    def ask(self, way: str, files: tuple[str, ...], imports: tuple[str, ...] = ()) -> None:
        """Have files opened after some imports, except those that were before."""
        answers = self.truth.answers.setdefault(way, {})
        waiting = [file for file in files if file not in answers]
        with self.place.session.console.task(f"{self.stack.name}: {way}", len(files), unit="files") as task:
            task.advance(len(files) - len(waiting))
            for at in range(0, len(waiting), _BATCH):
                batch = waiting[at : at + _BATCH]
                answers |= self._container(batch, imports, stand_ins=way != BARE)
                task.advance(len(batch))

    def ask_own(self) -> None:
        """Have files that did not load opened after the import of the package that they belong to."""
        ways = {way: said for way, said in self.truth.answers.items() if way in (PLAIN, TORCH)}
        failing = [file for file in self.truth.files if all(said[file] for said in ways.values())]
        packages: dict[tuple[str, ...], list[str]] = {}
        for file in failing:
            if own := self._own(file):
                packages.setdefault(own, []).append(file)
        self.truth.answers.setdefault(OWN, {})
        for own, files in packages.items():
            self.ask(OWN, tuple(files), imports=own)

    def _own(self, file: str) -> tuple[str, ...]:
        """Return the package that a file lies in, else those of its wheel: auditwheel puts libraries beside them."""
        first, _, rest = file.partition("/")
        if rest and first.isidentifier():
            return (first,)
        inside = Path(site_packages(self.truth.python).lstrip("/"))
        tree = next((tree for tree in self.trees if (tree / inside / file).is_file()), None)
        found = (tree / inside).glob("*/__init__.py") if tree else ()
        return tuple(sorted(path.parent.name for path in found))

    def _container(self, files: list[str], imports: tuple[str, ...], *, stand_ins: bool) -> Answers:
        packages = site_packages(self.truth.python)
        absolute = {os.path.normpath(f"{packages}/{file}"): file for file in files}
        request = self.root.parent / "request.json"
        asked = {"imports": imports, "files": list(absolute), "limit_s": _FILE_LIMIT_S}
        asked["imports_limit_s"] = _IMPORTS_LIMIT_S
        request.write_text(json.dumps(asked), encoding="utf-8")
        name = f"jbuild-agreement-{self.stack.name}-{os.getpid()}"
        argv = ["docker", "run", "--rm", f"--name={name}", "--platform=linux/arm64", "--network=none"]
        argv += [f"--volume={self.root}{ENVIRONMENT}:{ENVIRONMENT}:ro", f"--volume={request}:/run/request.json:ro"]
        argv += [f"--volume={LOADER}:/run/loader.py:ro"]
        if stand_ins:
            argv += [f"--volume={path}:{_SYSTEM_LIBRARIES}/{path.name}:ro" for path in self.stand_ins]
        # Initialisers may write; the environment itself must stay as it is.
        argv += ["--tmpfs=/tmp", "--env=HOME=/tmp", "--env=XDG_CACHE_HOME=/tmp", "--env=PYTHONDONTWRITEBYTECODE=1"]
        argv += [f"--env={name}={value}" for name, value in emulator_settings("arm64")]
        argv += [self.truth.image, f"{ENVIRONMENT}/bin/python", "/run/loader.py", "/run/request.json"]
        try:
            done = run(argv, env=self.engine.environment(), timeout_s=_CONTAINER_LIMIT_S)
        except BaseException:
            # The command ends when it is told to; the container does not.
            run(["docker", "rm", "--force", name], env=self.engine.environment(), check=False)
            raise
        said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        failed = next((answer for answer in said if "import" in answer), None)
        if failed:
            return dict.fromkeys(files, f"import {failed['import']}: {failed['error']}")
        return {absolute[answer["file"]]: answer["error"] for answer in said}
