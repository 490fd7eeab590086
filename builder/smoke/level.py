"""What a smoke run can prove: found out from the image and the engine, never claimed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.engine import Engine
    from builder.image.model import Image
    from builder.recipe.model import Architecture
    from builder.smoke.model import Level

# Images with this label hold a CUDA build.
CUDA_LABEL = "io.jbuild.cuda"
NVIDIA = "nvidia"


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the level follows from: a CUDA build, the processor's own architecture, NVIDIA's runtime."""

    cuda: bool
    native: bool
    nvidia: bool


def facts(image: Image, engine: Engine) -> Facts:
    """Return what is so for an image on an engine."""
    return Facts(
        cuda=bool(dict(image.labels).get(CUDA_LABEL)),
        native=architecture(image) == engine.architecture,
        nvidia=NVIDIA in engine.runtimes,
    )


def level(known: Facts) -> Level:
    """Return what a run proves.

    A CUDA build without a GPU does not start its server, also on its own processor: only the forward pass is left.
    A CPU build proves nothing of the GPU, whatever the runtime.
    """
    if known.cuda:
        return "gpu" if known.native and known.nvidia else "emulated-forward"
    return "cpu" if known.native else "emulated"


def architecture(image: Image) -> Architecture:
    """Return the architecture of an image's platform."""
    return "arm64" if image.platform.split("/")[1] == "arm64" else "amd64"
