"""What decides the fingerprint of a build, and what does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from build_factory import make_build, make_target, make_tool
from factories import make_locked_wheel

from builder.host import records
from builder.model.builds import BuildInput, BuildPatch, BuildSource, LockedBuild

BUILD = make_build()
INPUT = BuildInput(
    variable="SRC_DIR",
    source=BuildSource(kind="git", location="https://git.example/a.git", sha256="b" * 64, commit="c" * 40),
    patches=(BuildPatch(name="a.patch", sha256="b" * 64),),
)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "0.2"},
        {"source": BuildSource(kind="folder", location="demo", sha256="b" * 64)},
        {"patches": (BuildPatch(name="a.patch", sha256="b" * 64),)},
        {"environment": (("CFLAGS", "-O2"),)},
        {"machine": "arm64"},
        {"compiler": "13.2.0"},
        {"interpreter": "3.12.2"},
        {"tools": (make_tool(sha256="e" * 64),)},
        {"requirements": ()},
        {"target": make_target(gpus=("11.0",))},
        {"target": make_target(cuda="12.6")},
        {"target": make_target(glibc="2.35")},
        {"target": make_target(torch=None)},
        {"inputs": (INPUT,)},
    ],
)
def test_an_input_decides_the_fingerprint(changes: dict[str, Any]) -> None:
    assert make_build(**changes).fingerprint != BUILD.fingerprint


def test_addresses_and_orders_do_not() -> None:
    moved = replace(BUILD.source, location="https://mirror.example/demo.tar.gz")
    tools = (make_tool(), make_tool("make_4.3_amd64.deb", sha256="e" * 64))
    environment = (("A", "1"), ("B", "2"))
    first = make_build(source=moved, tools=tools, environment=environment)
    second = make_build(tools=tools[::-1], environment=environment[::-1])
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize(
    "changed",
    [
        replace(INPUT, variable="OTHER"),
        replace(INPUT, patches=()),
        replace(INPUT, source=replace(INPUT.source, sha256="c" * 64)),
        replace(INPUT, source=replace(INPUT.source, location="https://other.example/a.git")),
    ],
)
def test_everything_about_an_input_decides_the_fingerprint(changed: BuildInput) -> None:
    assert make_build(inputs=(changed,)).fingerprint != make_build(inputs=(INPUT,)).fingerprint


def test_orders_of_inputs_and_addresses_of_archives_do_not() -> None:
    archive = BuildSource(kind="archive", location="https://a.example/b.zip", sha256="d" * 64)
    moved = replace(archive, location="https://mirror.example/b.zip")
    first, second = BuildInput(variable="B", source=archive), BuildInput(variable="B", source=moved)
    assert make_build(inputs=(INPUT, first)).fingerprint == make_build(inputs=(second, INPUT)).fingerprint


def test_the_fingerprint_of_the_same_inputs_stays() -> None:
    # Another one builds every wheel again: it changes with BUILD_METHOD only.
    assert BUILD.fingerprint == "c32b7c86b7d26cd0dc34b2dca175c11e1e5264a78058f6f4ecbf3f03bfe7af36"


def test_patches_apply_in_order() -> None:
    patches = (BuildPatch(name="a", sha256="a" * 64), BuildPatch(name="b", sha256="b" * 64))
    assert make_build(patches=patches).fingerprint != make_build(patches=patches[::-1]).fingerprint


def test_a_build_survives_json() -> None:
    build = make_build(patches=(BuildPatch(name="a", sha256="a" * 64),), environment=(("A", "1"),), inputs=(INPUT,))
    assert records.from_json(records.to_json(build), LockedBuild) == build


def test_names_that_would_leave_the_cache_are_refused() -> None:
    with pytest.raises(ValueError, match="not the name of an environment variable"):
        replace(INPUT, variable="../../etc")
    with pytest.raises(ValueError, match="neither a wheel's nor a Debian package's"):
        make_tool("../../etc/passwd.deb")
    with pytest.raises(ValueError, match="not a wheel's file name"):
        make_locked_wheel(filename="a-1/../../b.whl")
    with pytest.raises(ValueError, match="40 hexadecimal digits"):
        BuildSource(kind="git", location="https://x.example", sha256="a" * 64, commit="--upload-pack=x")
