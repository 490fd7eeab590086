"""Looking into wheels that nobody should trust."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from typing import TYPE_CHECKING

import pytest
from elf_files import make_elf, read_wheel
from factories import make_wheel
from hypothesis import given
from hypothesis import strategies as st
from work import assert_linear

from builder.audit import wheel_reader
from builder.audit.byte_source import File, MalformedError
from builder.audit.wheel_reader import installed, listing

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, *entries: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    path = folder / "demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for entry, content in entries:
            file.writestr(entry, content)
    return path


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("demo/_C.so", "demo/_C.so"),
        ("demo-1.0.data/platlib/demo/_C.so", "demo/_C.so"),
        ("demo-1.0.data/purelib/demo.py", "demo.py"),
        ("demo-1.0.data/data/lib/libdemo.so", "../../../lib/libdemo.so"),
        ("demo-1.0.data/scripts/demo", "../../../bin/demo"),
        ("demo.data/other/x", "demo.data/other/x"),
    ],
)
def test_where_files_are_installed(name: str, place: str) -> None:
    assert installed(name) == place


@pytest.mark.parametrize(
    ("name", "flaw"),
    [
        ("/etc/passwd", "has an absolute path"),
        ("C:\\windows\\x.so", "has an absolute path"),
        ("demo/../../x.so", "reaches outside the environment"),
        ("demo\\..\\x.so", "reaches outside the environment"),
    ],
)
def test_names_that_lead_elsewhere(tmp_path: Path, name: str, flaw: str) -> None:
    found = listing(write(tmp_path, (name, make_elf()), ("good.py", b"")))
    assert [member.name for member in found.members] == ["good.py"]
    assert found.flaws == ((name, flaw),)


def test_symbolic_links(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("demo/libx.so.1")
    link.external_attr = 0o120777 << 16
    (flaw,) = listing(write(tmp_path, (link, b"/etc/passwd"))).flaws
    assert flaw == ("demo/libx.so.1", "is a symbolic link, which installers unpack as a file")


def test_a_name_that_is_there_twice(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        path = write(tmp_path, ("a.py", b"1"), ("a.py", b"2"))
    found = listing(path)
    assert found.flaws == (("a.py", "is in the wheel twice"),)
    assert len(found.members) == 1


def test_encrypted_files_and_other_methods(tmp_path: Path) -> None:
    path = write(tmp_path, ("secret.so", make_elf()), ("packed.so", make_elf()))
    data = bytearray(path.read_bytes())
    first = data.index(b"PK\x01\x02")
    data[first + 8] |= 1
    second = data.index(b"PK\x01\x02", first + 4)
    data[second + 10] = 12
    path.write_bytes(bytes(data))
    assert dict(listing(path).flaws) == {
        "secret.so": "is encrypted",
        "packed.so": "is compressed by method 12, unknown to wheels",
    }


def test_sizes_that_no_deflated_bytes_can_hold(tmp_path: Path) -> None:
    path = write(tmp_path, ("bomb.so", make_elf()))
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    ((name, flaw),) = listing(path).flaws
    assert name == "bomb.so"
    assert "claims 4294967280 bytes, which its" in flaw


def test_a_bomb_takes_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = make_elf() + bytes(60 << 20)
    path = write(tmp_path, ("one.so", content), ("two.so", content))
    tracemalloc.start()
    assert [binary.path for binary in read_wheel(path).binaries] == ["one.so", "two.so"]
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()
    monkeypatch.setattr(wheel_reader, "_LARGEST_WHEEL", 100 << 20)
    with pytest.raises(MalformedError, match="holds more than"):
        listing(path)


def test_twice_as_many_files_are_twice_the_work(tmp_path: Path) -> None:
    half, whole = (tmp_path / f"many_{count}-1.0-py3-none-any.whl" for count in (2500, 5000))
    for path, count in ((half, 2500), (whole, 5000)):
        with zipfile.ZipFile(path, "w") as file:
            for number in range(count):
                file.writestr(f"many/{number}", b"")
    assert_linear(lambda: read_wheel(half), lambda: read_wheel(whole))
    assert len(read_wheel(whole).paths) == 5000


def test_more_files_than_any_wheel_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel_reader, "_MOST_MEMBERS", 2)
    with pytest.raises(MalformedError, match="holds 3 files"):
        listing(write(tmp_path, ("a", b""), ("b", b""), ("c", b"")))


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x05\x06" + bytes(18)[:10]])
def test_what_is_no_zip(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "demo.whl"
    path.write_bytes(content)
    with pytest.raises(MalformedError, match="not a zip"):
        listing(path)


def test_a_directory_that_points_elsewhere(tmp_path: Path) -> None:
    path = write(tmp_path, ("a.so", make_elf()))
    (member,) = listing(path).members
    with pytest.raises(MalformedError, match="other than a member"):
        wheel_reader.source(File(path), member._replace(offset=5))
    with pytest.raises(MalformedError, match="are outside"):
        wheel_reader.source(File(path), member._replace(offset=1 << 40))
    with pytest.raises(MalformedError, match="are outside"):
        wheel_reader.source(File(path), member._replace(stored=1 << 30))


def test_stored_and_deflated_members_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "demo.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("stored", b"0123456789", zipfile.ZIP_STORED)
        file.writestr("deflated", b"0123456789", zipfile.ZIP_DEFLATED)
    for member in listing(path).members:
        assert wheel_reader.source(File(path), member).read(2, 3) == b"234"
        assert wheel_reader.head(File(path), member, 64) == b"0123456789"


def test_metadata(tmp_path: Path) -> None:
    found = read_wheel(
        make_wheel(tmp_path, tag="cp311-cp311-linux_aarch64", requires=("Torch_X>=2", "numpy; extra == 'a'"))
    )
    assert found.tags == ("cp311-cp311-linux_aarch64",)
    assert found.requires == ("numpy", "torch-x")


@given(st.data())
def test_no_damage_of_a_zip_does_more_than_a_malformed_error(data: st.DataObject) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("demo/_C.so", make_elf(defined=["PyInit__C"]))
        file.writestr("demo-1.0.dist-info/WHEEL", "Tag: py3-none-any\n")
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = _scratch("damaged.whl", bytes(content))
    try:
        read_wheel(path)
    except MalformedError as error:
        assert error.message  # noqa: PT017


def _scratch(name: str, content: bytes) -> Path:
    import tempfile  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    path = Path(tempfile.gettempdir()) / f"audit-{name}"
    path.write_bytes(content)
    return path
