"""Sources of builds: hashes of folders, archives of an index, Git commits, and patches."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from builder.errors import BuildError, IntegrityError, LockError
from builder.foundry.build_source import unpack_source
from builder.foundry.fetched_files import input_path
from builder.foundry.source_patches import apply_patch, lock_patches
from builder.host.files import write_bytes
from builder.host.source_hash import source_hash
from builder.model.builds import BuildSource, BuildSpec

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session

PATCH = "--- a/setup.py\n+++ b/setup.py\n@@ -1 +1 @@\n-old = 1\n+new = 2\n"


@pytest.fixture
def folder(session: Session) -> Path:
    """A source in the project."""
    source = session.workspace.project / "demo"
    source.mkdir()
    (source / "setup.py").write_text("old = 1\n")
    return source


def _spec(session: Session, **changes: object) -> BuildSpec:
    return BuildSpec(name="demo", version="1.0", folder=session.workspace.project, **changes)  # type: ignore[arg-type]


def test_the_hash_of_a_folder_covers_content_names_modes_and_links(folder: Path) -> None:
    hashes = [source_hash(folder)]
    (folder / "a.py").write_text("a\n")
    hashes.append(source_hash(folder))
    (folder / "a.py").chmod(0o755)
    hashes.append(source_hash(folder))
    (folder / "b").symlink_to("a.py")
    hashes.append(source_hash(folder))
    assert len(set(hashes)) == 4


def test_results_of_other_tools_do_not_count(folder: Path) -> None:
    before = source_hash(folder)
    for name in (".git/HEAD", "build/x.o", "demo/__pycache__/a.pyc"):
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text("x")
    assert source_hash(folder) == before


def test_a_changed_folder_is_refused(session: Session, folder: Path, tmp_path: Path) -> None:
    source = BuildSource(kind="folder", location="demo", sha256=source_hash(folder))
    (folder / "setup.py").write_text("old = 2\n")
    with pytest.raises(IntegrityError, match="the source has changed since it was locked") as caught:
        unpack_source(source, tmp_path, session)
    assert "jbuild lock" in (caught.value.hint or "")


def test_an_archive_is_unpacked_without_its_top_folder(session: Session, tmp_path: Path) -> None:
    source = _cached_archive(session, {"demo-1.0/setup.py": b"old = 1\n"})
    (tmp_path / "out").mkdir()
    unpack_source(source, tmp_path / "out", session)
    assert (tmp_path / "out/setup.py").read_text() == "old = 1\n"


def test_an_archive_that_leaves_its_folder_is_refused(session: Session, tmp_path: Path) -> None:
    source = _cached_archive(session, {"../../evil.py": b"x"})
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildError, match="the source archive is damaged"):
        unpack_source(source, tmp_path / "out", session)


def _cached_archive(session: Session, members: dict[str, bytes]) -> BuildSource:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tarball:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tarball.addfile(entry, io.BytesIO(content))
    sha256 = hashlib.sha256(packed.getvalue()).hexdigest()
    write_bytes(input_path(session.workspace, sha256, "demo-1.0.tar.gz"), packed.getvalue())
    return BuildSource(kind="sdist", location="https://index.example/demo-1.0.tar.gz", sha256=sha256)


def test_a_commit_is_fetched_from_a_repository(session: Session, folder: Path, tmp_path: Path) -> None:
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for step in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *step], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    source = BuildSource(kind="git", location=folder.as_uri(), commit=commit, sha256=source_hash(folder))
    (tmp_path / "out").mkdir()
    unpack_source(source, tmp_path / "out", session)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["setup.py"]


def test_a_commit_that_does_not_exist_is_one_error(session: Session, folder: Path, tmp_path: Path) -> None:
    source = BuildSource(kind="git", location=folder.as_uri(), commit="0" * 40, sha256="a" * 64)
    with pytest.raises(LockError, match="git cannot fetch 0000"):
        unpack_source(source, tmp_path, session)
    assert not list((session.workspace.foundry / "checkouts").iterdir())


def test_a_patch_is_applied_from_the_cache_even_if_the_file_is_gone(session: Session, folder: Path) -> None:
    file = session.workspace.project / "fix.patch"
    file.write_text(PATCH)
    (patch,) = lock_patches(("fix.patch",), session.workspace.project, session.workspace)
    file.unlink()
    apply_patch(patch, folder, session.workspace)
    assert (folder / "setup.py").read_text() == "new = 2\n"


def test_a_patch_that_does_not_fit_is_one_error_and_changes_nothing(session: Session, folder: Path) -> None:
    (session.workspace.project / "fix.patch").write_text(PATCH.replace("old", "other"))
    (patch,) = lock_patches(("fix.patch",), session.workspace.project, session.workspace)
    with pytest.raises(BuildError, match="the patch does not fit the source") as caught:
        apply_patch(patch, folder, session.workspace)
    assert caught.value.where == "fix.patch"
    assert (folder / "setup.py").read_text() == "old = 1\n"


def test_a_changed_patch_without_a_copy_is_refused(session: Session, folder: Path) -> None:
    file = session.workspace.project / "fix.patch"
    file.write_text(PATCH)
    (patch,) = lock_patches(("fix.patch",), session.workspace.project, session.workspace)
    (session.workspace.foundry / "patches" / f"{patch.sha256}.patch").unlink()
    file.write_text(PATCH + "\n")
    with pytest.raises(IntegrityError, match="the patch has changed since it was locked"):
        apply_patch(patch, folder, session.workspace)
