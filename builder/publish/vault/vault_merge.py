"""Adds files to a vault's catalogue: what is there stays as it is, and no name gets other bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from builder.errors import IntegrityError
from builder.model.vaults import Vault

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.model.vaults import VaultFile, VaultOrigin


def merged(vault: Vault, added: Iterable[VaultFile], location: str) -> Vault:
    """Return a vault with more files, and with the further origins of files that it has.

    Raises:
        IntegrityError: an index has two files of one name.
    """
    files = vault.by_content()
    for file in added:
        key = (file.sha256, file.filename)
        present = files.get(key)
        files[key] = file if present is None else replace(present, origins=_origins(present, file))
    result = Vault(files=tuple(files.values()))
    _refuse_changed(result, location)
    return result


def _origins(present: VaultFile, file: VaultFile) -> tuple[VaultOrigin, ...]:
    return tuple(dict.fromkeys((*present.origins, *file.origins)))


def _refuse_changed(vault: Vault, location: str) -> None:
    """Refuse a catalogue in which an index has two files of one name.

    Raises:
        IntegrityError: one has.
    """
    named: dict[tuple[str, str], VaultFile] = {}
    for file in vault.files:
        for index in file.indexes:
            first = named.setdefault((index, file.filename), file)
            if first is not file:
                raise _changed(first, file, index, location)


def _changed(first: VaultFile, second: VaultFile, index: str, location: str) -> IntegrityError:
    locks = next(origin.lock for origin in second.origins if origin.index == index)
    earlier = next(origin.lock for origin in first.origins if origin.index == index)
    return IntegrityError(
        f"{second.filename} of the index {index} has two contents: the vault has sha256 {first.sha256} (of {earlier}), "
        f"and {locks} has {second.sha256}",
        where=location,
        hint="the index replaced the file under its name: find out why; a vault never changes a file, so write the "
        "other one into another folder",
    )
