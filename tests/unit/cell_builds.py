"""Builds of a cell's packages on paper, and their wheels."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from build_factory import make_build
from factories import make_locked_wheel

from builder.foundry.build_inputs import lock_build_inputs
from builder.model.builds import BuildPatch, BuildSource, BuiltWheel

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.builds import BuildSpec, BuildTarget, LockedBuild
    from builder.model.locks import BuildBase
    from builder.model.wheels import LockedWheel

SOURCE = BuildSource(kind="sdist", location="https://index.example/ext-1.0.tar.gz", sha256="e" * 64, size=1000)


def lock_on_paper(
    spec: BuildSpec, source: BuildSource, target: BuildTarget, base: BuildBase, session: Session
) -> LockedBuild:
    """Return a build without compilers, which the foundry finds in the machine's package sources."""
    del base
    patches = tuple(
        BuildPatch(name=name, sha256=hashlib.sha256((spec.folder / name).read_bytes()).hexdigest())
        for name in spec.patches
    )
    stated = {"name": spec.name, "version": spec.version, "environment": spec.environment}
    return make_build(
        source=source,
        patches=patches,
        target=target,
        tools=(),
        requirements=(),
        inputs=lock_build_inputs(spec, session),
        **stated,
    )


def make_built(build: LockedBuild, **changes: Any) -> BuiltWheel:
    """Return the wheel of a build."""
    facts: dict[str, Any] = {"origin": "built", "seconds": 61.0, "units": 3}
    return BuiltWheel(fingerprint=build.fingerprint, wheel=wheel_of(build), **(facts | changes))


def wheel_of(build: LockedBuild) -> LockedWheel:
    """Return the finished wheel of a build."""
    filename = f"{build.name}-{build.version}+jbuild.1-cp312-cp312-manylinux_2_34_aarch64.whl"
    return make_locked_wheel(build.name, f"{build.version}+jbuild.1", filename=filename, url="urn:jbuild:wheel")
