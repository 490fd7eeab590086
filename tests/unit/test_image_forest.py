"""Laying trees together by hard link."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from builder.image.render.context import link_tree
from builder.image.wheels.tree import EPOCH


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (EPOCH, EPOCH))
    return root


def test_files_are_hard_links(tmp_path: Path) -> None:
    one = tree(tmp_path / "one", {"opt/a/x.py": "1"})
    two = tree(tmp_path / "two", {"opt/a/y.py": "2", "opt/b/z.py": "3"})
    link_tree([one, two], tmp_path / "out")
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.py")) == [
        *("opt/a/x.py", "opt/a/y.py", "opt/b/z.py"),
    ]
    assert (tmp_path / "out/opt/a/x.py").stat().st_ino == (one / "opt/a/x.py").stat().st_ino


def test_folders_get_one_time_and_mode(tmp_path: Path) -> None:
    one = tree(tmp_path / "one", {"opt/a/b/x": "1"})
    (one / "opt/a").chmod(0o700)
    link_tree([one], tmp_path / "out")
    for base, _, _ in os.walk(tmp_path / "out"):
        assert stat.S_IMODE(Path(base).stat().st_mode) == 0o755
        assert Path(base).stat().st_mtime == EPOCH


def test_where_two_own_a_file_the_later_one_wins_and_no_tree_changes(tmp_path: Path) -> None:
    one, two = tree(tmp_path / "one", {"x": "1"}), tree(tmp_path / "two", {"x": "2"})
    link_tree([one, two], tmp_path / "out")
    assert (tmp_path / "out/x").read_text() == "2"
    assert ((one / "x").read_text(), (two / "x").read_text()) == ("1", "2")


@pytest.mark.parametrize(("first", "second"), [("x", "x/y"), ("x/y", "x")])
def test_where_a_file_meets_a_folder_the_later_one_wins(tmp_path: Path, first: str, second: str) -> None:
    one, two = tree(tmp_path / "one", {first: "1"}), tree(tmp_path / "two", {second: "2"})
    link_tree([one, two], tmp_path / "out")
    assert (tmp_path / "out" / second).read_text() == "2"
    assert (one / first).read_text() == "1"


def test_links_stay_links(tmp_path: Path) -> None:
    one = tree(tmp_path / "one", {"real/x": "1"})
    (one / "link").symlink_to("real")
    (one / "broken").symlink_to("/no/such/file")
    link_tree([one, one], tmp_path / "out")
    assert (tmp_path / "out/link").readlink() == Path("real")
    assert (tmp_path / "out/broken").is_symlink()


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP])
def test_where_links_cannot_be_made_files_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    one, two = tree(tmp_path / "one", {"a/x": "1", "y": "2"}), tree(tmp_path / "two", {"y": "3"})
    (one / "a/x").chmod(0o755)
    os.utime(one / "a/x", (EPOCH, EPOCH))
    (one / "link").symlink_to("y")

    def refuse(source: str, destination: str, **_: object) -> None:
        if os.path.lexists(destination):
            raise FileExistsError(errno.EEXIST, "exists")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    link_tree([one, two], tmp_path / "out")
    copy = tmp_path / "out/a/x"
    assert copy.read_text() == "1"
    assert copy.stat().st_ino != (one / "a/x").stat().st_ino
    assert (copy.stat().st_mtime, stat.S_IMODE(copy.stat().st_mode)) == (EPOCH, 0o755)
    assert (tmp_path / "out/y").read_text() == "3"
    assert (tmp_path / "out/link").is_symlink()


def test_other_failures_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="full"):
        link_tree([tree(tmp_path / "one", {"x": "1"})], tmp_path / "out")


def test_no_trees_give_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    link_tree([], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
