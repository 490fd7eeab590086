"""The CPython that runs a build, with the target's names and compilers in its `sysconfig`."""

from __future__ import annotations

import json
import pprint
import re
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import BuildError
from builder.foundry.sandbox_root import compiler_of, triplet
from builder.host.interpreters import find_compiler
from builder.host.process import run

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.builds import LockedBuild

HOME = "/foundry/python"
_INSIDE = Path(__file__).with_name("inside")
_PROGRAM = """import json, sys, sysconfig
name = sysconfig._get_sysconfigdata_name()
variables = __import__(name, fromlist=["build_time_vars"]).build_time_vars
header = sysconfig.get_config_h_filename()
print(json.dumps({"prefix": sys.base_prefix, "variables": variables, "header": header}))
"""
_ANSWER_S = 30
# Compilation of an extension, without the options of the machine that built the interpreter.
_FLAGS = "-fno-strict-overflow -Wsign-compare -DNDEBUG -O3 -Wall"
# Of x86-64 only.
_ASSEMBLY = re.compile(r"^#define (HAVE_GCC_ASM_FOR_X87|HAVE_GCC_ASM_FOR_X64) 1$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildPython:
    """An interpreter: its version, installation, `pyconfig.h` and the variables of its `sysconfig`."""

    version: str
    prefix: Path
    header: Path
    variables: dict[str, Any]


def build_python(minor: str, session: Session) -> BuildPython:
    """Return the building machine's CPython of a minor version (`3.12`).

    Raises:
        BuildError: there is none, or it has no headers.
    """
    compiler = find_compiler(minor, None, session.workspace.interpreters)
    if compiler is None:
        raise BuildError(
            f"this machine has no CPython {minor}, which the build needs",
            hint=f"install it, for instance with `uv python install {minor}`",
        )
    return _described(compiler.path, compiler.version)


@cache
def _described(path: str, version: str) -> BuildPython:
    facts = json.loads(run([path, "-I", "-S", "-c", _PROGRAM], timeout_s=_ANSWER_S).stdout)
    header = Path(facts["header"])
    if not header.is_file():
        minor = ".".join(version.split(".")[:2])
        raise BuildError(f"CPython {version} has no headers", where=path, hint=f"install them: python{minor}-dev")
    return BuildPython(version=version, prefix=Path(facts["prefix"]), header=header, variables=facts["variables"])


def write_target_python(folder: Path, python: BuildPython, build: LockedBuild) -> None:
    """Write what makes the interpreter answer for the target: `sysconfig`'s data, `pyconfig.h`, and `platform`."""
    site = folder / "site"
    site.mkdir(parents=True, exist_ok=True)
    variables = _variables(python, build)
    text = f"build_time_vars = {pprint.pformat(variables, sort_dicts=True)}\n"
    (site / f"{sysconfig_name(build)}.py").write_text(text, encoding="utf-8")
    shutil.copyfile(_INSIDE / "target_platform.py", site / "target_platform.py")
    header = python.header.read_text(encoding="utf-8")
    (folder / "pyconfig.h").write_text(_ASSEMBLY.sub("", header) if build.is_cross else header, encoding="utf-8")


def sysconfig_name(build: LockedBuild) -> str:
    """Return the name of the module with the target's variables."""
    return f"_sysconfigdata__linux_{triplet(build.target.architecture)}"


def header_in_sandbox(python: BuildPython) -> str:
    """Return the path of `pyconfig.h` in the sandbox."""
    return f"{HOME}/{python.header.relative_to(python.prefix)}"


def _variables(python: BuildPython, build: LockedBuild) -> dict[str, Any]:
    target, machine = triplet(build.target.architecture), triplet(build.machine)
    prefix = str(python.prefix)

    def renamed(value: Any) -> Any:
        return value.replace(machine, target).replace(prefix, HOME) if isinstance(value, str) else value

    return {name: renamed(value) for name, value in python.variables.items()} | _compilers(build)


def _compilers(build: LockedBuild) -> dict[str, str]:
    prefix, major = triplet(build.target.architecture), compiler_of(build.tools)[0]
    gcc, gxx = f"{prefix}-gcc-{major}", f"{prefix}-g++-{major}"
    return {
        "CC": gcc,
        "CXX": gxx,
        "LDSHARED": f"{gcc} -shared",
        "LDCXXSHARED": f"{gxx} -shared",
        "BLDSHARED": f"{gcc} -shared",
        "AR": f"{prefix}-ar",
        "ARFLAGS": "rcs",
        "RANLIB": f"{prefix}-ranlib",
        "CFLAGS": _FLAGS,
        "PY_CFLAGS": _FLAGS,
        "OPT": "-DNDEBUG -O3 -Wall",
        "BASECFLAGS": "-fno-strict-overflow -Wsign-compare",
        "CCSHARED": "-fPIC",
        "LDFLAGS": "",
        "PY_LDFLAGS": "",
        "CPPFLAGS": "",
        "PY_CPPFLAGS": "",
    }
