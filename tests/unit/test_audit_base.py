"""What a base image brings, from its layers."""

from __future__ import annotations

import base64
import gzip
import io
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from elf_files import layer, make_elf

from builder.audit import base_image
from builder.audit.base_image import _facts, _read_layer, _Tree, members
from builder.audit.byte_source import MalformedError
from builder.errors import RegistryError

if TYPE_CHECKING:
    from builder.model.audits import BaseFacts

TAR = "application/vnd.oci.image.layer.v1.tar"
GNU = "usr/lib/aarch64-linux-gnu"


def facts(*layers: bytes, media_type: str = TAR, config: dict[str, Any] | None = None) -> BaseFacts:
    tree = _Tree()
    for each in layers:
        _read_layer(io.BytesIO(each), media_type, tree, lambda _: None)
    return _facts(tree, config or {})


def paths(found: BaseFacts) -> list[str]:
    return [binary.path for binary in found.binaries]


LIBRARY = make_elf(soname="libx.so.1", defined=["x"])


def test_libraries_and_links() -> None:
    found = facts(
        layer(
            ("./usr/lib/aarch64-linux-gnu/libx.so.1.2", LIBRARY),
            (f"{GNU}/libx.so.1", "-> libx.so.1.2"),
            (f"{GNU}/libx.so", b"INPUT(libx.so.1)"),
            (f"{GNU}/libhard.so", f"=> {GNU}/libx.so.1.2"),
            ("lib", "-> usr/lib"),
            ("etc/alternatives/libblas.so.3", "-> /usr/lib/blas/libblas.so.3"),
            ("home/user/libnot.so", LIBRARY),
            ("usr/bin/python3.11", make_elf(defined=["Py_Main"])),
            ("usr/share/doc/x", b"text"),
        )
    )
    assert paths(found) == ["/usr/bin/python3.11", f"/{GNU}/libhard.so", f"/{GNU}/libx.so.1.2"]
    assert found.links == (
        ("/etc/alternatives/libblas.so.3", "/usr/lib/blas/libblas.so.3"),
        ("/lib", "usr/lib"),
        (f"/{GNU}/libx.so.1", "libx.so.1.2"),
    )
    assert found.binaries[2].soname == "libx.so.1"


@pytest.mark.parametrize(
    ("upper", "left"),
    [
        ([], ["a/liba.so", "a/libb.so", "c/libc.so"]),
        ([("usr/lib/a/.wh.liba.so", b"")], ["a/libb.so", "c/libc.so"]),
        ([("usr/lib/.wh.a", b"")], ["c/libc.so"]),
        ([("usr/lib/a/.wh..wh..opq", b""), ("usr/lib/a/libn.so", LIBRARY)], ["a/libn.so", "c/libc.so"]),
        ([("usr/lib/a/libn.so", LIBRARY), ("usr/lib/a/.wh..wh..opq", b"")], ["a/libn.so", "c/libc.so"]),
        ([("usr/lib/a/liba.so", b"not elf any more")], ["a/libb.so", "c/libc.so"]),
        ([("usr/lib/a", "-> c")], ["c/libc.so"]),
    ],
)
def test_what_later_layers_change(upper: list[tuple[str, bytes | str]], left: list[str]) -> None:
    lower = layer(*((f"usr/lib/{name}", LIBRARY) for name in ("a/liba.so", "a/libb.so", "c/libc.so")))
    assert paths(facts(lower, layer(*upper))) == [f"/usr/lib/{name}" for name in left]


def test_search_paths_and_environment() -> None:
    found = facts(
        layer(
            ("etc/ld.so.conf", b"include /etc/ld.so.conf.d/*.conf\n/last # why\n"),
            ("etc/ld.so.conf.d/b.conf", b"/usr/lib/b/\n"),
            ("etc/ld.so.conf.d/a.conf", b"# comment\n/usr/local/cuda/lib64\nrelative\n"),
        ),
        config={"config": {"Env": ["PATH=/bin", "LD_LIBRARY_PATH=/opt/x:relative:/opt/y"]}},
    )
    assert found.folders == ("/usr/local/cuda/lib64", "/usr/lib/b", "/last", "/lib", "/usr/lib", "/lib64", "/usr/lib64")
    assert found.library_path == ("/opt/x", "/opt/y")


def test_a_configuration_that_includes_itself() -> None:
    found = facts(layer(("etc/ld.so.conf", b"include /etc/ld.so.conf\n/x\n")))
    assert found.folders[0] == "/x"


def test_packages_and_distribution() -> None:
    status = b"Package: libc6\nStatus: install ok installed\n\nPackage: gone\nStatus: deinstall ok config-files\n"
    release = b'ID=ubuntu\nVERSION_ID="22.04"\n'
    found = facts(layer(("var/lib/dpkg/status", status), ("usr/lib/os-release", release)))
    assert (found.packages, found.distribution) == (("libc6",), ("ubuntu-22.04",))
    assert facts(layer()).distribution == ()


def test_sources_and_keys_of_apt() -> None:
    key, binary = "usr/share/keyrings/archive.pgp", bytes(range(256))
    lower = layer(
        ("etc/apt/sources.list", b"deb http://archive.example/ old main\n"),
        ("etc/apt/sources.list.d/gone.list", b"deb http://gone.example/ x main\n"),
        (key, binary),
        ("etc/apt/trusted.gpg.d/archive.asc", f"-> ../../../{key}"),
        ("etc/apt/trusted.gpg.d/lost.asc", "-> /absent"),
        ("etc/apt/trusted.gpg.d/same.asc", f"=> {key}"),
        ("etc/apt/apt.conf.d/x", b"Acquire::Proxy x;"),
    )
    upper = layer(
        ("etc/apt/sources.list", b"deb http://archive.example/ new main\n"),
        ("etc/apt/sources.list.d/.wh.gone.list", b""),
    )
    assert {path: base64.b64decode(content) for path, content in facts(lower, upper).apt} == {
        "etc/apt/sources.list": b"deb http://archive.example/ new main\n",
        "etc/apt/trusted.gpg.d/archive.asc": binary,
        "etc/apt/trusted.gpg.d/same.asc": binary,
        key: binary,
    }


def test_large_libraries_do_not_lie_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_image, "_IN_MEMORY", 10)
    monkeypatch.setattr(base_image, "Plain", lambda _: pytest.fail("in memory"))
    assert paths(facts(layer(("usr/lib/libx.so", LIBRARY)))) == ["/usr/lib/libx.so"]


def test_damaged_libraries_are_passed_over() -> None:
    assert paths(facts(layer(("usr/lib/libx.so", LIBRARY[:200]), ("usr/lib/liby.so", LIBRARY)))) == ["/usr/lib/liby.so"]


@pytest.mark.parametrize(
    ("media_type", "pack"),
    [
        (f"{TAR}+gzip", gzip.compress),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", gzip.compress),
        (f"{TAR}+zstd", zstandard.ZstdCompressor().compress),
        (TAR, bytes),
    ],
)
def test_compressions(media_type: str, pack: Any) -> None:
    packed = pack(layer(("usr/lib/libx.so", LIBRARY)))
    assert paths(facts(packed, media_type=media_type)) == ["/usr/lib/libx.so"]
    with pytest.raises(MalformedError, match="cannot be read"):
        facts(packed[: min(300, len(packed) // 2)], media_type=media_type)


def test_an_unknown_compression() -> None:
    with pytest.raises(RegistryError, match="cannot be read"):
        list(members(io.BytesIO(b""), "application/x-brotli"))


def test_noise_is_no_layer() -> None:
    with pytest.raises(MalformedError):
        facts(b"\xff" * 2000)
