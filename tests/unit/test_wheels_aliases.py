"""Metadata that distributions would write when first imported."""

from __future__ import annotations

from importlib.metadata import PathDistribution
from typing import TYPE_CHECKING

from factories import locked, make_wheel
from layer_files import installed

from builder.image.wheels.aliases import alias_files, aliases

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session


def test_every_row_has_a_source_and_a_folder_of_its_own() -> None:
    rows = aliases()
    assert rows
    assert all(row.source for row in rows)
    assert all(row.folder.endswith(".dist-info") and "/" not in row.folder for row in rows)


def test_what_is_written_is_metadata(tmp_path: Path) -> None:
    for row in aliases():
        name = row.wheels.replace("*", "x")
        for path, content in alias_files(name, "0.15.1"):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_bytes(content)
        found = PathDistribution(tmp_path / row.folder)
        assert found.metadata["Name"] == row.name
        assert found.version == row.version.format(version="0.15.1")
        assert [str(path) for path in found.files or ()] == [f"{row.folder}/METADATA", f"{row.folder}/RECORD"]


def test_other_distributions_write_nothing() -> None:
    assert list(alias_files("some-other-thing", "1.0")) == []


def test_a_layer_holds_them(session: Session, tmp_path: Path) -> None:
    row = aliases()[0]
    wheel = locked(make_wheel(tmp_path, row.wheels.replace("*", "x"), "1.0"))
    assert (installed(wheel, session).packages / row.folder / "METADATA").is_file()
