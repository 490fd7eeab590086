"""The records of a server that is to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder.host.engine.docker import SHM_BYTES
from builder.model.recipes import Pairs

# The path of a mounted key in the container, and the entrypoint's variable for it.
KEY_TARGET = "/run/secrets/vllm-api-key"
KEY_VARIABLE = "VLLM_API_KEY_FILE"
CACHE = "/cache"
# Microseconds. A quota is not a number of processors: engines refuse more of those than are switched on, and a board's
# power modes switch some off.
CPU_PERIOD_US = 100_000


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
