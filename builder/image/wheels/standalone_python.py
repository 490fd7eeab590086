"""Interpreters that uv fetches: an image's own, unpacked into a tree, and the release that compiles bytecode for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.host.interpreters import find_compiler
from builder.image.wheels.tree import make_tree, variant
from builder.lock.python_archives import archive_name, install_python, interpreter_archive, unpack_archive

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.interpreters import Compiler
    from builder.host.session import Session
    from builder.model.locks import Lock, LockedInterpreter

# Part of each tree's name: raise it when the same archive unpacks to something else.
_FORMAT = "1"


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
        install_python(["--install-dir", str(folder), f"cpython@{pinned}"], session, artifact=f"CPython {pinned}")
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
        unpack_archive(interpreter_archive(interpreter, lock.platform, session), folder, python)

    make_tree(tree, fill, compiler, name)
    return tree
