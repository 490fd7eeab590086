"""Which GPU code is left in a slimmed wheel: the same answer for the audit and for the writer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from builder.audit.code_targets import compiles_for, is_same_major, runs_natively

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from builder.model.audits import GpuCode, GpuTarget
    from builder.model.kernels import LibraryKernels
    from builder.model.slimming import SlimRules


class ContainerCode(NamedTuple):
    """Code of a container by its target, None for data; `kernels` are called only where they decide."""

    target: GpuTarget | None
    kernels: Callable[[], Iterable[Any]]


def retained(candidates: Sequence[ContainerCode], rules: SlimRules) -> list[bool]:
    """Return of all code of a container whether it stays.

    All SASS stays that runs on one of the GPUs, and PTX unless SASS of the container has all of its kernels.
    """
    names: dict[int, frozenset[Any]] = {}

    def named(index: int) -> frozenset[Any]:
        if index not in names:
            names[index] = frozenset(candidates[index].kernels())
        return names[index]

    def replaced(index: int, sm: int) -> bool:
        certain = [
            other
            for other, candidate in enumerate(candidates)
            if candidate.target and runs_on(candidate.target, sm, rules, unknown=False)
        ]
        return bool(certain) and named(index) <= frozenset[Any]().union(*map(named, certain))

    def stays(index: int) -> bool:
        target = candidates[index].target
        if target is None:
            return True
        if target.kind == "sass":
            return any(runs_on(target, sm, rules, unknown=True) for sm in rules.sms)
        return any(compiles_for(target, sm) and not replaced(index, sm) for sm in rules.sms)

    return [stays(index) for index in range(len(candidates))]


def runs_on(target: GpuTarget, sm: int, rules: SlimRules, *, unknown: bool) -> bool:
    """Return whether SASS runs on a GPU; `unknown` is the answer where the rules do not know."""
    same_major = unknown if rules.same_major is None else rules.same_major
    return runs_natively(target, sm) or (same_major and is_same_major(target, sm))


def remaining(codes: Iterable[GpuCode], rules: SlimRules) -> tuple[GpuCode, ...]:
    """Return the code of a library that can be left after slimming, without the knowledge of its kernels.

    Of SASS, that is exactly the code that stays. Of PTX, a part or all may go, since SASS replaces it.
    """
    return tuple(
        code
        for code in codes
        if any(runs_on(code.target, sm, rules, unknown=True) or compiles_for(code.target, sm) for sm in rules.sms)
    )


def remaining_kernels(library: LibraryKernels, rules: SlimRules) -> LibraryKernels:
    """Return the kernels of a library that are left after slimming."""
    modules = []
    for _, group in groupby(library.modules, key=attrgetter("container")):
        members = list(group)
        candidates = [ContainerCode(module.target, partial(getattr, module, "kernels")) for module in members]
        modules += [module for module, stays in zip(members, retained(candidates, rules), strict=True) if stays]
    return replace(library, modules=tuple(modules))
