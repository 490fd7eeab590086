"""`jbuild audit`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from builder.audit.kernel_audit import family_kernels
from builder.audit.kernel_families import kernel_families
from builder.audit.kernel_rules import brief
from builder.audit.loose_wheels import audit_wheels
from builder.audit.rule_tables import Rule, rules
from builder.audit.stage import audit_cell, note_recovery
from builder.cli.cell_selection import naming, select_cells, session_verb
from builder.cli.gpu_option import sm_option
from builder.cli.results import VerbFailure, failure_of, first_of, show, show_failures, table, without_controls
from builder.cli.verb_options import cell_option, complete_recipes, refuse_options
from builder.errors import AuditError, CellsFailedError, JbuildError, UsageError
from builder.foundry.cell_builds import lock_with_wheels
from builder.host import records
from builder.host.paths import check_cache
from builder.host.session import Session
from builder.host.wording import suggest
from builder.jetson.platform import check_value
from builder.model.audits import Audit, Finding, FindingCounts, GpuVerdict
from builder.model.kernel_verdicts import FamilyKernel, KernelVerdict
from builder.model.locks import Job

_LOOSE = ("base", "sms", "l4t", "python", "apt")
_MOST_FILES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditedCell:
    """Findings about one cell; `files` and `injected` come with --files, `recipe` if one cell is shown."""

    recipe: str | None = field(default=None, metadata=records.OPTIONAL)
    cell: str
    base: str
    findings: tuple[Finding, ...]
    counts: FindingCounts
    gpu: dict[str, dict[str, GpuVerdict]]
    kernels: dict[str, tuple[KernelVerdict, ...]]
    warnings: tuple[str, ...]
    assumed: str | None
    elapsed_s: float
    files: dict[str, str] | None = field(default=None, metadata=records.OPTIONAL)
    injected: dict[str, tuple[str, ...]] | None = field(default=None, metadata=records.OPTIONAL)


@dataclass(frozen=True, kw_only=True, slots=True)
class UnauditedCell:
    """One of several cells, whose audit failed."""

    cell: str
    error: VerbFailure


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditedCells:
    """Findings about several cells."""

    recipe: str
    cells: tuple[AuditedCell | UnauditedCell, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyCell:
    """The kernels of a family in a cell, by SM: none for a GPU on which the cell does not use the family."""

    cell: str
    verdicts: dict[str, tuple[KernelVerdict, ...]]
    kernels: dict[str, tuple[FamilyKernel, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyCells:
    """The kernels of a family in the cells of a recipe."""

    recipe: str
    family: str
    cells: tuple[FamilyCell, ...]


# The last two come with --kernels and --explain.
AuditResult = AuditedCell | AuditedCells | FamilyCells | Rule


@session_verb(
    "audit",
    click.argument("names", nargs=-1, metavar="RECIPE | --wheels FILE...", shell_complete=complete_recipes),
    click.option("--wheels", is_flag=True, help="Audit wheel files together, without a recipe."),
    cell_option,
    click.option("--base", metavar="IMAGE", help="With --wheels: base image of the wheels."),
    sm_option("With --wheels: compute capability of a GPU, such as 8.7."),
    click.option("--l4t", metavar="RELEASE", help="With --wheels: L4T release, for its driver and GPUs."),
    click.option("--python", metavar="X.Y", help="With --wheels: Python version. Default: that of the distribution."),
    click.option(
        "--apt", multiple=True, metavar="PACKAGE", help="With --wheels: package that the image has in addition."
    ),
    click.option("--files", is_flag=True, help="With --json: add the result of loading each file."),
    click.option("--kernels", "family", metavar="FAMILY", help="Name the kernels of a family that the cells use."),
    click.option("--explain", metavar="RULE", help="Explain a rule, and how to waive its findings."),
)
def command(
    session: Session,
    names: tuple[str, ...],
    wheels: bool,
    selectors: tuple[str, ...],
    explain: str | None,
    family: str | None,
    **options: Any,
) -> int:
    """Check that the locked wheels of RECIPE's cells load and run on the device.

    Exits with code 14 if there are errors without a waiver.
    """
    if not session.console.as_json:
        refuse_options(("files",), "needs --json")
    if explain:
        refuse_options(("wheels", "selectors", "files", "family", *_LOOSE), "has no effect with --explain")
        return _explain(explain, session)
    check_cache(session.workspace)
    _check_options(names, wheels=wheels, options=options)
    if family:
        refuse_options(("wheels", "files"), "has no effect with --kernels")
        return _name_kernels(names[0], selectors, family, session)
    if wheels:
        paths = [Path(name) for name in names]
        audits = [audit_wheels(paths, session, **{name: options[name] for name in _LOOSE})]
        return _conclude(None, audits, session, files=options["files"])
    selection = select_cells(names[0], selectors, session)
    selection.show_impossible()
    audits, failures = _audits(selection.jobs(), session)
    return _conclude(selection.recipe.name, audits, session, files=options["files"], failures=failures)


def _audits(jobs: Sequence[Job], session: Session) -> tuple[list[Audit], list[tuple[str, JbuildError]]]:
    """Audit every cell; of several, one that fails does not stop the others."""
    audits, failures = list[Audit](), list[tuple[str, JbuildError]]()
    for job in jobs:
        try:
            lock = lock_with_wheels(job, session)
            audit = audit_cell(job, lock, session)
            note_recovery(job, lock, audit, session)
            audits.append(audit)
        except JbuildError as error:
            if len(jobs) == 1:
                raise
            failures.append((job.cell.id, naming(error, job.recipe.name)))
    return audits, failures


def _explain(name: str, session: Session) -> int:
    by_id = {rule.id: rule for rule in rules()}
    if name not in by_id:
        raise UsageError(f"the audit has no rule `{name}`", hint=suggest(name, by_id, noun="rules"))
    show(by_id[name], explained(by_id[name]), session.console)
    return 0


def _name_kernels(recipe: str, selectors: Sequence[str], family: str, session: Session) -> int:
    known = dict.fromkeys(row.name for row in kernel_families())
    if family not in known:
        raise UsageError(f"there is no family of kernels `{family}`", hint=suggest(family, known, noun="families"))
    selection = select_cells(recipe, selectors, session)
    selection.show_impossible()
    cells = []
    for job in selection.jobs():
        verdicts, kernels = family_kernels(job, lock_with_wheels(job, session), family, session)
        cells.append(FamilyCell(cell=job.cell.id, verdicts=verdicts, kernels=kernels))
    result = FamilyCells(recipe=selection.recipe.name, family=family, cells=tuple(cells))
    show(result, "\n\n".join("\n".join(_family_lines(cell, family)) for cell in cells), session.console)
    return 0


def _family_lines(cell: FamilyCell, family: str) -> Iterator[str]:
    for sm, verdicts in cell.verdicts.items():
        words = "; ".join(map(brief, verdicts)) or "the cell does not use it"
        yield f"{cell.cell}: {family} for SM {sm}: {words}"
        for kernel in cell.kernels[sm]:
            yield f"  {kernel.origin:<9} {without_controls(kernel.name)}"
            yield f"            {without_controls(kernel.mangled)}"
    if not cell.verdicts:
        yield f"{cell.cell}: {family}: the cell has no GPU"


def _check_options(names: Sequence[str], *, wheels: bool, options: dict[str, Any]) -> None:
    if not names:
        raise click.UsageError("Missing argument 'RECIPE | --wheels FILE...'")
    if wheels:
        refuse_options(("selectors",), "is for recipes, --wheels for files")
    else:
        refuse_options(_LOOSE, "needs --wheels: with a recipe, the recipe and its platform set the value")
    if not wheels and len(names) > 1:
        raise click.UsageError("audit takes one recipe; for wheel files add --wheels")
    if options["l4t"] and (mistake := check_value("l4t", options["l4t"])):
        raise UsageError(f"--l4t: {mistake[0]}", hint=mistake[1])
    if options["python"] and not re.fullmatch(r"3\.[0-9]{1,2}", options["python"]):
        raise click.UsageError(f"{options['python']!r} is not a Python version such as 3.10")


def _conclude(
    recipe: str | None,
    audits: Sequence[Audit],
    session: Session,
    *,
    files: bool,
    failures: Sequence[tuple[str, JbuildError]] = (),
) -> int:
    show_failures(failures, session.console)
    blocks = [text(audit) for audit in audits]
    blocks += [f"not audited: {', '.join(cell for cell, _ in failures)}"] if failures else []
    if len(audits) == 1 and not failures:
        show(audited(audits[0], files=files, recipe=recipe), blocks[0], session.console)
    else:
        cells = [audited(audit, files=files) for audit in audits]
        unaudited = [UnauditedCell(cell=cell, error=failure_of(error)) for cell, error in failures]
        show(AuditedCells(recipe=recipe or "", cells=(*cells, *unaudited)), "\n\n".join(blocks), session.console)
    if failures:
        return CellsFailedError.exit_code
    return AuditError.exit_code if any(audit.counted("error") for audit in audits) else 0


def text(audit: Audit) -> str:
    """Return an audit as text."""
    lines = [f"{audit.cell}: {audit.counts} in {audit.elapsed_s:.1f} s"]
    if audit.assumed:
        lines.append(f"assumed: {audit.assumed}")
    for finding in audit.findings:
        lines += ["", *_block(finding)]
    lines += [f"warning: {warning}" for warning in audit.warnings]
    return "\n".join(map(without_controls, [*lines, *_gpu(audit), *_kernels(audit)]))


def explained(rule: Rule) -> str:
    """Return the description of a rule, and how to waive its findings."""
    globs = 'wheel = "*"   # globs; default: all\nfile = "*"'
    waiver = f'[[audit.waive]]\nrule = "{rule.id}"\n{globs}\nreason = "why it is safe"'
    heading = f"{rule.id} ({rule.severity} at worst): {rule.title}"
    return f"{heading}\n\n{rule.says}\n\nTo waive a finding, put into the recipe:\n\n{waiver}"


def audited(audit: Audit, *, files: bool, recipe: str | None = None) -> AuditedCell:
    """Return an audit as a result; `files` adds what the loader would say about each file."""
    return AuditedCell(
        recipe=recipe,
        cell=audit.cell,
        base=audit.base,
        findings=audit.findings,
        counts=audit.counts,
        gpu=audit.gpu,
        kernels=audit.kernels,
        warnings=audit.warnings,
        assumed=audit.assumed,
        elapsed_s=audit.elapsed_s,
        files=audit.files if files else None,
        injected=audit.injected if files else None,
    )


def _block(finding: Finding) -> Iterator[str]:
    word = "waived" if finding.waived is not None else finding.severity
    yield f"{word:<8} {finding.rule}: {finding.wheel}" + (" (assumed)" if finding.assumed else "")
    yield f"         {finding.file} {finding.detail}"
    if finding.also:
        yield f"         also: {first_of(finding.also, _MOST_FILES)}"
    yield f"         next: {finding.fix}" if finding.waived is None else f"         waived: {finding.waived}"


def _gpu(audit: Audit) -> Iterator[str]:
    for sm, libraries in audit.gpu.items():
        kinds = Counter(verdict.verdict for verdict in libraries.values())
        if kinds:
            yield ""
            yield f"GPU code for SM {sm}: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def _kernels(audit: Audit) -> Iterator[str]:
    for sm, verdicts in audit.kernels.items():
        yield ""
        yield f"kernels for SM {sm}:"
        rows = [(row.family, brief(row), row.reason) for row in verdicts]
        yield from (f"  {line}" for line in table(("family", "verdict", "asked for by"), rows).splitlines())
