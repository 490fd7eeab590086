"""The records of a server to run, and its address."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from builder.errors import UsageError
from builder.host.engine.docker import SHM_BYTES
from builder.host.engine.gpu_access import BY_RUNTIME, GpuAccess
from builder.image.runtime.settings import EVERYWHERE, LOOPBACK
from builder.model.recipes import Pairs

API_KEY = "VLLM_API_KEY"
# The path of a mounted key in the container, and the entrypoint's variable for it.
KEY_TARGET = "/run/secrets/vllm-api-key"
KEY_VARIABLE = f"{API_KEY}_FILE"
CACHE = "/cache"
# Microseconds. Engines refuse to give more processors than are switched on, and a board's power modes switch some off;
# a quota does not count processors.
CPU_PERIOD_US = 100_000
_PUBLISHED = re.compile(r"(?:(\[[0-9a-fA-F:]+\]|[0-9]+(?:\.[0-9]+){3}|localhost):)?([0-9]{1,5})")
_HIGHEST_PORT = 65535


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """The server's address and port on the engine's machine; port None means any free one."""

    address: str
    port: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """The engine's health check of the server, in seconds; `test` None means the image's own."""

    test: tuple[str, ...] | None
    interval_s: int = 30
    timeout_s: int = 20
    start_period_s: int = 900
    retries: int = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A hardened container with a server: the source of compose files and of `jbuild run`.

    `name` is unique on a machine. The root file system is read-only, and all capabilities are dropped; only `volume`
    at `/cache` and `tmpfs` are writable. `memory_bytes` and `cpus` are None without a limit. `key_file` holds the API
    key and is mounted. `arguments` go to the entrypoint. If it needs the GPU (`nvidia`), it gets it by `gpu`. With
    `host_network` it has the network of the engine's machine.
    """

    name: str
    image: str
    platform: str
    nvidia: bool
    port: int
    published: Published
    volume: str
    health: Health
    stop_within_s: int
    environment: Pairs = ()
    arguments: tuple[str, ...] = ()
    memory_bytes: int | None = None
    cpus: int | None = None
    shm_bytes: int = SHM_BYTES
    key_file: Path | None = None
    tmpfs: Pairs = (("/tmp", "mode=1777,size=1g"),)  # noqa: S108  # in the container
    log_size: str = "10m"
    log_files: int = 3
    restart: str = "unless-stopped"
    gpu: GpuAccess = BY_RUNTIME
    host_network: bool = False

    @property
    def container_environment(self) -> dict[str, str]:
        """The environment with the variable that names the mounted key."""
        return ({KEY_VARIABLE: KEY_TARGET} if self.key_file else {}) | dict(self.environment)

    @property
    def api_key(self) -> str | None:
        """The API key in the environment."""
        return dict(self.environment).get(API_KEY)


def parse_published(text: str) -> Published:
    """Parse `[ADDRESS:]PORT`; the default address is loopback.

    Raises:
        UsageError: the text has another form.
    """
    match = _PUBLISHED.fullmatch(text)
    if not match or not 0 < int(match[2]) <= _HIGHEST_PORT:
        raise UsageError(f"`{text[:80]}` is not a port", hint="write PORT or ADDRESS:PORT, such as 127.0.0.1:8001")
    address = (match[1] or LOOPBACK[0]).strip("[]")
    return Published(address=LOOPBACK[0] if address == "localhost" else address, port=int(match[2]))


def address_of(published: Published, host: str | None = None) -> str:
    """Return the server's URL; `host` is the engine's machine (None: this one), the only one that reaches loopback."""
    reached = LOOPBACK[0] if published.address in EVERYWHERE else published.address
    address = host if host and published.address not in LOOPBACK else reached
    return f"http://{bracketed(address)}:{published.port}"


def bracketed(address: str) -> str:
    """Return an address in the form of URLs: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def is_open(service: Service) -> bool:
    """Return whether other machines can reach the server without a key."""
    return service.published.address not in LOOPBACK and not (service.key_file or service.api_key)
