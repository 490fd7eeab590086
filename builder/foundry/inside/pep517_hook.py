"""Runs a project's own PEP 517 backend: `pep517_hook.py SOURCE OUTPUT COST`.

With `pep517_hook.py SOURCE --ask ANSWER` it builds nothing, and writes the requirements that the backend still needs.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _backend(source: Path) -> Any:
    project = source / "pyproject.toml"
    system = tomllib.loads(project.read_text(encoding="utf-8")).get("build-system", {}) if project.is_file() else {}
    sys.path[:0] = [str(source / folder) for folder in system.get("backend-path", ())]
    name, _, attributes = system.get("build-backend", "setuptools.build_meta:__legacy__").partition(":")
    backend = importlib.import_module(name)
    for attribute in filter(None, attributes.split(".")):
        backend = getattr(backend, attribute)
    return backend


def _missing(backend: Any) -> dict[str, str]:
    """Return the requirements that only the backend knows and the lock lacks, with what it has instead."""
    from packaging.requirements import Requirement  # noqa: PLC0415  # of the sandbox

    ask = getattr(backend, "get_requires_for_build_wheel", None)
    missing = {}
    for text in ask() if ask else ():
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing[text] = ""
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            missing[text] = f" (the lock has {version})"
    return missing


def _check_requirements(backend: Any) -> None:
    """Fail if the backend needs packages that the lock does not have."""
    if missing := _missing(backend):
        names = ", ".join(f"{text}{instead}" for text, instead in missing.items())
        sys.exit(
            f"jbuild: the project also needs {names} to build: add it to `build-requires`, then run `jbuild lock` again"
        )


def main() -> None:
    """Build the wheel, and write what memory it took; or ask."""
    source, output, cost = (Path(argument) for argument in sys.argv[1:])
    os.chdir(source)
    backend = _backend(source)
    if str(output) == "--ask":
        cost.write_text(json.dumps(list(_missing(backend))), encoding="utf-8")
        return
    _check_requirements(backend)
    name = backend.build_wheel(str(output))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    facts = {"peak_memory": used.ru_maxrss * 1024, "wheel": name}
    cost.write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
