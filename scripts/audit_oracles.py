"""Compares the audit's readers with readelf, nm and cuobjdump on real wheels.

readers     every shared object of the stacks of scripts/audit-agreement, if these are locked and unpacked
kernels     the names of kernels in the wheels of scripts/agreement/kernel_wheels.toml, 3 GB, which pip downloads
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agreement import binutils, cuobjdump, kernel_oracle
from agreement.elves import shared_objects
from agreement.report import when_and_where, write_section
from agreement.stack_project import StackProject
from agreement.stacks import read_stacks
from agreement.wheel_files import write_wheels
from builder.audit import elf, fatbin
from builder.audit.byte_source import File, MalformedError
from builder.errors import JbuildError
from builder.host.files import temp_folder
from builder.lock.stage import current_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from agreement.stacks import Stack
    from builder.model.wheels import LockedWheel


@dataclass(slots=True)
class Tally:
    """Counts for one oracle: files, compared entries (symbols or GPU code), and differences by file."""

    files: int = 0
    entries: int = 0
    differences: list[str] = field(default_factory=list)

    def add(self, path: str, differences_of: Callable[[], tuple[int, list[str]]]) -> None:
        """Add the result of one file."""
        self.files += 1
        try:
            entries, differences = differences_of()
        except MalformedError as error:
            entries, differences = 0, [f"the reader refuses it: {error.message}"]
        self.entries += entries
        self.differences += [f"`{path}`: {text}" for text in differences]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print and write the page's sections; the exit code is 1 on a difference."""
    parser = argparse.ArgumentParser(
        prog="scripts/audit-oracles", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("readers", "kernels"), help="compare only this")
    parser.add_argument(
        "--only", action="append", metavar="STACK", help="compare only the wheels of this stack; repeatable"
    )
    parser.add_argument(
        "--find-links", action="append", default=[], metavar="FOLDER", help="use the wheels of this folder; repeatable"
    )
    options = parser.parse_args(arguments)
    project = StackProject.open(tuple(read_stacks()))
    differences = 0
    try:
        program = cuobjdump.program(project.folder / "cuobjdump")
        if options.part != "kernels":
            differences += _compare_readers(options.only or (), program, project)
        if options.part != "readers" and not options.only:
            differences += _compare_kernels(options.find_links, program, project)
    except JbuildError as error:
        project.session.console.failure(error)
        return error.exit_code
    return int(differences > 0)


def _compare_readers(only: Sequence[str], program: Path, project: StackProject) -> int:
    stacks = [stack for stack in read_stacks() if not only or stack.name in only]
    wheels = dict(_wheels(stacks, project))
    symbols, gpu = Tally(), Tally()
    with project.session.console.task("comparing", len(wheels), unit="wheels") as task:
        for wheel, python in wheels.items():
            with temp_folder(project.folder) as folder:
                write_wheels([wheel], python, None, project.session, folder)
                _compare(folder, program, symbols, gpu)
            task.advance(1)
    text = _section(symbols, gpu, len(wheels))
    project.session.console.result(None, text)
    if not only:
        write_section("readers", text)
    return len(symbols.differences) + len(gpu.differences)


def _compare_kernels(links: Sequence[str], program: Path, project: StackProject) -> int:
    tallies, wheels = [], kernel_oracle.kernel_wheels()
    with project.session.console.task("comparing kernels", len(wheels), unit="wheels") as task:
        for wheel in wheels:
            tallies.append(kernel_oracle.compare(wheel, program, links, project.folder))
            task.advance(1)
    text = kernel_oracle.section(tallies, cuobjdump.PACKAGE, when_and_where())
    project.session.console.result(None, text)
    write_section("kernels", text)
    return sum(len(tally.differences) for tally in tallies)


def _wheels(stacks: Sequence[Stack], project: StackProject) -> Iterator[tuple[LockedWheel, str]]:
    """Yield the wheels of stacks that are in the wheelhouse, with their Python version."""
    for stack in stacks:
        lock = current_lock(project.job(stack), project.session)
        for wheel in lock.wheels if lock else ():
            if lock and project.session.workspace.wheel(wheel.sha256, wheel.filename).is_file():
                yield wheel, lock.platform.python


def _compare(folder: Path, program: Path, symbols: Tally, gpu: Tally) -> None:
    for path in shared_objects(folder):
        name = str(path).rpartition("/site-packages/")[2]
        symbols.add(name, lambda path=path: binutils.differences(path))  # type: ignore[misc]
        if any(section.name in fatbin.SECTIONS for section in elf.read_source(File(path)).sections):
            gpu.add(name, lambda path=path: cuobjdump.differences(program, path))  # type: ignore[misc]


def _section(symbols: Tally, gpu: Tally, wheels: int) -> str:
    differences = (*symbols.differences, *gpu.differences)
    items = [f"  - {text}" for text in differences]
    head = f"`scripts/audit-oracles`, {when_and_where()}: {wheels} wheels, {len(differences)} differences."
    by_symbols = (
        f"- readelf and nm: {symbols.files} files, {symbols.entries} dynamic symbols: needed libraries, search paths, "
        "soname, symbol versions, undefined symbols (weak or not) and defined ones (hidden or not)."
    )
    by_gpu = (
        f"- cuobjdump ({cuobjdump.PACKAGE}): {gpu.files} files, {gpu.entries} GPU code entries: "
        "the targets with SASS or PTX in a file."
    )
    return "\n".join(["## Readers", "", head, "", by_symbols, by_gpu, *items])


if __name__ == "__main__":
    sys.exit(main())
