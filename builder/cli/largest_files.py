"""The largest files of the wheels of a recipe's cells, as `jbuild show --files` prints them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from builder.audit.file_sizes import SizedFile, sized_files
from builder.cli.cell_selection import CellSelection
from builder.cli.results import show, table, without_controls
from builder.errors import LockError
from builder.host.session import Session
from builder.host.units import size_of
from builder.lock import lockfile
from builder.model.locks import Job
from builder.pipeline.cell import CellRecords


@dataclass(frozen=True, kw_only=True, slots=True)
class FilesOfCell:
    """The `largest` files of a cell's wheels.

    `wheels` and `files` are numbers, `size` and `packed` the bytes of all files: installed, and in the wheels. Both
    are those of the whole wheels.
    """

    cell: str
    wheels: int
    files: int
    size: int
    packed: int
    largest: tuple[SizedFile, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FilesOfCells:
    """With --files: the largest files of the wheels, cell by cell."""

    recipe: str
    cells: tuple[FilesOfCell, ...]


def show_files(selection: CellSelection, most: int) -> None:
    """Print the largest files of the locked wheels of each cell.

    Raises:
        RecipeError: no cell can be built.
        LockError: a cell has no lock.
        NetworkError, IntegrityError: a wheel cannot be read.
    """
    cells = tuple(_of_cell(job, most, selection.session) for job in selection.jobs())
    result = FilesOfCells(recipe=selection.recipe.name, cells=cells)
    show(result, "\n\n".join("\n".join(_lines(cell)) for cell in cells), selection.session.console)


def _of_cell(job: Job, most: int, session: Session) -> FilesOfCell:
    recipe, cell, workspace = job.recipe.name, job.cell.id, session.workspace
    path = workspace.lock(recipe, cell)
    lock = lockfile.read(path, recipe=recipe, cell=cell)
    if lock is None:
        hint = f"run `jbuild lock {recipe} --cell {cell}`"
        raise LockError("the cell has no lock, which names the wheels", where=str(path), hint=hint)
    wheels = CellRecords(workspace.cell(recipe, cell)).with_built(lock).wheels
    files = sized_files(job, wheels, session)
    return FilesOfCell(
        cell=cell,
        wheels=len(wheels),
        files=len(files),
        size=sum(file.size for file in files),
        packed=sum(file.packed for file in files),
        largest=tuple(files[:most]),
    )


def _lines(cell: FilesOfCell) -> Iterator[str]:
    sizes = f"{size_of(cell.packed)} packed, {size_of(cell.size)} installed"
    yield f"{cell.cell}: {cell.wheels} wheels, {cell.files} files, {sizes}"
    rows = [
        (size_of(file.packed), size_of(file.size), file.wheel, file.path, "excluded" if file.excluded else "")
        for file in cell.largest
    ]
    yield from map(without_controls, table(("packed", "installed", "wheel", "file", ""), rows).splitlines())
