"""What a locked torch was built for, read from the wheel itself: names and tags do not tell."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from builder.errors import NoWheelsError
from builder.host.files import write_bytes
from builder.host.index_rows import DEFAULT
from builder.remote.index.index_view import read_wheel
from builder.remote.index.listing import Index, IndexFile

if TYPE_CHECKING:
    import zipfile

    from builder.host.session import Session
    from builder.model.locks import Job, LockedWheel
    from builder.remote.index.index_client import IndexClient
    from builder.remote.index.listing import IndexPins

CPU_TORCH = "cpu-torch"
OTHER_CUDA = "other-cuda"
CHECKS = (CPU_TORCH, OTHER_CUDA)
"""The ids under which a recipe can go against these checks, beside those of advisories."""

_TORCH = "torch"
# A CPU build has neither; both are written by torch's own build.
_CUDA_LIBRARY = "torch/lib/libtorch_cuda.so"
_VERSION = "torch/version.py"
_CUDA = re.compile(rb"^cuda\s*(?::[^=]*)?=\s*['\"]([0-9]+\.[0-9]+)", re.MULTILINE)
_LONGEST = 1 << 20


def check_torch(
    job: Job, wheels: tuple[LockedWheel, ...], ties: IndexPins, client: IndexClient, session: Session
) -> str | None:
    """Return the CUDA version of a GPU cell's torch, None for cells without a GPU or torch.

    Raises:
        NoWheelsError: it is a CPU build, or one for another CUDA than the cell's, and the recipe does not ignore that.
        NetworkError, IntegrityError: the wheel cannot be read.
    """
    torch = next((wheel for wheel in wheels if wheel.name == _TORCH), None)
    if torch is None or job.platform.cuda is None:
        return None
    cuda = _cuda_of(torch, ties, client, session)
    if problem := _problem(torch, cuda, job):
        check, message, hint = problem
        if check not in job.spec.ignored_advisories:
            raise NoWheelsError(
                message, where=job.name, hint=f'{hint}, or `ignore-advisories = ["{check}"]` if it is meant'
            )
        session.console.warn(f"{job.cell.id}: {message}")
    return cuda


def _problem(torch: LockedWheel, cuda: str | None, job: Job) -> tuple[str, str, str] | None:
    wanted = job.platform.cuda or ""
    source = torch.index or "uv's own index"
    if cuda is None:
        hint = "tie torch to an index that has CUDA builds for this board: `indexes` or `from` under [packages]"
        said = f"torch {torch.version} from {source} is a build for the CPU, and the cell is for CUDA {wanted}"
        return CPU_TORCH, said, hint
    if cuda.partition(".")[0] != wanted.partition(".")[0]:
        hint = f"take torch from an index for CUDA {wanted}: `indexes` or `from` under [packages]"
        return OTHER_CUDA, f"torch {torch.version} from {source} is for CUDA {cuda}, and the cell for {wanted}", hint
    return None


def _cuda_of(torch: LockedWheel, ties: IndexPins, client: IndexClient, session: Session) -> str | None:
    path = session.workspace.metadata(torch.sha256).with_suffix(".torch.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["cuda"]
    except (OSError, ValueError, KeyError, TypeError):
        index = ties.named(torch.index) if torch.index else Index(name=DEFAULT, addresses=())
        file = IndexFile(filename=torch.filename, url=torch.url, sha256=torch.sha256, size=torch.size)
        content = read_wheel(index, file, client, session.workspace, _read_cuda)
        write_bytes(path, content)
        found = json.loads(content)["cuda"]
    return None if found is None else str(found)


def _read_cuda(archive: zipfile.ZipFile) -> bytes:
    names = set(archive.namelist())
    cuda = None
    if _CUDA_LIBRARY in names and _VERSION in names and archive.getinfo(_VERSION).file_size <= _LONGEST:
        said = _CUDA.search(archive.read(_VERSION))
        cuda = said[1].decode() if said else None
    return json.dumps({"cuda": cuda}).encode()
