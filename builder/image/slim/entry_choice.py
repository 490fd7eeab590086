"""Which entries of a container stay: the code that one of the GPUs can run.

The driver takes one entry of a container for a GPU: SASS that runs there if there is any, else PTX. Kernels are looked
up in the container that registered them, so PTX is needed wherever the container's own SASS lacks a kernel, even if
another container of the library has one of that name.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from builder.audit.runnable_code import ContainerCode, retained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from builder.audit.fatbin import Code, Entry
    from builder.model.slimming import SlimRules


class AddedEntry(NamedTuple):
    """An entry to add to a container: its code, the names of its kernels, and its header with the payload."""

    code: Code
    kernels: frozenset[bytes]
    data: bytes


def retained_entries(
    entries: Sequence[Entry],
    rules: SlimRules,
    kernels: Callable[[Entry], Iterable[bytes]],
    added: Sequence[AddedEntry] = (),
) -> list[Entry]:
    """Return the entries that stay beside those that are `added`, in their order.

    `kernels` returns the names of an entry's kernels; it is called only for PTX that SASS may replace.

    Raises:
        MalformedError: the code of an entry cannot be read.
    """
    candidates = [_candidate(entry.code, partial(kernels, entry)) for entry in entries]
    candidates += [_candidate(entry.code, partial(iter, entry.kernels)) for entry in added]
    return [entry for entry, stays in zip(entries, retained(candidates, rules), strict=False) if stays]


def _candidate(code: Code | None, kernels: Callable[[], Iterable[bytes]]) -> ContainerCode:
    return ContainerCode(code.target if code else None, kernels)
