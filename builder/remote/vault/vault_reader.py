"""Reads vaults: the catalogue once, then files by their sha256."""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from builder.errors import IntegrityError, JbuildError, LockError
from builder.host import records
from builder.model.vaults import CATALOGUE, VAULT_FORMAT, Vault
from builder.remote.download import Expected, download
from builder.remote.index.listing import IndexFile
from builder.remote.vault.vault_storage import storage_of

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.concurrency import Progress
    from builder.host.config import Config
    from builder.model.vaults import VaultFile
    from builder.remote.vault.vault_storage import VaultStorage


@dataclass(slots=True)
class VaultReader:
    """A vault that is read. Threads may share it; the catalogue is read once, and so is a failure."""

    storage: VaultStorage
    _contents: Vault | JbuildError | None = None
    _files: dict[tuple[str, str], VaultFile] = field(default_factory=dict)
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    @property
    def location(self) -> str:
        """The folder, address or name of the vault."""
        return self.storage.location

    def contents(self) -> Vault:
        """Return the catalogue.

        Raises:
            JbuildError: the vault cannot be read.
        """
        with self._mutex:
            if self._contents is None:
                try:
                    self._contents = parse_catalogue(self.storage.read(CATALOGUE), self.location)
                    self._files = self._contents.by_content()
                except JbuildError as error:
                    self._contents = error
        if isinstance(self._contents, JbuildError):
            raise copy.copy(self._contents)
        return self._contents

    def find(self, sha256: str, filename: str) -> VaultFile | None:
        """Return a file of the vault, or None if the vault lacks it.

        Raises:
            JbuildError: the vault cannot be read.
        """
        self.contents()
        return self._files.get((sha256, filename))

    def find_named(self, filename: str) -> VaultFile | None:
        """Return the file of this name, or None: for names that have the hash of what the file contains.

        Raises:
            JbuildError: the vault cannot be read.
        """
        return next((file for file in self.contents().files if file.filename == filename), None)

    def files(self, index: str, project: str) -> tuple[IndexFile, ...]:
        """Return the files of a project that came from an index, with the addresses that they have there.

        Raises:
            JbuildError: the vault cannot be read.
        """
        return tuple(
            IndexFile(
                filename=file.filename,
                url=file.url_in(index),
                sha256=file.sha256,
                requires_python=file.requires_python,
                yanked=file.yanked,
                upload_time=file.upload_time,
                size=file.size,
            )
            for file in self.contents().of_index(index)
            if file.project == project
        )

    def metadata(self, file: VaultFile) -> bytes | None:
        """Return the METADATA beside a wheel, or None if the vault has none.

        Raises:
            IntegrityError: it does not have its sha256.
            JbuildError: it cannot be read.
        """
        if file.metadata is None:
            return None
        content = self.storage.read(file.metadata_path)
        if hashlib.sha256(content).hexdigest() != file.metadata:
            raise self._damaged(f"the METADATA of {file.filename}")
        return content

    def fetch(self, file: VaultFile, path: Path, progress: Progress) -> None:
        """Fetch a file to `path`, resuming an earlier run.

        Raises:
            IntegrityError: the vault has other bytes.
            JbuildError: it cannot be had.
        """
        receive = partial(self.storage.receive, file.path, file.sha256)
        expected = Expected(sha256=file.sha256, size=file.size)
        download(receive, lambda _: self._damaged(file.filename), path, expected, progress)

    def _damaged(self, name: str) -> IntegrityError:
        hint = "`jbuild vault --check FOLDER` lists all damaged files of a vault; remove them and write the vault again"
        return IntegrityError(f"{name} in the vault does not have its sha256", where=self.location, hint=hint)


def parse_catalogue(content: bytes, location: str) -> Vault:
    """Return a catalogue.

    Raises:
        LockError: another version of jbuild wrote it.
        IntegrityError: it is damaged.
    """
    try:
        document = json.loads(content)
        if document["format"] != VAULT_FORMAT:
            message = f"the vault has format {document['format']}, and this jbuild reads {VAULT_FORMAT}"
            raise LockError(message, where=location, hint="use the jbuild that wrote it, or update jbuild")
        vault: Vault = records.from_json(document, Vault)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        hint = "restore it from a copy, or write the vault again into an empty folder"
        raise IntegrityError(f"{CATALOGUE} of the vault is damaged: {error}", where=location, hint=hint) from error
    return vault


@lru_cache(maxsize=8)
def vault_at(location: str, config: Config) -> VaultReader:
    """Return the reader of a vault that all cells of a run share.

    Raises:
        RecipeError: the name of the vault is malformed.
    """
    return VaultReader(storage_of(location, config))
