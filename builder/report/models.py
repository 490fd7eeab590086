"""Models, as people read of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.resolve.models import UsedModel, Verified


def locked(found: Sequence[UsedModel], path: Path) -> str:
    """Return what was locked, and where."""
    return "\n".join([*(_line(each) for each in found), str(path)])


def fetched(found: Sequence[UsedModel], store: Path) -> str:
    """Return what is in the store now."""
    return "\n".join([*(_line(each) for each in found), f"all here: {store}"])


def verified(found: Sequence[Verified], recipe: str) -> str:
    """Return what was found, and the next step if something is wrong."""
    lines = []
    for each in found:
        count = len(each.used.model.files)
        whole = count - len(each.missing) - len(each.damaged)
        lines.append(f"{each.used.model.name}: {whole} of {count} files are as locked")
        lines += [f"  missing  {path}" for path in each.missing]
        lines += [f"  damaged  {path}, taken away" for path in each.damaged]
    if any(each.missing or each.damaged for each in found):
        lines.append(f"next: `jbuild models fetch {recipe}` brings them")
    return "\n".join(lines)


def _line(used: UsedModel) -> str:
    model = used.model
    revision = f" at {model.revision}" if model.revision else ""
    cells = f"{len(used.cells)} cell{'s' if len(used.cells) > 1 else ''}"
    licence = f", {model.licence}" if model.licence else ""
    stand_in = f"; stands in: {model.stand_in}" if model.stand_in else ""
    size = f"{len(model.files)} files, {model.size / 1e6:.1f} MB"
    return f"{model.name}: {model.source}{revision}: {size}, for {cells}{licence}{stand_in}"
