"""The source archive of a small C extension, with a build backend of its own: it needs a compiler and nothing else."""

from __future__ import annotations

from pathlib import Path

import packaging
from factories import make_wheel
from sources import make_sdist

_CODE = """#include <Python.h>

static PyObject *answer(PyObject *self, PyObject *none) { return PyLong_FromLong(ANSWER); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, "The answer."}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "tinyext", NULL, -1, methods, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit_tinyext(void) { return PyModule_Create(&module); }
"""
_BACKEND = '''"""Compiles tinyext.c with $CC, as setuptools would, and writes the wheel."""

import base64, hashlib, os, shlex, subprocess, sys, sysconfig, zipfile

VERSION = "@VERSION@"


def get_requires_for_build_wheel(config_settings=None):
    return []


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    suffix = os.environ.get("SETUPTOOLS_EXT_SUFFIX") or sysconfig.get_config_var("EXT_SUFFIX")
    compiler = shlex.split(os.environ.get("CC") or "cc")
    flags = [f"-I{sysconfig.get_path('include')}", *shlex.split(os.environ.get("CFLAGS", ""))]
    define = f"-DANSWER={os.environ.get('TINYEXT_ANSWER', '42')}"
    subprocess.run(
        [*compiler, "-shared", "-fPIC", "-O2", define, *flags, "tinyext.c", "-o", f"tinyext{suffix}"], check=True
    )
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    tag, info = f"{python}-{python}-{platform}", f"tinyext-{VERSION}.dist-info"
    files = {
        f"tinyext{suffix}": open(f"tinyext{suffix}", "rb").read(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\\nName: tinyext\\nVersion: {VERSION}\\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\\nGenerator: tinyext\\nRoot-Is-Purelib: false\\nTag: {tag}\\n".encode(),
    }
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}\\n")
    files[f"{info}/RECORD"] = "".join([*lines, f"{info}/RECORD,,\\n"]).encode()
    path = os.path.join(wheel_directory, f"tinyext-{VERSION}-{tag}.whl")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return os.path.basename(path)
'''


def make_requirements(folder: Path) -> None:
    """Write wheels of what every build has: the real `packaging`, and a `ninja` without a program."""
    package = Path(packaging.__file__).parent
    files = {f"packaging/{path.relative_to(package)}": path.read_bytes() for path in package.rglob("*.py")}
    make_wheel(folder, "packaging", packaging.__version__, files=files)
    make_wheel(folder, "ninja", "1.11.1")


def make_extension(folder: Path, version: str = "1.0") -> Path:
    """Write the source archive of `tinyext`, whose only function returns TINYEXT_ANSWER of the build, or 42."""
    project = f'[project]\nname = "tinyext"\nversion = "{version}"\n'
    backend = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    files = {
        "pyproject.toml": project + backend,
        "backend.py": _BACKEND.replace("@VERSION@", version),
        "tinyext.c": _CODE,
    }
    return make_sdist(folder, "tinyext", version, files=files)
