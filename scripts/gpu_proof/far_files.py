"""The files of the other machine: those that a wheel installs there, and those that recipes need."""

from __future__ import annotations

import base64
import csv
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gpu_proof.recipe_file import Source

_SHA256 = "sha256="


def recorded_files(wheel: Path) -> Iterator[str]:
    """Yield the sha256 of the files that a wheel installs, as its RECORD has them.

    Raises:
        ValueError: it has no RECORD.
    """
    with zipfile.ZipFile(wheel) as archive:
        record = next((name for name in archive.namelist() if name.endswith(".dist-info/RECORD")), None)
        if record is None:
            raise ValueError(f"{wheel} has no RECORD")
        rows = csv.reader(archive.read(record).decode().splitlines())
    for _, recorded, _ in rows:
        if recorded.startswith(_SHA256):
            yield base64.urlsafe_b64decode(recorded.removeprefix(_SHA256) + "=").hex()


def find_files(needed: Sequence[Source], folders: Iterable[Path]) -> dict[str, Path]:
    """Return the paths of files by their sha256; only files of a needed size are read."""
    sizes = {source.size for source in needed}
    paths = [path for folder in folders for path in _files(folder) if path.stat().st_size in sizes]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(pool.map(sha256_of, paths), paths, strict=True))
    return {source.sha256: found[source.sha256] for source in needed if source.sha256 in found}


def _files(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (path for name in names if (path := Path(root, name)).is_file())
