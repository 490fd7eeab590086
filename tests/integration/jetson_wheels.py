"""The wheels of the stand-in for the Jetson AI Lab index, made from the table `jetson_index.toml`.

They have the names, tags and requirements of the real ones, the same bytes on every machine, and import nothing useful.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from factories import make_wheel
from tiny_elf import shared_object

from builder.host.toml import documents
from builder.host.wording import suggest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.toml.tables import Table

SECOND = "uploaded-later"
"""The folder within a set where the second file of one name lies."""
_SET = r"[a-z0-9]+/[a-z0-9-]+"
_IMPORT = """\
\"\"\"A stand-in for {name} {version}, made by jbuild's tests.\"\"\"

message = "this is jbuild's stand-in for {name} {version}: a few bytes with its name"
raise ImportError(message)
"""
# The form of torch 2.8's own file.
_TORCH_VERSION = """\
from typing import Optional

__all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip', 'xpu']
__version__ = '{version}'
debug = False
cuda: Optional[str] = '{cuda}'
git_version = '{build}'
hip: Optional[str] = None
xpu: Optional[str] = None
"""


_PUBLIC = {
    "einops": "0.8.1",
    "filelock": "3.20.0",
    "fsspec": "2025.9.0",
    "jinja2": "3.1.6",
    "networkx": "3.4.2",
    "numpy": "2.2.6",
    "pillow": "12.0.0",
    "setuptools": "79.0.1",
    "sympy": "1.14.0",
    "typing_extensions": "4.15.0",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirements:
    """What a METADATA file asks for: Requires-Python, Requires-Dist and Provides-Extra."""

    python: str
    requires: tuple[str, ...]
    extras: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelRow:
    """A row of the table: one project's `versions` in every one of `sets`, for every one of `tags`.

    `pins` gives a version a requirement of its own. `without` drops requirements that hold a word. `glibc` is what the
    wheel's binary needs. Traps: METADATA speaks of `said`, the file is `truncated`, or there are two of it (`twice`).
    """

    name: str
    versions: tuple[str, ...]
    pins: tuple[tuple[str, str], ...]
    sets: tuple[str, ...]
    tags: tuple[str, ...]
    requirements: Requirements
    without: str | None
    glibc: str
    said: tuple[str, str] | None
    truncated: bool
    twice: bool
    source: str
    assumed: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexTable:
    """The table: sets with the CUDA version of their wheels, and the wheels."""

    cuda: dict[str, str]
    rows: tuple[WheelRow, ...]


@cache
def index_table() -> IndexTable:
    """Return `jetson_index.toml`.

    Raises:
        DocumentError: it has mistakes.
    """
    return documents.load(Path(__file__).with_name("jetson_index.toml"), "the stand-in's table has mistakes", _parse)


def make_sets(folder: Path, *names: str) -> Path:
    """Write the sets with these names, all by default, as `folder/<user>/<set>/<wheel>`; return `folder`."""
    table = index_table()
    wanted = names or tuple(table.cuda)
    for name in wanted:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for row in table.rows:
        for name, version, tag in itertools.product(row.sets, row.versions, row.tags):
            if name in wanted:
                _make(row, folder / name, version, tag, table.cuda[name])
    return folder


def make_public(folder: Path) -> Path:
    """Write what a public index has: what torch wants, and builds of torch and torchvision for any arm64 machine."""
    for name, version in _PUBLIC.items():
        make_wheel(folder, name, version)
    make_wheel(folder, "torch", "2.8.0", "cp310-cp310-manylinux_2_28_aarch64")
    make_wheel(folder, "torchvision", "0.23.0", "cp310-cp310-manylinux_2_28_aarch64", requires=("torch==2.8.0",))
    return folder


def remake(wheel: Path) -> Path:
    """Write a wheel of the table again as another upload of the same file name: other bytes, another hash."""
    name, table = wheel.parent.parent.name + "/" + wheel.parent.name, index_table()
    for row in table.rows:
        for version, tag in itertools.product(row.versions, row.tags):
            if name in row.sets and wheel.name == f"{row.name}-{_public(version, table.cuda[name])}-{tag}.whl":
                return _make_one(row, wheel.parent, version, tag, table.cuda[name], build="2")
    message = f"no row of the table makes {name}/{wheel.name}"
    raise LookupError(message)


def _make(row: WheelRow, folder: Path, version: str, tag: str, cuda: str) -> None:
    path = _make_one(row, folder, version, tag, cuda)
    if row.truncated:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if row.twice:
        _make_one(row, folder / SECOND, version, tag, cuda, build="2")


def _make_one(row: WheelRow, folder: Path, version: str, tag: str, cuda: str, build: str = "1") -> Path:
    full = _public(version, cuda)
    asked = row.requirements
    return make_wheel(
        folder,
        row.name,
        full,
        tag,
        dict(_files(row, full, cuda, build)),
        said=row.said,
        requires=tuple(r for r in (*asked.requires, *_pins(row, version)) if not row.without or row.without not in r),
        headers=(
            *((f"Requires-Python: {asked.python}",) if asked.python else ()),
            *(f"Provides-Extra: {extra}" for extra in asked.extras),
        ),
        stored=True,
    )


def _files(row: WheelRow, version: str, cuda: str, build: str) -> Iterator[tuple[str, str | bytes]]:
    yield f"{row.name}/__init__.py", _IMPORT.format(name=row.name, version=version)
    yield f"{row.name}/BUILD", f"stand-in, build {build}, CUDA {cuda}\n"
    if row.name == "torch":
        yield "torch/version.py", _TORCH_VERSION.format(version=version, cuda=cuda, build=build.zfill(40))
        yield "torch/lib/libtorch_cuda.so", f"a stand-in for torch {version} built for CUDA {cuda}\n".encode()
    if row.glibc:
        yield f"{row.name}_2_cuda.so", shared_object(f"{row.name}_2_cuda.so", f"GLIBC_{row.glibc}")


def _public(version: str, cuda: str) -> str:
    return version.format(local=f"cu{cuda.replace('.', '')}")


def _pins(row: WheelRow, version: str) -> Iterator[str]:
    return (pin for pinned, pin in row.pins if pinned == version)


def _parse(root: Table) -> IndexTable:
    cuda = {}
    for table in root.tables("sets"):
        cuda[table.string("name", pattern=_SET, noun="a set such as jp6/cu126")] = table.string("cuda")
        table.string("source")
        table.done()
    shared = {}
    for table in root.tables("metadata"):
        shared[table.string("id")] = _requirements(table)
        table.string("source")
        table.done()
    rows = [_row(table, cuda, shared) for table in root.tables("wheels")]
    return IndexTable(cuda=cuda, rows=tuple(rows))


def _requirements(table: Table) -> Requirements:
    return Requirements(
        python=table.string("requires-python", ""),
        requires=table.strings("requires"),
        extras=table.strings("extras"),
    )


def _row(table: Table, cuda: dict[str, str], shared: dict[str, Requirements]) -> WheelRow:
    own, like, pins = _requirements(table), table.optional_string("like"), table.string_map("pins")
    if like and like not in shared:
        table.problem("like", f"`{like}` is no id under [[metadata]]", suggest(like, shared))
    said = dict(table.string_map("said"))
    row = WheelRow(
        name=table.string("name", pattern=r"[a-z0-9_]+", noun="a name as in a wheel's file name"),
        versions=(*table.strings("versions"), *(version for version, _ in pins)),
        pins=pins,
        sets=table.strings("sets", pattern=_SET, noun="a set such as jp6/cu126"),
        tags=table.strings("tags"),
        requirements=shared.get(like, own) if like else own,
        without=table.optional_string("without"),
        glibc=table.string("glibc", ""),
        said=(said["name"], said["version"]) if said else None,
        truncated=table.boolean("truncated", default=False),
        twice=table.boolean("twice", default=False),
        source=table.string("source"),
        assumed=table.optional_string("assumed"),
    )
    for unknown in set(row.sets) - set(cuda):
        table.problem("sets", f"`{unknown}` is no name under [[sets]]", suggest(unknown, cuda))
    table.done()
    return row
