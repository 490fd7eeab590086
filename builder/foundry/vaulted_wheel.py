"""Built wheels out of the vaults of the configuration, by the fingerprint of their inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.utils import parse_wheel_filename

from builder.errors import JbuildError
from builder.foundry.wheel_agreement import require_agreement, require_name
from builder.model.builds import BuiltWheel
from builder.model.vaults import BUILT_INDEX
from builder.model.wheels import LockedWheel
from builder.remote import wheelhouse
from builder.remote.vault.vault_reader import vault_at
from builder.remote.vault.vaulted_files import vault_locations

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.builds import LockedBuild
    from builder.model.vaults import VaultFile


def vaulted_wheel(build: LockedBuild, session: Session) -> BuiltWheel | None:
    """Return the wheel of a build, fetched from the first vault that has it, or None.

    What a vault has counts only if the provenance inside the wheel states the build's inputs, as with registries.
    """
    for location in vault_locations(session.config):
        try:
            files = vault_at(location, session.config).contents().of_index(BUILT_INDEX)
            file = next((file for file in files if file.url_in(BUILT_INDEX).endswith(build.fingerprint)), None)
            if file:
                return _fetched(file, build, session, location)
        except JbuildError as error:
            # The wheel can be built.
            session.console.say(f"the built wheel of {build.name} cannot be taken from a vault: {error.message}")
    return None


def _fetched(file: VaultFile, build: LockedBuild, session: Session, location: str) -> BuiltWheel:
    require_name(file.filename, build)
    wheel = LockedWheel(
        name=build.name,
        version=str(parse_wheel_filename(file.filename)[1]),
        filename=file.filename,
        url=file.url_in(BUILT_INDEX),
        sha256=file.sha256,
        size=file.size,
    )
    wheelhouse.fetch([wheel], session)
    require_agreement(session.workspace.wheel(wheel.sha256, wheel.filename), build)
    return BuiltWheel(fingerprint=build.fingerprint, wheel=wheel, origin=f"vault:{location}")
