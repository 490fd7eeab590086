"""`jbuild pick` and `jbuild fit`: the image that a board can run, and the memory that a model needs there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import click

from builder.audit.kernel_audit import stored_verdicts
from builder.audit.kernel_rules import RULE, brief, refusal
from builder.cli.cell_selection import CellSelection, recipe_verb
from builder.cli.results import show, table
from builder.cli.verb_options import complete_boards, level_option, lookup_registry_option
from builder.device.image_choice import ImageCandidate, host_of, pick
from builder.errors import ModelError, RegistryError
from builder.host import records
from builder.host.session import Session
from builder.host.units import gib
from builder.jetson.boards import board as board_of
from builder.jetson.device import TargetHost
from builder.lock.recipe_models import locked_models
from builder.lock.stage import current_lock
from builder.model.kernel_verdicts import KernelVerdict
from builder.model.locks import Job
from builder.models.fit.cell_fit import fit_cell
from builder.models.fit.memory_estimate import BoardFit, CellFit, Machine
from builder.models.preflight.preflight import with_refusals
from builder.publish.stage import required_targets

_WORDS = {
    "fits": "fits",
    "fewer": "fits, fewer sequences at once",
    "no": "does not fit",
    "refused": "does not start",
    "unknown": "not known",
}
_STARTS = ("fits", "fewer", "unknown")


@dataclass(frozen=True, kw_only=True, slots=True)
class PickResult:
    """The image for a host, and every candidate, the best first; `image` is None if no candidate runs there."""

    recipe: str
    host: TargetHost
    image: str | None
    candidates: tuple[ImageCandidate, ...]


@recipe_verb(
    "pick",
    click.option(
        "--board", metavar="NAME", shell_complete=complete_boards, help="Pick for this board. Default: this machine."
    ),
    click.option("--l4t", metavar="RELEASE", help="L4T release of the board. Default: this machine's."),
    level_option("Level that the verdict of the image must reach."),
    lookup_registry_option,
)
def pick_image(
    selection: CellSelection, board: str | None, l4t: str | None, level: str | None, registries: tuple[str, ...]
) -> int:
    """Find the published image of RECIPE that this machine can run, and show why it cannot run the others.

    Exits with code 11 if there is none.
    """
    session, recipe, host = selection.session, selection.recipe, host_of(board, l4t)
    targets = required_targets(recipe.spec.publish, registries, session.config, location=str(recipe.path))
    rows = pick(selection.jobs(), host, targets, session, level=level)
    best = rows[0] if not rows[0].out else None
    image = best.image if best else None
    lines = [
        f"{image if best else 'no image'} for {host.name}",
        *(line for row in rows for line in _candidate_lines(row)),
    ]
    if not best and not board:
        lines.append("`--board NAME` picks for a board instead of this machine")
    result = PickResult(recipe=recipe.name, host=host, image=image, candidates=tuple(rows))
    show(result, "\n".join(lines), session.console)
    return 0 if best else RegistryError.exit_code


def _candidate_lines(row: ImageCandidate) -> list[str]:
    head = "runs" if not row.out else "out "
    tag = f" {row.tag}" if row.tag else ""
    lines = [f"  {head}  {row.cell}{tag}{f', level {row.level}' if row.level else ''}"]
    return lines + [f"          {reason}" for reason in (*row.out, *row.notes)]


@dataclass(frozen=True, kw_only=True, slots=True)
class CellEstimate:
    """The estimates for one cell; `fits_somewhere`: its model fits at least one of the boards.

    `kernels` are the verdicts of the audit by SM; None if no audit has read the kernels of its wheels.
    """

    fit: CellFit = field(metadata=records.FLAT)
    fits_somewhere: bool
    kernels: dict[str, tuple[KernelVerdict, ...]] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """The memory that models need; sizes in bytes."""

    recipe: str
    cells: tuple[CellEstimate, ...]


@recipe_verb(
    "fit",
    click.option(
        "--board",
        "boards",
        shell_complete=complete_boards,
        multiple=True,
        metavar="NAME",
        help="Estimate for this board. Can be repeated.",
    ),
)
def estimate_memory(selection: CellSelection, boards: tuple[str, ...]) -> int:
    """Estimate the memory that RECIPE's model needs, and compare it with the memory of boards.

    Prints the sum line by line, and the largest max-model-len that fits. Without --board, the boards are those of the
    recipe, or all boards of its platform. Exits with code 9 if the model of a cell fits no board, or its server does
    not start.
    """
    session = selection.session
    estimates = tuple(_estimate(job, boards, session) for job in selection.jobs())
    show(FitResult(recipe=selection.recipe.name, cells=estimates), _fits_text(estimates), session.console)
    return 0 if all(estimate.fits_somewhere for estimate in estimates) else ModelError.exit_code


def _estimate(job: Job, boards: Sequence[str], session: Session) -> CellEstimate:
    lock = current_lock(job, session)
    fit = with_refusals(fit_cell(job, locked_models(job, session), session, boards), job, lock, session)
    kernels = stored_verdicts(job, lock, session) if lock else None
    is_waived = any(waiver.rule == RULE for waiver in job.spec.waivers)
    if kernels and not is_waived:
        fit = replace(fit, boards=tuple(_with_kernels(row, kernels) for row in fit.boards))
    return CellEstimate(fit=fit, fits_somewhere=fit.fits_somewhere, kernels=kernels)


def _with_kernels(row: BoardFit, kernels: Mapping[str, Sequence[KernelVerdict]]) -> BoardFit:
    """Refuse a board whose GPU lacks kernels that the server needs."""
    verdicts = kernels.get(board_of(row.machine.board).sm, ()) if row.machine else ()
    lacking = tuple(text for verdict in verdicts if (text := refusal(verdict)))
    return row.with_refusals(*lacking)


def _fits_text(estimates: Sequence[CellEstimate]) -> str:
    """Return the estimates of cells as text; equal ones are shown once, with the names of all their cells."""
    alike: dict[tuple[object, ...], list[CellEstimate]] = {}
    for estimate in estimates:
        fit = estimate.fit
        alike.setdefault((fit.model, fit.shape, fit.boards, repr(estimate.kernels)), []).append(estimate)
    return "\n\n".join("\n".join(_cells(same)) for same in alike.values())


def _cells(same: Sequence[CellEstimate]) -> Iterator[str]:
    first = same[0].fit
    yield f"{', '.join(estimate.fit.cell for estimate in same)}: {first.model} ({first.shape.model_type})"
    # Boards on which the server needs the same memory are shown together.
    for _, group in groupby(first.boards, key=lambda board: board.lines):
        boards = list(group)
        yield _need(first, boards[0])
        yield from _boards_table(boards)
    yield from _kernel_lines(first.boards, same[0].kernels)
    yield from _sources(first.boards)


def _kernel_lines(fits: Sequence[BoardFit], kernels: Mapping[str, Sequence[KernelVerdict]] | None) -> Iterator[str]:
    """Yield what the kernels of the model are on each GPU; families with code of its own are named together."""
    by_sm: dict[str, list[str]] = {}
    for fit in fits:
        if fit.machine:
            by_sm.setdefault(board_of(fit.machine.board).sm, []).append(fit.machine.board)
    for sm, boards in by_sm.items():
        verdicts = (kernels or {}).get(sm, ())
        others = [f"{row.family} {brief(row)}" for row in verdicts if row.verdict != "native"]
        native = ", ".join(row.family for row in verdicts if row.verdict == "native")
        texts = [*others, *([f"native {native}"] if native else [])]
        if texts:
            yield f"  kernels on {', '.join(boards)}: {'; '.join(texts)}"
    if by_sm and kernels is None:
        yield "  kernels: not read yet; `jbuild audit` reads them"


def _need(cell: CellFit, fit: BoardFit) -> str:
    rows: list[tuple[str, str, str, str]] = [
        (line.name, gib(line.size), line.basis, "" if line.basis == "estimate" else line.why) for line in fit.lines
    ]
    rows.append(("needed before any token", gib(fit.fixed), "", ""))
    settings = fit.settings
    if cell.shape.layers:
        count, size = settings.sequences, fit.kv_sequence * settings.sequences
        name = f"KV cache, {count} of {settings.length} tokens"
        rows.append((name, gib(size), "exact", _kv_why(cell, fit)))
        rows.append(("sum", gib(fit.fixed + size), "", ""))
    if settings.kv_space:
        holds = f"; it holds {settings.kv_space // (fit.kv_token * settings.block) * settings.block} tokens"
        why = f"VLLM_CPU_KVCACHE_SPACE{holds if fit.kv_token else ''}"
        rows.append(("KV cache set aside", gib(settings.kv_space), "setting", why))
    return table(("  memory", "GiB", "", ""), [(f"  {name}", *more) for name, *more in rows])


def _boards_table(fits: Sequence[BoardFit]) -> list[str]:
    rows = [_board(fit, fit.machine) for fit in fits if fit.machine]
    blocks = []
    if rows:
        headings = ("  board", "usable", "server's", "left", "sequences", "max-model-len up to", "")
        blocks.append(table(headings, rows))
        outside = next(fit.machine.outside for fit in fits if fit.machine)
        reserved = ", ".join(f"{line.name} {gib(line.size)} GiB" for line in outside)
        blocks.append(f"  outside the server's share: {reserved}")
    else:
        blocks.append("  compared with no board; --board NAME names one, such as agx-orin-64")
    remarks = dict.fromkeys(remark for fit in fits for remark in fit.remarks)
    refusals = dict.fromkeys(refusal for fit in fits for refusal in fit.refusals)
    notes = [f"  note: {remark}" for remark in remarks]
    return [*blocks, *(f"  does not start: {refusal}" for refusal in refusals), *notes]


def _sources(fits: Sequence[BoardFit]) -> list[str]:
    lines = [line for fit in fits for line in (*fit.lines, *(fit.machine.outside if fit.machine else ()))]
    by_name = {line.name: line.why for line in lines if line.basis == "estimate"}
    return [f"  {name}, estimate: {why}" for name, why in by_name.items()]


def _board(fit: BoardFit, machine: Machine) -> tuple[str, ...]:
    usable = gib(machine.usable) + ("" if machine.measured else " est.")
    sequences = "" if fit.whole is None else f"{fit.whole:.1f}"
    lengths = "" if fit.longest is None else str(fit.longest)
    if fit.longest_one and fit.longest_one != fit.longest:
        lengths = f"{fit.longest or 'none'} ({fit.longest_one} for one sequence)"
    left = "" if fit.left is None else gib(fit.left)
    return (f"  {machine.board}", usable, gib(machine.share), left, sequences, lengths, _word(fit))


def _word(fit: BoardFit) -> str:
    word = _WORDS[fit.verdict]
    # A model that fits only with another setting is shown with that setting.
    return (
        f"{word}, with --gpu-memory-utilization {fit.lower_to:g}" if fit.lower_to and fit.verdict in _STARTS else word
    )


def _kv_why(cell: CellFit, fit: BoardFit) -> str:
    layers_text = [
        f"{layers.count} layers with {layers.what}"
        + (f", for a window of {layers.window} tokens" if layers.window else "")
        for layers in cell.shape.layers
    ]
    return f"{fit.kv_token} bytes a token in {fit.settings.kv_dtype}: {'; '.join(layers_text)}"
