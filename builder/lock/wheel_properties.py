"""Properties of locked wheels that indexes may not list: their sizes, and the CUDA version of torch.

The grouping of wheels into layers depends on sizes. The name and the tags of a torch wheel do not contain its CUDA
version, so it is read from the wheel itself.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import requests

from builder.errors import NoWheelsError
from builder.host.concurrency import TaskGroup
from builder.host.files import write_bytes
from builder.host.index_rows import DEFAULT
from builder.remote import http, web_pages
from builder.remote.download import local_path
from builder.remote.index.index_client import client_of
from builder.remote.index.index_view import read_wheel
from builder.remote.index.listing import Index, IndexFile
from builder.remote.vault.vaulted_files import vaulted

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Sequence
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.locks import Job, LockedWheel
    from builder.remote.index.index_client import IndexClient
    from builder.remote.index.listing import IndexPins

CPU_TORCH = "cpu-torch"
OTHER_CUDA = "other-cuda"
CHECKS = (CPU_TORCH, OTHER_CUDA)
"""The ids by which `ignore-advisories` turns these checks off, beside those of advisories."""

_TORCH = "torch"
# torch's build writes both; a CPU build has neither.
_CUDA_LIBRARY = "torch/lib/libtorch_cuda.so"
_VERSION = "torch/version.py"
_CUDA = re.compile(rb"^cuda\s*(?::[^=]*)?=\s*['\"]([0-9]+\.[0-9]+)", re.MULTILINE)
_LONGEST = 1 << 20
_AT_ONCE = 8
# A retry gets the same status; fetching the wheel reports the error.
_REFUSED = range(400, 429)


def measured(wheels: Sequence[LockedWheel], session: Session) -> tuple[LockedWheel, ...]:
    """Return the wheels with their sizes (bytes) from the cache, a vault or their servers.

    Raises:
        NetworkError: a server does not answer.
    """
    unknown = [wheel for wheel in wheels if wheel.size is None]
    if not unknown:
        return tuple(wheels)
    client = client_of(session.config, session.workspace.index_states)
    with session.console.task("reading sizes", len(unknown), unit="wheels") as task, TaskGroup(_AT_ONCE) as group:

        def measure(wheel: LockedWheel) -> LockedWheel:
            size = _size(wheel, session.workspace.wheel(wheel.sha256, wheel.filename), client)
            task.advance(1)
            return replace(wheel, size=size)

        by_hash = {wheel.sha256: wheel for wheel in group.map(measure, unknown)}
    return tuple(by_hash.get(wheel.sha256, wheel) for wheel in wheels)


def _size(wheel: LockedWheel, stored: Path, client: IndexClient) -> int | None:
    if stored.is_file():
        return stored.stat().st_size
    if found := next(vaulted(wheel.sha256, wheel.filename, client.config), None):
        return found.file.size
    if path := local_path(wheel.url):
        return path.stat().st_size if path.is_file() else None
    try:
        return http.Retry().run(lambda: _content_length(wheel.url, client))
    except requests.RequestException as error:
        raise http.network_error(error, wheel.url) from error


def _content_length(url: str, client: IndexClient) -> int | None:
    # GET, closed after the headers: signed URLs are not valid for HEAD, and some servers refuse it.
    with client.get(url, headers={"Accept-Encoding": "identity"}) as response:
        if response.status_code in _REFUSED:
            return None
        response.raise_for_status()
        web_pages.refuse_web_page(response)
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None


def check_torch(
    job: Job, wheels: tuple[LockedWheel, ...], ties: IndexPins, client: IndexClient, session: Session
) -> str | None:
    """Return the CUDA version of a GPU cell's torch, or None for cells without a GPU or torch.

    Raises:
        NoWheelsError: it is a CPU build or for another CUDA version, and the recipe does not ignore that.
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
                message, where=job.name, hint=f'{hint}, or set `ignore-advisories = ["{check}"]` if that is intended'
            )
        session.console.warn(f"{job.cell.id}: {message}")
    return cuda


def _problem(torch: LockedWheel, cuda: str | None, job: Job) -> tuple[str, str, str] | None:
    cuda_version = job.platform.cuda or ""
    source = torch.index or "uv's own index"
    if cuda is None:
        hint = "pin torch to an index with CUDA builds for this board: `indexes` or `from` under [packages]"
        message = f"torch {torch.version} from {source} is a CPU build, but the cell needs CUDA {cuda_version}"
        return CPU_TORCH, message, hint
    if cuda.partition(".")[0] != cuda_version.partition(".")[0]:
        hint = f"pin torch to an index for CUDA {cuda_version}: `indexes` or `from` under [packages]"
        message = f"torch {torch.version} from {source} is for CUDA {cuda}, but the cell needs {cuda_version}"
        return OTHER_CUDA, message, hint
    return None


def _cuda_of(torch: LockedWheel, ties: IndexPins, client: IndexClient, session: Session) -> str | None:
    path = session.workspace.metadata(torch.sha256).with_suffix(".torch.json")
    try:
        cuda = json.loads(path.read_text(encoding="utf-8"))["cuda"]
    except (OSError, ValueError, KeyError, TypeError):
        index = ties.named(torch.index) if torch.index else Index(name=DEFAULT, addresses=())
        file = IndexFile(filename=torch.filename, url=torch.url, sha256=torch.sha256, size=torch.size)
        content = read_wheel(index, file, client, session.workspace, _read_cuda)
        write_bytes(path, content)
        cuda = json.loads(content)["cuda"]
    return None if cuda is None else str(cuda)


def _read_cuda(archive: zipfile.ZipFile) -> bytes:
    names = set(archive.namelist())
    cuda = None
    if _CUDA_LIBRARY in names and _VERSION in names and archive.getinfo(_VERSION).file_size <= _LONGEST:
        match = _CUDA.search(archive.read(_VERSION))
        cuda = match[1].decode() if match else None
    return json.dumps({"cuda": cuda}).encode()
