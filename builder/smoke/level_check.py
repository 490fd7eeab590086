"""Refuses a smoke run that cannot reach the level that a user asks for, before the image is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import EngineError, UsageError
from builder.host.engine.gpu_access import CDI_DEVICE, RUNTIME
from builder.recipe.levels import reaches
from builder.smoke.launch import architecture, facts, level

if TYPE_CHECKING:
    from builder.host.engine.docker import Engine
    from builder.model.images import Image

_CDI_HINT = (
    "describe the GPU to the engine (`nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`, or install NVIDIA's "
    "container toolkit) and restart it; `jbuild doctor` shows what the engine states; `run.gpu` in jbuild.toml "
    "overrides it"
)


def require_level(image: Image, engine: Engine, expected: str | None) -> None:
    """Make sure that the engine's machine can run an image, and that a smoke run can reach the expected level.

    Raises:
        EngineError: the machine lacks something.
        UsageError: the image cannot reach the level on any machine.
    """
    engine.require(architecture(image))
    seen = facts(image, engine)
    reached = level(seen)
    if reaches(reached, expected):
        return
    problem = f"level {expected} is out of reach"
    if not seen.cuda and expected == "gpu":
        raise UsageError(
            f"{problem}: the image is a CPU build, whose highest level is cpu",
            where=image.digest,
            hint="leave out --level, or make the bundle of a cell with CUDA",
        )
    if not seen.native:
        raise EngineError(
            f"{problem}: the engine's machine ({engine.architecture}) only emulates {architecture(image)}; "
            f"here the smoke run reaches {reached}",
            where=engine.endpoint,
            hint=f"run it on a machine with {architecture(image)} processors, or leave out --level",
        )
    raise EngineError(
        f"{problem}: the engine gives containers no GPU; it names no CDI device {CDI_DEVICE}, and the runtime "
        f"{RUNTIME} is not among its runtimes ({', '.join(engine.runtimes) or 'none'}); here the smoke run reaches "
        f"{reached}",
        where=engine.endpoint,
        hint=_CDI_HINT,
    )
