"""How an image is started for its smoke run, and where it can be reached."""

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
from builder.smoke.level import architecture, facts, level

if TYPE_CHECKING:
    from builder.engine import Engine
    from builder.image.model import Image
    from builder.recipe.model import Spec

_KEY = "VLLM_API_KEY"


def launch(image: Image, reference: str, spec: Spec, engine: Engine, memory_bytes: int | None) -> Launch:
    """Return how to start an image.

    Raises:
        EngineError: the engine's machine cannot run the image's architecture.
        RecipeError: the recipe's environment gives the server a port that is none.
    """
    engine.require(architecture(image))
    known = facts(image, engine)
    environment = dict(spec.smoke.environment)
    if not known.native:
        environment = dict(emulator_settings(architecture(image))) | environment
    if spec.smoke.api_key or not engine.is_local:
        # On another machine the port must be reachable from here, so others reach it too.
        environment.setdefault(_KEY, secrets.token_urlsafe(24))
        if f"{_KEY}_FILE" in dict(spec.server.environment):
            # The file is a secret of the machine that the image is for; the entrypoint takes one of the two.
            environment.setdefault(f"{_KEY}_FILE", "")
    return Launch(
        reference=reference,
        platform=image.platform,
        port=_port(spec),
        environment=tuple(environment.items()),
        address="127.0.0.1" if engine.is_local else "",
        memory_bytes=memory_bytes,
        nvidia=level(known) == "gpu",
    )


def address(engine: Engine, port: int) -> str:
    """Return where a published port of the engine's machine is reached from here."""
    host = "127.0.0.1" if engine.is_local else urlsplit(engine.endpoint).hostname
    return f"http://{host}:{port}"


def key(spec: Spec, started: Launch) -> str | None:
    """Return the API key that the server was started with, if it was."""
    return dict((*spec.server.environment, *started.environment)).get(_KEY)


def _port(spec: Spec) -> int:
    """Return the port that the entrypoint will settle on, by the entrypoint's own rules."""
    environment = dict((*spec.server.environment, *spec.smoke.environment))
    try:
        return settle(json.loads(server_json(spec)), environment, ()).port
    except SettingsError as error:
        raise RecipeError(f"the server cannot be started: {error}") from error
