"""Names of C++ symbols as people write them."""

from __future__ import annotations

_LONGEST = 2000
_LONGEST_SHOWN = 160


def demangled(symbol: str) -> str:
    """Return a symbol's C++ name, shortened; the symbol itself where it is none or cannot be read."""
    name = symbol.partition("@")[0]
    if not name.startswith("_Z") or len(name) > _LONGEST:
        return symbol
    from itanium_demangler import parse  # type: ignore[import-untyped]  # noqa: PLC0415  # only findings need it

    try:
        found = parse(name)
    except (NotImplementedError, RecursionError, ValueError, LookupError, AttributeError, TypeError, AssertionError):
        # Names that the library does not understand are shown as they are.
        found = None
    text = str(found) if found else symbol
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
