"""Builds the image that loads a stack: the locked base with the distribution's Python and the recipe's packages."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host import records
from builder.host.config import build_ca_bundle
from builder.host.paths import shipped
from builder.host.process import run
from builder.image.render import image_labels
from builder.model.images import EPOCH

if TYPE_CHECKING:
    from builder.host.config import Config
    from builder.host.engine.docker import Engine
    from builder.model.locks import Lock

_LIMIT_S = 1800
# The same step as in jbuild's Dockerfile, without the subsequent layers.
_DOCKERFILE = """\
FROM {base}
RUN --mount=type=bind,source=install.sh,target=/run/install.sh --mount=type=secret,id=ca \
["/bin/sh", "/run/install.sh", "{epoch}", "{uid}", "{user}", {packages}]
"""


def system_image(lock: Lock, apt: tuple[str, ...], engine: Engine, config: Config) -> str:
    """Return the name of the image; build it if the engine does not have it.

    Raises:
        ProgramFailedError: the build failed.
    """
    packages = sorted({*lock.platform.python_packages, *apt})
    script = shipped("dockerfiles") / "system" / "install.sh"
    text = _DOCKERFILE.format(
        base=f"{lock.base.used.rpartition(':')[0]}@{lock.base.digest}",
        epoch=EPOCH,
        uid=image_labels.UID,
        user=image_labels.USER,
        packages=", ".join(f'"{package}"' for package in packages),
    )
    fingerprint = records.fingerprint(text, script.read_text(encoding="utf-8"))
    name = f"jbuild-agreement:{fingerprint[:16]}"
    inspected = run(["docker", "image", "inspect", name], env=engine.environment(), check=False)
    if inspected.code == 0:
        return name
    ca = build_ca_bundle(config)
    with tempfile.TemporaryDirectory(prefix="jbuild-agreement-") as folder:
        (Path(folder) / "Dockerfile").write_text(text, encoding="utf-8")
        shutil.copy(script, Path(folder) / "install.sh")
        argv = ["docker", "buildx", "build", "--platform=linux/arm64", "--provenance=false", "--load", "--tag", name]
        argv += ["--secret", f"id=ca,src={ca}"] if ca else []
        run([*argv, folder], env=engine.environment(), timeout_s=_LIMIT_S)
    return name
