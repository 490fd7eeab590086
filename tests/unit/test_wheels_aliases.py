"""Metadata that distributions would write when first imported."""

from __future__ import annotations

import sys
from importlib.metadata import PathDistribution
from typing import TYPE_CHECKING

from factories import locked, make_wheel

from builder.image.wheels.tree import aliases, unpack, unpacking, write_aliases
from builder.model.images import site_packages

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.paths import Workspace

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_every_row_has_a_source_and_a_folder_of_its_own() -> None:
    rows = aliases()
    assert rows
    assert all(row.source for row in rows)
    assert all(row.folder.endswith(".dist-info") and "/" not in row.folder for row in rows)


def test_what_is_written_is_metadata(tmp_path: Path) -> None:
    for row in aliases():
        name = row.wheels.replace("*", "x")
        write_aliases(name, "0.15.1", tmp_path)
        found = PathDistribution(tmp_path / row.folder)
        assert found.metadata["Name"] == row.name
        assert found.version == row.version.format(version="0.15.1")
        assert [str(path) for path in found.files or ()] == [f"{row.folder}/METADATA", f"{row.folder}/RECORD"]


def test_other_distributions_write_nothing(tmp_path: Path) -> None:
    write_aliases("some-other-thing", "1.0", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_tree_holds_them(workspace: Workspace, tmp_path: Path) -> None:
    row = aliases()[0]
    path = make_wheel(tmp_path, row.wheels.replace("*", "x"), "1.0")
    wheel = locked(path)
    target = workspace.wheel(wheel.sha256, wheel.filename)
    target.parent.mkdir(parents=True)
    target.write_bytes(path.read_bytes())
    work = unpacking(wheel, PYTHON, None, workspace)
    unpack(work)
    assert (work.tree / site_packages(PYTHON).lstrip("/") / row.folder / "METADATA").is_file()
