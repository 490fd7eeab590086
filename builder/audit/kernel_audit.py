"""The kernels of a locked cell: what its server and model use, held against the GPU code of its wheels."""

from __future__ import annotations

import re
from fnmatch import translate
from functools import cache
from typing import TYPE_CHECKING

from builder.audit.audit_context import driver_of
from builder.audit.gather_facts import gather
from builder.audit.gather_kernels import gather_kernels, libraries_with_code, stored_kernels
from builder.audit.kernel_families import KernelNeeds, kernel_families, kernel_needs
from builder.audit.kernel_rules import GpuFacts, kernel_verdicts, kernels_of_family
from builder.audit.precompile_choice import modules_of_wheel, needed_kernels, with_compiled
from builder.audit.runnable_code import remaining_kernels
from builder.audit.slim_choice import choose, slim_rules
from builder.jetson.boards import sm_number
from builder.models.preflight.server_context import server_context
from builder.pipeline.cell import CellRecords

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from builder.host.session import Session
    from builder.model.audits import WheelFacts
    from builder.model.kernel_verdicts import FamilyKernel, KernelVerdict
    from builder.model.kernels import LibraryKernels
    from builder.model.locks import Job, Lock
    from builder.model.verdicts import Verdict
    from builder.model.wheels import LockedWheel
    from builder.models.preflight.server_context import ServerContext


def audit_kernels(
    job: Job,
    lock: Lock,
    facts: Mapping[str, WheelFacts],
    server: ServerContext,
    session: Session,
) -> dict[str, tuple[KernelVerdict, ...]]:
    """Return the verdicts on the families of kernels that a cell uses, by the SM of its GPUs.

    Raises:
        NetworkError, IntegrityError, DiskError: a wheel cannot be fetched, or its kernels cannot be stored.
    """
    if not lock.platform.sms:
        return {}
    return _verdicts(job, lock, server, _libraries(job, lock, facts, server, session), session)


def family_kernels(
    job: Job, lock: Lock, family: str, session: Session
) -> tuple[dict[str, tuple[KernelVerdict, ...]], dict[str, tuple[FamilyKernel, ...]]]:
    """Return the verdicts on a family and its kernels by SM; nothing for a GPU on which the cell does not use it.

    Raises:
        NetworkError, IntegrityError, DiskError: a wheel cannot be fetched, or its kernels cannot be stored.
    """
    server = server_context(job, lock, session)
    libraries = _libraries(job, lock, gather(lock.wheels, session), server, session) if lock.platform.sms else []
    verdicts: dict[str, tuple[KernelVerdict, ...]] = {}
    kernels: dict[str, tuple[FamilyKernel, ...]] = {}
    for sm, gpu in _gpus(job, lock, session).items():
        needs = kernel_needs(server, gpu.sm)
        of_family = tuple(need for need in needs.families if need.family.name == family)
        verdicts[sm] = kernel_verdicts(KernelNeeds(families=of_family), libraries, gpu)
        kernels[sm] = tuple(kernel for need in of_family for kernel in kernels_of_family(need, libraries, gpu))
    return verdicts, kernels


def _libraries(
    job: Job, lock: Lock, facts: Mapping[str, WheelFacts], server: ServerContext, session: Session
) -> list[LibraryKernels]:
    wheels = [wheel for wheel in lock.wheels if has_family(facts[wheel.sha256])]
    gathered = gather_kernels(wheels, facts, session)
    return [library for wheel in wheels for library in _in_image(job, wheel, gathered.get(wheel.sha256, ()), server)]


def stored_verdicts(job: Job, lock: Lock, session: Session) -> dict[str, tuple[KernelVerdict, ...]] | None:
    """Return the verdicts by the kernels that an earlier audit has stored, None without them; nothing is fetched.

    Raises:
        DiskError: the facts of a wheel cannot be stored.
    """
    wheels = lock.wheels if lock.platform.sms else ()
    stored = [(wheel, stored_kernels((wheel,), session)) for wheel in wheels]
    if not any(_is_in_family(library.path) for _, rows in stored for library in rows):
        return None
    server = server_context(job, lock, session)
    libraries = [library for wheel, rows in stored for library in _in_image(job, wheel, rows, server)]
    return _verdicts(job, lock, server, libraries, session)


def _in_image(
    job: Job, wheel: LockedWheel, libraries: Sequence[LibraryKernels], server: ServerContext
) -> Iterator[LibraryKernels]:
    """Yield the libraries of a wheel with the kernels that the image has."""
    rules = slim_rules(job.platform) if choose(job, wheel.name).slim else None
    modules = modules_of_wheel(job, wheel.name, libraries, needed_kernels(job, server))
    for library in libraries:
        yield remaining_kernels(with_compiled(library, modules), rules) if rules else library


def _verdicts(
    job: Job, lock: Lock, server: ServerContext, libraries: Sequence[LibraryKernels], session: Session
) -> dict[str, tuple[KernelVerdict, ...]]:
    return {
        sm: kernel_verdicts(kernel_needs(server, gpu.sm), libraries, gpu)
        for sm, gpu in _gpus(job, lock, session).items()
    }


def _gpus(job: Job, lock: Lock, session: Session) -> dict[str, GpuFacts]:
    platform = lock.platform
    driver = driver_of(platform)
    records = CellRecords(session.workspace.cell(job.recipe.name, job.cell.id))
    passed = (records.proven(), records.imported())
    return {
        sm: GpuFacts(sm=sm_number(sm), l4t=platform.l4t, driver=driver, proof=proof_of(passed, sm))
        for sm in platform.sms
    }


def proof_of(passed: Iterable[Verdict | None], sm: str) -> str | None:
    """Return the words for the first smoke run that shows that an image's code runs on a GPU, None without one."""
    for verdict in passed:
        if verdict and verdict.level == "gpu" and verdict.gpu and verdict.gpu.sm == sm:
            return f"proven by the smoke run of {verdict.when} on {verdict.gpu.device}"
    return None


def wheels_of(wheels: tuple[LockedWheel, ...], facts: Mapping[str, WheelFacts]) -> dict[str, str]:
    """Return the wheel of each library of a family, as findings name it."""
    return {
        path: f"{wheel.name} {wheel.version}"
        for wheel in wheels
        for path in libraries_with_code(facts[wheel.sha256])
        if _is_in_family(path)
    }


def has_family(facts: WheelFacts) -> bool:
    """Return whether a wheel has a library of a family; the code of other wheels is not asked for."""
    return any(map(_is_in_family, libraries_with_code(facts)))


def _is_in_family(path: str) -> bool:
    return _family_files().match(path) is not None


@cache
def _family_files() -> re.Pattern[str]:
    """Return one expression for the globs of all rows: wheels may have 10,000 cubins."""
    return re.compile("|".join(sorted({translate(glob) for row in kernel_families() for glob in row.files})))
