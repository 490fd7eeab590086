"""Which modules of a wheel the build compiles: those that a GPU of the cell would compile from PTX at its first start.

The driver takes one entry of a container: SASS that runs on the GPU, else the PTX for the newest target. Only where a
container has no SASS that is known to run does it compile.
"""

from __future__ import annotations

import re
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from builder.audit.code_targets import compiles_for
from builder.audit.kernel_families import kernel_needs
from builder.audit.runnable_code import runs_on
from builder.audit.slim_choice import choose, excluded_by, excluded_globs, slim_rules
from builder.lock.index_sources import locks_tools
from builder.model.kernels import KernelModule
from builder.model.precompiled import PtxModule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from builder.model.kernels import LibraryKernels
    from builder.model.locks import Job
    from builder.model.slimming import SlimRules
    from builder.models.preflight.server_context import ServerContext

    # The indices of a library's kernels that are needed on a GPU.
    NeededKernels = Callable[[LibraryKernels, int], frozenset[int]]


def needed_kernels(job: Job, server: ServerContext) -> NeededKernels:
    """Return the choice of kernels of a cell: all, or those of the families that its server and model use."""
    return every_kernel if job.spec.image.precompile == "all" else _NeededByServer(server)


def every_kernel(library: LibraryKernels, _: int) -> frozenset[int]:
    """Choose all kernels."""
    return frozenset(range(len(library.names)))


class _NeededByServer:
    def __init__(self, server: ServerContext) -> None:
        self._server = server

    def __call__(self, library: LibraryKernels, sm: int) -> frozenset[int]:
        families = [
            need.kernels
            for need in kernel_needs(self._server, sm).families
            if any(fnmatchcase(library.path, glob) for glob in need.family.files)
        ]
        searches = [re.compile(pattern).search for pattern in families]
        return frozenset(index for index, name in enumerate(library.names) if any(search(name) for search in searches))


def modules_of_wheel(
    job: Job, package: str, libraries: Iterable[LibraryKernels], needed: NeededKernels
) -> tuple[PtxModule, ...]:
    """Return the modules of a cell's wheel that the build compiles: none where the wheel stays as it is."""
    if not locks_tools(job) or not choose(job, package).slim:
        return ()
    rules, globs = slim_rules(job.platform), excluded_globs(job.spec.image, package)
    in_image = (library for library in libraries if excluded_by(library.path, globs) is None)
    return tuple(module for library in in_image for module in modules_to_compile(library, rules, needed))


def modules_to_compile(library: LibraryKernels, rules: SlimRules, needed: NeededKernels) -> Iterator[PtxModule]:
    """Yield the modules of a library that a GPU would compile and that have a needed kernel."""
    wanted = {sm: needed(library, sm) for sm in rules.sms}
    for _, group in groupby(library.modules, key=attrgetter("container")):
        members = list(group)
        for sm in rules.sms:
            module = _compiled_by_driver(members, sm, rules)
            if module and module.kernels & wanted[sm]:
                yield PtxModule(
                    library=library.path,
                    container=module.container,
                    ptx=module.target,
                    isa=module.isa,
                    sm=sm,
                    unpacked=module.unpacked,
                )


def _compiled_by_driver(members: Sequence[KernelModule], sm: int, rules: SlimRules) -> KernelModule | None:
    if any(module.kernels and runs_on(module.target, sm, rules, unknown=False) for module in members):
        return None
    usable = [module for module in members if module.kernels and compiles_for(module.target, sm)]
    return max(usable, key=lambda module: (module.target.sm, module.target.variant, module.isa), default=None)


def with_compiled(library: LibraryKernels, modules: Iterable[PtxModule]) -> LibraryKernels:
    """Return a library with the modules that the build adds, before slimming."""
    by_container: dict[int, list[KernelModule]] = {}
    for module in library.modules:
        by_container.setdefault(module.container, []).append(module)
    for row in modules:
        if row.library == library.path:
            members = by_container[row.container]
            ptx = next(module for module in members if (module.target, module.isa) == (row.ptx, row.isa))
            members.append(
                KernelModule(
                    container=row.container,
                    target=row.target,
                    isa=(0, 0),
                    unpacked=ptx.unpacked,
                    indices=ptx.indices,
                    precompiled=True,
                )
            )
    return replace(library, modules=tuple(module for members in by_container.values() for module in members))
