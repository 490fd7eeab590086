"""Where files live, and that nobody ever reads half of one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from builder.errors import DiskError, UsageError
from builder.host import paths
from builder.host.files import atomic_file, atomic_folder, disk_errors, mark_used, move, sha256_of, write_text
from builder.host.paths import BundleWorkspace, Workspace, cache_folder, check_cache, project_folder, shipped


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_text(path, "hé\n")
    assert path.read_bytes() == "hé\n".encode()
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_see_the_old_file_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "tree"
    with atomic_folder(path) as folder:
        (folder / "a").write_text("1")
        assert not path.exists()
    assert (path / "a").read_text() == "1"
    assert path.stat().st_mode & 0o777 == 0o755
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_folder(tmp_path / "tree") as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "a").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_faster_process_stays(tmp_path: Path) -> None:
    path = tmp_path / "tree"
    with atomic_folder(path) as folder:
        (folder / "a").write_text("mine")
        with atomic_folder(path) as other:
            (other / "a").write_text("theirs")
    assert (path / "a").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(self: Path, *_: object, **__: object) -> None:
        with self.open("w") as file:
            file.write("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskError, match="the disk is full") as caught:
        write_text(path, "new")
    assert caught.value.exit_code == 12
    assert caught.value.where == str(path)
    assert "MB free" in (caught.value.hint or "")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_device_that_is_really_full() -> None:
    def fill() -> None:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")

    with pytest.raises(DiskError, match="the disk is full"), disk_errors(Path("/dev/full")):
        fill()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_what_cannot_be_written_says_where(tmp_path: Path, number: int) -> None:
    with pytest.raises(DiskError, match="cannot write") as caught, disk_errors(tmp_path):
        raise OSError(number, os.strerror(number), "/the/file")
    assert caught.value.where == "/the/file"


def test_other_failures_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "absent")


def test_free_space_is_told_for_a_path_that_does_not_exist_yet(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="full"), disk_errors(tmp_path / "a" / "b"):
        raise OSError(errno.EDQUOT, "quota")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JBUILD_CACHE", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("JBUILD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "jbuild"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache" / "jbuild"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EROFS])
def test_what_cannot_be_marked_as_used_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A cache of another user's, or on a disk that is only read."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "utime", refuse)
    assert mark_used(tmp_path / "file")
    assert not mark_used(tmp_path / "absent")


def test_a_file_is_moved_to_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if path.parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return usual(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "blob").write_bytes(b"content")
    move(tmp_path / "here" / "blob", tmp_path / "there" / "blob")
    assert (tmp_path / "there" / "blob").read_bytes() == b"content"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["blob"]


@pytest.mark.parametrize("marker", ["jbuild.toml", "jbuild.local.toml", "recipes/"])
def test_the_project_is_the_nearest_folder_with_a_marker(tmp_path: Path, marker: str) -> None:
    inner = tmp_path / "project" / "a" / "b"
    inner.mkdir(parents=True)
    target = tmp_path / "project" / marker
    target.mkdir() if marker.endswith("/") else target.touch()
    assert project_folder(inner) == tmp_path / "project"


def test_without_a_marker_the_project_is_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert project_folder() == tmp_path


def test_shipped_folders_are_found() -> None:
    assert (shipped("dockerfiles") / "Dockerfile.j2").is_file()
    assert list(shipped("recipes").glob("*.toml"))


def test_shipped_folders_inside_the_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "builder" / "share" / "recipes").mkdir(parents=True)
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "builder" / "host" / "paths.py"))
    assert shipped("recipes") == tmp_path / "builder" / "share" / "recipes"
    assert shipped("dockerfiles") == tmp_path / "dockerfiles"


def test_the_users_own_folders_come_first(workspace: Workspace) -> None:
    assert workspace.recipe_folders == (workspace.project / "recipes", shipped("recipes"))
    assert workspace.template_folders == (shipped("dockerfiles"),)


def test_in_a_checkout_a_folder_is_listed_once() -> None:
    here = Workspace(project=shipped("recipes").parent, cache=Path("/cache"))
    assert here.recipe_folders == (shipped("recipes"),)


def test_paths_of_a_cell(workspace: Workspace) -> None:
    assert workspace.lock("r", "c") == workspace.project / "locks" / "r" / "pylock.c.toml"
    cell = workspace.cell("r", "c")
    assert cell.dockerfile == workspace.project / "build" / "r" / "c" / "Dockerfile"
    assert cell.record("build") == cell.path / "build.json"


def test_paths_of_a_bundle(tmp_path: Path) -> None:
    workspace = BundleWorkspace(
        project=tmp_path / "bundle" / "project",
        cache=tmp_path / "cache",
        layout=tmp_path / "bundle",
        results=tmp_path / "bundle" / "verdict",
        digest=f"sha256:{'a' * 64}",
    )
    recipe = workspace.project / "recipes" / "demo.toml"
    assert workspace.images == tmp_path / "bundle"
    assert workspace.verdicts == tmp_path / "cache" / "verdicts"
    assert workspace.golden(recipe) == workspace.project / "recipes" / "golden" / "demo.toml"
    assert workspace.recorded_golden(recipe) == workspace.results / "golden" / "demo.toml"
    cell = workspace.cell("demo", "one")
    assert cell.record("smoke-gpu") == tmp_path / "cache" / "bundle-runs" / ("a" * 64) / "smoke-gpu.json"
    assert cell.smoke_log("gpu") == workspace.results / "smoke-gpu.log"
    assert Workspace.cell(workspace, "demo", "one").smoke_log("gpu").name == "smoke.log"


def test_a_cache_that_cannot_be_made_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="the cache cannot be used") as caught:
        check_cache(Workspace(project=tmp_path, cache=tmp_path / "file"))
    assert "JBUILD_CACHE" in str(caught.value.hint)


def test_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UsageError, match="no longer exists"):
        project_folder()
