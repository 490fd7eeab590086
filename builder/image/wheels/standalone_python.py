"""Interpreters that uv fetches: an image's own, and the release that compiles bytecode for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.host.interpreters import find_compiler
from builder.lock.python_archives import install_python, interpreter_archive, unpack_archive

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.interpreters import Compiler
    from builder.host.session import Session
    from builder.model.locks import Lock

# Part of the names of interpreters' layers: raise it when the same archive unpacks to something else.
ARCHIVE_FORMAT = "1"


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
        # Something else compiles if the server is down, so uv does not try for long.
        argv = ["--install-dir", str(folder), f"cpython@{pinned}"]
        install_python(argv, session, artifact=f"CPython {pinned}", retries=1)
    except JbuildError as error:
        fallback = f"CPython {compiler.version} compiles instead" if compiler else "nothing is compiled"
        parts = (error.message, f"{fallback}, so the layers differ from those of other machines", error.hint)
        session.console.warn(f"{lock.cell}: {'; '.join(filter(None, parts))}")
        return compiler
    return find_compiler(python, pinned, folder)


def unpacked_interpreter(lock: Lock, folder: Path, session: Session) -> None:
    """Unpack an image's own interpreter into a folder that becomes `/`, after fetching it if it is missing.

    Raises:
        NetworkError, IntegrityError, DiskError: it cannot be fetched, verified or stored.
    """
    if lock.interpreter:
        archive = interpreter_archive(lock.interpreter, lock.platform, session)
        unpack_archive(archive, folder, lock.platform.python)
