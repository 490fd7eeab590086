"""Kernels of wheels: read once, kept by the wheel's hash, read again when the kept file is damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from elf_files import make_elf, read_wheel
from factories import locked, make_wheel
from gpu_code import EXACT, LZ4, ZSTD, make_container, make_cubin, make_entry, make_ptx

from builder.audit import gather_kernels
from builder.audit.kernel_names import loose_cubin
from builder.errors import IntegrityError
from builder.model.audits import GpuTarget

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.kernels import LibraryKernels

LIBRARY = make_elf(
    defined=["PyInit__C"],
    fatbin=make_container(
        make_entry(make_cubin("one", "two"), 80, flags=ZSTD), make_entry(make_ptx("one"), 80, kind="ptx", flags=LZ4)
    )
    + make_container(make_entry(make_cubin("two", "three", sm=90), 90, flags=EXACT)),
)
BROKEN = make_elf(fatbin=make_container(make_entry(b"text".ljust(100), 80)))


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    files = {
        "demo/_C.so": LIBRARY,
        "demo/broken.so": BROKEN,
        "demo/plain.so": make_elf(),
        "demo/k.cubin": make_cubin("loose", sm=100, options="-arch sm_100f"),
        "demo/text.cubin": b"text",
    }
    return make_wheel(tmp_path, files=files, tag="cp311-cp311-linux_aarch64")


def gather(wheel: Path, session: Session) -> tuple[LibraryKernels, ...]:
    asked = locked(wheel)
    return gather_kernels.gather_kernels([asked], {asked.sha256: read_wheel(wheel)}, session)[asked.sha256]


def kept(session: Session) -> Path:
    (path,) = session.workspace.facts.rglob(f"*-kernels-{gather_kernels.READER}")
    return path


def kernels(library: LibraryKernels) -> list[tuple[int, GpuTarget, set[str]]]:
    return [(m.container, m.target, {library.names[index] for index in m.kernels}) for m in library.modules]


def test_libraries_and_cubins_with_their_kernels(wheel: Path, session: Session) -> None:
    library, broken, cubin, text = gather(wheel, session)
    assert (library.path, library.flaw, library.names) == ("demo/_C.so", None, ("one", "two", "three"))
    assert kernels(library) == [
        (0, GpuTarget("sass", 80), {"one", "two"}),
        (0, GpuTarget("ptx", 80), {"one"}),
        (1, GpuTarget("sass", 90, "a"), {"two", "three"}),
    ]
    assert [(module.isa, module.unpacked) for module in library.modules[:2]] == [
        ((0, 0), len(make_cubin("one", "two"))),
        ((8, 4), len(make_ptx("one"))),
    ]
    assert (broken.path, broken.modules, broken.flaw) == ("demo/broken.so", (), "its GPU code is not a cubin")
    assert (cubin.path, kernels(cubin)) == ("demo/k.cubin", [(0, GpuTarget("sass", 100, "f"), {"loose"})])
    assert (text.path, text.modules) == ("demo/text.cubin", ())
    assert text.flaw


def test_a_wheel_is_read_once(wheel: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    first = gather(wheel, session)
    monkeypatch.setattr(gather_kernels, "read_kernels", lambda *_: pytest.fail("read again"))
    assert gather(wheel, session) == first
    assert gather_kernels.stored_kernels([locked(wheel)], session) == first


def test_a_damaged_file_is_read_again(wheel: Path, session: Session) -> None:
    first = gather(wheel, session)
    data = kept(session).read_bytes()
    damaged = [data[:size] for size in range(0, len(data), 13)]
    damaged += [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(0, len(data), 13)]
    for content in damaged:
        kept(session).write_bytes(content)
        assert gather_kernels.stored_kernels([locked(wheel)], session) == ()
    assert gather(wheel, session) == first
    assert kept(session).read_bytes() == data


def test_another_reader_reads_again(wheel: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    gather(wheel, session)
    monkeypatch.setattr(gather_kernels, "READER", 99)
    assert gather_kernels.stored_kernels([locked(wheel)], session) == ()
    gather(wheel, session)
    assert len(list(session.workspace.facts.rglob("*-kernels-*"))) == 2


def test_a_wheel_without_gpu_code_is_not_read(
    tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = locked(make_wheel(tmp_path, files={"x.so": make_elf(), "x.py": b""}))
    monkeypatch.setattr(gather_kernels, "read_kernels", lambda *_: pytest.fail("read"))
    assert gather_kernels.gather_kernels([asked], {asked.sha256: read_wheel(tmp_path / asked.filename)}, session) == {}


def test_a_wheel_that_was_damaged_on_this_disk(wheel: Path, session: Session) -> None:
    asked, facts = locked(wheel), read_wheel(wheel)
    first = gather(wheel, session)
    path = session.workspace.wheel(asked.sha256, asked.filename)
    data = path.read_bytes()
    start = data.index(b"demo/_C.so") + len(b"demo/_C.so")
    for damage in (data[:300], data[:start] + b"\xff" * 20 + data[start + 20 :]):
        kept(session).unlink()
        path.write_bytes(damage)
        with pytest.raises(IntegrityError, match="was damaged on this disk"):
            gather_kernels.gather_kernels([asked], {asked.sha256: facts}, session)
        assert gather(wheel, session) == first


def test_a_name_of_two_lines_is_a_flaw(tmp_path: Path, session: Session) -> None:
    wheel = make_wheel(tmp_path, files={"k.cubin": make_cubin("one\ntwo")})
    assert loose_cubin(make_cubin("one\ntwo"))[1] == [b"one\ntwo"]
    (library,) = gather(wheel, session)
    assert library.flaw == "a kernel of its GPU code has a name of more than one line"


def test_many_cubins_are_read_in_portions(tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather_kernels, "_PORTION", 1000)
    wheel = make_wheel(tmp_path, files={f"k/{number:02}.cubin": make_cubin(f"k{number}") for number in range(20)})
    libraries = gather(wheel, session)
    assert [library.names for library in libraries] == [(f"k{number}",) for number in range(20)]
