"""Reading single members of wheels: by ranges, from servers of all kinds, and out of broken files."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from factories import make_wheel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_index import Answer, TinyIndex, tiny_index

from builder.remote.answer_bodies import read_body
from builder.remote.http import Retry
from builder.remote.index import remote_wheel
from builder.remote.index.remote_wheel import (
    FLAWS,
    NoRangesError,
    RemoteFile,
    check_metadata,
    metadata_of,
    with_archive,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "big-1.0-py3-none-any.whl"
PATH = f"/files/{NAME}"


def small() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return make_wheel(Path(folder), requires=("a", "b")).read_bytes()


SMALL = small()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of several blocks that cannot be compressed."""
    noise = b"".join(struct.pack("<Q", n * 0x9E3779B97F4A7C15 % 2**64) for n in range(40_000))
    return make_wheel(
        tmp_path_factory.mktemp("wheels"), "big", "1.0", files={"big/a.bin": noise, "big/b.bin": noise[::-1]}
    )


@pytest.fixture
def server(wheel: Path) -> Iterator[TinyIndex]:
    """An index with that wheel."""
    with tiny_index() as index:
        index.add(wheel)
        yield index


def remote(server: TinyIndex, tries: int = 3) -> RemoteFile:
    def get(url: str, **options: Any) -> requests.Response:
        return requests.get(url, stream=True, timeout=100, **options)

    return RemoteFile(f"http://{server.host}{PATH}", get, Retry(tries=tries, sleep=lambda _: None))


def test_metadata_is_read_with_two_requests_at_most(server: TinyIndex, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as whole:
        expected = whole.read("big-1.0.dist-info/METADATA")
    assert with_archive(remote(server), metadata_of) == expected
    assert len(server.spans) <= 2


def test_a_member_far_from_the_end_costs_its_own_blocks_only(server: TinyIndex, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as whole:
        expected = whole.read("big/a.bin")
    assert with_archive(remote(server), lambda z: z.read("big/a.bin")) == expected
    assert len(server.spans) == len(set(server.spans))


def test_any_part_is_what_it_is_in_the_file(server: TinyIndex, wheel: Path) -> None:
    content, file, some = wheel.read_bytes(), remote(server), random.Random(7)
    for _ in range(40):
        start, length = some.randrange(len(content) + 10), some.randrange(200_000)
        assert file.seek(start) == file.tell() == start
        assert file.read(length) == content[start : start + length]
    assert len(server.spans) < 40


def test_places_are_counted_as_files_do(server: TinyIndex) -> None:
    file = remote(server)
    assert (file.readable(), file.seekable()) == (True, True)
    assert file.seek(0, io.SEEK_END) == file.size
    assert file.read(10) == b""
    assert file.seek(-5, io.SEEK_CUR) == file.size - 5
    assert len(file.readall()) == 5
    assert file.seek(-(10**9), io.SEEK_END) == 0


def test_blocks_are_fetched_once(server: TinyIndex) -> None:
    file = remote(server)
    for _ in range(3):
        file.seek(100)
        file.read(1000)
    assert len(server.spans) == 2


def test_a_file_shorter_than_the_end_that_is_asked_for(tmp_path: Path, server: TinyIndex) -> None:
    small = make_wheel(tmp_path, "small", "1.0")
    server.files[NAME] = small.read_bytes()
    assert b"Name: small" in with_archive(remote(server), metadata_of)
    assert len(server.spans) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(content=b"whole file"),
        Answer(status=416),
        Answer(status=206, content=b"abc"),
        Answer(status=206, content=b"abc", headers=(("Content-Range", "bytes 0-2/*"),)),
        Answer(status=206, content=b"abc", headers=(("Content-Range", "bytes 0-5/6"),)),
        Answer(status=206, content=b"abcdef", headers=(("Content-Range", "bytes 0-2/3"),)),
        Answer(status=206, content=b"abc", headers=(("Content-Range", "bytes 0-2/10"),)),
        Answer(
            status=206,
            content=b"x" * (200 << 10),
            headers=(("Content-Range", f"bytes 0-{(200 << 10) - 1}/{200 << 10}"),),
        ),
    ],
)
def test_a_server_without_ranges_that_can_be_relied_on(server: TinyIndex, answer: Answer) -> None:
    server.faults[PATH] = [answer]
    with pytest.raises(NoRangesError):
        remote(server)


def test_ranges_that_fail_later_are_noticed(server: TinyIndex) -> None:
    file = remote(server)
    for odd in (
        Answer(content=b"whole"),
        Answer(status=206, content=b"x", headers=(("Content-Range", f"bytes 0-0/{file.size}"),)),
        Answer(status=206, content=b"x" * 65536, headers=(("Content-Range", "bytes 0-65535/99999999"),)),
        Answer(status=206, content=b"x" * 65536, headers=(("Content-Range", f"bytes 65536-131071/{file.size}"),)),
    ):
        server.faults[PATH] = [odd]
        file.seek(0)
        with pytest.raises(NoRangesError):
            file.read(10)


def test_a_connection_that_is_cut_is_tried_again(server: TinyIndex) -> None:
    server.faults[PATH] = [
        Answer(status=503),
        Answer(status=206, cut=True, headers=(("Content-Range", "bytes 0-999/1000"),)),
    ]
    assert b"Name: big" in with_archive(remote(server), metadata_of)


def test_a_server_that_stays_silent_is_a_failure_of_the_network_not_of_the_wheel(server: TinyIndex) -> None:
    file = remote(server, tries=1)
    server.faults["*"] = [Answer(status=503)]
    with pytest.raises(requests.HTTPError):
        with_archive(file, lambda z: z.read("big/a.bin"))


def test_bodies_are_read_up_to_a_length(server: TinyIndex) -> None:
    server.faults[PATH] = [Answer(content=b"x" * 100)] * 2
    url = f"http://{server.host}{PATH}"
    with requests.get(url, stream=True, timeout=100) as answer:
        assert read_body(answer, 100) == b"x" * 100
    with requests.get(url, stream=True, timeout=100) as answer:
        assert read_body(answer, 99) is None


def packed(*members: tuple[str, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, content in members:
            made.writestr(name, content)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ((), "0 METADATA"),
        (("demo/METADATA",), "0 METADATA"),
        (("a/demo-1.0.dist-info/METADATA",), "0 METADATA"),
        (("demo-1.0.dist-info/metadata",), "0 METADATA"),
        (("demo-1.0.dist-info/METADATA", "other-1.0.dist-info/METADATA"), "2 METADATA"),
    ],
)
def test_a_wheel_has_one_metadata_file(names: tuple[str, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        with_archive(packed(*((name, b"x") for name in names)), metadata_of)


def test_metadata_that_is_there_twice() -> None:
    name = "demo-1.0.dist-info/METADATA"
    with pytest.warns(UserWarning, match="Duplicate name"):
        file = packed((name, b"a"), (name, b"b"))
    with pytest.raises(ValueError, match="2 METADATA"):
        with_archive(file, metadata_of)


def test_metadata_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_wheel, "LONGEST_METADATA", 10)
    with pytest.raises(ValueError, match="too long"):
        with_archive(packed(("demo-1.0.dist-info/METADATA", b"x" * 11)), metadata_of)
    assert with_archive(packed(("demo-1.0.dist-info/METADATA", b"x" * 10)), metadata_of) == b"x" * 10


@pytest.mark.parametrize(
    ("metadata", "filename"),
    [
        ("Name: demo\nVersion: 1.0", "demo-1.0-py3-none-any.whl"),
        ("Name: Flash.Attn\nVersion: 2.8.4", "flash_attn-2.8.4-cp310-cp310-linux_aarch64.whl"),
        ("Version: 0.10.2+cu126\nName: vllm\nName: other", "vllm-0.10.2+cu126-cp310-cp310-linux_aarch64.whl"),
        ("Name: demo\nVersion: 1.0.0\n\nName: other", "demo-1.0-1-py3-none-any.whl"),
    ],
)
def test_metadata_of_the_file_that_it_is_in(metadata: str, filename: str) -> None:
    check_metadata(f"Metadata-Version: 2.1\n{metadata}\n".encode(), filename)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ("Name: other\nVersion: 1.0", "is of other 1.0"),
        ("Name: demo\nVersion: 1.1", "is of demo 1.1"),
        ("Name: demo\nVersion: 1.0+cu126", r"is of demo 1.0\+cu126"),
        ("Name: demo\nVersion: latest", "is of demo latest"),
        ("Name: demo", "is of demo without a version"),
        ("Version: 1.0", "is of no name 1.0"),
        ("", "is of no name without a version"),
        ("\x00\xff", "is of no name"),
    ],
)
def test_metadata_of_another_file(metadata: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_metadata(metadata.encode(), "demo-1.0-py3-none-any.whl")


def test_a_name_that_is_no_wheels() -> None:
    with pytest.raises(ValueError, match="Invalid wheel filename"):
        check_metadata(b"Name: demo\nVersion: 1.0\n", "demo.whl")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_a_damaged_wheel_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "demo-1.0-py3-none-any.whl"
    content = bytearray(SMALL)
    end = len(content) - 1
    for _ in range(data.draw(st.integers(0, 6))):
        # The directory at the end is what readers go by.
        at = data.draw(st.integers(0, end) | st.integers(max(0, end - 400), end))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, end + 1) | st.just(end + 1))])
    with path.open("rb") as file, contextlib.suppress(*FLAWS):
        with_archive(file, metadata_of)


def test_a_directory_that_lies_before_the_file(tmp_path: Path) -> None:
    content = bytearray(packed(("demo-1.0.dist-info/METADATA", b"x")).getvalue())
    struct.pack_into("<L", content, content.rfind(b"PK\5\6") + 16, 10**6)
    path = tmp_path / "x.whl"
    path.write_bytes(content)
    with path.open("rb") as file, pytest.raises(FLAWS):
        with_archive(file, metadata_of)
