"""The causes of failed builds, from the output of buildx."""

from __future__ import annotations

import re
from dataclasses import dataclass

from builder.errors import DiskError, EngineError, JbuildError, NetworkError, RegistryError


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause: the pattern of its output, the type of its error, the message and the next step."""

    pattern: str
    kind: type[JbuildError]
    message: str
    hint: str


OTHER_MACHINE = Cause(
    r"exec format error|no match for platform|does not support platform",
    EngineError,
    "the builder cannot run programs of the target's architecture",
    "register emulation (`jbuild doctor` shows the command), or build on the target itself with --builder",
)
_CAUSES = (
    Cause(
        r"no space left on device",
        DiskError,
        "the disk of the builder is full",
        "free space with `docker buildx prune`, then run it again",
    ),
    OTHER_MACHINE,
    Cause(
        r"(?:OCI|docker) exporter (?:feature )?is (?:currently )?not supported",
        EngineError,
        "this builder cannot export OCI images",
        "enable the engine's containerd image store, or use `docker buildx create --use` and --builder NAME",
    ),
    Cause(
        (
            r"Cannot connect to the Docker daemon|failed to connect to the docker API"
            r"|docker\.sock: connect: connection refused"
        ),
        EngineError,
        "the engine stopped responding",
        "start it, then run it again",
    ),
    Cause(r"no builder .* found", EngineError, "there is no such builder", "`docker buildx ls` lists them"),
    Cause(
        r"Certificate verification failed|certificate signed by unknown authority|x509:",
        NetworkError,
        "a server's certificate is not trusted inside the build",
        "set your company's certificates: `ca-bundle` under [network] in jbuild.toml, or SSL_CERT_FILE",
    ),
    Cause(
        (
            r"Temporary failure resolving|Could not connect to|Connection timed out|i/o timeout|no such host"
            r"|Failed to fetch|connect: connection refused|TLS handshake timeout"
        ),
        NetworkError,
        "a server could not be reached from inside the build",
        "check network and proxy of the engine, then run it again: finished layers are kept",
    ),
    Cause(
        r"failed to resolve source metadata.*(?:not found|denied|unauthorized|forbidden)",
        RegistryError,
        "the base image cannot be fetched from its registry",
        "check the registry and your log-in (`docker login`); `jbuild lock --force` looks up the base again",
    ),
)


def cause_of(output: str) -> Cause | None:
    """Return the first cause that a build's output shows, or None."""
    return next((cause for cause in _CAUSES if re.search(cause.pattern, output, re.IGNORECASE)), None)
