"""Build requirements that only a project's backend knows: its hook `get_requires_for_build_wheel` is asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from builder.errors import ProgramFailedError
from builder.foundry.build_environment import build_environment
from builder.foundry.build_failure import failure_of
from builder.foundry.build_inputs import unpack_inputs
from builder.foundry.build_requirements import project_table
from builder.foundry.build_sandbox import BuildFolder, hook_command, prepare_target, sandbox_of
from builder.foundry.sandbox import SandboxForbiddenError, run_in_sandbox

if TYPE_CHECKING:
    from pathlib import Path

    from builder.foundry.build_python import BuildPython
    from builder.host.session import Session
    from builder.model.builds import LockedBuild

_SETUPTOOLS = "setuptools.build_meta"
# Setuptools' own answer.
_SETUP_REQUIRES, _SETUP_FILES = "setup_requires", ("setup.py", "setup.cfg")
# Backends whose hook has nothing to add.
_SILENT = ("flit_core.buildapi", "poetry.core.masonry.api", "pdm.backend", "uv_build")


def may_ask_later(source: Path) -> bool:
    """Return whether a project's backend may name build requirements besides those that the project states."""
    system = project_table(source).get("build-system", {})
    backend = str(system.get("build-backend", _SETUPTOOLS)).partition(":")[0]
    if "backend-path" in system:
        return True
    if backend == _SETUPTOOLS:
        files = [path.read_text("utf-8", "replace") for name in _SETUP_FILES if (path := source / name).is_file()]
        return any(_SETUP_REQUIRES in text for text in files)
    return backend not in _SILENT


def late_requirements(
    build: LockedBuild, folder: BuildFolder, python: BuildPython, session: Session
) -> tuple[str, ...]:
    """Return the requirements that a build lacks, by its backend; `folder` has the source, and is changed.

    A machine without sandboxes draws a warning: another one may build, and names what is missing then.

    Raises:
        BuildError: the backend fails.
        NetworkError, IntegrityError, DiskError: what it needs cannot be fetched, verified or stored.
    """
    unpack_inputs(build, folder.path, session)
    prepare_target(build, folder, python)
    answer, lines = folder.path / "requirements.json", list[str]()
    with session.console.task(f"asking {build.name} {build.version} what its build needs"):
        try:
            sandbox = sandbox_of(build, folder, python, session)
            command = hook_command("--ask", f"/build/{answer.name}")
            run_in_sandbox(command, sandbox, build_environment(build, 1), lines.append)
        except SandboxForbiddenError as error:
            session.console.warn(f"{build.name}: {error.message}, so its build requirements may be incomplete")
            return ()
        except ProgramFailedError as error:
            raise failure_of(build, lines, error.code, 1) from None
    return tuple(json.loads(answer.read_text(encoding="utf-8")))
