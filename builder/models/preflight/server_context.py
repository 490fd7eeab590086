"""The input of the pre-flight's rules: one cell's server, its model, and what the locked releases accept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from builder.errors import ModelError
from builder.jetson.boards import boards_of, sm_number
from builder.model.audits import Finding
from builder.models.fit.cell_fit import served_files
from builder.models.fit.server_options import pinned_version, settings_of
from builder.models.preflight.arguments import COMMON_OPTIONS, parse, server_arguments, value_of
from builder.models.preflight.model_facts import read_model
from builder.models.preflight.wheel_sources import Sources, read_sources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.host.session import Session
    from builder.model.audits import Severity
    from builder.model.locks import Job, Lock
    from builder.model.platforms import Platform
    from builder.model.recipes import Question, ServerSpec
    from builder.models.fit.memory_estimate import ServingSettings
    from builder.models.preflight.arguments import Argument
    from builder.models.preflight.model_facts import ModelFacts


@dataclass(frozen=True, kw_only=True)
class ServerContext:
    """A cell's server.

    `versions` are those of the locked wheels, None without a lock, `boards` the SMs of the boards that the cell is for
    (87 for 8.7). `model` is None if the image has none or its files cannot be read; `unread` is then the reason.
    `models` are the names of the recipe's models.
    """

    server: ServerSpec
    questions: tuple[Question, ...]
    platform: Platform
    versions: dict[str, str] | None
    boards: dict[str, int]
    sources: Sources
    model: ModelFacts | None = None
    unread: str | None = None
    models: tuple[str, ...] = ()

    @cached_property
    def arguments(self) -> tuple[Argument, ...]:
        """The server's arguments, split by the options of the locked release, else by common ones."""
        options = self.sources.vllm.facts.options if self.sources.vllm else ()
        return parse(server_arguments(self.server), options or COMMON_OPTIONS)

    def option(self, *names: str) -> str | None:
        """Return an option's value, "" for a flag that is given, or None."""
        return value_of(self.arguments, *names)

    @cached_property
    def settings(self) -> ServingSettings | None:
        """The settings that the server takes for its model."""
        if self.model is None:
            return None
        version = pinned_version([f"vllm=={self.sources.vllm.version}"]) if self.sources.vllm else None
        return settings_of(self.server, self.model.shape, gpu=self.gpu, vllm=version)

    @property
    def gpu(self) -> bool:
        """Whether the server runs on a GPU."""
        return bool(self.platform.sms)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the server, as the recipe sets it."""
        return dict(self.server.environment)

    def lacks(self, *packages: str) -> bool:
        """Return whether none of these packages is among the locked wheels."""
        return self.versions is not None and not any(package in self.versions for package in packages)

    @property
    def trusts_code(self) -> bool:
        """Whether the server may run the model's own code."""
        return self.option("--trust-remote-code") is not None


def server_context(job: Job, lock: Lock | None, session: Session, boards: Sequence[str] = ()) -> ServerContext:
    """Return the server of a cell, on these boards, else the recipe's, else all that suit.

    Without a lock, nothing is known about the cell's wheels.

    Raises:
        DiskError: the facts of a wheel cannot be stored.
    """
    spec, platform = job.spec, job.platform
    named = boards_of(job, boards)
    context = ServerContext(
        server=spec.server,
        questions=spec.smoke.questions,
        platform=platform,
        versions=lock.versions if lock else None,
        boards={board.name: sm_number(board.sm) for board in named},
        sources=read_sources(lock.wheels, session) if lock else Sources(),
        models=tuple(model.name for model in spec.models),
    )
    if not any(model.name == spec.server.model for model in spec.models):
        return context
    try:
        return replace(context, model=read_model(served_files(job, lock.models if lock else None, session)))
    except ModelError as error:
        return replace(context, unread=error.message)


def server_finding(rule: str, severity: Severity, file: str, detail: str, fix: str) -> Finding:
    """Return a finding about the recipe's server; `file` is the setting."""
    return Finding(rule=rule, severity=severity, wheel="server", file=file, detail=detail, fix=fix)


def model_finding(model: ModelFacts, rule: str, severity: Severity, file: str, detail: str, fix: str) -> Finding:
    """Return a finding about a file of the model."""
    return Finding(rule=rule, severity=severity, wheel=f"model {model.name}", file=file, detail=detail, fix=fix)


def joined(names: Sequence[str], most: int = 6) -> str:
    """Return names with commas between them, the first ones of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
