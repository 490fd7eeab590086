"""What a lock pins besides wheels: the interpreter that is fetched, and the release that compiles."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from factories import make_lock, make_platform

from builder.jetson.distributions import standalone
from builder.jetson.platform import platform_for
from builder.lock.resolve import compiler_of, interpreter_of

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.recipes import Architecture

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.mark.parametrize("architecture", ["arm64", "amd64"])
def test_a_fetched_interpreter_is_pinned_for_the_architecture(architecture: Architecture, session: Session) -> None:
    found = platform_for([("distribution", "ubuntu-22.04"), ("python", "3.12")], architecture)
    locked = interpreter_of(found)
    row = standalone("3.12")
    assert locked
    assert (locked.release, locked.version) == (row.release, row.version)
    assert locked.sha256 == dict(row.sha256)[architecture]
    assert locked.url == row.url(architecture)
    assert compiler_of(found, None, session) == row.version


def test_a_packaged_interpreter_is_not(session: Session) -> None:
    assert interpreter_of(make_platform()) is None


def test_the_release_that_compiles_is_found_here_and_then_kept(session: Session) -> None:
    found = make_platform(python=PYTHON)
    assert compiler_of(found, None, session) == platform.python_version()
    before = make_lock(platform=found, compiler=f"{PYTHON}.99")
    assert compiler_of(found, before, session) == f"{PYTHON}.99"
    assert compiler_of(found, replace(before, compiler=None), session) == platform.python_version()
    other = make_lock(platform=make_platform(python="3.8"), compiler="3.8.1")
    assert compiler_of(found, other, session) == platform.python_version()
