"""Interpreters that uv fetches: an image's own, unpacked into a tree, and the release that compiles bytecode for it."""

from __future__ import annotations

import json
import re
import tarfile
from typing import TYPE_CHECKING
from urllib.parse import unquote

from builder.errors import (
    IntegrityError,
    JbuildError,
    NetworkError,
    ProgramFailedError,
    ProgramTimeoutError,
)
from builder.host.files import sha256_of, temp_folder
from builder.host.interpreters import find_compiler
from builder.host.process import run
from builder.image.wheels.tree import make_tree, variant
from builder.lock.solve import uv, uv_environment
from builder.lock.uv_target import machine
from builder.remote.vault.vaulted_files import fetch_vaulted, vaulted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.host.interpreters import Compiler
    from builder.host.session import Session
    from builder.model.locks import Lock, LockedInterpreter
    from builder.model.platforms import Platform

HOME = "/opt/python"
# Part of each tree's name: raise it when the same archive unpacks to something else.
_FORMAT = "1"
# The installation prefix of the archives' builds, which their build records contain.
_BUILT_IN = b"/install"
_FETCH_S = 1800
_MIRROR = "set a mirror that this machine can reach: `mirror` under [python] in jbuild.toml"


def provide_compiler(lock: Lock, session: Session) -> Compiler | None:
    """Return the compiler of a cell's bytecode, after fetching the locked release if it is missing.

    If that fails, it warns and falls back to another release of the same minor version, or to no bytecode.
    """
    python, pinned, folder = lock.platform.python, lock.compiler, session.workspace.interpreters
    compiler = find_compiler(python, pinned, folder)
    if pinned is None and compiler is None:
        effect = "so the image has no bytecode and starts slower"
        hint = f"install it and run `jbuild lock {lock.recipe} --force`"
        session.console.warn(f"{lock.cell}: no CPython {python} is on this machine, {effect}; {hint}")
    if pinned is None or (compiler and compiler.version == pinned):
        return compiler
    try:
        _install(["--install-dir", str(folder), f"cpython@{pinned}"], session, artifact=f"CPython {pinned}")
    except JbuildError as error:
        fallback = f"CPython {compiler.version} compiles instead" if compiler else "nothing is compiled"
        effect = "so the layers differ from those of other machines"
        session.console.warn(f"{lock.cell}: {error.message}; {fallback}, {effect}")
        return compiler
    return find_compiler(python, pinned, folder)


def interpreter_tree(lock: Lock, interpreter: LockedInterpreter, compiler: Compiler | None, session: Session) -> Path:
    """Return the tree of an image's own interpreter, after fetching and unpacking it if it is missing.

    Raises:
        NetworkError, IntegrityError, DiskError: it cannot be fetched, verified or stored.
    """
    python, sha256 = lock.platform.python, interpreter.sha256
    tree = session.workspace.trees / sha256[:2] / f"{sha256}-{_FORMAT}-{variant(python, compiler)}"
    name = archive_name(interpreter)

    def fill(folder: Path) -> None:
        _unpack(interpreter_archive(interpreter, lock.platform, session), folder, python)

    make_tree(tree, fill, compiler, name)
    return tree


def archive_name(interpreter: LockedInterpreter) -> str:
    """Return the file name of an interpreter's archive."""
    return unquote(interpreter.url.rpartition("/")[2])


def interpreter_archive(interpreter: LockedInterpreter, platform: Platform, session: Session) -> Path:
    """Return the archive of an interpreter in the cache, after fetching it if it is missing.

    Raises:
        NetworkError, IntegrityError, DiskError: it cannot be fetched, verified or stored.
    """
    name = archive_name(interpreter)
    target = session.workspace.interpreters / interpreter.sha256 / name
    if target.is_file() or _from_vault(interpreter.sha256, target, session):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folders of archives, where later processes look for the remains of a killed one.
    with temp_folder(target.parent.parent, target.parent.name) as scratch:
        index = scratch / "downloads.json"
        index.write_text(json.dumps(_download_index(interpreter, platform)), encoding="utf-8")
        # uv also unpacks it, but with this folder's name written into it: only the archive is used.
        cache, unpacked = scratch / "cache", scratch / "unpacked"
        argv = ["--install-dir", str(unpacked), "--python-downloads-json-url", str(index), _key(interpreter, platform)]
        _install(argv, session, artifact=name, cache=cache)
        (fetched,) = cache.glob("*.tar.gz")
        if sha256_of(fetched) != interpreter.sha256:
            raise IntegrityError(f"{name} does not match the locked sha256", where=interpreter.url, hint=_MIRROR)
        fetched.rename(target)
    return target


def _from_vault(sha256: str, target: Path, session: Session) -> bool:
    """Fetch an archive from the first vault that has it; return whether one did."""
    for found in vaulted(sha256, target.name, session.config):
        try:
            fetch_vaulted(found, target)
        except JbuildError as error:
            # Its authors' releases have the same bytes.
            session.console.warn(f"{error.message} ({error.where})")
            continue
        return True
    return False


def _key(interpreter: LockedInterpreter, platform: Platform) -> str:
    return f"cpython-{interpreter.version}-linux-{machine(platform)}-gnu"


def _download_index(interpreter: LockedInterpreter, platform: Platform) -> dict[str, object]:
    """Return the archive as an entry of uv's download list, with the locked sha256."""
    major, minor, patch = (int(number) for number in interpreter.version.split("."))
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


def _install(arguments: Sequence[str], session: Session, *, artifact: str, cache: Path | None = None) -> None:
    mirror = ["--mirror", session.config.python_mirror] if session.config.python_mirror else []
    argv = [uv(), "python", "install", "--no-config", "--no-bin", "--no-progress", *mirror, *arguments]
    env = uv_environment(session.config, session.workspace.cache) | {"UV_PYTHON_DOWNLOADS": "manual"}
    if cache:
        env["UV_PYTHON_CACHE_DIR"] = str(cache)
    try:
        with session.console.task(f"fetching {artifact}", unit="steps") as task:
            run(argv, env=env, timeout_s=_FETCH_S, on_line=task.note)
    except ProgramFailedError as error:
        raise _explain(error, artifact, session.config.python_mirror) from error


def _explain(error: ProgramFailedError, artifact: str, mirror: str | None) -> JbuildError:
    source = mirror or "its authors' releases"
    if "Hash mismatch" in error.output:
        message = f"{artifact} does not match the locked sha256"
        return IntegrityError(
            message, where=source, hint="find out why the mirror serves a different file", log=error.output
        )
    match = re.search(r"status \w+ error \((\d+[^)]*)\)", error.output)
    if match:
        return NetworkError(f"{artifact} cannot be fetched: the server answers {match[1]}", where=source, hint=_MIRROR)
    if isinstance(error, ProgramTimeoutError) or re.search(r"Failed to download|Request failed", error.output):
        message = f"{artifact} cannot be fetched: its server does not answer"
        return NetworkError(message, where=source, hint=_MIRROR, log=error.output)
    hint = "the log names the cause; a newer uv may support it (`pip install --upgrade uv`)"
    return IntegrityError(f"uv cannot install {artifact}", where=source, hint=hint, log=error.output)


def _unpack(archive: Path, folder: Path, python: str) -> None:
    parent = folder / HOME.lstrip("/").rpartition("/")[0]
    try:
        with tarfile.open(archive) as members:
            members.extractall(parent, filter="data")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise _invalid(archive, str(error)) from error
    home = folder / HOME.lstrip("/")
    if [path.name for path in parent.iterdir()] != [home.name] or not (home / "bin" / f"python{python}").is_file():
        raise _invalid(archive, f"it has no {home.name}/bin/python{python}")
    for path in (home / "lib" / f"python{python}").glob("_sysconfigdata*.py"):
        path.write_bytes(path.read_bytes().replace(_BUILT_IN, HOME.encode()))


def _invalid(archive: Path, reason: str) -> IntegrityError:
    hint = "jbuild does not know the layout of the locked archive; run `jbuild lock --force`"
    return IntegrityError(f"{archive.name} is not an interpreter: {reason}", where=str(archive), hint=hint)
