"""Unpacks the wheels beside this file into jbuild's cache, unless that is done, and prints the program to run.

It runs on machines without jbuild, with the standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path, PurePosixPath

_HERE = Path(__file__).absolute().parent
_WHEELS = _HERE / "wheels"
_USAGE, _DAMAGED, _DISK = 2, 6, 12
_MACHINES = ("aarch64", "x86_64")
_PROGRAM = """import runpy
import sys

sys.path.insert(0, __file__.rpartition("/")[0])
runpy.run_module("builder", run_name="__main__", alter_sys=True)
"""
# As `CARRIED_PROGRAM` of `builder/host/paths.py`.
_PROGRAM_NAME = "start_jbuild.py"


def main() -> None:
    """Print the path of the program."""
    content = (_HERE / "wheels.json").read_bytes()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheels: dict[str, str] = json.loads(content)[python]
    _check_machine(wheels)
    key = hashlib.sha256(content).hexdigest()[:16]
    folder = _cache() / "programs" / f"jbuild-{key}-python{python}"
    if not (folder / _PROGRAM_NAME).is_file():
        _check(wheels)
        try:
            _unpack(wheels, folder)
        except OSError as error:
            _fail(_DISK, f"cannot unpack jbuild: {error.strerror}", str(folder), "name another cache with JBUILD_CACHE")
    with suppress(OSError):
        # A prune of the cache removes what was not used lately.
        os.utime(folder)
    sys.stdout.write(f"{folder / _PROGRAM_NAME}\n")


def _cache() -> Path:
    """Return jbuild's cache, as jbuild itself chooses it."""
    if named := os.environ.get("JBUILD_CACHE"):
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jbuild"


def _check_machine(wheels: dict[str, str]) -> None:
    """Refuse another architecture: the compiled wheels of a bundle are for the machines that its image runs on."""
    here = os.uname().machine
    named = {machine for machine in _MACHINES for name in wheels if name.endswith(f"{machine}.whl")}
    if named and here not in named:
        message = f"this bundle has jbuild for {' and '.join(sorted(named))}, and this machine is {here}"
        _fail(_USAGE, message, str(_WHEELS), "use `sh load.sh` of the bundle, or install jbuild on this machine")


def _check(wheels: dict[str, str]) -> None:
    damaged = sorted(name for name, sha256 in wheels.items() if _sha256_of(_WHEELS / name) != sha256)
    if damaged:
        _fail(_DAMAGED, f"damaged or missing: {', '.join(damaged)}", str(_WHEELS), "copy these files again")


def _fail(code: int, message: str, where: str, hint: str) -> None:
    sys.stderr.write(f"error: {message}\n  where: {where}\n  next: {hint}\n")
    sys.exit(code)


def _sha256_of(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _unpack(wheels: dict[str, str], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}-"))
    try:
        for name in sorted(wheels):
            _unpack_wheel(_WHEELS / name, temporary)
        (temporary / _PROGRAM_NAME).write_text(_PROGRAM, encoding="utf-8")
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:
            # Another process may have been faster.
            if not (folder / _PROGRAM_NAME).is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack_wheel(path: Path, target: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            inside = _installed_path(PurePosixPath(entry.filename))
            if inside is None or entry.is_dir():
                continue
            destination = target / inside
            destination.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, destination.open("wb") as file:
                shutil.copyfileobj(source, file)
            destination.chmod(0o755 if inside.parts[0] == "bin" else 0o644)


def _installed_path(path: PurePosixPath) -> PurePosixPath | None:
    """Return the path of a wheel's file in the folder; None for data that only installations have."""
    if path.is_absolute() or ".." in path.parts:
        _fail(_DAMAGED, f"a wheel has the path {path}", str(_WHEELS), "make the bundle again")
    if not path.parts[0].endswith(".data"):
        return path
    kind, rest = path.parts[1], path.parts[2:]
    if kind in ("purelib", "platlib"):
        return PurePosixPath(*rest)
    return PurePosixPath("bin", *rest) if kind == "scripts" else None


if __name__ == "__main__":
    main()
