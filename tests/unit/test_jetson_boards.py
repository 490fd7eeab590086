from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from factories import make_jetson, make_platform

from builder.errors import DocumentError, UsageError
from builder.jetson.boards import board, boards, boards_for
from builder.jetson.distributions import platforms

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """[[boards]]
name = "orin-nx-16"
module = "Jetson Orin NX 16 GB"
chip = "tegra234"
sm = "8.7"
memory-gb = 16
usable-mib = 15656
l4t = ["36"]
power-modes = ["MAXN", "10W"]
cpus = 8
source = "somewhere"
"""


def test_every_board_that_is_known() -> None:
    assert {(row.name, row.chip, row.sm, row.memory_gb) for row in boards()} == {
        ("xavier-nx-8", "tegra194", "7.2", 8),
        ("xavier-nx-16", "tegra194", "7.2", 16),
        ("agx-xavier-32", "tegra194", "7.2", 32),
        ("agx-xavier-64", "tegra194", "7.2", 64),
        ("orin-nano-4", "tegra234", "8.7", 4),
        ("orin-nano-8", "tegra234", "8.7", 8),
        ("orin-nx-8", "tegra234", "8.7", 8),
        ("orin-nx-16", "tegra234", "8.7", 16),
        ("agx-orin-32", "tegra234", "8.7", 32),
        ("agx-orin-64", "tegra234", "8.7", 64),
        ("agx-thor-128", "tegra264", "11.0", 128),
    }


def test_a_name_tells_the_memory_and_a_chip_has_one_gpu() -> None:
    assert all(row.name.endswith(f"-{row.memory_gb}") and row.source for row in boards())
    assert len({(row.chip, row.sm) for row in boards()}) == len({row.chip for row in boards()})


def test_boards_and_platforms_name_each_other() -> None:
    """An L4T release lists exactly the SMs of the boards that it runs on."""
    for platform in platforms():
        major = platform.l4t.split(".")[0]
        assert {row.sm for row in boards() if major in row.l4t} == set(platform.sms), platform.l4t


def test_memory_that_was_never_read_is_the_least_of_what_others_show() -> None:
    measured = [row for row in boards() if row.is_measured]
    assert len(measured) == 6
    assert board("orin-nx-16").usable == 15656 << 20
    ratios = [row.usable / (row.memory_gb << 30) for row in measured]
    for row in boards():
        if not row.is_measured:
            assert row.usable / (row.memory_gb << 30) <= min(ratios) < 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("orin-nx-61", "did you mean `orin-nx-16`?"),
        ("orin_nano_8", "did you mean `orin-nano-8`?"),
        ("agx-thor", "did you mean `agx-thor-128`?"),
    ],
)
def test_an_unknown_board_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        board(name)
    assert (caught.value.message, caught.value.hint) == (f"there is no board `{name}`", hint)


def test_an_unknown_board_that_is_like_none_lists_all() -> None:
    with pytest.raises(UsageError) as caught:
        board("x\n")
    assert caught.value.message == "there is no board `x\\n`"
    assert (caught.value.hint or "").startswith("boards known: a100-80, agx-orin-32, ")


def test_the_boards_of_a_platform() -> None:
    def names(**platform: object) -> set[str]:
        return {row.name.rpartition("-")[0] for row in boards_for(make_jetson(**platform))}

    assert names(l4t="36.4.0") == {"orin-nano", "orin-nx", "agx-orin"}
    assert names(l4t="35.4.1", sms=("7.2", "8.7")) == {"xavier-nx", "agx-xavier", "orin-nano", "orin-nx", "agx-orin"}
    assert names(l4t="38.2.0", sms=("11.0",)) == {"agx-thor"}
    assert names(l4t="39.2.0", sms=("8.7", "11.0")) == {"orin-nano", "orin-nx", "agx-orin", "agx-thor"}
    assert boards_for(make_platform()) == ()
    assert [row.name for row in boards_for(make_platform(), ("orin-nano-4",))] == ["orin-nano-4"]


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "message"),
    [
        ('"orin-nx-16"', '"Orin NX"', 2, "boards[0].name", "`Orin NX` is not a board's name such as orin-nx-16"),
        ('"tegra234"', '"t234"', 4, "boards[0].chip", "`t234` is not a chip such as tegra234"),
        ("15656", "17000", 7, "boards[0].usable-mib", "17000 is out of bounds"),
        ("memory-gb = 16\n", "", 1, "boards[0]", "`memory-gb` is missing"),
        ("memory-gb = 16", 'memory-gb = "16"', 6, "boards[0].memory-gb", "must be a whole number, not a string"),
        ('l4t = ["36"]', "l4t = []", 8, "boards[0].l4t", "`l4t` must not be empty"),
        ('["36"]', '["36.4"]', 8, "boards[0].l4t[0]", "`36.4` is not a major release such as 36"),
        ('source = "somewhere"\n', "", 1, "boards[0]", "`source` is missing"),
        ("power-modes", "power", 9, "boards[0].power", "unknown key `power`"),
    ],
)
def test_bad_rows(tmp_path: Path, old: str, new: str, line: int, key: str, message: str) -> None:
    path = tmp_path / "boards.toml"
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        boards(path)
    assert (line, key, message) in [(p.line, p.key, p.message) for p in caught.value.problems]


def test_a_board_that_is_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "boards.toml"
    path.write_text(GOOD * 2, encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        boards(path)
    assert [(p.line, p.message) for p in caught.value.problems] == [(13, "`orin-nx-16` is listed twice")]
