"""The records of a server to run, and its address."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from builder.errors import UsageError
from builder.host.engine.docker import SHM_BYTES
from builder.image.runtime.settings import EVERYWHERE, LOOPBACK
from builder.model.recipes import Pairs

API_KEY = "VLLM_API_KEY"
# The path of a mounted key in the container, and the entrypoint's variable for it.
KEY_TARGET = "/run/secrets/vllm-api-key"
KEY_VARIABLE = f"{API_KEY}_FILE"
CACHE = "/cache"
# Microseconds. A quota is not a number of processors: engines refuse more of those than are switched on, and a board's
# power modes switch some off.
CPU_PERIOD_US = 100_000
_PUBLISHED = re.compile(r"(?:(\[[0-9a-fA-F:]+\]|[0-9]+(?:\.[0-9]+){3}|localhost):)?([0-9]{1,5})")
_HIGHEST_PORT = 65535


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """Where the server's port is reached on the engine's machine; port None: any that is free."""

    address: str
    port: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """How the engine looks after the server; seconds. `test` None: as the image says."""

    test: tuple[str, ...] | None
    interval_s: int = 30
    timeout_s: int = 20
    start_period_s: int = 900
    retries: int = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A container that serves, hardened: what compose files and `jbuild run` are rendered from.

    `name` is unique on a machine. The root file system is read-only, no capability is kept; only `volume` at `/cache`
    and `tmpfs` can be written. `memory_bytes` and `cpus` None: no limit. `key_file` holds the API key and is mounted.
    `arguments` go to the entrypoint.
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

    @property
    def container_environment(self) -> dict[str, str]:
        """The environment with the variable that names the mounted key."""
        return ({KEY_VARIABLE: KEY_TARGET} if self.key_file else {}) | dict(self.environment)

    @property
    def api_key(self) -> str | None:
        """The API key in the environment."""
        return dict(self.environment).get(API_KEY)


def parse_published(text: str) -> Published:
    """Return an address and port written as `[ADDRESS:]PORT`; loopback unless another address is named.

    Raises:
        UsageError: it is neither.
    """
    match = _PUBLISHED.fullmatch(text)
    if not match or not 0 < int(match[2]) <= _HIGHEST_PORT:
        raise UsageError(f"`{text[:80]}` is not a port", hint="write PORT or ADDRESS:PORT, such as 127.0.0.1:8001")
    address = (match[1] or LOOPBACK[0]).strip("[]")
    return Published(address=LOOPBACK[0] if address == "localhost" else address, port=int(match[2]))


def address_of(published: Published, host: str | None = None) -> str:
    """Return where the server is reached; `host` is the engine's machine, None for this one.

    On a loopback address only that machine reaches it.
    """
    reached = LOOPBACK[0] if published.address in EVERYWHERE else published.address
    address = host if host and published.address not in LOOPBACK else reached
    return f"http://{bracketed(address)}:{published.port}"


def bracketed(address: str) -> str:
    """Return an address as a URL holds it: one of IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def is_open(service: Service) -> bool:
    """Return whether other machines can reach the server without a key."""
    return service.published.address not in LOOPBACK and not (service.key_file or service.api_key)
