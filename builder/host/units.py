"""Times, sizes and counts as people read them."""

from __future__ import annotations

_GIB = 1 << 30


def duration(seconds: float) -> str:
    """Return a time in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def moment(when: str) -> str:
    """Return a time in UTC (ISO 8601) to the minute."""
    return f"{when[:16].replace('T', ' ')} UTC"


def size_of(size: int) -> str:
    """Return bytes in GB, MB or kB."""
    for unit, factor, digits in (("GB", 1e9, 2), ("MB", 1e6, 1)):
        if size >= factor:
            return f"{size / factor:.{digits}f} {unit}"
    return f"{size / 1e3:.1f} kB" if size else "0.0 MB"


def megabytes(size: int) -> str:
    """Return bytes in MB."""
    return f"{size / 1e6:.1f} MB"


def gib(size: int) -> str:
    """Return bytes in GiB, without the unit."""
    return f"{size / _GIB:.2f}"


def count_of(count: int, noun: str) -> str:
    """Return a number with its noun, such as `1 problem` or, for `file or folder`, `2 files or folders`."""
    first, _, rest = noun.partition(" or ")
    plural = f"{first}s or {rest}s" if rest else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"
