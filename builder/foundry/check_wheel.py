"""Checks a built wheel before anything uses it: the audit in its cell, what its builder promises, and its import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import AuditError
from builder.foundry.built_wheel_rules import check_glibc, check_gpu_code, check_runtime, check_suffixes, machine_paths
from builder.foundry.import_check import import_built
from builder.foundry.loading_cell import audit_built, audit_context, loading_cell

if TYPE_CHECKING:
    from pathlib import Path

    from builder.foundry.import_check import ImportResult
    from builder.host.session import Session
    from builder.model.audits import Finding
    from builder.model.builds import LockedBuild
    from builder.model.locks import Lock

_OWN_FIXES = {
    "undefined-symbol": "the library that defines it was not linked, or is of another release: compare the build "
    "requirements with the cell's wheels, or patch the link line of the source",
    "wrong-machine": "the package calls a compiler by its own name instead of CC and CXX: patch its build",
    "symbol-version": "the build used a newer C or C++ library than the toolchain's",
    "other-python": "the package computes the suffix of its modules itself: patch its source to use EXT_SUFFIX of "
    "sysconfig",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelCheck:
    """The result of a check that found no error: `warnings` of the audit, and the imports, None without them."""

    warnings: tuple[str, ...]
    imports: ImportResult | None


def check_wheel(
    wheel: Path, build: LockedBuild, session: Session, lock: Lock, apt: tuple[str, ...] = (), *, imports: bool = True
) -> WheelCheck:
    """Check a finished wheel against the cell that it is for; `apt` are the packages that its image installs.

    Files are read first, and nothing runs before they pass. Without `imports`, nothing runs at all.

    Raises:
        AuditError: the wheel would not load, lacks code for a GPU of the cell, or cannot be imported.
        EngineError: no engine can import it.
        NetworkError, IntegrityError, DiskError: a wheel of the cell cannot be fetched.
    """
    cell, target = loading_cell(wheel, build, lock, session), build.target
    try:
        check_suffixes(cell.built.binaries, target)
        check_glibc(cell.built.binaries, build)
        check_runtime(wheel, cell.built.binaries, target)
        case = audit_context(cell, session, apt)
        check_gpu_code(case, [node for node in case.environment.nodes if node.wheel is cell.wheel], target)
        audit = audit_built(cell, case)
        for finding in audit.errors:
            raise _refused(finding, len(audit.errors) - 1)
    except AuditError as error:
        error.where = error.where or wheel.name
        raise
    warnings = [f"{finding.file} {finding.detail}" for finding in audit.findings if finding.severity == "warning"]
    private = (str(session.workspace.cache), str(session.workspace.project))
    warnings += [f"{name} contains a path of this machine" for name in machine_paths(wheel, private)]
    if target.gpus and not any(binary.gpu for binary in cell.built.binaries):
        warnings.append(f"it has no code for SM {', '.join(target.gpus)}: the package may have been built without CUDA")
    result = import_built(wheel, cell, audit.injected, session) if imports else None
    return WheelCheck(warnings=tuple(warnings), imports=result)


def _refused(finding: Finding, more: int) -> AuditError:
    others = f", and {more} more errors" if more > 1 else ", and 1 more error" if more else ""
    hint = _OWN_FIXES.get(finding.rule, finding.fix)
    return AuditError(f"{finding.rule}: {finding.file} {finding.detail}{others}", hint=hint)
