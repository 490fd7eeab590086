"""Which GPU code is left in a slimmed wheel: the same answer for the audit and for the writer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from builder.audit import code_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from builder.model.audits import GpuCode, GpuTarget
    from builder.model.kernels import LibraryKernels
    from builder.model.slimming import SlimRules


class TargetedCode(Protocol):
    """GPU code: its target, and the version of PTX."""

    @property
    def target(self) -> GpuTarget:
        """The GPU that it is for."""

    @property
    def isa(self) -> tuple[int, int]:
        """The version of PTX, (0, 0) for SASS."""


class ContainerCode(NamedTuple):
    """Code of a container, or data of another kind (`code` is None); `kernels` are called only where they decide."""

    code: TargetedCode | None
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
            if candidate.code and runs_on(candidate.code.target, sm, rules, unknown=False)
        ]
        return bool(certain) and named(index) <= frozenset[Any]().union(*map(named, certain))

    def stays(index: int) -> bool:
        code = candidates[index].code
        if code is None:
            return True
        if code.target.kind == "sass":
            return any(runs_on(code.target, sm, rules, unknown=True) for sm in rules.sms)
        return any(compiles_for(code, sm, rules) and not replaced(index, sm) for sm in rules.sms)

    return [stays(index) for index in range(len(candidates))]


def runs_on(target: GpuTarget, sm: int, rules: SlimRules, *, unknown: bool) -> bool:
    """Return whether SASS runs on a GPU; `unknown` is the answer where the rules do not know."""
    same_major = unknown if rules.same_major is None else rules.same_major
    return code_targets.runs_natively(target, sm) or (same_major and code_targets.is_same_major(target, sm))


def compiles_for(code: TargetedCode, sm: int, rules: SlimRules) -> bool:
    """Return whether the driver can compile PTX for a GPU."""
    is_known = rules.newest_isa is None or code.isa <= rules.newest_isa
    return is_known and code_targets.compiles_for(code.target, sm)


def remaining(codes: Iterable[GpuCode], rules: SlimRules) -> tuple[GpuCode, ...]:
    """Return the code of a library that can be left after slimming, without the knowledge of its kernels.

    Of SASS, that is exactly the code that stays. Of PTX, a part or all may go, since SASS replaces it.
    """
    return tuple(
        code
        for code in codes
        if any(runs_on(code.target, sm, rules, unknown=True) or compiles_for(code, sm, rules) for sm in rules.sms)
    )


def remaining_kernels(library: LibraryKernels, rules: SlimRules) -> LibraryKernels:
    """Return the kernels of a library that are left after slimming."""
    modules = []
    for _, group in groupby(library.modules, key=attrgetter("container")):
        members = list(group)
        candidates = [ContainerCode(module, partial(getattr, module, "kernels")) for module in members]
        modules += [module for module, stays in zip(members, retained(candidates, rules), strict=True) if stays]
    return replace(library, modules=tuple(modules))
