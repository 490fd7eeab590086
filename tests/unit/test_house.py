"""The rules of the house: each is reported when it is broken, and the package keeps all of them."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import house_figures
from house_rules.imports import cycles, longest_chain
from house_rules.names import slang_share
from house_rules.rules import ROOMS, check
from house_rules.source import SourceModule, read_modules

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKOUT = Path(__file__).parents[2]
CLEAN = {
    "__init__.py": '"""A package."""\n',
    "__main__.py": "from builder.cli.main import main\n",
    "errors.py": "class Failure(Exception):\n    pass\n",
    "host/__init__.py": "",
    "host/files.py": "from builder.errors import Failure\n\n\ndef write(path: str) -> None:\n    found = path\n",
    "lock/__init__.py": "",
    "lock/stage.py": "from builder.host.files import write\n",
    "audit/__init__.py": "",
    "audit/stage.py": "from builder.host import files\nfrom builder import __version__\n",
    "cli/__init__.py": "",
    "cli/main.py": "import builder.audit.stage\n\n\ndef main() -> None: ...\n",
}


def package(folder: Path, changes: Mapping[str, str] | None = None) -> Path:
    root = folder / "builder"
    for name, text in {**CLEAN, **(changes or {})}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def module(text: str) -> SourceModule:
    return SourceModule(name="builder.one", path=Path("builder/one.py"), text=text, tree=ast.parse(text))


def test_a_clean_package_passes(tmp_path: Path) -> None:
    root = package(tmp_path)
    # What Python and a wheel leave beside the rooms, and a folder whose modules moved.
    for name in ("__pycache__/x.pyc", "resolve/__pycache__/x.pyc", ".hidden", "share/recipes/x.toml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    assert check(root) == []


UPWARD = [
    ("from builder.cli import main\n", 1),
    ("from builder.cli.main import main\n", 1),
    ("import builder.cli.main\n", 1),
    ("from ..cli.main import main\n", 1),
    ("from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from builder.cli.main import main\n", 4),
    ("def run() -> None:\n    from builder.cli.main import main\n\n    main()\n", 2),
]


@pytest.mark.parametrize(("text", "row"), UPWARD)
def test_an_import_upward(tmp_path: Path, text: str, row: int) -> None:
    root = package(tmp_path, {"lock/solver.py": text})
    assert check(root) == [f"builder/lock/solver.py:{row}: imports builder.cli.main from a later room"]


def test_a_room_knows_no_later_stage_and_errors_know_no_room(tmp_path: Path) -> None:
    changes = {"lock/solver.py": "from builder.audit.stage import files\n", "errors.py": "import builder.host.files\n"}
    root = package(tmp_path, changes)
    assert check(root) == [
        "builder/errors.py:1: imports builder.host.files from a later room",
        "builder/lock/solver.py:1: imports builder.audit.stage from a later room",
        "builder.errors, builder.host.files: form an import cycle",
    ]


def test_an_import_by_name_is_no_edge(tmp_path: Path) -> None:
    root = package(tmp_path, {"lock/solver.py": 'import importlib\n\nimportlib.import_module("builder.cli.main")\n'})
    assert check(root) == []


def test_a_cycle_of_modules(tmp_path: Path) -> None:
    types = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from builder.lock.first import x\n"
    root = package(
        tmp_path,
        {
            "lock/first.py": "from builder.lock import second\n",
            "lock/second.py": "def y() -> None:\n    from .third import z\n",
            "lock/third.py": types,
        },
    )
    assert check(root) == ["builder.lock.first, builder.lock.second, builder.lock.third: form an import cycle"]


def test_a_class_twice(tmp_path: Path) -> None:
    root = package(tmp_path, {"lock/a.py": "class _Reader: ...\n", "audit/b.py": "\nclass _Reader: ...\n"})
    assert check(root) == ["builder/audit/b.py:2, builder/lock/a.py:1: class _Reader is defined 2 times"]


def test_a_module_twice(tmp_path: Path) -> None:
    root = package(tmp_path, {"lock/solver.py": "", "audit/solver.py": "", "lock/errors.py": "", "audit/errors.py": ""})
    assert check(root) == ["builder/audit/solver.py:1, builder/lock/solver.py:1: module solver is defined 2 times"]


@pytest.mark.parametrize("name", ["caches.py", "resolve", "notes.txt"])
def test_an_entry_that_is_no_room(tmp_path: Path, name: str) -> None:
    root = package(tmp_path, {name if "." in name else f"{name}/solver.py": ""})
    assert check(root) == [f"builder/{name}: neither a room nor one of __init__.py, __main__.py, errors.py, share"]


SLANG = [
    ("def found() -> None: ...\n", "found"),
    ("class Made: ...\n", "Made"),
    ("KNOWN: int = 1\n", "KNOWN"),
    ("x, told = 1, 2\n", "told"),
    ("class Layer:\n    begun: int\n", "begun"),
    ("class Layer:\n    def place(self) -> None: ...\n", "place"),
    ("if True:\n    what = 1\n", "what"),
]


@pytest.mark.parametrize(("text", "word"), SLANG)
def test_slang_in_public(tmp_path: Path, text: str, word: str) -> None:
    [violation] = check(package(tmp_path, {"lock/solver.py": text}))
    assert f": {word} is slang" in violation


def test_slang_as_a_modules_name(tmp_path: Path) -> None:
    assert check(package(tmp_path, {"lock/kept.py": ""})) == [
        "builder/lock/kept.py:1: kept is slang: use a specific term"
    ]


NOT_SLANG = [
    "def _found() -> None: ...\n",
    "def find(place: str) -> None:\n    each = place\n",
    "def found_wheels() -> None: ...\n",
    # A key of what `--json` prints.
    "class Position:\n    line: int\n",
]


@pytest.mark.parametrize("text", NOT_SLANG)
def test_names_that_may_stay(tmp_path: Path, text: str) -> None:
    assert check(package(tmp_path, {"lock/solver.py": text})) == []


def test_programs_inside_images_keep_their_names(tmp_path: Path) -> None:
    assert check(package(tmp_path, {"image/runtime/settings.py": "HERE = 1\n"})) == []


def test_a_test_that_imports_another(tmp_path: Path) -> None:
    tests = tmp_path / "tests" / "unit"
    tests.mkdir(parents=True)
    (tests / "test_a.py").write_text("from factories import x\n\n\ndef test_x() -> None:\n    from test_b import y\n")
    (tests / "factories.py").write_text("import test_b\n")
    assert check(package(tmp_path), tmp_path / "tests") == [
        "tests/unit/factories.py:1: imports the test module test_b; put shared helpers into a factory",
        "tests/unit/test_a.py:5: imports the test module test_b; put shared helpers into a factory",
    ]


def test_chains_and_cycles_of_a_graph() -> None:
    chain = {"a": {"b"}, "b": {"c", "d"}, "c": {"b"}, "d": set[str]()}
    assert cycles(chain) == (("b", "c"),)
    assert longest_chain(chain) == 3
    assert (cycles({}), longest_chain({})) == ((), 0)


def test_a_module_is_counted() -> None:
    text = '''"""A docstring
of two lines."""

from typing import Any  # not code by itself


def first(value: Any) -> None:
    """One line."""
    # A comment.
    import json

    def second() -> str:
        import re

        return """two
lines"""
'''
    one = module(text)
    assert house_figures.code_lines(one) == 7
    assert house_figures.local_imports(one) == 2
    assert house_figures.uses_of_any(one) == 1


def test_the_share_of_slang() -> None:
    text = "def run(self, found):\n    each, size = found\n    _made: int = 1\n    __x__ = _ = 1\n"
    # run, found, each, size and _made; nobody chose the others.
    assert slang_share([module(text)]) == pytest.approx(3 / 5)


def test_the_figures_of_this_checkout(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["house"])
    assert house_figures.main() == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 12
    assert all(any(character.isdigit() for character in row) for row in rows)


def test_the_package_keeps_the_rules() -> None:
    assert "\n".join(check(CHECKOUT / "builder", CHECKOUT / "tests")) == ""


def test_the_rooms_are_the_packages_folders() -> None:
    entries = {module.entry for module in read_modules(CHECKOUT / "builder")}
    assert entries == {*ROOMS, "", "errors", "__main__"}
