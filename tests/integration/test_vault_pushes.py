"""Pushes of two vaults to one tag at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from builder.errors import RegistryError
from builder.host.config import Config
from builder.host.console import Console
from builder.host.files import sha256_of
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.model.vaults import VaultFile, VaultOrigin
from builder.publish.registry_target import RegistryTarget
from builder.publish.vault.vault_folder import VaultFolder
from builder.publish.vault.vault_merge import merged
from builder.publish.vault.vault_registry import pull_vault, push_vault
from builder.remote.registry.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from servers import Registry


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A session with folders of its own."""
    workspace = Workspace(project=tmp_path, cache=tmp_path / "cache")
    return Session(workspace=workspace, config=Config(), console=Console(quiet=True))


def _vault(name: str, session: Session) -> VaultFolder:
    """Write a vault with one file."""
    path, folder = session.workspace.project / f"{name}.deb", VaultFolder(session.workspace.project / name)
    path.write_text(name)
    origin = VaultOrigin(index="x", url=f"https://archive.example/{name}.deb", lock="demo/one")
    size = path.stat().st_size
    file = VaultFile(filename=path.name, sha256=sha256_of(path), size=size, kind="file", origins=(origin,))
    with folder.changing(session.workspace) as before:
        folder.store(file, path, None)
        folder.publish(merged(before, [file], name))
    return folder


def _before_sending(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], times: int) -> None:
    """Make pushes first call `act`, so many times, but not the pushes that it makes itself."""
    original, left = RegistryTarget.send, [times]

    def call(*given: Any, **named: Any) -> Any:
        if left[0]:
            left[0], kept = 0, left[0] - 1
            act()
            left[0] = kept
        return original(*given, **named)

    monkeypatch.setattr(RegistryTarget, "send", call)


def test_a_push_during_a_push_loses_no_file(
    session: Session, shared_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = Reference.parse(f"{shared_registry.host}/vaults/during")
    first, second = _vault("first", session), _vault("second", session)
    _before_sending(monkeypatch, lambda: push_vault(second, reference, session), 1)
    assert push_vault(first, reference, session).files == 2
    both = VaultFolder(session.workspace.project / "both")
    pull_vault(reference, both, session)
    assert {file.filename for file in both.catalogue().files} == {"first.deb", "second.deb"}


def test_a_tag_that_others_set_all_the_time_is_one_error(
    session: Session, shared_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = Reference.parse(f"{shared_registry.host}/vaults/busy")
    others = iter([_vault(f"other{number}", session) for number in range(20)])
    mine = _vault("mine", session)
    _before_sending(monkeypatch, lambda: push_vault(next(others), reference, session), 20)
    with pytest.raises(RegistryError, match=r"others push to .* all the time") as caught:
        push_vault(mine, reference, session)
    assert caught.value.hint == "push again when they have finished"
