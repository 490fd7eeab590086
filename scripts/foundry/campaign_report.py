"""The page with the last result of the campaign."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.host.files import write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from foundry.trials import Cell, Package, Trial

_HEAD = """# Wheels of other authors, built for arm64

`scripts/foundry-campaign` writes this page. It builds packages of other authors from the source archives of the package
index, on {machine} for arm64, without emulation; each wheel is audited in its cell. {how}
The packages are in `scripts/foundry/packages.toml`.
"""


def write_report(path: Path, trials: Sequence[Trial], packages: Sequence[Package], cell: Cell) -> None:
    """Write the page; `packages` are all of the campaign, also those that have not run yet."""
    how = "Then its modules are imported in a container of the base image, under QEMU." if cell.interpreter else ""
    passed = sum(trial.passed for trial in trials)
    facts = [
        f"- Python {cell.platform.python}, glibc {cell.platform.glibc} ({cell.platform.distribution})",
        f"- imported with CPython {cell.interpreter.version}" if cell.interpreter else "- not imported",
        f"- **{passed} of {len(trials)} packages passed**",
    ]
    facts += [_jetson(package) for package in packages if package.l4t]
    if waiting := [package.name for package in packages[len(trials) :]]:
        facts.append(f"- not run in this result: {', '.join(waiting)}")
    lines = [_HEAD.format(machine="x86-64", how=how), *facts, "", *_table(trials), "", *_failures(trials)]
    write_text(path, "\n".join(lines).rstrip() + "\n")


def _jetson(package: Package) -> str:
    return (
        f"- {package.name}: for Orin with L4T {package.l4t} and torch {package.torch}, audited against that release; "
        "libraries without code stand in for the CUDA part of torch (`scripts/foundry/cuda_torch.py`)"
    )


def _table(trials: Iterable[Trial]) -> Iterator[str]:
    yield "| package | build | tags | compiled files | seconds | imported modules |"
    yield "|---|---|---|---|---|---|"
    for trial in trials:
        tags = "-".join(trial.wheel.removesuffix(".whl").split("-")[-3:]) if trial.wheel else ""
        row = (f"{trial.package.name} {trial.package.version}", trial.package.build, f"`{tags}`" if tags else "")
        cost = f"{trial.seconds:.0f}" if trial.wheel else ""
        yield f"| {' | '.join(row)} | {trial.units or ''} | {cost} | {_modules(trial)} |"


def _modules(trial: Trial) -> str:
    if trial.failure:
        return f"failed: {trial.stage}"
    names = [f"`{name}`" for name in trial.imported]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")  # noqa: PLR2004


def _failures(trials: Iterable[Trial]) -> Iterator[str]:
    rows = [trial for trial in trials if trial.failure]
    if rows:
        yield "## Failures"
        yield ""
    for trial in rows:
        yield f"- {trial.package.name}, {trial.stage}: {trial.failure}"
