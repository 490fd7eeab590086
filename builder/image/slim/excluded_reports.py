"""Reports on the files that a recipe keeps out of the image."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from builder.model.slimming import CodeAmount, SlimmedLibrary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def excluded_reports(files: Iterable[tuple[str, int]]) -> Iterator[SlimmedLibrary]:
    """Yield a report on the files of each glob; `files` are the glob that matches a file, and the file's size."""
    for glob, rows in groupby(sorted(files), key=itemgetter(0)):
        sizes = [size for _, size in rows]
        amount = CodeAmount(target="file", entries=len(sizes), size=sum(sizes))
        yield SlimmedLibrary(path=glob, method="files", before=amount.size, after=0, retained=(), removed=(amount,))
