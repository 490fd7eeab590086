"""Facts of wheels: made once, kept compactly, made anew when what was kept cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from elf_files import AMD64, make_base, make_elf, make_fatbin, read_wheel
from factories import locked, make_wheel
from hypothesis import given
from hypothesis import strategies as st

from builder.audit import gather_facts, wheel_facts
from builder.audit.elf import Defined, UndefinedSymbol
from builder.errors import IntegrityError
from builder.model.audits import BaseFacts, GpuCode, GpuTarget, WheelFacts

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session

MODULE = make_elf(
    needed=["libc.so.6"],
    soname="_C.so",
    rpath="$ORIGIN",
    defined=["PyInit__C", "f"],
    undefined=[("malloc", "GLIBC_2.17"), "g"],
    weak=["w"],
    versions={"libc.so.6": ["GLIBC_2.17"]},
    fatbin=make_fatbin(("sass", 87), ("ptx", 80), ("sass", 87)),
)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    files = {"demo/_C.so": MODULE, "demo/x.py": b"x = 1\n", "demo/k.cubin": make_elf(machine=190)}
    return make_wheel(tmp_path, files=files, tag="cp311-cp311-linux_aarch64", requires=("torch>=2",))


def test_what_is_kept_of_a_wheel(wheel: Path) -> None:
    found = read_wheel(wheel)
    assert (found.tags, found.requires, found.flaws) == (("cp311-cp311-linux_aarch64",), ("torch",), ())
    assert "demo/x.py" in found.paths
    (binary,) = found.binaries
    assert (binary.path, binary.soname, binary.rpath, binary.inits) == ("demo/_C.so", "_C.so", "$ORIGIN", ("_C",))
    assert binary.names == ("malloc@GLIBC_2.17", "g")
    assert len(binary.wanted_keys) == 4
    assert binary.gpu == (GpuCode(GpuTarget("ptx", 80), (8, 4), 1), GpuCode(GpuTarget("sass", 87), (0, 0), 2))


def test_facts_survive_the_cache(wheel: Path, tmp_path: Path) -> None:
    found = read_wheel(wheel)
    gather_facts.write_facts(tmp_path / "facts", found)
    assert gather_facts.read_facts(tmp_path / "facts", WheelFacts) == found


def test_a_base_images_facts_survive_the_cache(tmp_path: Path) -> None:
    base = make_base(library_path=("/opt/x",), packages=("libc6",))
    gather_facts.write_facts(tmp_path / "base", base)
    assert gather_facts.read_facts(tmp_path / "base", BaseFacts) == base


def test_damaged_facts_are_as_good_as_none(wheel: Path, tmp_path: Path) -> None:
    path = tmp_path / "facts"
    gather_facts.write_facts(path, read_wheel(wheel))
    data = path.read_bytes()
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        assert gather_facts.read_facts(path, WheelFacts) is None
    path.write_bytes(b"other " + data)
    assert gather_facts.read_facts(path, WheelFacts) is None
    assert gather_facts.read_facts(tmp_path / "none", WheelFacts) is None


def test_a_wheel_is_read_once(wheel: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [locked(wheel)]
    first = gather_facts.gather(asked, session)
    monkeypatch.setattr(gather_facts, "read_wheels", lambda *_: pytest.fail("read again"))
    session.workspace.wheel(asked[0].sha256, asked[0].filename).unlink()
    assert gather_facts.gather(asked, session) == first
    assert gather_facts.gather_files({asked[0].sha256: wheel}, session) == first


def test_a_wheel_that_was_damaged_on_this_disk(wheel: Path, session: Session) -> None:
    asked = [locked(wheel)]
    gather_facts.gather(asked, session)
    path = session.workspace.wheel(asked[0].sha256, asked[0].filename)
    path.write_bytes(path.read_bytes()[:300])
    for facts in session.workspace.facts.rglob("*-*"):
        facts.unlink()
    with pytest.raises(IntegrityError, match="was damaged on this disk"):
        gather_facts.gather(asked, session)
    assert gather_facts.gather(asked, session)[asked[0].sha256].flaws == ()


def test_another_reader_reads_again(wheel: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {locked(wheel).sha256: wheel}
    gather_facts.gather_files(paths, session)
    monkeypatch.setattr(gather_facts, "READER", 99)
    monkeypatch.setattr(gather_facts, "read_wheels", lambda *_: {locked(wheel).sha256: read_wheel(wheel)})
    gather_facts.gather_files(paths, session)
    assert len(list(session.workspace.facts.rglob("*-99"))) == 1


def test_what_is_no_wheel_is_a_fact_too(tmp_path: Path, session: Session) -> None:
    path = tmp_path / "demo-1.0-py3-none-any.whl"
    path.write_bytes(b"no zip")
    (facts,) = gather_facts.read_wheels({"0" * 64: path}, session).values()
    assert facts.flaws[0][0] == path.name
    assert facts.flaws[0][1].startswith("not a zip")


def test_files_of_other_machines_are_kept_with_what_they_are(tmp_path: Path) -> None:
    found = read_wheel(make_wheel(tmp_path, files={"x.so": make_elf(machine=AMD64)}))
    assert [binary.header.machine for binary in found.binaries] == [AMD64]


def test_metadata_that_cannot_be_read_is_a_flaw(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, files={"x.so": MODULE})
    data = bytearray(path.read_bytes())
    at = data.index(b"demo-1.0.dist-info/WHEEL") + len(b"demo-1.0.dist-info/WHEEL")
    data[at : at + 20] = b"\xff" * 20
    path.write_bytes(bytes(data))
    found = read_wheel(path)
    assert found.tags == ()
    assert any("cannot be inflated" in text for _, text in found.flaws)


NAMES = st.binary(min_size=1, max_size=8).filter(lambda name: b"@" not in name)
VERSIONS = st.none() | st.sampled_from([b"V1", b"V2"])


@given(NAMES, VERSIONS, st.booleans(), NAMES, VERSIONS)
def test_keys_match_as_the_loader_matches(
    name: bytes, version: bytes | None, hidden: bool, wanted: bytes, asked: bytes | None
) -> None:
    keys = wheel_facts.defined_keys([Defined(name, version, hidden)])
    found = bool(set(keys) & set(wheel_facts.wanted_keys([UndefinedSymbol(wanted, asked, False)])))
    fits = version is None or version == asked or (asked is None and not hidden)
    assert found is (name == wanted and fits)
