"""Records of models: only what is safe to lay into a folder can be in them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.host import records
from builder.model.model_files import LockedModel, ModelFile, path_flaw, printable_path, suffix_of

SHA = "ab" * 32
PARTS = st.sampled_from(["a", "..", ".", "", "b c", "é", "\n", "\\", "~", "-x", "\udcff", "x" * 256]) | st.text(
    max_size=4
)


@given(st.lists(PARTS, min_size=1, max_size=4).map("/".join))
def test_a_path_without_flaw_stays_inside_and_can_be_shown(path: str) -> None:
    if path_flaw(path) is not None:
        return
    root = Path("/somewhere/model")
    assert (root / path).is_relative_to(root)
    assert ".." not in PurePosixPath(path).parts
    assert str(root / path) == f"{root}/{path}"
    assert path.isprintable()
    path.encode()


@pytest.mark.parametrize(
    "path", ["config.json", "1_Pooling/config.json", "模型.safetensors", "a b.txt", "..a", ".hidden", "-rf"]
)
def test_usual_paths_have_no_flaw(path: str) -> None:
    assert path_flaw(path) is None


@pytest.mark.parametrize(
    ("path", "flaw"),
    [
        ("../a", "is not a plain relative path"),
        ("a/../b", "is not a plain relative path"),
        ("/etc/passwd", "is not a plain relative path"),
        ("a//b", "is not a plain relative path"),
        ("", "is not a plain relative path"),
        ("a\nb", "has a name with control characters, or one that is not UTF-8"),
        ("a\x00b", "has a name with control characters, or one that is not UTF-8"),
        ("a\u202eb", "has a name with control characters, or one that is not UTF-8"),
        ("a\udcffb", "has a name with control characters, or one that is not UTF-8"),
        ("a\\b", "has a backslash in its name"),
        ("é" * 200, "has a name of more than 255 bytes"),
    ],
)
def test_flaws_are_named(path: str, flaw: str) -> None:
    assert path_flaw(path) == flaw
    with pytest.raises(ValueError):
        ModelFile(path=path, sha256=SHA, size=1)


@pytest.mark.parametrize(("sha256", "size"), [("", 1), ("../" * 21 + "a", 1), (SHA.upper(), 1), (SHA, -1)])
def test_a_file_needs_hash_and_size(sha256: str, size: int) -> None:
    with pytest.raises(ValueError):
        ModelFile(path="a", sha256=sha256, size=size)


def locked(**values: object) -> LockedModel:
    files = tuple(ModelFile(path=path, sha256=SHA, size=2) for path in ("a", "b"))
    return LockedModel(**{"name": "m", "source": "./m", "origin": "folder", "files": files, **values})  # type: ignore[arg-type]


def test_a_model_has_a_size() -> None:
    assert locked().size == 4


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a b", "a\n"])
def test_a_name_is_one_plain_part(name: str) -> None:
    with pytest.raises(ValueError):
        locked(name=name)


def test_files_are_sorted_and_distinct() -> None:
    a, b = locked().files
    for files in ((b, a), (a, a)):
        with pytest.raises(ValueError):
            locked(files=files)


def test_survives_a_lock_file_and_damage_does_not() -> None:
    plain = records.to_json(locked(revision="c" * 40, stand_in="why"))
    assert records.from_json(plain, LockedModel) == locked(revision="c" * 40, stand_in="why")
    short = {key: value for key, value in records.to_json(locked()).items() if value is not None}
    assert records.from_json(short, LockedModel) == locked()
    plain["files"][0]["path"] = "../../.bashrc"
    with pytest.raises(ValueError, match="is not a plain relative path"):
        records.from_json(plain, LockedModel)


def test_names_are_shown_without_harm() -> None:
    assert printable_path("a\nb\udcff") == "a\\nb\\udcff"
    assert printable_path("模型") == "模型"
    assert suffix_of("A/Model.SafeTensors") == "safetensors"
