"""Imports the modules of a built wheel in a container of the cell's base image, emulated where that is needed."""

from __future__ import annotations

import json
import re
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import AuditError, EngineError, IntegrityError, ProgramFailedError
from builder.foundry.import_probe import MARK
from builder.host.engine.container import forget_tag, temporary_container
from builder.host.engine.docker import find_engine
from builder.host.engine.emulation import emulator_settings
from builder.host.file_locks import scratch
from builder.host.process import run
from builder.jetson.distributions import pythons
from builder.lock.python_archives import HOME, install_python, interpreter_archive, unpack_archive
from builder.lock.solve import uv
from builder.lock.uv_target import machine, uv_flags
from builder.model.locks import LockedInterpreter
from builder.remote.registry.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from docker import DockerClient

    from builder.foundry.loading_cell import LoadingCell
    from builder.host.engine.docker import Engine
    from builder.host.session import Session
    from builder.model.locks import Lock

_SITE, _PROBE = "/site", "/import_probe.py"
# Import packages and modules that users do not import.
_NOT_IMPORTED = re.compile(r"(tests?|docs?|examples?|benchmarks?|__main__|conftest|setup)(\.|$)")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SUFFIX = re.compile(r"(\.cpython-[^.]+|\.abi3)?\.so$")
_NOBODY = "65534:65534"
_MISSING_LIBRARY = re.compile(r"(\S+?): cannot open shared object file")
_LOG_LINES = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportResult:
    """What the modules of a wheel did when they were imported.

    `python` and `machine` are those of the interpreter. `skipped` are modules that cannot be imported here, with the
    reasons.
    """

    python: str
    machine: str
    imported: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()


def modules_of(cell: LoadingCell) -> tuple[str, ...]:
    """Return the modules of a built wheel to import: those at the top, then its extension modules."""
    tops: dict[str, None] = {}
    for path in cell.built.paths:
        first, slash, rest = path.partition("/")
        name = first if slash else first.removesuffix(".py") if first.endswith(".py") else ""
        if _IDENTIFIER.fullmatch(name) and (not slash or rest == "__init__.py"):
            tops[name] = None
    modules = [binary.path for binary in cell.built.binaries if binary.inits]
    extensions = [_SUFFIX.sub("", path).replace("/", ".") for path in sorted(modules) if path.endswith(".so")]
    names = [*sorted(tops), *(name for name in extensions if all(map(_IDENTIFIER.fullmatch, name.split("."))))]
    return tuple(name for name in dict.fromkeys(names) if not any(map(_NOT_IMPORTED.match, _tails(name))))


def _tails(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[start:]) for start in range(len(parts)))


def import_built(
    wheel: Path, cell: LoadingCell, injected: Mapping[str, Sequence[str]], session: Session
) -> ImportResult:
    """Import the modules of a built wheel with the cell's wheels, on the cell's base image and Python.

    `injected` are the libraries of the driver, by the files that need them: such a module may fail where there is none.

    Raises:
        AuditError: a module cannot be imported.
        EngineError: the engine does not answer, or cannot run the architecture.
        NetworkError, IntegrityError, DiskError: the interpreter or a wheel cannot be had.
    """
    names, lock = modules_of(cell), cell.lock
    engine = find_engine(session.workspace)
    if not engine.is_local:
        hint = "use an engine on this machine: `docker context use default`, or unset DOCKER_HOST"
        raise EngineError("the import of a built wheel needs an engine on this machine", where=engine.host, hint=hint)
    engine.require(lock.platform.architecture)
    with scratch(session.workspace.cache) as folder, closing(engine.client()) as client:
        folder.chmod(0o755)
        python = _interpreter(lock, folder, session)
        site = _site(wheel, cell, folder, session)
        with session.console.task(f"importing {wheel.name}", len(names), unit="modules") as task:
            output, log = _run(client, engine, lock, _Mounts(python=python, site=site), names, folder)
            task.advance(len(names))
    libraries = {library for needed in injected.values() for library in needed}
    return _result(output, log, wheel, cell, libraries)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Mounts:
    """The interpreter and the packages, on this machine."""

    python: Path
    site: Path

    def volumes(self) -> dict[str, dict[str, str]]:
        probe = Path(__file__).with_name("import_probe.py")
        paths = {self.python: HOME, self.site: _SITE, probe: _PROBE}
        return {str(path): {"bind": target, "mode": "ro"} for path, target in paths.items()}


def _interpreter(lock: Lock, folder: Path, session: Session) -> Path:
    """Unpack a Python of the cell's version: the image's own, else a release of python-build-standalone."""
    platform = lock.platform
    row = next((row for row in pythons() if row.python == platform.python), None)
    locked = lock.interpreter
    if locked is None and row:
        sha256 = dict(row.sha256)[platform.architecture]
        locked = LockedInterpreter(release=row.release, url=row.url(platform.architecture), sha256=sha256)
    if locked:
        unpack_archive(interpreter_archive(locked, platform, session), folder, platform.python)
        return folder / HOME.lstrip("/")
    target = folder / "python"
    key = f"cpython-{platform.python}-linux-{machine(platform)}-gnu"
    install_python(["--install-dir", str(target), key], session, artifact=f"CPython {platform.python}")
    return next(path for path in sorted(target.glob("cpython-*")) if not path.is_symlink())


def _site(wheel: Path, cell: LoadingCell, folder: Path, session: Session) -> Path:
    """Install the wheel and those that it needs into a folder."""
    site, workspace = folder / "site", session.workspace
    paths = [wheel, *(workspace.wheel(other.sha256, other.filename) for other in cell.others)]
    argv = [uv(), "pip", "install", "--no-deps", "--no-index", "--offline", "--no-config", "--target", str(site)]
    # Its own cache beside the target: the files are moved instead of copied.
    argv += ["--cache-dir", str(folder / "uv"), "--link-mode", "hardlink", *uv_flags(cell.lock.platform)]
    try:
        run([*argv, *map(str, paths)])
    except ProgramFailedError as error:
        hint = "the log names the wheel; the platform's tags are those of the cell"
        raise IntegrityError("uv cannot install the built wheel", where=wheel.name, hint=hint, log=error.log) from error
    return site


def _run(
    client: DockerClient, engine: Engine, lock: Lock, mounts: _Mounts, names: Sequence[str], folder: Path
) -> tuple[str, str]:
    """Run the probe without network and rights; return its standard output and the end of its log."""
    architecture, python = lock.platform.architecture, lock.platform.python
    environment = {"PYTHONDONTWRITEBYTECODE": "1", "HOME": "/tmp"}  # noqa: S108  # in the container
    if architecture != engine.architecture:
        environment |= dict(emulator_settings(architecture))
    with _base_image(client, lock) as image:
        arguments: dict[str, Any] = {
            "image": image,
            "platform": f"linux/{architecture}",
            "entrypoint": [f"{HOME}/bin/python{python}", _PROBE, _SITE, *names],
            "command": [],
            "environment": environment,
            "volumes": mounts.volumes(),
            "network_mode": "none",
            "read_only": True,
            "tmpfs": {"/tmp": "exec"},  # noqa: S108  # in the container
            "user": _NOBODY,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "healthcheck": {"test": ["NONE"]},
        }
        with temporary_container(client, arguments, folder / "log") as container:
            container.wait()
            container.settle()
            return container.output(), container.log.tail(_LOG_LINES)


@contextmanager
def _base_image(client: DockerClient, lock: Lock) -> Iterator[str]:
    """Give the engine's name for the cell's base image; one that was not there goes again at the end."""
    from docker.errors import APIError, DockerException, ImageNotFound  # noqa: PLC0415  # slow to import

    reference, architecture = str(Reference.parse(lock.base.used).at(lock.base.digest)), lock.platform.architecture
    try:
        image = client.images.get(reference)
        is_new = image.attrs.get("Architecture") != architecture
    except ImageNotFound:
        is_new = True
    if is_new:
        try:
            client.images.pull(reference, platform=f"linux/{architecture}")
        except (APIError, DockerException) as error:
            hint = "`docker pull` shows the cause; the engine needs the base image to import the built wheel"
            raise EngineError(f"the engine cannot pull the base image: {error}", where=reference, hint=hint) from error
    try:
        yield reference
    finally:
        if is_new:
            forget_tag(client, reference)


def _result(output: str, log: str, wheel: Path, cell: LoadingCell, injected: Iterable[str]) -> ImportResult:
    """Return what the probe printed.

    Raises:
        AuditError: a module cannot be imported, or its import ended the interpreter.
    """
    rows = [json.loads(line.removeprefix(MARK)) for line in output.splitlines() if line.startswith(MARK)]
    begun = [row["begin"] for row in rows if "begin" in row]
    ended = {row["end"]: row for row in rows if "end" in row}
    if not rows:
        hint = "the log has the cause: the base image may lack a library that the interpreter needs"
        raise AuditError("the cell's Python does not start", where=cell.lock.base.name, hint=hint, log=log)
    crashed = next((name for name in begun if name not in ended), None)
    if crashed:
        hint = "run it under a debugger on a device; code for another processor is a frequent cause"
        raise AuditError(f"the import of {crashed} ends the interpreter", where=wheel.name, hint=hint, log=log)
    skipped = []
    for name, row in ended.items():
        if row["problem"] is None:
            continue
        library = _MISSING_LIBRARY.search(row["problem"])
        if not (library and library[1] in injected):
            raise _failed(name, row, wheel, log)
        skipped.append((name, f"needs {library[1]} of the GPU's driver"))
    imported = tuple(name for name, row in ended.items() if row["problem"] is None)
    return ImportResult(python=rows[0]["python"], machine=rows[0]["machine"], imported=imported, skipped=tuple(skipped))


def _failed(name: str, row: Mapping[str, str], wheel: Path, log: str) -> AuditError:
    hint = "the log has the traceback; correct the build with `patches` or `environment` of its [[packages.build]]"
    if row["lacking"]:
        package = row["lacking"].partition(".")[0]
        hint = f"add the package that has `{package}` to `requires`: the wheel's METADATA does not name it"
    return AuditError(f"{name} cannot be imported: {row['problem']}", where=wheel.name, hint=hint, log=log)
