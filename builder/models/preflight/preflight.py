"""The pre-flight: whether the server of a locked cell starts with its model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.models.preflight.model_rules import (
    chat_template,
    model_class,
    model_code,
    model_task,
    processor_files,
    tokenizer_files,
    unread,
)
from builder.models.preflight.quantization_rules import cache_type, quantization
from builder.models.preflight.server_context import server_context
from builder.models.preflight.server_rules import context_length, parallel_sizes, parsers, server_options

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.audits import Finding
    from builder.model.locks import Job, Lock
    from builder.models.preflight.server_context import ServerContext

_RULES = (
    *(server_options, parsers, context_length, parallel_sizes),
    *(quantization, cache_type, model_class, model_code, model_task),
    *(chat_template, tokenizer_files, processor_files, unread),
)


def preflight(job: Job, lock: Lock, session: Session) -> tuple[Finding, ...]:
    """Return the findings about the server of a locked cell, by its wheels' sources and its model's files.

    Wheels that are not in the wheelhouse are read by ranges, a few hundred KB of them.

    Raises:
        DiskError: the facts of a wheel cannot be stored.
    """
    return findings(server_context(job, lock, session))


def warn(job: Job, lock: Lock, session: Session) -> None:
    """Warn of the errors and warnings of the pre-flight that the recipe does not waive; it never fails a lock."""
    for finding in preflight(job, lock, session):
        if finding.severity == "info" or any(waiver.rule == finding.rule for waiver in job.spec.waivers):
            continue
        message = f"{finding.rule}: {finding.wheel}: {finding.file} {finding.detail}; {finding.fix}"
        session.console.warn(f"{job.cell.id}: {message}")


def findings(context: ServerContext) -> tuple[Finding, ...]:
    """Apply every rule of the pre-flight."""
    return tuple(finding for rule in _RULES for finding in rule(context))
