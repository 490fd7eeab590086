"""The program that benchmarks/audit.py measures: facts, kernels and verdicts of the wheels of a cache's wheelhouse.

Usage: read_kernels.py CACHE facts|families|all
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from builder.audit.gather_facts import gather
from builder.audit.gather_kernels import gather_kernels, libraries_with_code
from builder.audit.kernel_audit import has_family
from builder.audit.kernel_families import KernelNeeds, NeededFamily, kernel_families
from builder.audit.kernel_rules import GpuFacts, kernel_verdicts
from builder.host import config
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.model.wheels import LockedWheel

_GPUS = (GpuFacts(sm=87, l4t="39.2.0", driver=(13, 2)), GpuFacts(sm=110, l4t="39.2.0", driver=(13, 2)))


def main() -> None:
    """Read what is asked for, and print the numbers of libraries, modules and kernels."""
    workspace, what = Workspace(project=Path.cwd(), cache=Path(sys.argv[1])), sys.argv[2]
    session = Session(workspace=workspace, config=config.load(()), console=Console())
    wheels = [_wheel(path) for path in sorted(workspace.wheels.glob("*/*/*.whl"))]
    facts = gather(wheels, session)
    if what == "facts":
        return
    chosen = [wheel for wheel in wheels if what == "all" or has_family(facts[wheel.sha256])]
    kernels = gather_kernels(chosen, facts, session)
    libraries = [library for of_wheel in kernels.values() for library in of_wheel]
    families = tuple(
        NeededFamily(family=row, reason="all", kernels=row.kernels.replace("{head}", "128").replace("{type}", ""))
        for row in kernel_families()
    )
    verdicts = [row for gpu in _GPUS for row in kernel_verdicts(KernelNeeds(families=families), libraries, gpu)]
    counts = {
        "wheels": len(wheels),
        "with_code": sum(bool(libraries_with_code(facts[wheel.sha256])) for wheel in wheels),
        "read": len(kernels),
        "libraries": len(libraries),
        "modules": sum(len(library.modules) for library in libraries),
        "kernels": sum(len(module.indices) // 4 for library in libraries for module in library.modules),
        "flaws": [f"{library.path}: {library.flaw}" for library in libraries if library.flaw],
        "verdicts": len(verdicts),
        "cache_bytes": sum(path.stat().st_size for path in workspace.facts.rglob("*-kernels-*")),
    }
    sys.stdout.write(json.dumps(counts))


def _wheel(path: Path) -> LockedWheel:
    name, version, *_ = path.name.split("-")
    return LockedWheel(
        name=name.lower().replace("_", "-"), version=version, filename=path.name, url=str(path), sha256=path.parent.name
    )


if __name__ == "__main__":
    main()
