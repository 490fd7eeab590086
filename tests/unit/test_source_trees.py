"""Commits and folders in vaults: the same bytes for the same files, and a build where the source is gone."""

from __future__ import annotations

import os
import subprocess
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from build_factory import make_build
from factories import make_job, make_lock

from builder.errors import IntegrityError, LockError
from builder.foundry.build_source import unpack_source
from builder.foundry.source_trees import packed_name
from builder.host.config import Config
from builder.host.files import sha256_of
from builder.host.index_mirrors import IndexMirror
from builder.host.session import Session
from builder.host.source_hash import pack_source, source_hash
from builder.lock.git_commit import checkout
from builder.model.builds import BuildInput, BuildSource
from builder.publish.vault.build_files import fetch_builds
from builder.publish.vault.vault_folder import VaultFolder
from builder.publish.vault.vault_merge import merged

if TYPE_CHECKING:
    from pathlib import Path


def fill(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/run.sh").write_text("#!/bin/sh\n")
    (folder / "sub/run.sh").chmod(0o775)
    (folder / "lib.h").write_text("const int answer = 42;\n")
    (folder / "link.h").symlink_to("lib.h")
    (folder / "twin.h").hardlink_to(folder / "lib.h")
    return folder


@pytest.fixture
def folder(session: Session) -> BuildSource:
    path = fill(session.workspace.project / "vendor/lib")
    return BuildSource(kind="folder", location="vendor/lib", sha256=source_hash(path))


@pytest.fixture
def commit(session: Session, tmp_path: Path) -> BuildSource:
    path = fill(tmp_path / "repository")
    git = ["git", "-C", str(path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for step in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *step], check=True)
    digits = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    tree = checkout(path.as_uri(), digits, session)
    return BuildSource(kind="git", location=path.as_uri(), sha256=source_hash(tree), commit=digits)


def vault_with(source: BuildSource, used: BuildSource, session: Session, path: Path) -> Path:
    """Write a vault with the sources of a build."""
    build = make_build(
        source=source, patches=(), tools=(), requirements=(), inputs=(BuildInput(variable="LIB_DIR", source=used),)
    )
    stored = fetch_builds(make_job(), replace(make_lock(), builds=(build,)), session)
    vault = VaultFolder(path)
    with vault.changing(session.workspace) as before:
        for item in stored:
            vault.store(item.file, item.source, item.metadata)
        vault.publish(merged(before, [item.file for item in stored], "vault"))
    return path


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = fill(tmp_path / "one"), fill(tmp_path / "two")
    os.utime(second / "lib.h", (0, 0))
    (second / "sub/run.sh").chmod(0o700)
    (second / ".git").mkdir()
    (second / ".git/HEAD").touch()
    pack_source(first, tmp_path / "one.tar")
    pack_source(second, tmp_path / "two.tar")
    assert sha256_of(tmp_path / "one.tar") == sha256_of(tmp_path / "two.tar")
    with tarfile.open(tmp_path / "one.tar") as archive:
        assert archive.getnames() == ["lib.h", "link.h", "sub/run.sh", "twin.h"]


def test_a_vault_gives_the_sources_of_a_machine_that_lacks_them(
    session: Session, folder: BuildSource, commit: BuildSource, tmp_path: Path
) -> None:
    vault = vault_with(folder, commit, session, tmp_path / "vault")
    (tmp_path / "repository").rename(tmp_path / "gone")
    empty = replace(session.workspace, project=tmp_path / "other", cache=tmp_path / "empty")
    config = Config(index_mirrors=(IndexMirror(vault=str(vault)),))
    other = Session(workspace=empty, config=config, console=session.console)
    for number, source in enumerate((folder, commit)):
        target = tmp_path / f"out{number}"
        target.mkdir()
        unpack_source(source, target, other)
        assert source_hash(target) == source.sha256
        assert (target / "link.h").is_symlink()
    (tmp_path / "alone").mkdir()
    without = Session(workspace=replace(empty, cache=tmp_path / "bare"), config=Config(), console=session.console)
    with pytest.raises(LockError, match="git cannot fetch"):
        unpack_source(commit, tmp_path / "alone", without)


def test_an_archive_with_other_content_is_refused(session: Session, commit: BuildSource, tmp_path: Path) -> None:
    empty = replace(session.workspace, cache=tmp_path / "empty")
    other = Session(workspace=empty, config=Config(), console=session.console)
    path = empty.source(commit.sha256, packed_name(commit))
    path.parent.mkdir(parents=True)
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil/lib.h").write_text("another\n")
    pack_source(tmp_path / "evil", path)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        with pytest.raises(IntegrityError, match="another content than was locked"):
            unpack_source(commit, tmp_path / name, other)
        path.write_bytes(b"no archive")
