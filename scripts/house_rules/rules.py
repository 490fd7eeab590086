"""The rules that `scripts/house --check` holds: the order of the rooms, no circles, every name once, no slang."""

from __future__ import annotations

from typing import TYPE_CHECKING

from house_rules.imports import circles, import_edges, imported_names, module_graph
from house_rules.names import SHARED_MODULE_NAMES, classes_by_name, modules_by_name, public_names
from house_rules.source import read_modules

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from house_rules.imports import ImportEdge
    from house_rules.names import Name
    from house_rules.source import SourceModule

# The folders of the package in the order of the flow: each imports only those before it. The pipeline stands before
# the rooms of the stages, because they implement its protocol; it knows them by name only.
ROOMS = (
    "model",
    "host",
    "jetson",
    "remote",
    "recipe",
    "models",
    "pipeline",
    "lock",
    "audit",
    "image",
    "smoke",
    "publish",
    "device",
    "project",
    "cli",
)
# Modules that every room may import, and that import no room.
GROUND = ("", "errors")
# What stands beside the rooms: the package's own file, its errors, its entry, and what a wheel brings along.
OTHER_ENTRIES = frozenset({"__init__.py", "__main__.py", "errors.py", "share"})
# Programs that run inside images: their bytes decide digests, so their names stay.
INSIDE_IMAGES = ("image", "runtime")


def check(root: Path, tests: Path | None = None) -> list[str]:
    """Return one line for each violation in the package at `root` and in the tests, empty if there is none.

    Raises:
        SyntaxError: a file is not Python.
    """
    modules = read_modules(root)
    edges = import_edges(modules)
    violations = [
        *_entries(root),
        *dict.fromkeys(_order(edges, root)),
        *_circles(edges),
        *_doubles("class", classes_by_name(modules), root),
        *_doubles("module", _own_modules(modules), root),
        *_slang(modules, root),
    ]
    return violations + (list(_test_imports(tests)) if tests else [])


def _entries(root: Path) -> Iterator[str]:
    rooms = set(ROOMS)
    for path in sorted(root.iterdir()):
        if path.name.startswith(".") or path.name == "__pycache__" or _is_deserted(path):
            continue
        if path.name not in OTHER_ENTRIES and not (path.is_dir() and path.name in rooms):
            yield f"{_spot(path, root)}: neither a room nor one of {', '.join(sorted(OTHER_ENTRIES))}"


def _is_deserted(path: Path) -> bool:
    """Tell whether a folder holds only compiled files, as one does whose modules moved."""
    return path.is_dir() and all("__pycache__" in file.parts for file in path.rglob("*") if file.is_file())


def _order(edges: Iterable[ImportEdge], root: Path) -> Iterator[str]:
    ranks = dict.fromkeys(GROUND, -1) | {name: rank for rank, name in enumerate(ROOMS)} | {"__main__": len(ROOMS)}
    for edge in edges:
        source, target = ranks.get(edge.source.entry), ranks.get(edge.target.entry)
        # An entry without a rank is a violation by itself.
        if source is not None and target is not None and source < target:
            path, row = edge.location
            yield f"{_spot(path, root)}:{row}: imports {edge.target.name}, a room to its right"


def _circles(edges: Iterable[ImportEdge]) -> Iterator[str]:
    for names in circles(module_graph(edges)):
        yield f"{', '.join(names)}: import each other in a circle"


def _own_modules(modules: Iterable[SourceModule]) -> dict[str, list[Name]]:
    groups = modules_by_name(modules)
    return {text: names for text, names in groups.items() if text not in SHARED_MODULE_NAMES}


def _doubles(noun: str, groups: dict[str, list[Name]], root: Path) -> Iterator[str]:
    for text, names in groups.items():
        if len(names) > 1:
            spots = ", ".join(f"{_spot(name.path, root)}:{name.row}" for name in names)
            yield f"{spots}: {noun} {text} is defined {len(names)} times"


def _slang(modules: Sequence[SourceModule], root: Path) -> Iterator[str]:
    inside = root.joinpath(*INSIDE_IMAGES)
    for name in public_names(module for module in modules if not module.path.is_relative_to(inside)):
        if name.is_slang:
            yield f"{_spot(name.path, root)}:{name.row}: {name.text} is slang: name the thing by the field's word"


def _test_imports(tests: Path) -> Iterator[str]:
    for path in sorted(tests.rglob("*.py")):
        for name, row in imported_names(path):
            if name.rpartition(".")[2].startswith("test_"):
                yield f"{_spot(path, tests)}:{row}: imports the test module {name}; put shared helpers into a factory"


def _spot(path: Path, root: Path) -> str:
    return path.relative_to(root.parent).as_posix()
