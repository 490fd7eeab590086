"""What a lock pins besides wheels: the image's own interpreter if it is fetched, and the release that compiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.host.interpreters import find_compiler
from builder.jetson.pythons import standalone
from builder.model.locks import LockedInterpreter

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.locks import Lock
    from builder.model.platforms import Platform


def interpreter_of(platform: Platform) -> LockedInterpreter | None:
    """Return the interpreter to fetch for a platform whose distribution packages none."""
    if platform.standalone is None:
        return None
    row, architecture = standalone(platform.python), platform.architecture
    return LockedInterpreter(release=row.release, url=row.url(architecture), sha256=dict(row.sha256)[architecture])


def compiler_of(platform: Platform, before: Lock | None, session: Session) -> str | None:
    """Return the release that compiles: the image's own if it is fetched, that of the lock before, or one found here.

    Another one would change the bytes of every layer.
    """
    if platform.standalone:
        return standalone(platform.python).version
    if before and before.compiler and before.platform.python == platform.python:
        return before.compiler
    found = find_compiler(platform.python, None, session.workspace.interpreters)
    return found.version if found else None
