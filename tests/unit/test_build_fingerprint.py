"""What decides the fingerprint of a build, and what does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from build_factory import new_build, new_target, new_tool, new_wheel

from builder.host import records
from builder.model.builds import BuildInput, BuildPatch, BuildSource, LockedBuild

BUILD = new_build()
INPUT = BuildInput(
    variable="SRC_DIR",
    source=BuildSource(kind="git", location="https://git.example/a.git", sha256="b" * 64, commit="c" * 40),
    patches=(BuildPatch(name="a.patch", sha256="b" * 64),),
)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "0.2"},
        {"source": BuildSource(kind="folder", location="axpyx", sha256="b" * 64)},
        {"patches": (BuildPatch(name="a.patch", sha256="b" * 64),)},
        {"environment": (("CFLAGS", "-O2"),)},
        {"machine": "arm64"},
        {"compiler": "13.2.0"},
        {"interpreter": "3.12.2"},
        {"tools": (new_tool(sha256="e" * 64),)},
        {"requirements": ()},
        {"target": new_target(gpus=("8.7",))},
        {"target": new_target(cuda="12.6")},
        {"target": new_target(glibc="2.35")},
        {"target": new_target(torch=None)},
        {"inputs": (INPUT,)},
    ],
)
def test_an_input_decides_the_fingerprint(changes: dict[str, Any]) -> None:
    assert new_build(**changes).fingerprint != BUILD.fingerprint


def test_addresses_and_orders_do_not() -> None:
    moved = replace(BUILD.source, location="https://mirror.example/axpyx.tar.gz")
    tools = (new_tool(), new_tool("make_4.3_amd64.deb", sha256="e" * 64))
    environment = (("A", "1"), ("B", "2"))
    first = new_build(source=moved, tools=tools, environment=environment)
    second = new_build(tools=tools[::-1], environment=environment[::-1])
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
    assert new_build(inputs=(changed,)).fingerprint != new_build(inputs=(INPUT,)).fingerprint


def test_orders_of_inputs_and_addresses_of_archives_do_not() -> None:
    archive = BuildSource(kind="archive", location="https://a.example/b.zip", sha256="d" * 64)
    moved = replace(archive, location="https://mirror.example/b.zip")
    first, second = BuildInput(variable="B", source=archive), BuildInput(variable="B", source=moved)
    assert new_build(inputs=(INPUT, first)).fingerprint == new_build(inputs=(second, INPUT)).fingerprint


def test_builds_without_inputs_keep_their_fingerprints() -> None:
    # Wheels of older locks stay those of the same builds.
    assert BUILD.fingerprint == "8a37a14968dd175a01702fac2e013b3bc50e66006a1b45d51e863728efe3b1ca"


def test_patches_apply_in_order() -> None:
    patches = (BuildPatch(name="a", sha256="a" * 64), BuildPatch(name="b", sha256="b" * 64))
    assert new_build(patches=patches).fingerprint != new_build(patches=patches[::-1]).fingerprint


def test_a_build_survives_json() -> None:
    build = new_build(patches=(BuildPatch(name="a", sha256="a" * 64),), environment=(("A", "1"),), inputs=(INPUT,))
    assert records.from_json(records.to_json(build), LockedBuild) == build


def test_names_that_would_leave_the_cache_are_refused() -> None:
    with pytest.raises(ValueError, match="not the name of an environment variable"):
        replace(INPUT, variable="../../etc")
    with pytest.raises(ValueError, match="neither a wheel's nor a Debian package's"):
        new_tool("../../etc/passwd.deb")
    with pytest.raises(ValueError, match="not a wheel's file name"):
        new_wheel("a-1/../../b.whl")
    with pytest.raises(ValueError, match="40 hexadecimal digits"):
        BuildSource(kind="git", location="https://x.example", sha256="a" * 64, commit="--upload-pack=x")
