"""How an image is started for its smoke run, where it can be reached, and what level of proof that gives."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from builder.engine import emulator_settings
from builder.errors import RecipeError
from builder.image.runtime import server_json
from builder.image.runtime.settings import SettingsError, settle
from builder.smoke.container import Launch

if TYPE_CHECKING:
    from builder.engine import Engine
    from builder.image.model import Image
    from builder.recipe.model import Architecture, Spec
    from builder.smoke.model import Level

# Images with this label hold a CUDA build: they are given the GPU where the engine has NVIDIA's runtime.
CUDA_LABEL = "io.jbuild.cuda"
_NVIDIA = "nvidia"
_KEY = "VLLM_API_KEY"


def launch(image: Image, reference: str, spec: Spec, engine: Engine, memory_bytes: int | None) -> Launch:
    """Return how to start an image.

    Raises:
        EngineError: the engine's machine cannot run the image's architecture.
        RecipeError: the recipe's environment gives the server a port that is none.
    """
    engine.require(architecture(image))
    environment = dict(spec.smoke.environment)
    if level(image, engine, "") == "emulated":
        environment = dict(emulator_settings(architecture(image))) | environment
    if not engine.is_local:
        # The port must be reachable from here, so others reach it too.
        environment.setdefault(_KEY, secrets.token_urlsafe(24))
    return Launch(
        reference=reference,
        platform=image.platform,
        port=_port(spec),
        environment=tuple(environment.items()),
        address="127.0.0.1" if engine.is_local else "",
        memory_bytes=memory_bytes,
        nvidia=_wants_gpu(image) and _NVIDIA in engine.runtimes and architecture(image) == engine.architecture,
    )


def architecture(image: Image) -> Architecture:
    """Return the architecture of an image's platform."""
    return "arm64" if image.platform.split("/")[1] == "arm64" else "amd64"


def level(image: Image, engine: Engine, runtime: str) -> Level:
    """Return what a run of an image on an engine proves, given the container runtime that was really used."""
    if architecture(image) != engine.architecture:
        return "emulated"
    return "gpu" if runtime == _NVIDIA else "cpu"


def address(engine: Engine, port: int) -> str:
    """Return where a published port of the engine's machine is reached from here."""
    host = "127.0.0.1" if engine.is_local else urlsplit(engine.endpoint).hostname
    return f"http://{host}:{port}"


def key(spec: Spec, started: Launch) -> str | None:
    """Return the API key that the server was started with, if it was."""
    return dict((*spec.server.environment, *started.environment)).get(_KEY)


def _wants_gpu(image: Image) -> bool:
    return bool(dict(image.labels).get(CUDA_LABEL))


def _port(spec: Spec) -> int:
    """Return the port that the entrypoint will settle on, by the entrypoint's own rules."""
    environment = dict((*spec.server.environment, *spec.smoke.environment))
    try:
        return settle(json.loads(server_json(spec)), environment, ()).port
    except SettingsError as error:
        raise RecipeError(f"the server cannot be started: {error}") from error
