"""The files of an image as the loader finds them, and the names that people read."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

import pytest
from elf_files import LIBC, make_base, make_binary, make_case
from factories import make_platform
from hypothesis import given
from hypothesis import strategies as st

from builder.audit.base_image import streamed
from builder.audit.byte_source import MalformedError
from builder.audit.loading_rules import demangled
from builder.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.audit.environment import Environment

SITE = "/opt/venv/lib/python3.11/site-packages"


def environment(folder: Path, *links: tuple[str, str], **options: Any) -> Environment:
    library = make_binary("/usr/lib/real/libx.so.1.2", soname="libx.so.1")
    base = make_base(library, links=links, folders=("/lib/real", LIBC), packages=("libc6",))
    wheels: dict[str, dict[str, Any]] = {"demo": {"demo/_C.so": {}, "demo-1.0.data/data/lib/libdata.so": {}}}
    return make_case(folder, wheels, base=base, **options).environment


def test_files_of_wheels_lie_where_installers_put_them(tmp_path: Path) -> None:
    found = environment(tmp_path)
    assert {node.path for node in found.nodes} == {f"{SITE}/demo/_C.so", "/opt/venv/lib/libdata.so"}
    assert {node.file for node in found.nodes} == {"demo/_C.so", "../../../lib/libdata.so"}
    assert found.find(f"{SITE}/demo/../demo/_C.so") is not None


@pytest.mark.parametrize(
    ("links", "path", "there"),
    [
        ([("/lib", "usr/lib")], "/lib/real/libx.so.1.2", True),
        ([("/lib", "/usr/lib")], "/lib/real/libx.so.1.2", True),
        ([("/lib", "../../usr/lib")], "/lib/real/libx.so.1.2", True),
        ([("/opt/a", "b"), ("/opt/b", "/usr/lib/real")], "/opt/a/libx.so.1.2", True),
        (
            [("/usr/lib/real/libx.so", "libx.so.1"), ("/usr/lib/real/libx.so.1", "./libx.so.1.2")],
            "/usr/lib/real/libx.so",
            True,
        ),
        ([("/a", "b"), ("/b", "a")], "/a/libx.so.1.2", False),
        ([("/a", "a")], "/a", False),
        ([("/lib", "usr/none")], "/lib/real/libx.so.1.2", False),
        ([], "/lib/real/libx.so.1.2", False),
    ],
)
def test_links_are_followed_as_the_kernel_does(
    tmp_path: Path, links: list[tuple[str, str]], path: str, there: bool
) -> None:
    assert (environment(tmp_path, *links).find(path) is not None) is there


def test_the_loaders_cache_knows_names_files_and_links(tmp_path: Path) -> None:
    found = environment(tmp_path, ("/lib", "usr/lib"), ("/usr/lib/real/libx.so", "libx.so.1.2"))
    assert {"libx.so", "libx.so.1", "libx.so.1.2", "libc.so.6"} <= set(found.system)


def test_the_first_folder_of_the_cache_wins(tmp_path: Path) -> None:
    twins = [make_binary(f"{folder}/libx.so.1", soname="libx.so.1") for folder in ("/usr/lib/late", "/usr/lib/early")]
    base = make_base(*twins, folders=("/usr/lib/early", "/usr/lib/late", LIBC))
    found = make_case(tmp_path, {"demo": {"demo/_C.so": {}}}, base=base).environment
    assert found.system["libx.so.1"].path == "/usr/lib/early/libx.so.1"


def test_packages_that_nobody_knows(tmp_path: Path) -> None:
    found = environment(tmp_path, apt=("libnuma1=2.0", "libc6", "odd:arm64", "strange"))
    assert found.unknown_packages == ("odd:arm64", "strange")
    assert found.installed == ("libnuma1", "libc6", "odd", "strange", "python3")


@pytest.mark.parametrize(
    ("distribution", "library", "package"),
    [
        ("debian-12", "libavcodec.so.59", "libavcodec59"),
        ("debian-13", "libavcodec.so.59", None),
        ("ubuntu-24.04", "librdmacm.so.1", "librdmacm1t64"),
        ("ubuntu-22.04", "librdmacm.so.1", "librdmacm1"),
        ("ubuntu-20.04", "libodd.so", None),
    ],
)
def test_advice_depends_on_the_distribution(
    tmp_path: Path, distribution: str, library: str, package: str | None
) -> None:
    found = environment(tmp_path, platform=make_platform(distribution=distribution))
    assert found.package_for(library) == package


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("_ZN3c105ErrorC1Ev", "c10::Error::{ctor}()"),
        ("_ZN2at4_ops3add4callERKNS_6TensorES4_", "at::_ops::add::call(at::Tensor const&, at::Tensor const&)"),
        ("malloc@GLIBC_2.17", "malloc@GLIBC_2.17"),
        ("_Znot_a_name", "_Znot_a_name"),
        ("_Z", "_Z"),
        ("", ""),
    ],
)
def test_names_of_cxx(symbol: str, name: str) -> None:
    assert demangled(symbol) == name


def test_long_names_are_shortened() -> None:
    assert demangled("_ZN" + "9namespace" * 60 + "1fEv").endswith("…")
    assert demangled("_ZN" + "9namespace" * 600 + "1fEv").startswith("_ZN9namespace")


@given(st.text(alphabet="_ZNKSt0123456789EvicTILb", max_size=40))
def test_no_name_is_too_odd_to_be_shown(tail: str) -> None:
    assert isinstance(demangled(f"_Z{tail}"), str)


class Client:
    """Sends a blob in pieces, then ends as it is told."""

    def __init__(self, *pieces: bytes, ends: Exception | None = None) -> None:
        self.pieces, self.ends = pieces, ends

    def get_blob(self, _repository: str, _digest: str, sink: Callable[[bytes], object]) -> int:
        for piece in self.pieces:
            sink(piece)
        if self.ends:
            raise self.ends
        return sum(map(len, self.pieces))


def stream(client: Client, read: Callable[[IO[bytes]], Any]) -> Any:
    with streamed(client, "a/b", "sha256:x") as source:  # type: ignore[arg-type]
        return read(source)


def test_a_blob_arrives_as_a_file() -> None:
    pieces = [bytes([n]) * 100_000 for n in range(30)]
    assert stream(Client(*pieces), lambda source: source.read()) == b"".join(pieces)


def test_a_blob_of_which_the_end_is_not_needed_is_taken_to_its_end() -> None:
    assert stream(Client(b"ab", bytes(5 << 20)), lambda source: source.read(2)) == b"ab"


def test_a_transfer_that_fails_is_told_in_the_end() -> None:
    with pytest.raises(IntegrityError, match="other bytes"):
        stream(Client(b"ab", ends=IntegrityError("other bytes")), lambda source: source.read())


def test_what_a_failed_transfer_cut_off_is_not_the_images_fault() -> None:
    def fail(source: IO[bytes]) -> None:
        source.read()
        raise MalformedError("cut off")

    with pytest.raises(IntegrityError, match="other bytes"):
        stream(Client(b"ab", ends=IntegrityError("other bytes")), fail)
    with pytest.raises(MalformedError, match="cut off"):
        stream(Client(b"ab"), fail)


def test_a_reader_that_gives_up_leaves_nobody_waiting() -> None:
    def fail(_: IO[bytes]) -> None:
        raise MalformedError("no layer")

    with pytest.raises(MalformedError, match="no layer"):
        stream(Client(*[bytes(1 << 20)] * 20), fail)
