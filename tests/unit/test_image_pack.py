"""Tars and blobs of layers: readable by others' tools, the same bytes whoever packs them, packed once."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from builder.errors import BuildError, DiskError
from builder.host import tarball
from builder.host.config import LayerCompression
from builder.image.layers.layer import LayerWork
from builder.image.oci.layout import blob
from builder.image.oci.pack import compression_key, pack, pack_layer
from builder.model.images import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.config import Compression
    from builder.host.paths import Workspace
    from builder.image.oci.pack import Packed

# As file systems have them: any bytes but zero.
NAMES = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=130),
    st.binary(min_size=1, max_size=130).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"0"))),
)
LONG = "d" * 90 + "/" + "e" * 200 + ".py"


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A layer with what layers have, made in no particular order."""
    folder = tmp_path / "libraries-0123456789ab"
    for name, content in (
        ("opt/z.py", b"z"),
        ("opt/a/b.bin", os.urandom(3_000_000)),
        (f"opt/{LONG}", b""),
        ("a", b"a"),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o644)
    (folder / "opt/z.py").chmod(0o755)
    (folder / "opt/link").symlink_to("../a")
    (folder / "opt/naïve").write_text("☃")
    (folder / "opt/same").hardlink_to(folder / "opt/z.py")
    (folder / "opt/empty").mkdir()
    return folder


@dataclass(frozen=True)
class FolderLayer:
    """A folder as a layer; the contents of a stored one are in the cache."""

    folder: Path
    is_stored: bool = False
    size: int = 7
    wheels: tuple[()] = ()

    @property
    def name(self) -> str:
        return self.folder.name

    def segments(self, work: LayerWork) -> Iterator[bytes | tarball.Content]:
        work.advance(1)
        return tarball.segments(tarball.entries_below(self.folder))


def work_of(read: list[float] | None = None) -> LayerWork:
    return LayerWork(pool=None, scratch=Path("/nowhere"), advance=([] if read is None else read).append)


def packed(
    folder: Path,
    workspace: Workspace,
    compression: LayerCompression = LayerCompression(),  # noqa: B008  # frozen
    read: list[float] | None = None,
    *,
    stored: bool = False,
) -> Packed:
    return pack_layer(FolderLayer(folder, stored), work_of(read), compression, workspace, lambda: None)


def blocks_of(folder: Path) -> Iterator[bytes]:
    return tarball.blocks(tarball.segments(tarball.entries_below(folder)))


def tar_of(folder: Path) -> bytes:
    return b"".join(blocks_of(folder))


def test_tar_reads_what_was_written(layer: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(tar_of(layer))) as archive:
        found = {member.name: member for member in archive}
        assert archive.extractfile("opt/a/b.bin").read() == (layer / "opt/a/b.bin").read_bytes()  # type: ignore[union-attr]
        assert archive.extractfile("opt/same").read() == b"z"  # type: ignore[union-attr]
    assert set(found) == {str(path.relative_to(layer)) for path in layer.rglob("*")}
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in found.values()} == {(0, 0, "", "", EPOCH)}
    assert (found["opt/link"].linkname, found["opt/link"].issym()) == ("../a", True)
    assert (found["opt/z.py"].mode, found["a"].mode, found["opt"].mode) == (0o755, 0o644, 0o755)
    assert found["opt/same"].isreg()


@given(
    name=NAMES,
    kind=st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE]),
    mode=st.integers(0, 0o107777),
    size=st.one_of(st.integers(0, 1 << 20), st.integers(8**11 - 2, 1 << 40)),
    target=NAMES,
)
@example(name="a" * 100, kind=tarfile.REGTYPE, mode=0o644, size=8**11, target="b" * 101)
@example(name="\udcff" * 90, kind=tarfile.SYMTYPE, mode=0o644, size=0, target="\udc80é")
@example(name="é" * 100, kind=tarfile.DIRTYPE, mode=0o755, size=0, target="x")
def test_headers_are_those_of_tarfile(name: str, kind: bytes, mode: int, size: int, target: str) -> None:
    """Byte for byte, whatever names there are."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode & 0o7777, EPOCH
    entry.size = size if kind == tarfile.REGTYPE else 0
    entry.linkname = target if kind == tarfile.SYMTYPE else ""
    own = name if kind != tarfile.DIRTYPE or name.endswith("/") else f"{name}/"
    made = tarball.header(own, kind, mode, size=entry.size, target=entry.linkname)
    assert made == entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def test_a_folder_comes_before_what_is_in_it_and_names_are_sorted(layer: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(tar_of(layer))) as archive:
        names = archive.getnames()
    seen: set[str] = {""}
    for name in names:
        assert name.rpartition("/")[0] in seen
        seen.add(name)
    assert [n for n in names if "/" not in n] == ["a", "opt"]
    assert [n for n in names if n.count("/") == 1] == sorted((n for n in names if n.count("/") == 1), key=os.fsencode)


def test_a_device_is_refused(layer: Path, workspace: Workspace) -> None:
    os.mkfifo(layer / "opt/pipe")
    with pytest.raises(ValueError, match="/opt/pipe is neither"):
        tar_of(layer)
    with pytest.raises(BuildError, match="cannot be packed: /opt/pipe"):
        packed(layer, workspace)
    assert list(workspace.images.rglob("*")) == []


@pytest.mark.parametrize(("size", "said"), [(4, "became shorter"), (2, "became longer")])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, size: int, said: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with pytest.raises(OSError, match=said):
        list(tarball._content(str(path), size))


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_blob_and_diff_id(layer: Path, workspace: Workspace, compression: Compression) -> None:
    made = packed(layer, workspace, LayerCompression(compression))
    content = blob(workspace.images, made.blob.digest).read_bytes()
    assert hashlib.sha256(content).hexdigest() == made.blob.digest[7:]
    assert len(content) == made.blob.size
    unpacked = (
        zstandard.ZstdDecompressor().decompressobj().decompress(content)
        if compression == "zstd"
        else gzip.decompress(content)
    )
    assert unpacked == tar_of(layer)
    assert f"sha256:{hashlib.sha256(unpacked).hexdigest()}" == made.diff_id
    assert made.blob.media_type == f"application/vnd.oci.image.layer.v1.tar+{compression}"
    assert stat.S_IMODE(blob(workspace.images, made.blob.digest).stat().st_mode) == 0o644


def test_what_does_not_compress_is_stored_as_it_is(tmp_path: Path, workspace: Workspace) -> None:
    weights = tmp_path / "model-0123456789ab"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(os.urandom(9 << 20))
    made = packed(weights, workspace)
    assert made.blob.media_type == "application/vnd.oci.image.layer.v1.tar"
    assert made.blob.digest == made.diff_id
    assert blob(workspace.images, made.blob.digest).read_bytes() == tar_of(weights)
    (weights / "model.safetensors").write_bytes(os.urandom(1 << 14) * 576)
    other = pack(blocks_of(weights), LayerCompression(), workspace.images, lambda _: None)
    assert other.blob.media_type.endswith("+zstd"), "repeats itself: nearly nothing is left of it"
    assert other.blob.size < 1 << 20


def test_weights_that_compress_are_packed_by_the_first_level(tmp_path: Path, workspace: Workspace) -> None:
    """A model's layer by that level, all others by the usual one."""
    content = b"".join(bytes([at % 251, at >> 7 & 127]) * (at % 13) for at in range(60_000))
    layer = tmp_path / "model-tiny-0123456789ab"
    (layer / "models").mkdir(parents=True)
    (layer / "models" / "w.bin").write_bytes(content)
    made = packed(layer, workspace, stored=True)
    first = pack(blocks_of(layer), LayerCompression(level=1), workspace.images, lambda _: None)
    usual = pack(blocks_of(layer), LayerCompression(), workspace.images, lambda _: None)
    assert made == first
    assert made.diff_id == usual.diff_id
    assert made.blob.digest != usual.blob.digest


def test_the_number_of_processors_does_not_matter(
    layer: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = set()
    for count in (None, 1, 2, 7):
        monkeypatch.setattr("builder.image.oci.pack.os.cpu_count", lambda count=count: count)
        content = [bytes(range(256)) * 20_000, os.urandom(0), b"x" * 9_000_000, *([b"y" * 1000] * 4000)]
        found.add(pack(iter(content), LayerCompression(), workspace.images, lambda _: None).blob.digest)
    assert len(found) == 1


def test_the_same_files_give_the_same_blob_wherever_they_lie(layer: Path, workspace: Workspace, tmp_path: Path) -> None:
    made = packed(layer, workspace)
    other = tmp_path / "other" / layer.name
    for path in sorted(layer.rglob("*"), reverse=True):
        target = other / path.relative_to(layer)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            target.symlink_to(path.readlink())
        elif path.is_file():
            target.write_bytes(path.read_bytes())
            target.chmod(stat.S_IMODE(path.stat().st_mode))
        else:
            target.mkdir(exist_ok=True)
    assert tar_of(other) == tar_of(layer)
    assert pack(blocks_of(other), LayerCompression(), workspace.images, lambda _: None) == made


def test_a_layer_is_packed_once(layer: Path, workspace: Workspace) -> None:
    made = packed(layer, workspace)
    read: list[float] = []
    assert packed(layer, workspace, read=read) == made
    assert read == [7], "its size counts as read"
    assert packed(layer, workspace, LayerCompression("gzip"), read) != made
    assert packed(layer, workspace, LayerCompression(level=3)).diff_id == made.diff_id
    blob(workspace.images, made.blob.digest).unlink()
    assert packed(layer, workspace) == made
    assert blob(workspace.images, made.blob.digest).is_file()


def test_another_release_of_the_compressor_is_another_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    before = compression_key(LayerCompression("zstd"))
    monkeypatch.setattr(zstandard, "ZSTD_VERSION", (9, 9, 9))
    assert compression_key(LayerCompression("zstd")) != before
    assert compression_key(LayerCompression("gzip")) != compression_key(LayerCompression("zstd"))
    assert compression_key(LayerCompression(level=3)) != compression_key(LayerCompression())


def test_a_full_disk_leaves_nothing_behind(layer: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarball, "blocks", full)
    with pytest.raises(DiskError, match="the disk is full"):
        packed(layer, workspace)
    monkeypatch.undo()
    made = packed(layer, workspace)
    assert [path.name for path in (workspace.images / "blobs" / "sha256").iterdir()] == [made.blob.digest[7:]]
