"""Compares what a wheel says of itself with what was read of it before it was here: a cell was locked by that.

METADATA that is read by ranges, or served beside a wheel, is covered by no hash; only the whole wheel is.
"""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import compat32
from typing import TYPE_CHECKING

from builder.errors import IntegrityError
from builder.index.archive import FLAWS, metadata_of, with_archive

if TYPE_CHECKING:
    from pathlib import Path

    from builder.resolve.model import LockedWheel

# What a solver goes by.
_DECISIVE = ("Name", "Version", "Requires-Python", "Requires-Dist", "Provides-Extra")
_REFUSED = ".refused"


def check_metadata(wheel: LockedWheel, path: Path, kept: Path) -> None:
    """Refuse a wheel, whole at `path`, that says something else than the METADATA that is kept at `kept`.

    What is kept is forgotten then, so that locking reads it anew; until that has been done, the wheel stays refused.

    Raises:
        IntegrityError: it does.
        DiskError: that cannot be noted.
    """
    refused = kept.with_suffix(_REFUSED)
    if kept.is_file():
        if _same(kept.read_bytes(), path):
            refused.unlink(missing_ok=True)
            return
        kept.rename(refused)
    if refused.is_file():
        raise IntegrityError(
            f"{wheel.filename} says other things of itself than what the index said of it when the cell was locked",
            where=wheel.url,
            hint="run `jbuild lock RECIPE --force` to lock by what it says now, and tell whoever runs the index",
        )


def _same(said: bytes, path: Path) -> bool:
    with path.open("rb") as file:
        try:
            own = with_archive(file, metadata_of)
        except FLAWS:
            # Whatever is wrong with it, it is not what it was said to be.
            return False
    return said == own or _decisive(said) == _decisive(own)


def _decisive(content: bytes) -> dict[str, list[str]]:
    headers = BytesParser(policy=compat32).parsebytes(content, headersonly=True)
    return {name: sorted(" ".join(str(text).split()) for text in headers.get_all(name, ())) for name in _DECISIVE}
