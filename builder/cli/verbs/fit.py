"""`jbuild fit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import click

from builder.cli import completers
from builder.cli.cell_selection import CellSelection, recipe_verb
from builder.cli.results import show
from builder.errors import ModelError
from builder.host import records
from builder.host.units import gib
from builder.lock.recipe_models import locked_models
from builder.models.fit.cell_fit import fit_cell
from builder.models.fit.memory_estimate import BoardFit, CellFit

_WORDS = {"fits": "fits", "fewer": "fits, fewer sequences at once", "no": "does not fit", "unknown": "not known"}
_Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
_Draw = Callable[[tuple[str, ...], list[tuple[str, ...]]], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class CellEstimate:
    """The estimates for one cell; `fits_somewhere`: its model fits at least one of the boards."""

    fit: CellFit = field(metadata=records.FLAT)
    fits_somewhere: bool


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
        shell_complete=completers.boards,
        multiple=True,
        metavar="NAME",
        help="Estimate for this board. Can be repeated.",
    ),
)
def command(selection: CellSelection, boards: tuple[str, ...]) -> int:
    """Estimate the memory that RECIPE's model needs, and compare it with the memory of boards.

    Prints the sum line by line, and the largest max-model-len that fits. Without --board, the boards are those of the
    recipe, or all boards of its platform. Ends with exit code 9 if the model of a cell fits no board.
    """
    session = selection.session
    fits = [fit_cell(job, locked_models(job, session), session, boards) for job in selection.jobs()]
    estimates = tuple(CellEstimate(fit=fit, fits_somewhere=fit.fits_somewhere) for fit in fits)
    show(FitResult(recipe=selection.recipe.name, cells=estimates), text(fits, session.console.table), session.console)
    return 0 if all(fit.fits_somewhere for fit in fits) else ModelError.exit_code


def text(fits: Sequence[CellFit], table: _Draw) -> str:
    """Return the estimates of cells as text; equal ones are shown once, with the names of all their cells."""
    alike: dict[tuple[object, ...], list[CellFit]] = {}
    for fit in fits:
        alike.setdefault((fit.model, fit.shape, fit.boards), []).append(fit)
    return "\n\n".join("\n".join(_cells(same, table)) for same in alike.values())


def _cells(same: Sequence[CellFit], table: _Draw) -> Iterator[str]:
    first = same[0]
    yield f"{', '.join(fit.cell for fit in same)}: {first.model} ({first.shape.model_type})"
    # Boards on which the server needs the same memory are shown together.
    for _, group in groupby(first.boards, key=lambda board: board.lines):
        boards = list(group)
        yield table(*_need(first, boards[0]))
        yield from _boards_table(boards, table)
    yield from _sources(first.boards)


def _need(cell: CellFit, fit: BoardFit) -> _Table:
    """Return headings and rows of the memory that a server needs."""
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
    return ("  memory", "GiB", "", ""), [(f"  {row[0]}", *row[1:]) for row in rows]


def _boards_table(fits: Sequence[BoardFit], table: _Draw) -> list[str]:
    """Return the lines about boards on which the server needs the same memory."""
    rows = [_board(fit) for fit in fits if fit.machine]
    blocks = []
    if rows:
        headings = ("  board", "usable", "server's", "left", "sequences", "max-model-len up to", "")
        blocks.append(table(headings, rows))
        outside = next(fit.machine.outside for fit in fits if fit.machine)
        reserved = ", ".join(f"{line.name} {gib(line.size)} GiB" for line in outside)
        blocks.append(f"  outside the server's share: {reserved}")
    else:
        blocks.append("  no board is named, and the platform is for none in particular: add --board NAME")
    remarks = dict.fromkeys(remark for fit in fits for remark in fit.remarks)
    return blocks + [f"  note: {remark}" for remark in remarks]


def _sources(fits: Sequence[BoardFit]) -> list[str]:
    """Return the source of each estimate."""
    lines = [line for fit in fits for line in (*fit.lines, *(fit.machine.outside if fit.machine else ()))]
    by_name = {line.name: line.why for line in lines if line.basis == "estimate"}
    return [f"  {name}, estimate: {why}" for name, why in by_name.items()]


def _board(fit: BoardFit) -> tuple[str, ...]:
    machine = fit.machine
    if machine is None:
        raise AssertionError("rows are for boards")
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
    return f"{word}, with --gpu-memory-utilization {fit.lower_to:g}" if fit.lower_to and fit.verdict != "no" else word


def _kv_why(cell: CellFit, fit: BoardFit) -> str:
    layers_text = [
        f"{layers.count} layers with {layers.what}"
        + (f", for a window of {layers.window} tokens" if layers.window else "")
        for layers in cell.shape.layers
    ]
    return f"{fit.kv_token} bytes a token in {fit.settings.kv_dtype}: {'; '.join(layers_text)}"
