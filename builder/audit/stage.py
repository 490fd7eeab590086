"""The audit stage: from a lock to findings about failures on the device."""

from __future__ import annotations

import time
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from builder.audit.audit_context import AuditContext
from builder.audit.base_image import read_base
from builder.audit.environment import Environment
from builder.audit.excluded_files import exclusions, facts_in_image
from builder.audit.file_rules import conflicts, damaged, other_distribution, other_python, tag_lies, wrong_machine
from builder.audit.gather_facts import gather
from builder.audit.gather_kernels import READER as KERNEL_READER
from builder.audit.gpu_rules import coverage, gpu_code, toolkit_newer, two_cudas, two_sonames
from builder.audit.kernel_audit import audit_kernels, wheels_of
from builder.audit.kernel_rules import kernel_findings
from builder.audit.loading_rules import loading
from builder.audit.one_of_rules import one_of
from builder.audit.rule_tables import rules as audit_rules
from builder.audit.rule_tables import table_digest
from builder.audit.slim_choice import choose, in_words, slim_rules
from builder.audit.wheel_facts import READER
from builder.errors import AuditError, NetworkError, RegistryError
from builder.model.audits import SEVERITIES, Audit, Finding
from builder.model.locks import Locked
from builder.models.preflight import wheel_sources
from builder.models.preflight.preflight import findings as preflight_findings
from builder.models.preflight.server_context import server_context
from builder.pipeline import history
from builder.pipeline.cell import start
from builder.pipeline.history import StageResult
from builder.pipeline.order import RunOptions
from builder.pipeline.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.host.session import Session
    from builder.model.audits import BaseFacts
    from builder.model.locks import Job, Lock, LockedBase
    from builder.model.recipes import Architecture, Waiver
    from builder.pipeline.cell import CellRun

# Raise it when the same facts lead to other findings.
FORMAT = 4
_AUDIT_ONLY = RunOptions(until="audit")
_RULES = (
    *(other_distribution, damaged, wrong_machine, other_python, loading, one_of),
    *(toolkit_newer, gpu_code, two_cudas, two_sonames, conflicts, tag_lies),
)


class _AuditStage(Stage[Audit]):
    """From a lock to findings; an error that is not waived ends the run."""

    name = "audit"
    record = Audit

    def project_inputs(self, run: CellRun) -> Mapping[str, object]:
        spec = run.job.spec
        # Only the ways of asking matter to the pre-flight.
        questions = sorted({bool(question.messages) for question in spec.smoke.questions})
        return {
            "audit": (FORMAT, READER, KERNEL_READER, wheel_sources.READER, table_digest()),
            "recipe": (spec.apt, spec.waivers, spec.kernels, spec.server, questions, run.job.recipe.boards),
        }

    def run_inputs(self, run: CellRun) -> object:
        # Without slimming, the same inputs as ever.
        words = in_words(run.job)
        slim = (words, run.job.spec.image) if words else ()
        return run.lock.wheels, run.lock.base, run.lock.platform, run.lock.models, *slim

    def holds(self, run: CellRun, record: Audit) -> bool:
        """Return whether there are no errors and the base image was read: it may be reachable now."""
        del run
        return record.counted("error") == 0 and record.assumed is None

    def make(self, run: CellRun) -> Audit:
        console, cell, recipe = run.session.console, run.job.cell.id, run.job.recipe.name
        audit = audit_cell(run.job, run.lock, run.session)
        for warning in audit.warnings:
            console.warn(f"{cell}: {warning}")
        refuse(audit, recipe)
        if warnings := audit.counted("warning"):
            counted = "1 warning" if warnings == 1 else f"{warnings} warnings"
            console.say(f"{cell}: {counted}; `jbuild audit {recipe}` shows {'it' if warnings == 1 else 'them'}")
        return audit

    def last_failure(self, run: CellRun) -> str | None:
        audit = self.load(run)
        return audit.failure if audit else None


STAGE = _AuditStage()


def audit_cell(job: Job, lock: Lock, session: Session) -> Audit:
    """Return the audit of a locked cell.

    Raises:
        NetworkError, IntegrityError, DiskError: a wheel cannot be fetched.
    """
    started, platform = time.monotonic(), lock.platform
    base, unread = _base(lock.base, platform.architecture, session)
    facts = gather(lock.wheels, session)
    in_image = facts_in_image(job.spec.image, lock.wheels, facts)
    environment = Environment(platform=platform, wheels=lock.wheels, facts=in_image, base=base, apt=job.spec.apt)
    rules = slim_rules(platform)
    case = AuditContext(
        environment=environment,
        unread=unread,
        stand_in=lock.base.stand_in,
        torch_cuda=lock.torch_cuda,
        slim={wheel.name: rules for wheel in lock.wheels if choose(job, wheel.name).slim},
    )
    server = server_context(job, lock, session)
    kernels = audit_kernels(job, lock, facts, server, session)
    about_kernels = kernel_findings(kernels, job.spec.kernels, wheels_of(lock.wheels, facts))
    excluded = exclusions(job.spec.image, lock.wheels, facts, case)
    more = (*preflight_findings(server), *about_kernels, *excluded)
    audit = judge(case, job.cell.id, lock.base.name, job.spec.waivers, started, more)
    return replace(audit, kernels=kernels)


def note_recovery(job: Job, lock: Lock, audit: Audit, session: Session) -> None:
    """Write into a cell's history that an audit without a run passed, if the stage had failed before."""
    if audit.counted("error") == 0:
        run = start(job, session, _AUDIT_ONLY).with_records(Locked(lock=lock), audit)
        history.note(run, (StageResult(stage="audit", ran=False, seconds=audit.elapsed_s),), None, "audit")


def _base(locked: LockedBase, architecture: Architecture, session: Session) -> tuple[BaseFacts | None, str | None]:
    """Return the facts of the base image, or the reason why it could not be read."""
    try:
        return read_base(locked.used, locked.digest, architecture, session), None
    except (NetworkError, RegistryError) as error:
        return None, error.message


def judge(
    case: AuditContext,
    cell: str,
    base: str,
    waivers: Sequence[Waiver],
    started: float,
    more: Sequence[Finding] = (),
) -> Audit:
    """Apply every rule, and the recipe's waivers; `more` are findings on other input: server, kernels, recipe."""
    unsorted = [*more, *(finding for rule in _RULES for finding in rule(case))]
    findings = tuple(_waived(finding, waivers) for finding in sorted(unsorted, key=_order))
    files = {verdict.node.file: verdict for verdict in case.verdicts}
    return Audit(
        cell=cell,
        findings=findings,
        base=base,
        gpu=coverage(case),
        files={path: verdict.text for path, verdict in files.items()},
        injected={path: verdict.injected for path, verdict in files.items() if verdict.injected},
        warnings=tuple(_unused(waivers, findings)),
        assumed=case.assumed,
        elapsed_s=round(time.monotonic() - started, 3),
    )


def _order(finding: Finding) -> tuple[int, int, str, str]:
    ids = [rule.id for rule in audit_rules()]
    return SEVERITIES.index(finding.severity), ids.index(finding.rule), finding.wheel, finding.file


def _waived(finding: Finding, waivers: Sequence[Waiver]) -> Finding:
    match = next((waiver for waiver in waivers if fits(waiver, finding)), None)
    return replace(finding, waived=match.reason) if match else finding


def fits(waiver: Waiver, finding: Finding) -> bool:
    """Return whether a waiver matches a finding: its rule, its wheel (with or without version), its file."""
    wheels = (finding.wheel, finding.wheel.partition(" ")[0])
    return (
        waiver.rule == finding.rule
        and any(fnmatchcase(wheel, waiver.wheel) for wheel in wheels)
        and any(fnmatchcase(path, waiver.file) for path in (finding.file, *finding.also))
    )


def _unused(waivers: Sequence[Waiver], findings: Sequence[Finding]) -> Iterator[str]:
    for waiver in waivers:
        if not any(fits(waiver, finding) for finding in findings):
            about = "".join(
                f", {key} {text}" for key, text in (("wheel", waiver.wheel), ("file", waiver.file)) if text != "*"
            )
            yield f"the waiver of {waiver.rule}{about} matches nothing: take it out of the recipe"


def refuse(audit: Audit, recipe: str) -> None:
    """Refuse an audit with errors that are not waived.

    Raises:
        AuditError: it has some.
    """
    if not audit.errors:
        return
    first, command = audit.errors[0], f"`jbuild audit {recipe} --cell {audit.cell}`"
    hint = f"{first.fix}; {command} shows all errors, `jbuild audit --explain {first.rule}` how to waive them"
    error = AuditError(audit.failure or "", where=f"{recipe}/{audit.cell}", hint=hint)
    error.record = audit
    raise error
