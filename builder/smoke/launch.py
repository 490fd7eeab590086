"""Launch settings of a smoke run: the container's arguments, the level that the run proves, the server's address."""

from __future__ import annotations

import json
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import RecipeError
from builder.host.engine.docker import SHM_BYTES
from builder.host.engine.emulation import emulator_settings
from builder.image.runtime import server_json
from builder.image.runtime.settings import SettingsError, option, settle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from builder.host.engine.docker import Engine
    from builder.host.engine.gpu_access import GpuAccess
    from builder.model.images import Image
    from builder.model.recipes import Architecture, Pairs, Spec
    from builder.model.verdicts import Level

_KEY, _KEY_OPTION = "VLLM_API_KEY", "--api-key"
# Images with this label hold a CUDA build.
CUDA_LABEL = "io.jbuild.cuda"


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelFacts:
    """The facts that decide the level: a CUDA build, the processor's own architecture, the engine's GPU."""

    cuda: bool
    native: bool
    gpu: bool


def facts(image: Image, engine: Engine) -> LevelFacts:
    """Return the facts of an image on an engine."""
    return LevelFacts(
        cuda=bool(dict(image.labels).get(CUDA_LABEL)),
        native=architecture(image) == engine.architecture,
        gpu=engine.gpu is not None,
    )


def level(level_facts: LevelFacts) -> Level:
    """Return the level that a run proves.

    A CUDA build cannot start its server without a GPU, even on its own processor: only the forward pass remains.
    A CPU build proves nothing about the GPU, whatever the engine.
    """
    if level_facts.cuda:
        return "gpu" if level_facts.native and level_facts.gpu else "emulated-forward"
    return "cpu" if level_facts.native else "emulated"


def architecture(image: Image) -> Architecture:
    """Return the architecture of an image's platform."""
    return "arm64" if image.platform.split("/")[1] == "arm64" else "amd64"


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """Settings of a container. Its port is published at `address`, on the engine's machine.

    With `host_network` it has the network of that machine, and its port is the machine's; `gpu` is how it gets the GPU.

    A `command` replaces the image's own program and publishes no port; `options` are for that program. `files` are
    copied into the container's root folder.
    """

    reference: str
    platform: str
    port: int
    environment: Pairs = ()
    address: str = "127.0.0.1"
    memory_bytes: int | None = None
    gpu: GpuAccess | None = None
    host_network: bool = False
    command: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the engine's API that create the container."""
        arguments: dict[str, Any] = {
            "image": self.reference,
            "platform": self.platform,
            "environment": dict(self.environment),
            "shm_size": SHM_BYTES,
            # The smoke run itself calls it once: under emulation every call costs seconds.
            "healthcheck": {"test": ["NONE"]},
            "use_config_proxy": False,
        }
        if self.options:
            arguments |= {"command": list(self.options)}
        if self.command:
            arguments |= {"entrypoint": list(self.command), "command": []}
        elif not self.host_network:
            arguments |= {"ports": {f"{self.port}/tcp": (self.address, None)}}
        if self.host_network:
            arguments |= {"network_mode": "host"}
        if self.memory_bytes:
            arguments |= {"mem_limit": self.memory_bytes, "memswap_limit": self.memory_bytes}
        return arguments | (self.gpu.arguments() if self.gpu else {})


def launch(
    image: Image,
    reference: str,
    spec: Spec,
    engine: Engine,
    memory_bytes: int | None,
    *,
    host_network: bool = False,
) -> Launch:
    """Return the launch settings of an image; with `host_network` its server listens on the engine's machine itself.

    Raises:
        EngineError: the engine's machine cannot run the image's architecture.
        RecipeError: the recipe's environment sets an invalid port.
    """
    engine.require(architecture(image))
    level_facts = facts(image, engine)
    environment = dict(spec.smoke.environment)
    if not level_facts.native:
        environment = dict(emulator_settings(architecture(image))) | environment
    options: tuple[str, ...] = ()
    # A remote engine's port is open to other machines too.
    if (spec.smoke.api_key or not engine.is_local) and _KEY not in environment:
        options = _give_key(environment, spec)
    if host_network:
        environment |= _on_host_network(environment, engine)
    return Launch(
        reference=reference,
        platform=image.platform,
        port=server_port(spec, tuple(environment.items())),
        environment=tuple(environment.items()),
        address="127.0.0.1" if engine.is_local else "",
        memory_bytes=memory_bytes,
        gpu=engine.gpu if level(level_facts) == "gpu" else None,
        host_network=host_network,
        options=options,
    )


def _give_key(environment: dict[str, str], spec: Spec) -> tuple[str, ...]:
    """Give the server a secret key by its environment, or return the options that give it one.

    vLLM 0.20 compiles anew for each value of VLLM_API_KEY (`compile_factors` in vllm/envs.py), so that the files of a
    warm image would fit this run only.
    """
    value = secrets.token_urlsafe(24)
    if f"{_KEY}_FILE" in dict(spec.server.environment):
        # The secret file exists only on the image's own machine; the entrypoint accepts one of the two.
        environment.setdefault(f"{_KEY}_FILE", "")
    if spec.image.warm:
        return (f"{_KEY_OPTION}={value}",)
    environment[_KEY] = value
    return ()


def emulation_settings(image: Image, started: Launch) -> list[str]:
    """Return the settings of an emulated container that serve emulation only."""
    environment = dict(started.environment)
    return [f"{name}={environment[name]}" for name, _ in emulator_settings(architecture(image))]


def _on_host_network(environment: Mapping[str, str], engine: Engine) -> dict[str, str]:
    """Return the address and a free port for a server on the network of the engine's machine."""
    host = "127.0.0.1" if engine.is_local else "0.0.0.0"  # noqa: S104  # with a key, as published ports of remote engines
    return {"JBUILD_HOST": host, "JBUILD_PORT": environment.get("JBUILD_PORT") or str(free_port())}


def free_port() -> int:
    """Return a free port of this machine's loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def address(engine: Engine, port: int) -> str:
    """Return the URL of a published port of the engine's machine."""
    return f"http://{engine.host or '127.0.0.1'}:{port}"


def key(spec: Spec, started: Launch) -> str | None:
    """Return the server's API key, or None."""
    return option(started.options, _KEY_OPTION) or dict((*spec.server.environment, *started.environment)).get(_KEY)


def server_port(spec: Spec, environment: Pairs, arguments: Sequence[str] = ()) -> int:
    """Return the port that the entrypoint will choose, by the entrypoint's own rules.

    Raises:
        RecipeError: the settings are invalid.
    """
    try:
        return settle(json.loads(server_json(spec)), dict((*spec.server.environment, *environment)), arguments).port
    except SettingsError as error:
        hint = "correct [server] in the recipe, or the added environment and arguments"
        raise RecipeError(f"cannot start the server: {error}", hint=hint) from error
