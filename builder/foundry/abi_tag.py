"""The Python and ABI tags of a wheel: those of the build backend, if the symbols of its modules agree with them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from builder.model.audits import Binary

_PYTHON_SYMBOL = re.compile(r"_?Py[A-Za-z_]")
_CPYTHON = re.compile(r"cp3([0-9]+)")
_STABLE, _NONE = "abi3", "none"
# The most symbols that a note names.
_MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class AbiMeasure:
    """The Python tags and the ABI tag of a wheel; `note` is the reason for others than those of the build backend."""

    pythons: tuple[str, ...]
    abi: str
    note: str | None = None


def measure_abi(pythons: Iterable[str], abis: Iterable[str], binaries: Sequence[Binary], python: str) -> AbiMeasure:
    """Return the tags of a wheel that was built for a minor version of Python (`3.12`), from its present ones.

    `abi3` stays only if all symbols of the interpreter that the modules need are of its stable ABI, `none` only if they
    need none. Otherwise the wheel gets the tag of this Python alone.
    """
    own = f"cp{python.replace('.', '')}"
    named, abi = tuple(sorted(pythons)), min(abis)
    symbols = python_symbols(binaries)
    if not symbols or abi not in (_STABLE, _NONE):
        return AbiMeasure(pythons=named, abi=abi)
    if abi == _NONE:
        return AbiMeasure(pythons=(own,), abi=own, note=f"its modules need the interpreter's {_some(symbols)}")
    minor = min((int(match[1]) for name in named if (match := _CPYTHON.fullmatch(name))), default=0)
    unstable = [name for name in symbols if not _is_stable(name, minor)]
    if not unstable:
        return AbiMeasure(pythons=named, abi=abi)
    note = f"its modules need {_some(unstable)}, which the stable ABI of Python 3.{minor} does not have"
    return AbiMeasure(pythons=(own,), abi=own, note=note)


def python_symbols(binaries: Iterable[Binary]) -> list[str]:
    """Return the interpreter's symbols that binaries need, sorted."""
    names = {name.partition("@")[0] for binary in binaries for name in binary.names}
    return sorted(name for name in names if _PYTHON_SYMBOL.match(name))


def _is_stable(name: str, minor: int) -> bool:
    from abi3info import DATAS, FUNCTIONS  # noqa: PLC0415  # a large table that only wheels with `abi3` need
    from abi3info.models import PyVersion, Symbol  # noqa: PLC0415

    entry = FUNCTIONS.get(Symbol(name)) or DATAS.get(Symbol(name))
    return entry is not None and entry.added <= PyVersion(3, minor)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
