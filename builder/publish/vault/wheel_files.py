"""Wheels of the wheelhouse as files of a vault, with their METADATA."""

from __future__ import annotations

from dataclasses import dataclass
from email.parser import BytesHeaderParser
from typing import TYPE_CHECKING

from builder.host.index_rows import DEFAULT
from builder.model.vaults import VaultFile, VaultOrigin
from builder.publish.vault.vault_folder import metadata_digest
from builder.remote import wheelhouse
from builder.remote.index.remote_wheel import metadata_of, with_archive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.locks import LockedWheel


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """A file to add to a vault, its copy in the cache, and its METADATA if it is a wheel."""

    file: VaultFile
    source: Path
    metadata: bytes | None = None


def fetch_wheels(wheels: Sequence[LockedWheel], lock: str, session: Session) -> list[StoredFile]:
    """Return wheels that a lock (`RECIPE/CELL`) names, after fetching those that the wheelhouse lacks.

    Raises:
        NetworkError, IntegrityError, DiskError: a wheel cannot be fetched.
    """
    distinct = tuple({wheel.sha256: wheel for wheel in wheels}.values())
    wheelhouse.fetch(distinct, session)
    return [
        stored_wheel_file(wheel, VaultOrigin(index=wheel.index or DEFAULT, url=wheel.url, lock=lock), session)
        for wheel in distinct
    ]


def stored_wheel_file(wheel: LockedWheel, origin: VaultOrigin, session: Session) -> StoredFile:
    """Return a wheel of the wheelhouse as a file of a vault."""
    source = session.workspace.wheel(wheel.sha256, wheel.filename)
    with source.open("rb") as content:
        metadata = with_archive(content, metadata_of)
    required = BytesHeaderParser().parsebytes(metadata).get("Requires-Python")
    file = VaultFile(
        filename=wheel.filename,
        sha256=wheel.sha256,
        size=source.stat().st_size,
        kind="wheel",
        origins=(origin,),
        project=wheel.name,
        metadata=metadata_digest(metadata),
        requires_python=str(required).strip() if required else None,
    )
    return StoredFile(file=file, source=source, metadata=metadata)
