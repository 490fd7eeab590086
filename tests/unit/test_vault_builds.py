"""Builds in vaults: their sources, tools and requirements, and the wheels that were built."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cell_builds import SOURCE, build_of
from factories import make_job, make_lock, make_wheel

from builder.foundry.fetched_files import input_path
from builder.foundry.vaulted_wheel import vaulted_wheel
from builder.host import records
from builder.host.config import Config
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


def cached_build(tmp_path: Path, session: Session) -> LockedBuild:
    """A build whose source, requirement and wheel are in the cache."""
    archive = tmp_path / "ext-1.0.tar.gz"
    archive.write_bytes(b"a source")
    source = replace(SOURCE, sha256=sha256_of(archive), size=None)
    build = replace(build_of(source=source), requirements=(in_wheelhouse(tmp_path, "setuptools", "80.0", session),))
    target = input_path(session.workspace, source.sha256, archive.name)
    target.parent.mkdir(parents=True)
    archive.rename(target)
    wheel = in_wheelhouse(tmp_path, "ext", "1.0", session, url=f"urn:jbuild:wheel:{build.fingerprint}")
    built = BuiltWheel(fingerprint=build.fingerprint, wheel=wheel, origin="built")
    records.write(session.workspace.built(build.fingerprint), build.fingerprint, built)
    return build


def in_wheelhouse(tmp_path: Path, name: str, version: str, session: Session, url: str = "https://x/y") -> LockedWheel:
    path = make_wheel(tmp_path, name, version)
    sha256 = sha256_of(path)
    target = session.workspace.wheel(sha256, path.name)
    target.parent.mkdir(parents=True)
    path.rename(target)
    return LockedWheel(name=name, version=version, filename=target.name, url=url, sha256=sha256)


def test_a_vault_has_the_inputs_of_builds_and_gives_their_wheels(tmp_path: Path, session: Session) -> None:
    build, job, folder = cached_build(tmp_path, session), make_job(), VaultFolder(tmp_path / "vault")
    stored = fetch_builds(job, replace(make_lock(), builds=(build,)), session)
    kinds = {item.file.filename: (item.file.kind, item.file.indexes) for item in stored}
    assert kinds == {
        "setuptools-80.0-py3-none-any.whl": ("wheel", ("default",)),
        "ext-1.0.tar.gz": ("sdist", ("default",)),
        "ext-1.0-py3-none-any.whl": ("wheel", ("built",)),
    }
    with folder.changing(session.workspace) as before:
        for item in stored:
            folder.store(item.file, item.source, item.metadata)
        folder.publish(merged(before, [item.file for item in stored], "vault"))
    rule = IndexMirror(vault=str(folder.path))
    empty = replace(session.workspace, cache=tmp_path / "empty")
    other = Session(workspace=empty, config=Config(index_mirrors=(rule,)), console=session.console)
    found = vaulted_wheel(build, other)
    assert found
    assert (found.origin, found.wheel.filename) == (f"vault:{folder.path}", "ext-1.0-py3-none-any.whl")
    assert empty.wheel(found.wheel.sha256, found.wheel.filename).is_file()
    assert vaulted_wheel(replace(build, version="2.0"), other) is None
