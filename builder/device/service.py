"""Makes the service of a cell on a board, or of an image alone, with its memory limit, its key and its commands."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.device.service_records import Health, Published, Service, address_of
from builder.errors import ModelError, UsageError
from builder.host.engine.docker import has_bridge
from builder.host.engine.emulation import emulator_settings
from builder.image.render.image_labels import UID
from builder.image.runtime import HEALTHCHECK
from builder.image.runtime.settings import LOOPBACK
from builder.jetson.boards import board as board_of
from builder.jetson.boards import recipe_boards
from builder.jetson.device import this_device
from builder.lock.recipe_models import locked_models
from builder.models.fit.cell_fit import fit_cell
from builder.models.fit.fit_defaults import overheads
from builder.smoke.launch import CUDA_LABEL, server_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.host.console import Console
    from builder.host.engine.docker import Engine
    from builder.host.session import Session
    from builder.jetson.boards import Board
    from builder.model.locks import Job
    from builder.model.recipes import Pairs
    from builder.models.fit.memory_estimate import BoardFit

_QUESTION = "What is the capital of France?"
# For an image without a health check and without a recipe.
_READY_WITHIN_S, _STOP_WITHIN_S = 900, 60
_NS = 10**9
_MIB = 1 << 20
_UTILIZATION = "JBUILD_GPU_MEMORY_UTILIZATION"


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """The estimate for a board, or the reason for none (`unknown`); and the environment that the server needs there."""

    fit: BoardFit | None
    unknown: str | None = None
    environment: Pairs = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """The remarks for users, one per line; empty if everything fits."""
        if self.fit is None:
            return (f"the needs of its model are unknown: {self.unknown}",)
        remarks = [f"it starts only with {name}={value}" for name, value in self.environment]
        if self.fit.verdict == "fewer":
            remarks.append("its configured sequences do not all fit at full length")
        return tuple(remarks)


def service_of(
    job: Job,
    image: str,
    board: Board | None = None,
    *,
    published: Published | None = None,
    key_file: Path | None = None,
    environment: Pairs = (),
    arguments: Sequence[str] = (),
) -> Service:
    """Return the service of a cell's image, within the limits of a board; by default on the cell's port of loopback.

    Raises:
        RecipeError: the server cannot run with the recipe's environment and the added settings.
    """
    spec, name = job.spec, service_name(job)
    port = server_port(spec, environment, arguments)
    return Service(
        name=name,
        image=image,
        platform=f"linux/{job.platform.architecture}",
        nvidia=job.platform.has_gpu,
        port=port,
        published=published or Published(address=LOOPBACK[0], port=port),
        volume=f"{name}-cache",
        health=Health(test=HEALTHCHECK, start_period_s=int(spec.smoke.ready_within_s)),
        stop_within_s=int(spec.smoke.stop_within_s),
        environment=environment,
        arguments=tuple(arguments),
        memory_bytes=limit(board, gpu=job.platform.has_gpu) if board and board.is_jetson else None,
        # The system keeps one core, so that users can log in while the server is busy.
        cpus=max(1, board.cpus - 1) if board and board.cpus else None,
        key_file=key_file,
    )


def with_engine(service: Service, engine: Engine) -> Service:
    """Return a service with the engine's way to the GPU, and on its machine's network where it has no other.

    Raises:
        EngineError: the engine does not answer any more.
    """
    service = replace(service, gpu=engine.gpu or service.gpu)
    return service if has_bridge(engine) else on_host_network(service, service.published.port or service.port)


def show_gpu(service: Service, console: Console) -> None:
    """Print how a service gets the GPU, if it needs it."""
    if service.nvidia:
        console.say(f"{service.name}: the container gets the GPU by {service.gpu.described}")


def on_host_network(service: Service, port: int) -> Service:
    """Return a service whose server listens on a port of the engine's machine itself."""
    published = replace(service.published, port=port)
    address = (("JBUILD_HOST", published.address), ("JBUILD_PORT", str(port)))
    return replace(
        service, host_network=True, port=port, published=published, environment=(*service.environment, *address)
    )


def service_of_image(reference: str, facts: Mapping[str, Any], published: Published, architecture: str) -> Service:
    """Return the service of an image from the engine's facts about it; `architecture` is that of the engine's machine.

    Raises:
        UsageError: the image lacks an entrypoint, or does not have exactly one port.
    """
    config = facts.get("Config") or {}
    ports = [int(match[1]) for name in config.get("ExposedPorts") or () if (match := re.fullmatch(r"(\d+)/tcp", name))]
    if len(ports) != 1 or not config.get("Entrypoint"):
        hint = "name an image of jbuild, or measure a running server with --url"
        raise UsageError("not an image of a server: it needs one port and an entrypoint", where=reference, hint=hint)
    begins = (config.get("Healthcheck") or {}).get("StartPeriod") or _READY_WITHIN_S * _NS
    name = re.sub(r"[^a-z0-9_-]+", "-", reference.rpartition("/")[2].partition("@")[0].lower())
    return Service(
        name=f"jbuild-{name}",
        image=reference,
        platform=f"{facts.get('Os') or 'linux'}/{facts['Architecture']}",
        nvidia=bool((config.get("Labels") or {}).get(CUDA_LABEL)),
        port=ports[0],
        published=published,
        volume=f"jbuild-{name}-cache",
        health=Health(test=None, start_period_s=begins // _NS),
        stop_within_s=_STOP_WITHIN_S,
        environment=emulator_settings(facts["Architecture"]) if facts["Architecture"] != architecture else (),
    )


def service_name(job: Job) -> str:
    """Return a name for a cell's container and project that both the engine and compose allow."""
    return re.sub(r"[^a-z0-9_-]+", "-", f"jbuild-{job.recipe.name}-{job.cell.id}".lower())


def chosen_board(job: Job, name: str | None) -> Board | None:
    """Return the named board, else this machine's, else the only one of the recipe; None means any board.

    Raises:
        UsageError: the board is unknown, or cannot run the cell's images.
    """
    device = this_device()
    named = recipe_boards(job)
    choice = name or (device.board if device else None) or (named[0].name if len(named) == 1 else None)
    if choice is None:
        return None
    board = board_of(choice)
    if name and (mismatch := board.mismatch(job.platform)):
        hint = f"`jbuild pick {job.recipe.name} --board {board.name}` shows the cells that do"
        raise UsageError(mismatch, where=job.name, hint=hint)
    return board


def curl_hint(service: Service, model: str | None, host: str | None = None) -> str:
    """Return a command that asks the server a question, or for its models if the model is unknown."""
    url = address_of(service.published, host)
    words = ["curl"]
    if service.key_file:
        words += ["-H", f'"Authorization: Bearer $(cat {shlex.quote(str(service.key_file))})"']
    elif service.api_key:
        words += ["-H", '"Authorization: Bearer $VLLM_API_KEY"']
    if model is None:
        return " ".join([*words, f"{url}/v1/models"])
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": _QUESTION}]})
    json_type = "'Content-Type: application/json'"
    return " ".join([*words, "-H", json_type, "-d", shlex.quote(body), f"{url}/v1/chat/completions"])


def memory_of(job: Job, board: Board, session: Session) -> Memory:
    """Estimate whether a cell's server fits into the memory of a board."""
    try:
        found = fit_cell(job, locked_models(job, session), session, (board.name,))
    except ModelError as error:
        return Memory(fit=None, unknown=error.message)
    (fit,) = found.boards
    most = fit.machine.utilization if fit.machine else None
    too_much = most is not None and 0 < most < fit.settings.utilization
    return Memory(fit=fit, environment=((_UTILIZATION, f"{most:g}"),) if too_much else ())


def limit(board: Board, *, gpu: bool) -> int:
    """Return the bytes that a container may use on a board, in whole MiB; the rest is the system's."""
    memory_kind = "system" if gpu else "cpu"
    system = sum(row.mib for row in overheads() if row.of == memory_kind and row.name == "operating system")
    return (board.usable // _MIB - system) * _MIB


def new_key() -> str:
    """Return a new API key, as the only line of a file."""
    return f"{secrets.token_urlsafe(32)}\n"


def readable_key(name: str) -> Path:
    """Return a key's file if the server's user in the container can read it.

    Raises:
        UsageError: the file is missing, or only its owner can read it.
    """
    path = Path(name).expanduser()
    try:
        state = path.stat()
    except OSError as error:
        raise UsageError(f"cannot read the key: {error.strerror}", where=name, hint="name an existing file") from error
    if not path.is_file() or not (state.st_mode & stat.S_IROTH or state.st_uid == UID):
        hint = f"`chmod 444 {shlex.quote(name)}`, in a folder that only you may enter (mode 700)"
        raise UsageError(f"user {UID} of the container may not read the key", where=name, hint=hint)
    return path


def read_key(name: str) -> str:
    """Return the key in a file.

    Raises:
        UsageError: the file cannot be read, or does not hold exactly one key.
    """
    try:
        words = Path(name).expanduser().read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        hint = "name a file that holds the key and nothing else"
        raise UsageError("cannot read the key", where=name, hint=hint) from error
    if len(words) != 1:
        raise UsageError("the file must hold one key and nothing else", where=name, hint="write the key into it")
    return words[0]
