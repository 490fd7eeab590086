"""Split bundles: a tar archive in parts, written without a second copy, and resumed part by part."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from bundled_cell import make_cell, make_layers

from builder.errors import DiskError, UsageError
from builder.host import records
from builder.host.files import atomic_file
from builder.model.bundles import BundleParts
from builder.publish.bundle import bundle_folder
from builder.publish.bundle.archive_parts import part_bytes, part_paths, write_archive_parts
from builder.publish.bundle.bundle_contents import BundleOptions
from builder.publish.bundle.write_bundle import write_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.locks import Job

SIZE = 1_000_000


@pytest.fixture
def job(session: Session) -> Job:
    return make_cell(session, make_layers(session, 1_700_000, 900_000, 2_300_000), proven=True)


def split(job: Job, session: Session, folder: Path, size: int = SIZE) -> BundleParts:
    write_bundle(job, session, BundleOptions(output=folder, part_bytes=size))
    parts: BundleParts = records.from_json(json.loads((folder / "parts.json").read_text()), BundleParts)
    return parts


def joined(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted((folder / "parts").iterdir()))


def test_the_parts_are_a_tar_archive_of_the_folder(job: Job, session: Session, tmp_path: Path) -> None:
    parts = split(job, session, tmp_path / "b")
    write_bundle(job, session, BundleOptions(output=tmp_path / "whole"))
    with tarfile.open(fileobj=io.BytesIO(joined(tmp_path / "b"))) as archive:
        names = archive.getnames()
        archive.extractall(tmp_path / "out")
    assert names[0] == "bundle.json"
    for path in (path for path in (tmp_path / "whole").rglob("*") if path.is_file()):
        extracted = tmp_path / "out" / path.relative_to(tmp_path / "whole")
        assert extracted.read_bytes() == path.read_bytes()
        assert extracted.stat().st_mode & 0o777 == path.stat().st_mode & 0o777
    assert len(names) == len([path for path in (tmp_path / "whole").rglob("*") if path.is_file()])
    assert parts.bundle == hashlib.sha256((tmp_path / "whole" / "bundle.json").read_bytes()).hexdigest()


def test_the_parts_have_their_size_and_sha256(job: Job, session: Session, tmp_path: Path) -> None:
    parts = split(job, session, tmp_path / "b")
    assert [part.size for part in parts.parts[:-1]] == [SIZE] * (len(parts.parts) - 1)
    assert 0 < parts.parts[-1].size <= SIZE
    assert sum(part.size for part in parts.parts) == parts.size == len(joined(tmp_path / "b"))
    for part in parts.parts:
        content = (tmp_path / "b" / part.path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (part.size, part.sha256)


def test_a_second_run_writes_only_the_wrong_parts(job: Job, session: Session, tmp_path: Path) -> None:
    parts = split(job, session, tmp_path / "b")
    before = joined(tmp_path / "b")
    times = {part.path: (tmp_path / "b" / part.path).stat().st_mtime_ns for part in parts.parts}
    (tmp_path / "b" / "parts.json").unlink()
    first, second, third, *_ = (part.path for part in parts.parts)
    (tmp_path / "b" / first).unlink()
    content = (tmp_path / "b" / second).read_bytes()
    (tmp_path / "b" / second).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (tmp_path / "b" / third).write_bytes(content[:100])
    (tmp_path / "b" / "unfinished.json").write_text('{"recipe": "demo", "cell": "one"}')
    assert split(job, session, tmp_path / "b") == parts
    assert joined(tmp_path / "b") == before
    for part in parts.parts[3:]:
        assert (tmp_path / "b" / part.path).stat().st_mtime_ns == times[part.path]


def test_parts_of_another_size_replace_the_old_ones(job: Job, session: Session, tmp_path: Path) -> None:
    split(job, session, tmp_path / "b")
    before = joined(tmp_path / "b")
    parts = split(job, session, tmp_path / "b", size=4_000_000)
    assert len(list((tmp_path / "b" / "parts").iterdir())) == len(parts.parts) == 2
    assert joined(tmp_path / "b") == before


def test_a_full_disk_keeps_the_parts(
    job: Job, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        written: list[Path] = []

        def full(path: Path) -> Any:
            written.append(path)
            if len(written) > 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            return atomic_file(path)

        patched.setattr(bundle_folder, "atomic_file", full)
        with pytest.raises(DiskError, match="the disk is full") as caught:
            split(job, session, tmp_path / "b")
    assert "run the same command again" in (caught.value.hint or "")
    assert [path.name for path in sorted((tmp_path / "b" / "parts").iterdir())] == ["0001", "0002"]
    assert not (tmp_path / "b" / "parts.json").exists()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "b" / "parts").iterdir()}
    split(job, session, tmp_path / "b")
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_too_little_space_is_said_before_anything_is_written(
    job: Job, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        "builder.publish.bundle.bundle_folder.shutil.disk_usage", lambda _: real._replace(free=1_000_000)
    )
    with pytest.raises(DiskError, match=r"the bundle needs 5 MB, and 1 MB are free"):
        split(job, session, tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("total", [1, 9, 10, 11, 20, 25])
def test_slices(total: int, tmp_path: Path) -> None:
    content = bytes(range(total))
    blocks = [content[:3], b"", content[3:4], content[4:]]
    paths = part_paths(total, 10)
    written: dict[str, bytes] = {}

    def write(path: str, size: int, blocks: Iterator[bytes]) -> None:
        written[path] = b"".join(blocks)
        assert len(written[path]) == size

    files = list(write_archive_parts(blocks, paths, total, 10, write))
    assert b"".join(written[path] for path in sorted(written)) == content
    assert [file.path for file in files] == list(written) == list(paths)
    assert len(paths) == (total + 9) // 10


def test_names_of_parts_sort_in_their_order() -> None:
    assert part_paths(30, 10) == ("parts/0001", "parts/0002", "parts/0003")
    many = part_paths(12_345, 1)
    assert sorted(many) == list(many)
    assert many[0] == "parts/00001"


@pytest.mark.parametrize(
    ("text", "size"),
    [("60M", 60_000_000), ("1G", 10**9), ("1.5g", 1_500_000_000), ("60 MB", 60_000_000), ("1000000", 10**6)],
)
def test_sizes(text: str, size: int) -> None:
    assert part_bytes(text) == size


@pytest.mark.parametrize("text", ["", "M", "60X", "-1M", "1e9", "60MiB"])
def test_words_that_are_not_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size") as caught:
        part_bytes(text)
    assert "60M" in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["0", "999k", "0.5M"])
def test_sizes_that_are_too_small(text: str) -> None:
    with pytest.raises(UsageError, match="too small"):
        part_bytes(text)
