"""Members of wheels: unpacked from the wheelhouse, or read by ranges and checked against the wheel's RECORD."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import shutil
import zipfile
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import requests
from packaging.utils import parse_wheel_filename

from builder.errors import IntegrityError, JbuildError
from builder.model.wheels import LockedWheel
from builder.remote import http
from builder.remote.index.index_client import client_of
from builder.remote.index.listing import addresses
from builder.remote.index.remote_wheel import FLAWS, NoRangesError, RemoteFile
from builder.remote.vault.vaulted_files import vaulted
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.builds import ToolFile


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
    with _opened(tool, session) as archive:
        hashes = _record(archive, tool) if tool.record else {}
        for name, path in _wanted(archive, path_of):
            content = archive.read(name)
            if tool.record and _digest(content) != hashes.get(name):
                raise _differs(tool, f"its {name} does not match its RECORD")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def member_names(tool: ToolFile, session: Session) -> tuple[str, ...]:
    """Return the names of a wheel's members.

    Raises:
        NetworkError: the server does not answer.
    """
    with _opened(tool, session) as archive:
        return tuple(archive.namelist())


def record_hash(wheel: LockedWheel, session: Session) -> str:
    """Return the sha256 of a wheel's RECORD.

    Raises:
        NetworkError: the server does not answer.
    """
    with _archive(wheel, session, whole=False) as archive:
        return hashlib.sha256(archive.read(_record_name(archive))).hexdigest()


def _opened(tool: ToolFile, session: Session) -> AbstractContextManager[zipfile.ZipFile]:
    return _archive(as_wheel(tool), session, whole=tool.record is None)


def _archive(wheel: LockedWheel, session: Session, *, whole: bool) -> AbstractContextManager[zipfile.ZipFile]:
    path = session.workspace.wheel(wheel.sha256, wheel.filename)
    if not whole and not path.is_file():
        remote = _remote(wheel, session)
        if remote:
            return remote
    # Servers without ranges, too.
    fetch([wheel], session)
    return zipfile.ZipFile(path)


def _remote(wheel: LockedWheel, session: Session) -> zipfile.ZipFile | None:
    for found in vaulted(wheel.sha256, wheel.filename, session.config):
        with suppress(JbuildError, OSError, requests.RequestException, NoRangesError, *FLAWS):
            file = found.reader.storage.open_wheel(found.file.path)
            if file:
                return zipfile.ZipFile(io.BufferedReader(file, 1 << 20) if isinstance(file, io.RawIOBase) else file)
    client = client_of(session.config, session.workspace.index_states)
    url = addresses(wheel.url, session.config.index_mirrors)[0].url
    try:
        return zipfile.ZipFile(io.BufferedReader(RemoteFile(url, client.get), 1 << 20))
    except NoRangesError:
        return None
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
    content = archive.read(_record_name(archive))
    if hashlib.sha256(content).hexdigest() != tool.record:
        raise _differs(tool, "its RECORD differs")
    rows = csv.reader(content.decode().splitlines())
    return {row[0]: row[1].removeprefix("sha256=") for row in rows if len(row) > 1}


def _record_name(archive: zipfile.ZipFile) -> str:
    return next(name for name in archive.namelist() if name.count("/") == 1 and name.endswith(".dist-info/RECORD"))


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
