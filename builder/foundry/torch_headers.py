"""The wheel with torch's headers: the cell's own torch, or the same version from uv's default index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from builder.errors import LockError, NetworkError
from builder.foundry.build_source import project_files
from builder.foundry.wheel_members import record_hash
from builder.lock.uv_target import MACHINES
from builder.model.builds import ToolFile
from builder.model.locks import LockedWheel

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.builds import BuildTarget
    from builder.remote.index.listing import IndexFile


def torch_headers(torch: LockedWheel, target: BuildTarget, session: Session) -> ToolFile:
    """Return the wheel whose headers a build uses.

    Wheels of one version have the same headers, for the CPU too, so that a build does not depend on the index of a
    torch for Jetsons.

    Raises:
        LockError: no index has a torch of this version.
        NetworkError: no index answers.
    """
    try:
        return _tool(torch, record_hash(torch, session))
    except NetworkError as error:
        session.console.warn(f"{error.message}; the headers come from another wheel of the same version")
    wheel = _same_version(torch, target, session)
    return _tool(wheel, record_hash(wheel, session))


def _tool(wheel: LockedWheel, record: str) -> ToolFile:
    return ToolFile(
        role="torch-headers",
        filename=wheel.filename,
        url=wheel.url,
        sha256=wheel.sha256,
        size=wheel.size,
        record=record,
    )


def _same_version(torch: LockedWheel, target: BuildTarget, session: Session) -> LockedWheel:
    for file in project_files("torch", session):
        if file.sha256 and _fits(file, torch, target):
            return LockedWheel(
                name="torch",
                version=Version(torch.version).public,
                filename=file.filename,
                url=file.url,
                sha256=file.sha256,
                size=file.size,
            )
    message = f"no index has headers of torch {Version(torch.version).public} for Python {target.python}"
    raise LockError(message, hint="use an index that has them, or lock a torch that uv's default index has")


def _fits(file: IndexFile, torch: LockedWheel, target: BuildTarget) -> bool:
    try:
        _, version, _, tags = parse_wheel_filename(file.filename)
    except InvalidWheelFilename:
        return False
    interpreter = f"cp{target.python.replace('.', '')}"
    machine = MACHINES[target.architecture]
    fitting = any(tag.abi == interpreter and tag.platform.endswith(machine) for tag in tags)
    return version.public == Version(torch.version).public and fitting
