"""An estimate of memory, as people read it."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from builder.fit.model import BoardFit, CellFit

_GIB = 1 << 30
_WORDS = {"fits": "fits", "fewer": "fits, fewer sequences at once", "no": "does not fit", "unknown": "not known"}
_Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
_Draw: TypeAlias = "Callable[[tuple[str, ...], list[tuple[str, ...]]], str]"


def text(fits: Sequence[CellFit], table: _Draw) -> str:
    """Return the estimates of cells; those that are the same are told once, with the names of all their cells."""
    alike: dict[tuple[object, ...], list[CellFit]] = {}
    for each in fits:
        alike.setdefault((each.model, each.shape, each.boards), []).append(each)
    return "\n\n".join("\n".join(_cells(same, table)) for same in alike.values())


def _cells(same: Sequence[CellFit], table: _Draw) -> Iterator[str]:
    found = same[0]
    yield f"{', '.join(each.cell for each in same)}: {found.model} ({found.shape.model_type})"
    # Boards on which the server needs the same are shown together.
    for _, group in groupby(found.boards, key=lambda each: each.lines):
        rows = list(group)
        yield table(*need(found, rows[0]))
        yield from boards_table(rows, table)
    yield from sources(found.boards)


def need(found: CellFit, fit: BoardFit) -> _Table:
    """Return headings and rows of what a server needs, line by line."""
    rows: list[tuple[str, str, str, str]] = [
        (line.name, gib(line.size), line.basis, "" if line.basis == "estimate" else line.why) for line in fit.lines
    ]
    rows.append(("needed before any token", gib(fit.fixed), "", ""))
    settings = fit.settings
    if found.shape.layers:
        count, size = settings.sequences, fit.kv_sequence * settings.sequences
        name = f"KV cache, {count} of {settings.length} tokens"
        rows.append((name, gib(size), "exact", _kv_why(found, fit)))
        rows.append(("sum", gib(fit.fixed + size), "", ""))
    if settings.kv_space:
        holds = f"; it holds {settings.kv_space // (fit.kv_token * settings.block) * settings.block} tokens"
        why = f"VLLM_CPU_KVCACHE_SPACE{holds if fit.kv_token else ''}"
        rows.append(("KV cache set aside", gib(settings.kv_space), "setting", why))
    return ("  memory", "GiB", "", ""), [(f"  {row[0]}", *row[1:]) for row in rows]


def boards_table(fits: Sequence[BoardFit], table: _Draw) -> list[str]:
    """Return the lines about boards that need the same."""
    rows = [_board(fit) for fit in fits if fit.machine]
    parts = []
    if rows:
        headings = ("  board", "usable", "server's", "left", "sequences", "max-model-len up to", "")
        parts.append(table(headings, rows))
        outside = next(fit.machine.outside for fit in fits if fit.machine)
        said = ", ".join(f"{line.name} {gib(line.size)} GiB" for line in outside)
        parts.append(f"  outside the server's share: {said}")
    else:
        parts.append("  no board is named, and the platform is for none in particular: add --board NAME")
    remarks = dict.fromkeys(remark for fit in fits for remark in fit.remarks)
    return parts + [f"  note: {remark}" for remark in remarks]


def sources(fits: Sequence[BoardFit]) -> list[str]:
    """Return where the estimates come from, a line each."""
    lines = [line for fit in fits for line in (*fit.lines, *(fit.machine.outside if fit.machine else ()))]
    by_name = {line.name: line.why for line in lines if line.basis == "estimate"}
    return [f"  {name}, estimate: {why}" for name, why in by_name.items()]


def gib(size: int) -> str:
    """Return bytes as GiB."""
    return f"{size / _GIB:.2f}"


def _board(fit: BoardFit) -> tuple[str, ...]:
    machine = fit.machine
    if machine is None:
        raise AssertionError("a row is about a board")
    usable = gib(machine.usable) + ("" if machine.measured else " est.")
    sequences = "" if fit.whole is None else f"{fit.whole:.1f}"
    lengths = "" if fit.longest is None else str(fit.longest)
    if fit.longest_one and fit.longest_one != fit.longest:
        lengths = f"{fit.longest or 'none'} ({fit.longest_one} for one sequence)"
    left = "" if fit.left is None else gib(fit.left)
    return (f"  {machine.board}", usable, gib(machine.share), left, sequences, lengths, _word(fit))


def _word(fit: BoardFit) -> str:
    word = _WORDS[fit.verdict]
    # What fits only after a change does not simply fit.
    return f"{word}, with --gpu-memory-utilization {fit.lower_to:g}" if fit.lower_to and fit.verdict != "no" else word


def _kv_why(found: CellFit, fit: BoardFit) -> str:
    parts = [
        f"{layers.count} layers with {layers.what}"
        + (f", for a window of {layers.window} tokens" if layers.window else "")
        for layers in found.shape.layers
    ]
    return f"{fit.kv_token} bytes a token in {fit.settings.kv_dtype}: {'; '.join(parts)}"
