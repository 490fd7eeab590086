"""The first difference of two images: real layouts of small layers, changed in one thing at a time."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from builder.image.build.reproduce import first_difference
from builder.image.oci.layout import read_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.model.images import Image

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "+zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    "+gzip": lambda data: gzip.compress(data, mtime=0),
    "": lambda data: data,
}
File = dict[str, Any]
BASE: list[File] = [{"name": "etc", "type": tarfile.DIRTYPE, "mode": 0o755}, {"name": "etc/os", "content": b"base"}]
OURS: list[File] = [
    {"name": "opt/a.py", "content": b"x = 1\n"},
    {"name": "opt/b.py", "content": b"y = 1\n", "mode": 0o644},
    {"name": "opt/link", "type": tarfile.SYMTYPE, "linkname": "a.py"},
]


def layer(files: list[File]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in files:
            content = file.get("content", b"")
            member = tarfile.TarInfo(file["name"])
            member.size, member.mtime = len(content), 315532800
            for key, value in file.items():
                if key not in ("name", "content"):
                    setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def image(layout: Path, *layers: list[File], kind: str = "+zstd", **config: Any) -> tuple[Image, Path]:
    def put(content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        path = layout / "blobs" / "sha256" / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    made = ["ADD rootfs.tar / # buildkit", "COPY layers/torch-0123/ / # buildkit"]
    history: list[dict[str, Any]] = [{"created_by": text} for text in made]
    history.insert(1, {"created_by": "ENV A=b", "empty_layer": True})
    body = {"config": {"Env": ["A=b"]}, "history": history, **config}
    described = put(json.dumps(body).encode())
    media = f"application/vnd.oci.image.layer.v1.tar{kind}"
    rows = [{**put(COMPRESSIONS[kind](layer(files))), "mediaType": media} for files in layers]
    manifest = {"config": {**described, "mediaType": "c"}, "layers": rows}
    return read_image(layout, put(json.dumps(manifest).encode())["digest"], "linux/arm64"), layout


def changed(**changes: Any) -> list[File]:
    return [OURS[0], {**OURS[1], **changes}, OURS[2]]


def words(tmp_path: Path, *layers: list[File], kind: str = "+zstd", **config: Any) -> str | None:
    found = first_difference(
        *image(tmp_path / "one", BASE, OURS, kind=kind), *image(tmp_path / "two", *layers, kind=kind, **config)
    )
    return found.words if found else None


def test_the_same_image_twice(tmp_path: Path) -> None:
    assert words(tmp_path, BASE, OURS) is None


@pytest.mark.parametrize("kind", COMPRESSIONS)
@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"mode": 0o755}, "mode 0o644 and 0o755"),
        ({"mtime": 7}, "time 315532800 and 7"),
        ({"uid": 5}, "owner 0:0 and 5:0"),
        ({"content": b"y = 22\n"}, "size 6 and 7, sha256 "),
        ({"content": b"y = 2\n"}, "sha256 "),
        ({"pax_headers": {"SCHILY.xattr.user.x": "1"}}, "extended attributes {} and {'SCHILY.xattr.user.x': '1'}"),
    ],
)
def test_one_file_that_differs(tmp_path: Path, kind: str, changes: dict[str, Any], what: str) -> None:
    found = words(tmp_path, BASE, changed(**changes), kind=kind)
    assert str(found).startswith(f"COPY layers/torch-0123/ /: /opt/b.py: {what}")


def test_a_link_that_points_elsewhere(tmp_path: Path) -> None:
    other = [*OURS[:2], {**OURS[2], "linkname": "b.py"}]
    assert words(tmp_path, BASE, other) == "COPY layers/torch-0123/ /: /opt/link: target a.py and b.py"


@pytest.mark.parametrize(
    ("files", "name"),
    [(OURS[:2], "opt/link"), ([OURS[0], OURS[2]], "opt/b.py"), ([*OURS, {"name": "opt/new"}], "opt/new")],
)
def test_a_file_that_only_one_has(tmp_path: Path, files: list[File], name: str) -> None:
    said = f"COPY layers/torch-0123/ /: /{name}: only in one image, or in another order"
    assert words(tmp_path, BASE, files) == said


def test_the_lowest_layer_comes_first(tmp_path: Path) -> None:
    base = [BASE[0], {**BASE[1], "content": b"other"}]
    assert str(words(tmp_path, base, changed(mode=0o755))).startswith("ADD rootfs.tar /: /etc/os: ")


def test_another_count_of_layers(tmp_path: Path) -> None:
    assert words(tmp_path, BASE) == "layer 2: only one of the images has it"
    assert words(tmp_path, BASE, OURS, OURS) == "layer 3: only one of the images has it"


def test_the_configuration(tmp_path: Path) -> None:
    assert words(tmp_path, BASE, OURS, config={"Env": ["A=c"]}) == "the configuration: config.Env differs"
    assert words(tmp_path, BASE, OURS, created="x") == "the configuration: created differs"


def test_another_compression_of_the_same_files(tmp_path: Path) -> None:
    found = first_difference(*image(tmp_path / "one", BASE, OURS), *image(tmp_path / "two", BASE, OURS, kind="+gzip"))
    assert found
    assert found.words == "ADD rootfs.tar /: the same files, compressed differently"
