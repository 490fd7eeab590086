"""Interpreters that uv fetches: an image's own, unpacked as it will lie there, and the release that compiles for it."""

from __future__ import annotations

import json
import re
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from builder.errors import (
    IntegrityError,
    JbuildError,
    NetworkError,
    ProgramFailedError,
    ProgramTimeoutError,
)
from builder.host.files import atomic_folder, disk_errors, sha256_of
from builder.host.interpreters import find_compiler
from builder.host.process import run
from builder.image.wheels.tree import compile_sources, normalise, variant
from builder.lock.solve import uv, uv_environment
from builder.lock.uv_target import machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.host.interpreters import Compiler
    from builder.host.session import Session
    from builder.model.locks import Lock, LockedInterpreter, Platform

HOME = "/opt/python"
# Part of each tree's name: raise it when the same archive unpacks to something else.
_FORMAT = "1"
# Where the archives' authors installed it, as its own records of the build still say.
_BUILT_IN = b"/install"
_FETCH_S = 1800
_MIRROR = "name a mirror that can be reached: `mirror` under [python] in jbuild.toml"


def provide_compiler(lock: Lock, session: Session) -> Compiler | None:
    """Return what compiles a cell's bytecode, after fetching the release that the lock pins if it is not here.

    Where that cannot be had, another release of the same minor version compiles, or none, and a warning says so.
    """
    python, pinned, folder = lock.platform.python, lock.compiler, session.workspace.interpreters
    found = find_compiler(python, pinned, folder)
    if pinned is None or (found and found.version == pinned):
        return found
    try:
        _install(["--install-dir", str(folder), f"cpython@{pinned}"], session, what=f"CPython {pinned}")
    except JbuildError as error:
        instead = f"CPython {found.version} compiles instead" if found else "nothing is compiled"
        lost = "so the layers are not those of machines that have it"
        session.console.warn(f"{lock.cell}: {error.message}; {instead}, {lost}")
        return found
    return find_compiler(python, pinned, folder)


def interpreter_tree(lock: Lock, interpreter: LockedInterpreter, compiler: Compiler | None, session: Session) -> Path:
    """Return the tree of an image's own interpreter, after fetching and unpacking it if it is missing.

    Raises:
        NetworkError, IntegrityError, DiskError: it cannot be had, trusted or stored.
    """
    python, sha256 = lock.platform.python, interpreter.sha256
    tree = session.workspace.trees / sha256[:2] / f"{sha256}-{_FORMAT}-{variant(python, compiler)}"
    with disk_errors(tree):
        tree.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(tree), FileLock(f"{tree}.lock"):
        if not tree.is_dir():
            archive = _archive(interpreter, lock.platform, session)
            with atomic_folder(tree) as folder:
                _unpack(archive, folder, python)
                if compiler:
                    compile_sources(compiler, folder, archive.name)
                normalise(folder)
    return tree


def _archive(interpreter: LockedInterpreter, platform: Platform, session: Session) -> Path:
    name = interpreter.url.rpartition("/")[2].replace("%2B", "+")
    target = session.workspace.interpreters / interpreter.sha256 / name
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        listed = Path(scratch) / "downloads.json"
        listed.write_text(json.dumps(_listed(interpreter, platform)), encoding="utf-8")
        # uv unpacks it too, but with this folder's name written into it: only what it fetched is used.
        cache, unpacked = Path(scratch) / "cache", Path(scratch) / "unpacked"
        argv = ["--install-dir", str(unpacked), "--python-downloads-json-url", str(listed), _key(interpreter, platform)]
        _install(argv, session, what=name, cache=cache)
        (fetched,) = cache.glob("*.tar.gz")
        if sha256_of(fetched) != interpreter.sha256:
            raise IntegrityError(f"{name} is not the file that was locked", where=interpreter.url, hint=_MIRROR)
        fetched.rename(target)
    return target


def _key(interpreter: LockedInterpreter, platform: Platform) -> str:
    return f"cpython-{interpreter.version}-linux-{machine(platform)}-gnu"


def _listed(interpreter: LockedInterpreter, platform: Platform) -> dict[str, object]:
    """Describe the archive in the form of uv's own list of downloads, which is then held against our sha256."""
    major, minor, patch = (int(part) for part in interpreter.version.split("."))
    entry = {
        "name": "cpython",
        "arch": {"family": machine(platform), "variant": None},
        "os": "linux",
        "libc": "gnu",
        "major": major,
        "minor": minor,
        "patch": patch,
        "prerelease": "",
        "url": interpreter.url,
        "sha256": interpreter.sha256,
        "variant": None,
    }
    return {_key(interpreter, platform): entry}


def _install(asked: Sequence[str], session: Session, *, what: str, cache: Path | None = None) -> None:
    mirror = ["--mirror", session.config.python_mirror] if session.config.python_mirror else []
    argv = [uv(), "python", "install", "--no-config", "--no-bin", "--no-progress", *mirror, *asked]
    env = uv_environment(session.config, session.workspace.cache) | {"UV_PYTHON_DOWNLOADS": "manual"}
    if cache:
        env["UV_PYTHON_CACHE_DIR"] = str(cache)
    try:
        with session.console.task(f"fetching {what}", unit="steps") as task:
            run(argv, env=env, timeout_s=_FETCH_S, on_line=task.note)
    except ProgramFailedError as error:
        raise _explained(error, what, session.config.python_mirror) from error


def _explained(error: ProgramFailedError, what: str, mirror: str | None) -> JbuildError:
    where = mirror or "its authors' releases"
    if "Hash mismatch" in error.output:
        message = f"{what} is not the file that was locked: its sha256 is another"
        return IntegrityError(
            message, where=where, hint="find out why the mirror serves another file", log=error.output
        )
    answer = re.search(r"status \w+ error \((\d+[^)]*)\)", error.output)
    if answer:
        return NetworkError(f"{what} cannot be fetched: the server answers {answer[1]}", where=where, hint=_MIRROR)
    if isinstance(error, ProgramTimeoutError) or re.search(r"Failed to download|Request failed", error.output):
        message = f"{what} cannot be fetched: its server does not answer"
        return NetworkError(message, where=where, hint=_MIRROR, log=error.output)
    hint = "the log names the cause; a newer uv may know it (`pip install --upgrade uv`)"
    return IntegrityError(f"{what} is nothing that uv can install", where=where, hint=hint, log=error.output)


def _unpack(archive: Path, folder: Path, python: str) -> None:
    parent = folder / HOME.lstrip("/").rpartition("/")[0]
    try:
        with tarfile.open(archive) as members:
            members.extractall(parent, filter="data")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise _strange(archive, str(error)) from error
    home = folder / HOME.lstrip("/")
    if [path.name for path in parent.iterdir()] != [home.name] or not (home / "bin" / f"python{python}").is_file():
        raise _strange(archive, f"it has no {home.name}/bin/python{python}")
    for path in (home / "lib" / f"python{python}").glob("_sysconfigdata*.py"):
        path.write_bytes(path.read_bytes().replace(_BUILT_IN, HOME.encode()))


def _strange(archive: Path, reason: str) -> IntegrityError:
    hint = "the lock names another archive than jbuild knows: `jbuild lock --force` makes it anew"
    return IntegrityError(f"{archive.name} is no interpreter: {reason}", where=str(archive), hint=hint)
