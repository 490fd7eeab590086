"""Which entries of a container stay: the code that one of the GPUs can run.

The driver takes one entry of a container for a GPU: SASS that runs there if there is any, else PTX. Kernels are looked
up in the container that registered them, so PTX is needed wherever the container's own SASS lacks a kernel, even if
another container of the library has one of that name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.audit.runnable_code import compiles_for, runs_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from builder.audit.fatbin import Entry
    from builder.model.slimming import SlimRules


def retained_entries(
    entries: Sequence[Entry], rules: SlimRules, kernels: Callable[[Entry], Iterable[bytes]]
) -> list[Entry]:
    """Return the entries that stay, in their order.

    `kernels` returns the names of an entry's kernels; it is called only for PTX that SASS may replace.

    Raises:
        MalformedError: the code of an entry cannot be read.
    """
    names: dict[int, frozenset[bytes]] = {}

    def named(entry: Entry) -> frozenset[bytes]:
        if entry.offset not in names:
            names[entry.offset] = frozenset(kernels(entry))
        return names[entry.offset]

    def replaced(entry: Entry, sm: int) -> bool:
        certain = [other for other in entries if other.code and runs_on(other.code.target, sm, rules, unknown=False)]
        return bool(certain) and named(entry) <= frozenset[bytes]().union(*map(named, certain))

    def stays(entry: Entry) -> bool:
        code = entry.code
        if code is None:
            return True
        if code.target.kind == "sass":
            return any(runs_on(code.target, sm, rules, unknown=True) for sm in rules.sms)
        return any(compiles_for(code, sm, rules) and not replaced(entry, sm) for sm in rules.sms)

    return [entry for entry in entries if stays(entry)]
