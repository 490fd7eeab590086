"""The audit's reader against readelf and nm, on libraries of this machine and of the wheels that the tests run with."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agreement.binutils import differences
from agreement.elves import shared_objects

if TYPE_CHECKING:
    from collections.abc import Callable

_LARGEST = 1 << 20
# Two programs are run for a file: one of so many will do.
_EACH = 4
_SYSTEM = ("/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64")
_NAMES = ("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "libz.so.1", "libcrypto.so.3")


def _of_wheels() -> list[Path]:
    found = shared_objects(Path(sysconfig.get_path("platlib")))
    return [path for path in found if path.stat().st_size <= _LARGEST][::_EACH]


def _of_system() -> list[Path]:
    return [Path(folder, name).resolve() for folder in _SYSTEM for name in _NAMES if Path(folder, name).exists()]


@pytest.mark.parametrize("find", [_of_wheels, _of_system], ids=["wheels", "system"])
def test_reader_agrees_with_readelf_and_nm(find: Callable[[], list[Path]]) -> None:
    files = find()

    read = {str(path): differences(path) for path in files}

    assert sum(symbols for symbols, _ in read.values()) > 1000
    assert {path: found for path, (_, found) in read.items() if found} == {}
