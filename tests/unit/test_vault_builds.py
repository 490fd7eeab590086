"""Builds in vaults: their sources, tools and requirements, and the wheels that were built."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from build_factory import GCC, SDIST, make_build, make_tool
from built_wheels import raw_wheel
from factories import make_job, make_lock, make_wheel

from builder.foundry.fetched_files import input_path
from builder.foundry.finish_wheel import finish_wheel
from builder.foundry.vaulted_wheel import vaulted_wheel
from builder.host import records
from builder.host.config import Config
from builder.host.console import Console
from builder.host.files import sha256_of
from builder.host.index_mirrors import IndexMirror
from builder.host.session import Session
from builder.model.builds import BuiltWheel
from builder.model.wheels import LockedWheel
from builder.publish.vault.build_files import fetch_builds
from builder.publish.vault.vault_folder import VaultFolder
from builder.publish.vault.vault_merge import merged

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.builds import LockedBuild
    from builder.publish.vault.wheel_files import StoredFile


def cached_build(
    tmp_path: Path, session: Session, wheel_of: LockedBuild | None = None, *, renamed: bool = False
) -> LockedBuild:
    """A build whose source, requirement and wheel are in the cache; `wheel_of` is what the wheel was built from."""
    archive = tmp_path / "demo-1.0.tar.gz"
    archive.write_bytes(b"a source")
    source = replace(SDIST, sha256=sha256_of(archive))
    requirement = locked_at(make_wheel(tmp_path, "setuptools", "80.0"), "80.0", session)
    package = tmp_path / GCC
    package.write_bytes(b"a compiler")
    build = make_build(
        source=source,
        patches=(),
        tools=(make_tool(sha256=sha256_of(package)),),
        requirements=(requirement,),
    )
    for path in (archive, package):
        target = input_path(session.workspace, sha256_of(path), path.name)
        target.parent.mkdir(parents=True)
        path.rename(target)
    built = finish_wheel(raw_wheel(tmp_path), wheel_of or build, tmp_path / "out")
    path = tmp_path / "out" / built.wheel.filename
    if renamed:
        path = path.rename(path.with_name(path.name.replace(built.fingerprint[:8], build.fingerprint[:8])))
    url = f"urn:jbuild:wheel:{build.fingerprint}"
    wheel = replace(locked_at(path, built.wheel.version, session), name="demo", url=url)
    noted = BuiltWheel(fingerprint=build.fingerprint, wheel=wheel, origin="built")
    records.write(session.workspace.built(build.fingerprint), build.fingerprint, noted)
    return build


def locked_at(path: Path, version: str, session: Session) -> LockedWheel:
    """Move a wheel into the wheelhouse."""
    sha256 = sha256_of(path)
    target = session.workspace.wheel(sha256, path.name)
    target.parent.mkdir(parents=True)
    path.rename(target)
    name = path.name.partition("-")[0]
    return LockedWheel(name=name, version=version, filename=path.name, url="https://x/y", sha256=sha256)


def vault_of(build: LockedBuild, folder: VaultFolder, session: Session) -> list[StoredFile]:
    """Write a vault with the inputs of a build and its wheel."""
    stored = list(fetch_builds(make_job(), replace(make_lock(), builds=(build,)), session))
    with folder.changing(session.workspace) as before:
        for item in stored:
            folder.store(item.file, item.source, item.metadata)
        folder.publish(merged(before, [item.file for item in stored], "vault"))
    return stored


def other_machine(folder: VaultFolder, tmp_path: Path, session: Session) -> Session:
    """Return a session with an empty cache and the vault."""
    empty = replace(session.workspace, cache=tmp_path / "empty")
    config = Config(index_mirrors=(IndexMirror(vault=str(folder.path)),))
    return Session(workspace=empty, config=config, console=Console())


def test_a_vault_has_the_inputs_of_builds_and_gives_their_wheels(tmp_path: Path, session: Session) -> None:
    build, folder = cached_build(tmp_path, session), VaultFolder(tmp_path / "vault")
    stored = vault_of(build, folder, session)
    name = next(session.workspace.wheels.rglob("demo-*.whl")).name
    kinds = {item.file.filename: (item.file.kind, item.file.indexes) for item in stored}
    assert kinds == {
        "setuptools-80.0-py3-none-any.whl": ("wheel", ("default",)),
        "demo-1.0.tar.gz": ("sdist", ("default",)),
        GCC: ("file", ()),
        name: ("wheel", ("built",)),
    }
    other = other_machine(folder, tmp_path, session)
    found = vaulted_wheel(build, other)
    assert found
    assert (found.origin, found.wheel.filename) == (f"vault:{folder.path}", name)
    assert other.workspace.wheel(found.wheel.sha256, found.wheel.filename).is_file()
    assert vaulted_wheel(replace(build, version="2.0"), other) is None


@pytest.mark.parametrize(
    ("renamed", "reason"),
    [
        (False, "which is not a wheel of this build"),
        (True, "the provenance inside the wheel states other inputs"),
    ],
)
def test_a_wheel_of_a_vault_that_was_built_from_other_inputs_does_not_count(
    renamed: bool, reason: str, tmp_path: Path, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    build = cached_build(tmp_path, session, wheel_of=make_build(environment=(("EVIL", "1"),)), renamed=renamed)
    folder = VaultFolder(tmp_path / "vault")
    vault_of(build, folder, session)
    other = other_machine(folder, tmp_path, session)
    assert vaulted_wheel(build, other) is None
    assert reason in capsys.readouterr().err
    assert not list(other.workspace.wheels.rglob("*.whl"))
