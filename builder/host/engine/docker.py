"""The container engine: found, and described.

The first that answers: DOCKER_HOST, the engine of the user's `docker` command, the engine of `scripts/engine`.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from builder.errors import EngineError, ProgramFailedError, ProgramMissingError
from builder.host import process
from builder.host.engine.contexts import context_endpoint, context_host, current_context, docker_folder, json_object
from builder.host.engine.emulation import OCI_NAMES, emulated_here
from builder.host.engine.gpu_access import gpu_access
from builder.host.paths import ENGINE_SCRIPT

if TYPE_CHECKING:
    from typing import Literal

    from docker import DockerClient
    from docker.tls import TLSConfig

    from builder.host.engine.gpu_access import GpuAccess, GpuMethod
    from builder.host.paths import Workspace
    from builder.model.recipes import Architecture

    Source = Literal["environment", "default", "scripts/engine"]

_ANSWER_S = 5.0
# Loading or exporting an image of many gigabytes is one request.
_LONG_S = 1800.0
_OK = 200
# vLLM's processes talk through shared memory; the engine's own 64 MB is too little, and unused space costs nothing.
SHM_BYTES = 1 << 30
# The schemes of addresses at which jbuild itself can speak to an engine.
_SCHEMES = ("tcp", "http", "https")
_PLAIN_HTTP = "HTTP request to an HTTPS server"
_ENCRYPTED = (
    "the engine requires TLS: give the context its certificates (`docker context update`), or set DOCKER_TLS_VERIFY"
)
_OWN_ENGINE = ", or run `scripts/engine up` for an engine of jbuild's own" if ENGINE_SCRIPT.is_file() else ""
_START = f"start Docker{_OWN_ENGINE}; then `jbuild doctor`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """A container engine that answers.

    `docker` reaches it at `endpoint`, with DOCKER_HOST set to `docker_host` unless that is None. `emulated` are the
    architectures that its machine is seen to emulate, `runtimes` its container runtimes, such as `nvidia`;
    `gpu` is how its containers get the GPU, None without a way.
    """

    docker_host: str | None
    context: str
    source: Source
    endpoint: str
    version: str
    containerd_store: bool
    architecture: str
    emulated: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    gpu: GpuAccess | None = None

    @property
    def is_local(self) -> bool:
        """Whether the engine's loopback is this machine's."""
        return self.endpoint.startswith(("unix://", "npipe://"))

    @property
    def host(self) -> str | None:
        """The name of the engine's machine, None for this one."""
        return None if self.is_local else urlsplit(self.endpoint).hostname

    @property
    def docker(self) -> str:
        """The command with which a user's shell reaches it: `docker`, with DOCKER_HOST if the shell must set it."""
        host = self.docker_host if self.source == "scripts/engine" else None
        return f"DOCKER_HOST={host} docker" if host else "docker"

    def environment(self) -> dict[str, str]:
        """Return the environment in which `docker` and `docker buildx` use this engine."""
        return {"DOCKER_HOST": self.docker_host} if self.docker_host else {}

    def client(self, timeout_s: float = _LONG_S) -> DockerClient:
        """Return a client of the engine's API; requests may take `timeout_s` seconds.

        Raises:
            EngineError: the engine does not answer any more.
        """
        import docker.errors  # noqa: PLC0415  # slow to import

        try:
            if self.source == "scripts/engine" or self.endpoint.startswith("unix://"):
                return docker.DockerClient(base_url=self.endpoint, timeout=int(timeout_s))
            return _remote_client(self.endpoint, self.context, timeout_s)
        except (docker.errors.DockerException, OSError) as error:
            raise EngineError("the engine does not answer any more", where=self.endpoint, hint=_START) from error

    def can_run(self, architecture: Architecture) -> bool:
        """Return whether programs of an architecture run on the engine's machine, natively or by emulation."""
        return architecture in (self.architecture, *self.emulated) or architecture in self._buildx_architectures()

    def require(self, architecture: Architecture) -> None:
        """Make sure that programs of an architecture run.

        Raises:
            EngineError: they do not run.
        """
        if not self.can_run(architecture):
            raise EngineError(
                f"the engine's machine ({self.architecture}) cannot run {architecture} programs",
                where=self.endpoint,
                hint="install qemu-user-static with binfmt on the engine's machine; `jbuild doctor` shows the commands",
            )

    def _buildx_architectures(self) -> set[str]:
        """Ask the builder: only it knows about emulation on another machine or in Docker Desktop's."""
        try:
            output = process.run(["docker", "buildx", "inspect"], env=self.environment(), timeout_s=30).stdout
        except (ProgramMissingError, ProgramFailedError):
            return set()
        return set(re.findall(r"linux/(\w+)", output))


def proxies_of(engine: Engine) -> dict[str, str]:
    """Return the engine's own proxies, by their variables.

    Raises:
        EngineError: it does not answer any more.
    """
    facts = _info(engine)
    variables = {"HTTPS_PROXY": facts.get("HttpsProxy"), "HTTP_PROXY": facts.get("HttpProxy")}
    return {name: str(value) for name, value in variables.items() if value}


def data_folder(engine: Engine) -> Path | None:
    """Return the folder of the engine's images, if it is on this machine.

    Raises:
        EngineError: it does not answer any more.
    """
    path = Path(str(_info(engine).get("DockerRootDir") or "/nowhere"))
    return path if engine.is_local and path.is_dir() else None


def has_bridge(engine: Engine) -> bool:
    """Return whether containers can have a network of their own, so that ports are published.

    An engine that was started with `"bridge": "none"` has the host's network only.

    Raises:
        EngineError: it does not answer any more.
    """
    if engine.endpoint.startswith("unix://"):
        networks = query_socket(engine.endpoint, "/networks")
    else:
        networks = _remote_client(engine.endpoint, engine.context, _ANSWER_S).api.networks()
    return any(network.get("Driver") == "bridge" for network in networks)


def _info(engine: Engine) -> dict[str, Any]:
    return _query(engine.endpoint, engine.context, "/info")[0]


def find_engine(workspace: Workspace, gpu: GpuMethod | None = None) -> Engine:
    """Return the engine to work with; `gpu` overrides how its containers get the GPU.

    Raises:
        EngineError: none answers, or permission is denied.
    """
    if host := os.environ.get("DOCKER_HOST"):
        return _engine_at(host, context="default", source="environment", docker_host=host, gpu=gpu)
    context = current_context()
    try:
        return _engine_at(context_host(context), context=context, source="default", docker_host=None, gpu=gpu)
    except EngineError as refused:
        recorded = _recorded_host(workspace.engine_record)
        if recorded is None:
            raise
        try:
            return _engine_at(recorded, context="default", source="scripts/engine", docker_host=recorded, gpu=gpu)
        except EngineError as error:
            both = f"{refused.message}; {error.message}"
            raise EngineError(both, where=f"{refused.where}, {recorded}", hint=refused.hint) from error


def _engine_at(
    endpoint: str, *, context: str, source: Source, docker_host: str | None, gpu: GpuMethod | None
) -> Engine:
    version, facts = _query(endpoint, context, "/version", "/info")
    status = dict(pair for pair in facts.get("DriverStatus") or () if len(pair) == 2)  # noqa: PLR2004  # name, value
    architecture = OCI_NAMES.get(version.get("Arch", ""), version.get("Arch", ""))
    return Engine(
        docker_host=docker_host,
        context=context,
        source=source,
        endpoint=endpoint,
        version=version.get("Version", ""),
        containerd_store="containerd" in status.get("driver-type", ""),
        architecture=architecture,
        emulated=emulated_here(architecture) if endpoint.startswith("unix://") else (),
        runtimes=tuple(sorted(facts.get("Runtimes") or ())),
        gpu=gpu_access(facts, is_local=endpoint.startswith("unix://"), setting=gpu),
    )


def _query(endpoint: str, context: str, *requests: str) -> list[dict[str, Any]]:
    """Return the engine's answers to requests: `/version` and `/info`."""
    if endpoint.startswith("unix://"):
        return [_object(query_socket(endpoint, request), endpoint) for request in requests]
    if urlsplit(endpoint).scheme not in _SCHEMES:
        raise _unreachable(endpoint, context)
    import docker.errors  # noqa: PLC0415  # slow to import

    try:
        client = _remote_client(endpoint, context, _ANSWER_S)
        return [dict(client.version() if request == "/version" else client.info()) for request in requests]
    except (docker.errors.DockerException, OSError, ValueError) as error:
        message = f"the engine of {_named_by(context)} does not answer: {_cause(error)}"
        hint = _ENCRYPTED if _PLAIN_HTTP in str(error) else f"{_START}; or {_other_engine(context)}"
        raise EngineError(message, where=endpoint, hint=hint) from error


def _unreachable(endpoint: str, context: str) -> EngineError:
    """Return the error for an engine whose scheme only the `docker` command and BuildKit speak."""
    if endpoint.startswith("/"):
        hint = f"write it as unix://{endpoint}"
        return EngineError(f"{_named_by(context)} names a path, not an address", where=endpoint, hint=hint)
    scheme = urlsplit(endpoint).scheme or "an unknown scheme"
    builder = context if context != "default" else "NAME"
    hint = f"build on it with `--builder {builder}`, and {_other_engine(context)}"
    if context == "default":
        hint += "; `docker context create NAME --docker host=ADDRESS` makes a builder of an address"
    return EngineError(
        f"{_named_by(context)} names an engine over {scheme}, which jbuild itself cannot use",
        where=endpoint,
        hint=hint,
    )


def _named_by(context: str) -> str:
    return "DOCKER_HOST" if context == "default" and os.environ.get("DOCKER_HOST") else f"docker context `{context}`"


def _other_engine(context: str) -> str:
    """Return how users come back to the engine of this machine."""
    if _named_by(context) == "DOCKER_HOST":
        return "unset DOCKER_HOST for the engine of this machine"
    if os.environ.get("DOCKER_CONTEXT"):
        return "unset DOCKER_CONTEXT for the engine of this machine"
    return "run `docker context use default` for the engine of this machine"


def _cause(error: BaseException) -> str:
    """Return the system's words for a failure below those of the HTTP libraries."""
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) and before not in chain:
        chain.append(before)
    words = (link.strerror for link in reversed(chain) if isinstance(link, OSError) and link.strerror)
    return next(words, str(error))


def _object(answer: Any, endpoint: str) -> dict[str, Any]:
    if isinstance(answer, dict):
        return answer
    raise EngineError("not a Docker engine: its answer is not a JSON object", where=endpoint, hint=_START)


def query_socket(endpoint: str, request: str) -> Any:
    """Return the answer of an engine behind a socket; the import of the SDK alone takes longer than the answer.

    Raises:
        EngineError: the engine does not answer, or permission is denied.
    """
    path = endpoint.removeprefix("unix://")
    connection = http.client.HTTPConnection("localhost", timeout=_ANSWER_S)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(_ANSWER_S)
    try:
        connection.sock.connect(path)
        connection.request("GET", request)
        response = connection.getresponse()
        if response.status != _OK:
            raise EngineError(f"the engine answers with status {response.status}", where=endpoint, hint=_START)
        return json.loads(response.read())
    except PermissionError as error:
        hint = "join the docker group: `sudo usermod -aG docker $USER`, and log in again; then `jbuild doctor`"
        raise EngineError("permission denied on the Docker socket", where=endpoint, hint=hint) from error
    except FileNotFoundError as error:
        message = f"Docker is not running (no socket at {path})"
        is_chosen = os.environ.get("DOCKER_HOST") == endpoint
        hint = "correct or unset DOCKER_HOST, or start that engine; then `jbuild doctor`" if is_chosen else _START
        raise EngineError(message, where=endpoint, hint=hint) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _silent(endpoint, error) from error
    finally:
        connection.close()


def _remote_client(endpoint: str, context: str, timeout_s: float) -> DockerClient:
    """Return a client for DOCKER_HOST if set, else for a context, with the TLS settings of either.

    Raises:
        EngineError: the certificates are incomplete.
    """
    import docker.errors  # noqa: PLC0415  # slow to import

    try:
        if os.environ.get("DOCKER_HOST"):
            return docker.from_env(timeout=int(timeout_s))
        return docker.DockerClient(base_url=endpoint, tls=_context_tls(context), timeout=int(timeout_s))
    except docker.errors.TLSParameterError as error:
        files = "DOCKER_CERT_PATH" if os.environ.get("DOCKER_HOST") else f"`docker context inspect {context}`"
        message = f"the certificates of {_named_by(context)} are incomplete or cannot be read"
        raise EngineError(message, where=endpoint, hint=f"check ca.pem, cert.pem and key.pem ({files})") from error


def _context_tls(context: str) -> TLSConfig | bool:
    """Return the TLS settings of a context, False if it has none."""
    from docker.tls import TLSConfig  # noqa: PLC0415  # slow to import

    folder = docker_folder() / "contexts" / "tls" / hashlib.sha256(context.encode()).hexdigest() / "docker"
    ca, cert, key = (str(path) if (path := folder / f"{name}.pem").is_file() else "" for name in ("ca", "cert", "key"))
    is_unverified = bool(context_endpoint(context).get("SkipTLSVerify"))
    if not (ca or cert or key or is_unverified):
        return False
    return TLSConfig(client_cert=(cert, key) if cert or key else None, ca_cert=ca or None, verify=not is_unverified)


def _silent(endpoint: str, error: Exception) -> EngineError:
    return EngineError(f"the engine does not answer: {error}", where=endpoint, hint=_START)


def _recorded_host(record: Path) -> str | None:
    host = json_object(record).get("docker_host")
    return host if isinstance(host, str) and urlsplit(host).scheme else None
