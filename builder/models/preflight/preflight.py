"""The pre-flight: whether the server of a locked cell starts with its model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from builder.models.preflight.json_options import json_options
from builder.models.preflight.lora_rules import lora_modules
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
from builder.models.preflight.quantized_shapes import quantization_shapes
from builder.models.preflight.server_context import server_context
from builder.models.preflight.server_rules import context_length, parallel_sizes, parsers, server_options

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.audits import Finding
    from builder.model.locks import Job, Lock
    from builder.models.fit.memory_estimate import BoardFit, CellFit
from builder.models.preflight.server_context import ServerContext

# The server starts, and refuses the questions.
_ANSWERS = ("chat-template", "model-task")
_RULES = (
    *(server_options, json_options, lora_modules, parsers, context_length, parallel_sizes),
    *(quantization, quantization_shapes, cache_type, model_class, model_code, model_task),
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


def with_refusals(fit: CellFit, job: Job, lock: Lock | None, session: Session) -> CellFit:
    """Add the reasons why a cell's server does not start to the estimates; the recipe's waivers take effect.

    Raises:
        DiskError: the facts of a wheel cannot be stored.
    """
    context = server_context(job, lock, session, [row.machine.board for row in fit.boards if row.machine])
    ignored = (*_ANSWERS, *(waiver.rule for waiver in job.spec.waivers))

    def judged(row: BoardFit) -> BoardFit:
        boards = {name: sm for name, sm in context.boards.items() if row.machine and name == row.machine.board}
        refusals = tuple(
            f"{finding.wheel}: {finding.file} {finding.detail}; {finding.fix} ({finding.rule})"
            for finding in findings(replace(context, boards=boards))
            if finding.severity == "error" and finding.rule not in ignored
        )
        return row.with_refusals(*refusals)

    return replace(fit, boards=tuple(map(judged, fit.boards)))


def findings(context: ServerContext) -> tuple[Finding, ...]:
    """Apply every rule of the pre-flight."""
    return tuple(finding for rule in _RULES for finding in rule(context))
