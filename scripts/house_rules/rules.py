"""Checks the house rules for `scripts/house --check`: order of the rooms, import cycles, duplicate names, slang."""

from __future__ import annotations

from typing import TYPE_CHECKING

from house_rules.imports import cycles, import_edges, imported_names, module_graph
from house_rules.names import SHARED_MODULE_NAMES, classes_by_name, modules_by_name, public_names
from house_rules.source import read_modules

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from house_rules.imports import ImportEdge
    from house_rules.names import Name
    from house_rules.source import SourceModule

# The rooms are the folders of the package, in the order of the flow. A room imports only earlier rooms. The pipeline
# comes before the rooms of the stages, because the stages implement its protocol; it refers to them only by name.
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
    "foundry",
    "image",
    "smoke",
    "publish",
    "device",
    "project",
    "cli",
)
# Every room may import these modules; they do not import a room.
GROUND = ("", "errors")
# Other entries of the package: its `__init__.py`, its errors, its entry point, and the data files of the wheel.
OTHER_ENTRIES = frozenset({"__init__.py", "__main__.py", "errors.py", "share"})
# Programs that run inside images: a new name would change the digests of images, so the slang rule excludes them.
INSIDE_IMAGES = ("image", "runtime")


def check(root: Path, tests: Path | None = None) -> list[str]:
    """Return a line for each violation in the package at `root` and in the tests, or an empty list.

    Raises:
        SyntaxError: a file is not Python.
    """
    modules = read_modules(root)
    edges = import_edges(modules)
    violations = [
        *_entries(root),
        *dict.fromkeys(_order(edges, root)),
        *_cycles(edges),
        *_duplicates("class", classes_by_name(modules), root),
        *_duplicates("module", _unshared_modules(modules), root),
        *_slang(modules, root),
    ]
    return violations + (list(_test_imports(tests)) if tests else [])


def _entries(root: Path) -> Iterator[str]:
    rooms = set(ROOMS)
    for path in sorted(root.iterdir()):
        if path.name.startswith(".") or path.name == "__pycache__" or _is_deserted(path):
            continue
        if path.name not in OTHER_ENTRIES and not (path.is_dir() and path.name in rooms):
            yield f"{_location(path, root)}: neither a room nor one of {', '.join(sorted(OTHER_ENTRIES))}"


def _is_deserted(path: Path) -> bool:
    """Check whether a folder contains only compiled files, which remain after its modules have moved."""
    return path.is_dir() and all("__pycache__" in file.parts for file in path.rglob("*") if file.is_file())


def _order(edges: Iterable[ImportEdge], root: Path) -> Iterator[str]:
    ranks = dict.fromkeys(GROUND, -1) | {name: rank for rank, name in enumerate(ROOMS)} | {"__main__": len(ROOMS)}
    for edge in edges:
        source, target = ranks.get(edge.source.entry), ranks.get(edge.target.entry)
        # _entries() reports an entry without a rank.
        if source is not None and target is not None and source < target:
            path, row = edge.location
            yield f"{_location(path, root)}:{row}: imports {edge.target.name} from a later room"


def _cycles(edges: Iterable[ImportEdge]) -> Iterator[str]:
    for names in cycles(module_graph(edges)):
        yield f"{', '.join(names)}: form an import cycle"


def _unshared_modules(modules: Iterable[SourceModule]) -> dict[str, list[Name]]:
    groups = modules_by_name(modules)
    return {text: names for text, names in groups.items() if text not in SHARED_MODULE_NAMES}


def _duplicates(noun: str, groups: dict[str, list[Name]], root: Path) -> Iterator[str]:
    for text, names in groups.items():
        if len(names) > 1:
            locations = ", ".join(f"{_location(name.path, root)}:{name.row}" for name in names)
            yield f"{locations}: {noun} {text} is defined {len(names)} times"


def _slang(modules: Sequence[SourceModule], root: Path) -> Iterator[str]:
    inside = root.joinpath(*INSIDE_IMAGES)
    for name in public_names(module for module in modules if not module.path.is_relative_to(inside)):
        if name.is_slang:
            yield f"{_location(name.path, root)}:{name.row}: {name.text} is slang: use a specific term"


def _test_imports(tests: Path) -> Iterator[str]:
    for path in sorted(tests.rglob("*.py")):
        for name, row in imported_names(path):
            if name.rpartition(".")[2].startswith("test_"):
                hint = "put shared helpers into a factory"
                yield f"{_location(path, tests)}:{row}: imports the test module {name}; {hint}"


def _location(path: Path, root: Path) -> str:
    return path.relative_to(root.parent).as_posix()
