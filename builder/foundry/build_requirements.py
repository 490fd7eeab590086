"""The packages that a build imports: solved by uv for the building machine, and installed into the sandbox."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from builder.errors import BuildError, NoWheelsError, ProgramFailedError
from builder.foundry.build_environment import REQUIREMENTS
from builder.foundry.build_python import HOME
from builder.foundry.sandbox import Mount, Sandbox, run_in_sandbox
from builder.host import records
from builder.host.files import atomic_folder, disk_errors, mark_used, work_folder
from builder.lock.lockfile import wheels_of
from builder.lock.solve import SolveRequest, solve, uv
from builder.model.platforms import Platform
from builder.model.recipes import Spec
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.foundry.build_python import BuildPython
    from builder.host.session import Session
    from builder.model.builds import BuildSpec, BuildTarget, LockedBuild
    from builder.model.recipes import Architecture
    from builder.model.wheels import LockedWheel

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FORMAT = 1
# Without a `[build-system]`, as PEP 518 states it.
_LEGACY = ("setuptools>=40.8.0", "wheel")
# The hook's own, and ninja, which resumes builds.
_ALWAYS = ("packaging", "ninja", "tomli; python_version < '3.11'")
# What torch's `cpp_extension`, and projects that are usually built without isolation, import; setuptools 82 has no
# `pkg_resources`, which many of them use.
_WITH_TORCH = ("setuptools<82", "wheel", "typing-extensions", "psutil", "numpy", "jinja2")
# What backends ask for only while they run, by the word in pyproject.toml that leads to it.
_ASKED_LATER = {"scikit_build_core": "cmake", "skbuild": "cmake", "setuptools_scm": "setuptools-scm"}
_MACHINES: dict[str, Architecture] = {"x86_64": "amd64", "aarch64": "arm64"}
# All wheels for it run in sandboxes of Debian 11, Ubuntu 20.04 and later.
_GLIBC = "2.28"
_SETUP = """import importlib.util
if importlib.util.find_spec("target_platform"): import target_platform
"""


def building_machine() -> Architecture:
    """Return this machine's architecture.

    Raises:
        BuildError: nothing is built on machines of this architecture.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        raise BuildError(f"jbuild builds no wheels on {machine}", hint="use an x86-64 or arm64 machine")
    return _MACHINES[machine]


def project_table(source: Path) -> dict[str, Any]:
    """Return a project's `pyproject.toml`, empty without one.

    Raises:
        BuildError: it is not TOML.
    """
    path = source / "pyproject.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BuildError(f"the source's pyproject.toml is not TOML: {error}", hint="fix it with a patch") from error


def lock_requirements(spec: BuildSpec, source: Path, target: BuildTarget, session: Session) -> tuple[LockedWheel, ...]:
    """Return the wheels of a project's build requirements for this machine.

    Raises:
        NoWheelsError: no set of wheels satisfies them.
        LockError, NetworkError: they cannot be solved.
    """
    system = project_table(source).get("build-system", {})
    stated = [text for text in system.get("requires", _LEGACY) if _name(text) != "torch"]
    requires = (*stated, *_asked_later(source), *_ALWAYS, *(_WITH_TORCH if target.torch else ()), *spec.requires)
    machine = Platform(
        name="the building machine",
        architecture=building_machine(),
        distribution="",
        release="",
        python=target.python,
        glibc=_GLIBC,
        base="",
    )
    question = SolveRequest(spec=Spec(requires=requires), platform=machine)
    try:
        return wheels_of(solve(question, session.config, session.workspace), machine, spec.name)
    except NoWheelsError as error:
        message = f"the build requirements of {spec.name} have no wheels for this machine"
        hint = "relax them with a patch of pyproject.toml, or with `build-requires`"
        raise NoWheelsError(message, where=", ".join(requires), hint=hint, log=error.log) from error


def _asked_later(source: Path) -> list[str]:
    path = source / "pyproject.toml"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [requirement for word, requirement in _ASKED_LATER.items() if word in text]


def _name(text: str) -> str:
    try:
        return str(canonicalize_name(Requirement(text).name))
    except InvalidRequirement as error:
        message = f"the build requirement `{text}` of pyproject.toml is malformed"
        raise BuildError(message, hint="fix it with a patch") from error


def requirements_folder(build: LockedBuild, python: BuildPython, root: Path, session: Session) -> Path:
    """Return a virtual environment with a build's requirements, after making it if it is missing.

    Raises:
        NetworkError, IntegrityError, DiskError: a wheel cannot be fetched, verified or installed.
    """
    wheels = build.requirements
    key = records.fingerprint(_FORMAT, sorted(w.sha256 for w in wheels), python.version, str(python.prefix), root.name)
    folder = session.workspace.foundry / "requirements" / key
    if mark_used(folder):
        return folder
    fetch(wheels, session)
    with disk_errors(folder), atomic_folder(folder) as made, work_folder("jbuild-wheels") as copies:
        _copy(wheels, copies, session)
        _install(made, copies, python, root)
        site = made / f"lib/python{build.target.python}/site-packages"
        (site / "foundry.pth").write_text("/foundry/torch\n/foundry/target/site\n", encoding="utf-8")
        (site / "sitecustomize.py").write_text(_SETUP, encoding="utf-8")
    return folder


def _copy(wheels: Iterable[LockedWheel], folder: Path, session: Session) -> None:
    for wheel in wheels:
        shutil.copyfile(session.workspace.wheel(wheel.sha256, wheel.filename), folder / wheel.filename)
    (folder / "requirements.txt").write_text("".join(f"/wheels/{wheel.filename}\n" for wheel in wheels))


def _install(folder: Path, wheels: Path, python: BuildPython, root: Path) -> None:
    """Install with uv inside of the sandbox, so that scripts name the sandbox's interpreter."""
    mounts = (
        Mount(source=python.prefix, target=HOME),
        Mount(source=Path(uv()), target="/foundry/uv"),
        Mount(source=wheels, target="/wheels"),
        Mount(source=folder, target=REQUIREMENTS, writable=True),
    )
    minor = ".".join(python.version.split(".")[:2])
    common = "--offline --no-config --no-cache --quiet"
    script = (
        f"/foundry/uv venv {common} --allow-existing --python {HOME}/bin/python{minor} {REQUIREMENTS}\n"
        f"/foundry/uv pip install {common} --no-deps --no-index --link-mode copy "
        f"--python {REQUIREMENTS}/bin/python -r /wheels/requirements.txt"
    )
    environment = {"LD_LIBRARY_PATH": f"{HOME}/lib", "UV_PYTHON_DOWNLOADS": "never"}
    try:
        run_in_sandbox(["sh", "-ec", script], Sandbox(root=root, mounts=mounts), environment)
    except ProgramFailedError as error:
        message = "uv cannot install the build requirements into the sandbox"
        hint = "the log names the wheel; CPython must be one that runs on this distribution"
        raise BuildError(message, where=str(python.prefix), hint=hint, log=error.output) from error
