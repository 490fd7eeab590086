"""The audit stage: from a lock to what would fail on the device."""

from __future__ import annotations

import time
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from builder.audit.audit_context import AuditContext, sm_number
from builder.audit.base_image import read_base
from builder.audit.environment import Environment
from builder.audit.file_rules import conflicts, damaged, other_distribution, other_python, tag_lies, wrong_machine
from builder.audit.gather_facts import gather
from builder.audit.gpu_rules import coverage, gpu_code, toolkit_newer, two_cudas, two_sonames
from builder.audit.loading_rules import loading
from builder.audit.rule_tables import numbers, rules, table_digest
from builder.audit.wheel_facts import READER
from builder.errors import AuditError, NetworkError, RegistryError
from builder.jetson.distributions import platforms
from builder.model.audits import SEVERITIES, Audit, Finding
from builder.pipeline.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.host.session import Session
    from builder.model.audits import BaseFacts, WheelFacts
    from builder.model.locks import Job, Lock, LockedBase, LockedWheel
    from builder.model.platforms import Platform
    from builder.model.recipes import Waiver
    from builder.pipeline.cell import CellRun

# Raise it when the same facts give other findings.
FORMAT = 2
_RULES = (
    *(other_distribution, damaged, wrong_machine, other_python, loading),
    *(toolkit_newer, gpu_code, two_cudas, two_sonames, conflicts, tag_lies),
)


class _AuditStage(Stage[Audit]):
    """From a lock to findings; one that is an error and not waived ends the run."""

    name = "audit"
    record = Audit

    def project_inputs(self, run: CellRun) -> Mapping[str, object]:
        return {"audit": (FORMAT, READER, table_digest()), "recipe": (run.job.spec.apt, run.job.spec.waivers)}

    def run_inputs(self, run: CellRun) -> object:
        return run.lock.wheels, run.lock.base, run.lock.platform

    def holds(self, run: CellRun, record: Audit) -> bool:
        """Return whether there are no errors, and the base image was read: it may be reachable now."""
        del run
        return record.counted("error") == 0 and record.assumed is None

    def make(self, run: CellRun) -> Audit:
        console, cell, recipe = run.session.console, run.job.cell.id, run.job.recipe.name
        audit = audit_cell(run.job, run.lock, run.session)
        for warning in audit.warnings:
            console.warn(f"{cell}: {warning}")
        refuse(audit, recipe)
        if warnings := audit.counted("warning"):
            console.say(f"{cell}: {warnings} warnings; `jbuild audit {recipe}` shows them")
        return audit

    def last_failure(self, run: CellRun) -> str | None:
        audit = self.load(run)
        return audit.failure if audit else None


STAGE = _AuditStage()


def audit_cell(job: Job, lock: Lock, session: Session) -> Audit:
    """Return what is found in a locked cell.

    Raises:
        NetworkError, IntegrityError, DiskError: a wheel cannot be had.
    """
    begun = time.monotonic()
    base, unread = _base(lock.base, lock.platform, session)
    facts = gather(lock.wheels, session)
    stand_in, apt = lock.base.stand_in, job.spec.apt
    case = case_of(lock.wheels, facts, lock.platform, base, unread=unread, stand_in=stand_in, apt=apt)
    return judge(case, job.cell.id, lock.base.name, job.spec.waivers, begun)


def _base(locked: LockedBase, platform: Platform, session: Session) -> tuple[BaseFacts | None, str | None]:
    """Return the facts of the base image, or why there are none: the platform's row stands in then."""
    try:
        return read_base(locked.used, locked.digest, platform.architecture, session), None
    except (NetworkError, RegistryError) as error:
        return None, error.message


def case_of(
    wheels: Sequence[LockedWheel],
    facts: dict[str, WheelFacts],
    platform: Platform,
    base: BaseFacts | None,
    *,
    unread: str | None = None,
    stand_in: str | None = None,
    apt: tuple[str, ...] = (),
    loose: bool = False,
) -> AuditContext:
    """Put together what the rules look at."""
    environment = Environment(platform=platform, wheels=tuple(wheels), facts=facts, base=base, apt=apt)
    driver = next((numbers(row.cuda) for row in platforms() if row.l4t == platform.l4t), None)
    return AuditContext(
        environment=environment,
        sms=tuple(sm_number(sm) for sm in platform.sms),
        driver=driver,
        l4t=platform.l4t,
        unread=unread if base is None else None,
        stand_in=stand_in,
        loose=loose,
    )


def judge(case: AuditContext, cell: str, base: str, waivers: Sequence[Waiver], begun: float) -> Audit:
    """Apply every rule, and the recipe's waivers to what they find."""
    found = [finding for rule in _RULES for finding in rule(case)]
    findings = tuple(_waived(finding, waivers) for finding in sorted(found, key=_order))
    files = {verdict.node.shown: verdict for verdict in case.verdicts}
    return Audit(
        cell=cell,
        findings=findings,
        base=base,
        gpu=coverage(case),
        files={path: verdict.text for path, verdict in files.items()},
        injected={path: verdict.injected for path, verdict in files.items() if verdict.injected},
        warnings=tuple(_unused(waivers, findings)),
        assumed=case.assumed,
        elapsed_s=round(time.monotonic() - begun, 3),
    )


def _order(finding: Finding) -> tuple[int, int, str, str]:
    ids = [rule.id for rule in rules()]
    return SEVERITIES.index(finding.severity), ids.index(finding.rule), finding.wheel, finding.file


def _waived(finding: Finding, waivers: Sequence[Waiver]) -> Finding:
    found = next((waiver for waiver in waivers if fits(waiver, finding)), None)
    return replace(finding, waived=found.reason) if found else finding


def fits(waiver: Waiver, finding: Finding) -> bool:
    """Return whether a waiver is about a finding: its rule, its wheel (with or without version), its file."""
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
    """Stop where the audit found errors that nobody waived.

    Raises:
        AuditError: it did.
    """
    if not audit.errors:
        return
    first, all_of_them = audit.errors[0], f"`jbuild audit {recipe} --cell {audit.cell}` shows all"
    hint = f"{first.fix}; {all_of_them}, `jbuild audit --explain {first.rule}` how to waive it"
    error = AuditError(audit.failure or "", where=f"{recipe}/{audit.cell}", hint=hint)
    error.record = audit
    raise error
