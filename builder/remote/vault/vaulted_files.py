"""Locked files out of the vaults of the configuration, which have the same bytes as the indexes."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import requests

from builder.errors import JbuildError
from builder.host.concurrency import Progress
from builder.remote.download import download_once
from builder.remote.index.remote_wheel import FLAWS, NoRangesError, with_archive
from builder.remote.vault.vault_reader import vault_at

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.host.config import Config
    from builder.host.session import Session
    from builder.model.vaults import VaultFile
    from builder.remote.vault.vault_reader import VaultReader

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class VaultedFile:
    """A file in a vault."""

    reader: VaultReader
    file: VaultFile

    def fetch(self, path: Path, progress: Progress) -> None:
        """Fetch the file to `path`.

        Raises:
            JbuildError: it cannot be had, or is damaged.
        """
        self.reader.fetch(self.file, path, progress)


def vault_locations(config: Config) -> tuple[str, ...]:
    """Return where the vaults of the configuration are, in its order."""
    return tuple(dict.fromkeys(rule.vault for rule in config.index_mirrors if rule.vault))


def vaulted(sha256: str | None, filename: str, config: Config) -> Iterator[VaultedFile]:
    """Yield a file of each vault that has it; vaults that cannot be read are passed over.

    Without a `sha256`, the name decides, and whoever reads the file checks what it contains.
    """
    for location in vault_locations(config):
        try:
            reader = vault_at(location, config)
            file = reader.find(sha256, filename) if sha256 else reader.find_named(filename)
        except JbuildError:
            # The index has the file too; where it does not, its own error and that of the page name both.
            continue
        if file:
            yield VaultedFile(reader=reader, file=file)


def vaulted_metadata(sha256: str, filename: str, config: Config) -> bytes | None:
    """Return the METADATA of a wheel out of the first vault that has it, or None."""
    for found in vaulted(sha256, filename, config):
        try:
            if content := found.reader.metadata(found.file):
                return content
        except JbuildError:
            # A damaged copy: the wheel itself is read instead.
            continue
    return None


def read_vaulted(
    sha256: str,
    filename: str,
    target: Path,
    config: Config,
    read: Callable[[zipfile.ZipFile], _T],
    buffer_size: int = io.DEFAULT_BUFFER_SIZE,
) -> _T | None:
    """Return the result of `read` for a wheel of a vault, or None if no vault gives it.

    Folders and web servers are read in place; a wheel in a registry is fetched to `target`.
    """
    for found in vaulted(sha256, filename, config):
        try:
            file = found.reader.storage.open_wheel(found.file.path)
            if file is None:
                fetch_vaulted(found, target)
                file = target.open("rb")
            with file:
                return with_archive(file, read, buffer_size)
        except (JbuildError, NoRangesError, requests.RequestException, OSError, *FLAWS):
            # The index has the same bytes.
            continue
    return None


def fetch_from_vault(sha256: str | None, filename: str, session: Session, fetch: Callable[[VaultedFile], None]) -> bool:
    """Fetch a file from the first vault that gives it; return whether one did.

    A vault that fails draws a warning: another one, or the file's own server, has the same bytes.
    """
    for found in vaulted(sha256, filename, session.config):
        try:
            fetch(found)
        except JbuildError as error:
            session.console.warn(f"{error.message} ({error.where})")
            continue
        return True
    return False


def fetch_vaulted(found: VaultedFile, target: Path) -> None:
    """Fetch a file of a vault to `target`, once for all threads and processes.

    Raises:
        JbuildError: it cannot be had, or is damaged.
    """
    progress = Progress()
    download_once(target, lambda path: found.fetch(path, progress), progress.token.check)
