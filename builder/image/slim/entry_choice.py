"""Which entries of a container stay: the code that one of the GPUs can run.

The driver takes one entry of a container for a GPU: SASS that runs there if there is any, else PTX. Kernels are looked
up in the container that registered them, so PTX is needed wherever the container's own SASS lacks a kernel, even if
another container of the library has one of that name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from builder.audit.fatbin import Code, Entry
    from builder.model.audits import GpuTarget
    from builder.model.slimming import SlimRules

# The families of code with the variant `f`, by its own SM.
_FAMILIES = {100: (100, 103), 103: (103,), 110: (110,), 120: (120, 121), 121: (121,)}


def retained_entries(
    entries: Sequence[Entry], rules: SlimRules, kernels: Callable[[Entry], Iterable[bytes]]
) -> list[Entry]:
    """Return the entries that stay, in their order; `kernels` names those of an entry, and is asked only if it matters.

    Raises:
        MalformedError: the code of an entry cannot be read.
    """
    sass = [entry for entry in entries if entry.code and _runs_somewhere(entry.code, rules)]
    names: dict[int, frozenset[bytes]] = {}

    def named(entry: Entry) -> frozenset[bytes]:
        if entry.offset not in names:
            names[entry.offset] = frozenset(kernels(entry))
        return names[entry.offset]

    def needed(entry: Entry, code: Code) -> bool:
        for sm in rules.sms:
            if not compiles_for(code, sm, rules):
                continue
            native = [other for other in sass if other.code and runs_on(other.code.target, sm, rules)]
            if not native or not named(entry) <= frozenset[bytes]().union(*map(named, native)):
                return True
        return False

    def stays(entry: Entry) -> bool:
        if entry.code is None:
            return True
        return entry in sass if entry.code.target.kind == "sass" else needed(entry, entry.code)

    return [entry for entry in entries if stays(entry)]


def _runs_somewhere(code: Code, rules: SlimRules) -> bool:
    return any(runs_on(code.target, sm, rules) for sm in rules.sms)


def runs_on(target: GpuTarget, sm: int, rules: SlimRules) -> bool:
    """Return whether SASS runs on a GPU."""
    if target.kind != "sass":
        return False
    if target.variant == "a":
        return target.sm == sm
    if target.variant == "f":
        return sm in _family(target.sm)
    return target.sm == sm or (rules.same_major and target.sm // 10 == sm // 10 and target.sm < sm)


def compiles_for(code: Code, sm: int, rules: SlimRules) -> bool:
    """Return whether the driver can compile PTX for a GPU."""
    target = code.target
    if target.kind != "ptx" or (rules.newest_isa is not None and code.isa > rules.newest_isa):
        return False
    if target.variant == "a":
        return target.sm == sm
    if target.variant == "f":
        return sm in _family(target.sm)
    return target.sm <= sm


def _family(sm: int) -> tuple[int, ...]:
    return _FAMILIES.get(sm, (sm,))
