"""Checks whether the configured vaults can be read: where the index answers, a run does without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.project.doctor.check_table import ok, problem
from builder.remote.addresses import scrub
from builder.remote.vault.vault_reader import vault_at
from builder.remote.vault.vaulted_files import vault_locations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.project.doctor.check_table import Check, DoctorContext


def check(case: DoctorContext) -> Iterator[Check]:
    """Read the catalogue of each vault."""
    config = case.session.config
    for location in vault_locations(config):
        try:
            reader = vault_at(location, config)
            yield ok("vault", f"{reader.location}: {len(reader.contents().files)} files")
        except JbuildError as error:
            text = f"{scrub(location)}: {error.message}"
            yield problem("vault", "unreadable", text, fix=error.hint or "correct `vault` in jbuild.toml")
