"""The local version label of a built wheel: what it was built for, and the fingerprint of its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import Version

from builder.jetson.boards import sm_number

if TYPE_CHECKING:
    from builder.model.builds import LockedBuild

_DIGITS = 8


def label_of(build: LockedBuild) -> str:
    """Return the label of a build: `jbuild.cu130.torch2.11.sm87.4f1a9c0e`.

    Only what the build has is part of it. The label is written as PEP 440 normalises it, so that the version in the
    file's name is that which tools print.
    """
    target = build.target
    parts = ["jbuild"]
    if target.cuda:
        parts.append("cu" + target.cuda.replace(".", ""))
    if target.torch:
        parts.append("torch" + ".".join(map(str, Version(target.torch.version).release[:2])))
    parts += [f"sm{sm_number(sm)}" for sm in target.gpus]
    parts.append(build.fingerprint[:_DIGITS])
    return str(Version(f"0+{'.'.join(parts)}").local)
