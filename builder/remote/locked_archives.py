"""Locked wheels that are read without being downloaded as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import requests

from builder.errors import NetworkError
from builder.remote import http
from builder.remote.download import local_path
from builder.remote.index.listing import addresses
from builder.remote.index.logins import Logins
from builder.remote.index.remote_wheel import NoRangesError, RemoteFile, with_archive
from builder.remote.vault.vaulted_files import read_vaulted

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Callable

    from builder.host.session import Session
    from builder.model.wheels import LockedWheel

_T = TypeVar("_T")


def read_archive(wheel: LockedWheel, read: Callable[[zipfile.ZipFile], _T], session: Session) -> _T:
    """Return the result of `read` for a wheel: in the wheelhouse, a folder or a vault, else by ranges on its server.

    Raises:
        NetworkError: the server does not answer, or does not support ranges.
        One of `FLAWS`: the wheel is damaged.
    """
    address = addresses(wheel.url, session.config.index_mirrors)[0].url
    kept = session.workspace.wheel(wheel.sha256, wheel.filename)
    if local := kept if kept.is_file() else local_path(address):
        with local.open("rb") as file:
            return with_archive(file, read)
    found = read_vaulted(wheel.sha256, wheel.filename, kept, session.config, read)
    if found is not None:
        return found
    get = Logins(session.config, http.session(session.config)).get
    try:
        return with_archive(RemoteFile(address, get), read)
    except NoRangesError as error:
        hint = "run `jbuild audit`: it downloads the wheels"
        raise NetworkError(f"{wheel.filename} cannot be read by ranges", where=address, hint=hint) from error
    except requests.RequestException as error:
        raise http.network_error(error, address, f"{wheel.filename} cannot be read") from error
