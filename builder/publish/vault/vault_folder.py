"""The folder of a vault: files are stored once, by their content; pages and catalogue are replaced atomically."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import IntegrityError, UsageError
from builder.host import records
from builder.host.files import disk_errors, is_left_over, sha256_of, temp_file, write_bytes
from builder.model.vaults import CATALOGUE, Vault
from builder.publish.vault.vault_pages import pages_of
from builder.remote.vault.vault_reader import parse_catalogue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.host.paths import Workspace
    from builder.model.vaults import VaultFile

# Another disk, a file system without hard links, or one that allows no more of them.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES)
_FILES = "files"


@dataclass(frozen=True, slots=True)
class VaultFolder:
    """A folder with a vault."""

    path: Path

    def catalogue(self) -> Vault:
        """Return the catalogue.

        Raises:
            UsageError: the folder is not a vault.
            IntegrityError, LockError: the catalogue is damaged, or of another format.
        """
        try:
            content = (self.path / CATALOGUE).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            hint = "name the folder of a vault, or write one with `jbuild vault RECIPE --output FOLDER`"
            message = f"the folder has no {CATALOGUE}: it is not a vault"
            raise UsageError(message, where=str(self.path), hint=hint) from error
        return parse_catalogue(content, str(self.path))

    def check(self) -> None:
        """Refuse a folder that cannot be made, before anything is fetched for it.

        Raises:
            UsageError: it cannot be made, or it holds something else.
        """
        try:
            self.present()
            missing = [path for path in (self.path, *self.path.parents) if not path.exists()]
            if missing:
                # Only the attempt tells. The folder stays absent if nothing goes into it.
                missing[-1].mkdir()
                missing[-1].rmdir()
        except OSError as error:
            message = f"the folder cannot be made: {error.strerror}"
            raise UsageError(message, where=str(self.path), hint="name another one with --output") from error

    def present(self) -> Vault:
        """Return the catalogue, an empty one if the folder is new or empty.

        Raises:
            UsageError: the folder holds something else.
            IntegrityError, LockError: the catalogue is damaged, or of another format.
        """
        if (self.path / CATALOGUE).is_file():
            return self.catalogue()
        self._refuse_others()
        return Vault()

    @contextmanager
    def changing(self, workspace: Workspace) -> Iterator[Vault]:
        """Yield the catalogue while no other process of this user changes the vault; an absent folder is created.

        Raises:
            UsageError: the folder holds something else.
            DiskError: it cannot be written.
        """
        with disk_errors(self.path), workspace.file_lock(f"vault-{records.fingerprint(str(self.path.resolve()))[:16]}"):
            vault = self.present()
            # From here on, the folder counts as a vault, even if nothing else is written.
            self._write_catalogue(vault)
            for left in self._leftovers():
                left.unlink(missing_ok=True)
            yield vault

    def _refuse_others(self) -> None:
        try:
            others = sorted(path.name for path in self.path.iterdir() if not is_left_over(path.name))
        except FileNotFoundError:
            return
        if others:
            message = f"the folder is not a vault, and has files: {', '.join(others[:3])}"
            raise UsageError(message, where=str(self.path), hint="name an empty folder, a new one, or a vault")

    def _leftovers(self) -> Iterator[Path]:
        return (path for path in self.path.rglob(".*.jbuild-*") if is_left_over(path.name))

    def has(self, file: VaultFile) -> bool:
        """Return whether the folder has a file with its METADATA, by names and size."""
        path = self.path / file.path
        stored = path.is_file() and path.stat().st_size == file.size
        return stored and (file.metadata is None or (self.path / file.metadata_path).is_file())

    def store(self, file: VaultFile, source: Path, metadata: bytes | None) -> int:
        """Store a file: a hard link to `source`, or a copy on another disk; return the bytes that this takes.

        Raises:
            IntegrityError: the source does not have the sha256.
            DiskError: it cannot be written.
        """
        target = self.path / file.path
        with disk_errors(target):
            if metadata is not None:
                write_bytes(self.path / file.metadata_path, metadata)
            target.parent.mkdir(parents=True, exist_ok=True)
            if sha256_of(source) != file.sha256:
                hint = "remove it, then run the same command again: jbuild fetches it anew"
                raise IntegrityError("a cached file does not have its sha256", where=str(source), hint=hint)
            if target.is_file() and sha256_of(target) == file.sha256:
                return 0
            target.unlink(missing_ok=True)
            return _link_or_copy(source, target)

    def receive(self, file: VaultFile, fetch: Callable[[Path], object], metadata: bytes | None) -> int:
        """Store a file that `fetch` writes; return the bytes that this takes.

        Raises:
            JbuildError: `fetch` failed.
            DiskError: it cannot be written.
        """
        target = self.path / file.path
        with disk_errors(target):
            if metadata is not None:
                write_bytes(self.path / file.metadata_path, metadata)
            with temp_file(target.parent, target.name) as temporary:
                fetch(temporary)
                temporary.replace(target)
        return file.size

    def publish(self, vault: Vault) -> int:
        """Write the catalogue, then the pages that differ; return the number of pages written.

        Raises:
            DiskError: they cannot be written.
        """
        self._write_catalogue(vault)
        changed = {path: content for path, content in pages_of(vault).items() if not self._is(path, content)}
        for path, content in changed.items():
            write_bytes(self.path / path, content)
        return len(changed)

    def flaws(self, vault: Vault, advance: Callable[[int], object]) -> Iterator[tuple[str, str]]:
        """Yield the path and the flaw of each file and page that is not as the catalogue has it."""
        for file in vault.files:
            if flaw := self._flaw(file.path, file.sha256):
                yield file.path, flaw
            if file.metadata and (flaw := self._flaw(file.metadata_path, file.metadata)):
                yield file.metadata_path, flaw
            advance(file.size)
        for path, content in pages_of(vault).items():
            if not self._is(path, content):
                yield path, "is missing or differs from the catalogue"
        listed = {name for file in vault.files for name in (file.path, file.metadata_path)}
        for stored in sorted((self.path / _FILES).rglob("*")):
            name = stored.relative_to(self.path).as_posix()
            if stored.is_file() and name not in listed and not is_left_over(stored.name):
                yield name, "is not in the catalogue"

    def _flaw(self, path: str, sha256: str) -> str | None:
        try:
            actual = sha256_of(self.path / path)
        except OSError as error:
            return "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        return None if actual == sha256 else f"has sha256 {actual}"

    def _is(self, path: str, content: bytes) -> bool:
        file = self.path / path
        return file.is_file() and file.read_bytes() == content

    def _write_catalogue(self, vault: Vault) -> None:
        content = catalogue_bytes(vault)
        if not self._is(CATALOGUE, content):
            write_bytes(self.path / CATALOGUE, content)


def catalogue_bytes(vault: Vault) -> bytes:
    """Return the bytes of a catalogue, which depend on its content only."""
    return (json.dumps(records.to_json(vault), indent=1, sort_keys=True) + "\n").encode()


def metadata_digest(metadata: bytes) -> str:
    """Return the sha256 of a METADATA file."""
    return hashlib.sha256(metadata).hexdigest()


def _link_or_copy(source: Path, target: Path) -> int:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        with temp_file(target.parent, target.name) as temporary:
            shutil.copyfile(source, temporary)
            temporary.replace(target)
        return target.stat().st_size
    return 0
