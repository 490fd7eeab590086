"""Members of wheels: unpacked from the wheelhouse, or read by ranges and checked against the wheel's RECORD."""

from __future__ import annotations

import base64
import csv
import hashlib
import shutil
import zipfile
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeVar

import requests
from packaging.utils import parse_wheel_filename

from builder.errors import IntegrityError
from builder.model.wheels import LockedWheel
from builder.remote import http
from builder.remote.index.index_client import client_of
from builder.remote.index.listing import addresses
from builder.remote.index.remote_wheel import FLAWS, NoRangesError, RemoteFile, with_archive
from builder.remote.vault.vaulted_files import read_vaulted
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.builds import ToolFile

_T = TypeVar("_T")
# Headers lie close together.
_BUFFER_SIZE = 1 << 20


def as_wheel(tool: ToolFile) -> LockedWheel:
    """Return a tool that is a wheel as a locked wheel."""
    name, version, _, _ = parse_wheel_filename(tool.filename)
    return LockedWheel(
        name=str(name), version=str(version), filename=tool.filename, url=tool.url, sha256=tool.sha256, size=tool.size
    )


def unpack_members(tool: ToolFile, session: Session, path_of: Callable[[str], Path | None]) -> None:
    """Write members of a wheel to the paths that `path_of` returns for their names; None skips a member.

    A wheel with a `record` that is not in the wheelhouse is read by ranges.

    Raises:
        NetworkError: the server does not answer.
        IntegrityError: a member is not the locked one.
    """

    def unpack(archive: zipfile.ZipFile) -> int:
        hashes = _record(archive, tool) if tool.record else {}
        wanted = list(_wanted(archive, path_of))
        for name, path in wanted:
            content = archive.read(name)
            if tool.record and _digest(content) != hashes.get(name):
                raise _differs(tool, f"its {name} does not match its RECORD")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return len(wanted)

    _read(as_wheel(tool), session, unpack, whole=tool.record is None)


def member_names(tool: ToolFile, session: Session) -> tuple[str, ...]:
    """Return the names of a wheel's members.

    Raises:
        NetworkError: the server does not answer.
    """
    return _read(as_wheel(tool), session, lambda archive: tuple(archive.namelist()), whole=tool.record is None)


def record_hash(wheel: LockedWheel, session: Session) -> str:
    """Return the sha256 of a wheel's RECORD.

    Raises:
        NetworkError: the server does not answer.
    """
    return _read(wheel, session, lambda archive: hashlib.sha256(_record_text(archive)).hexdigest(), whole=False)


def _read(wheel: LockedWheel, session: Session, read: Callable[[zipfile.ZipFile], _T], *, whole: bool) -> _T:
    """Return the result of `read` for a wheel in the wheelhouse, a vault or an index; a `whole` one is fetched."""
    path = session.workspace.wheel(wheel.sha256, wheel.filename)
    if not whole and not path.is_file():
        found = read_vaulted(wheel.sha256, wheel.filename, path, session.config, read, _BUFFER_SIZE)
        if found is not None:
            return found
        with suppress(NoRangesError):
            return _read_remote(wheel, session, read)
    fetch([wheel], session)
    with zipfile.ZipFile(path) as archive:
        return read(archive)


def _read_remote(wheel: LockedWheel, session: Session, read: Callable[[zipfile.ZipFile], _T]) -> _T:
    client = client_of(session.config, session.workspace.index_states)
    url = addresses(wheel.url, session.config.index_mirrors)[0].url
    try:
        return with_archive(RemoteFile(url, client.get), read, _BUFFER_SIZE)
    except requests.RequestException as error:
        raise http.network_error(error, url, f"the headers of {wheel.filename} cannot be read") from error
    except FLAWS as error:
        raise IntegrityError(f"{wheel.filename} is damaged: {error}", where=url, hint="run it again later") from error


def _wanted(archive: zipfile.ZipFile, path_of: Callable[[str], Path | None]) -> Iterator[tuple[str, Path]]:
    for name in archive.namelist():
        parts = PurePosixPath(name)
        if name.endswith("/") or parts.is_absolute() or ".." in parts.parts:
            continue
        path = path_of(name)
        if path:
            yield name, path


def _record(archive: zipfile.ZipFile, tool: ToolFile) -> Mapping[str, str]:
    content = _record_text(archive)
    if hashlib.sha256(content).hexdigest() != tool.record:
        raise _differs(tool, "its RECORD differs")
    rows = csv.reader(content.decode().splitlines())
    return {row[0]: row[1].removeprefix("sha256=") for row in rows if len(row) > 1}


def _record_text(archive: zipfile.ZipFile) -> bytes:
    names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith(".dist-info/RECORD")]
    if len(names) != 1:
        raise IntegrityError(f"the wheel has {len(names)} RECORD files", where=archive.filename)
    return archive.read(names[0])


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _differs(tool: ToolFile, flaw: str) -> IntegrityError:
    return IntegrityError(
        f"{tool.filename} is not the wheel that was locked: {flaw}",
        where=tool.url,
        hint="the index serves another file under this name; find out why before locking again",
    )


def copy_executable(source: Path, target: Path) -> None:
    """Copy a program, executable for everybody."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755)
