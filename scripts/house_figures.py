"""Measures the source of `builder/` and checks the house rules.

Without options, it prints a table of figures. With `--check`, it prints a line for each violation of a rule, and the
exit code is 1 if a rule is violated. `scripts/house_rules/rules.py` defines the rules.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

from house_rules.imports import cycles, entry_graph, import_edges, longest_chain, module_graph
from house_rules.names import classes_by_name, modules_by_name, slang_share
from house_rules.rules import check
from house_rules.source import functions, read_modules

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from house_rules.names import Name
    from house_rules.source import SourceModule

_CHECKOUT = Path(__file__).parents[1]
_NOT_CODE = frozenset(
    {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    }
)
_PIPELINE = "pipeline"
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def main() -> int:
    """Print the figures or the violations; return the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/house", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="list the violations of the rules; exit with 1 if a rule is violated"
    )
    arguments = parser.parse_args()
    root, tests = _CHECKOUT / "builder", _CHECKOUT / "tests"
    if arguments.check:
        violations = check(root, tests)
        print("\n".join(violations) if violations else "house: no violations")
        return 1 if violations else 0
    modules = read_modules(root)
    rows = [*_sizes(modules, tests), *_structure(modules), *_wording(modules)]
    width = max(len(title) for title, _ in rows)
    for title, value in rows:
        print(f"{title:<{width}}  {value}")
    return 0


def _sizes(modules: Sequence[SourceModule], tests: Path) -> Iterator[tuple[str, str]]:
    lines = [module.text.count("\n") for module in modules]
    lengths = [(node.end_lineno or node.lineno) - node.lineno + 1 for module in modules for node in functions(module)]
    test_lines = sum(path.read_text(encoding="utf-8").count("\n") for path in tests.rglob("*.py"))
    yield "lines (lines of code)", f"{sum(lines):,} ({sum(map(code_lines, modules)):,})"
    yield "modules; top-level entries", f"{len(modules)}; {len(_entries(modules))}"
    yield "lines per file, median / p90 / max", _spread(lines)
    yield "lines per function, median / p90 / max", _spread(lengths)
    yield "lines of tests / lines of builder", f"{test_lines / sum(lines):.2f}"


def _structure(modules: Sequence[SourceModule]) -> Iterator[tuple[str, str]]:
    edges = import_edges(modules)
    folders = entry_graph(edges)
    yield "layers of imports", str(longest_chain(folders))
    yield "import cycles of modules; of folders", f"{len(cycles(module_graph(edges)))}; {len(cycles(folders))}"
    yield "imports inside functions", str(sum(map(local_imports, modules)))
    pipeline = [module for module in modules if module.entry == _PIPELINE]
    yield "`Any` in the pipeline", str(sum(map(uses_of_any, pipeline)))


def _wording(modules: Sequence[SourceModule]) -> Iterator[tuple[str, str]]:
    classes = classes_by_name(modules)
    public = {text: names for text, names in classes.items() if not text.startswith("_")}
    yield "duplicate class names (with private classes)", f"{_duplicates(public)} ({_duplicates(classes)})"
    shared = {text: names for text, names in modules_by_name(modules).items() if text != "__init__"}
    yield "duplicate module names", str(_duplicates(shared))
    yield "slang among identifiers", f"{slang_share(modules):.1%}"


def _entries(modules: Iterable[SourceModule]) -> set[str]:
    """Return the top-level folders and modules, without the package's `__init__.py`."""
    return {module.entry for module in modules if module.entry}


def _duplicates(groups: Mapping[str, Sequence[Name]]) -> int:
    return sum(len(names) > 1 for names in groups.values())


def _spread(counts: Iterable[int]) -> str:
    ordered = sorted(counts)
    return f"{ordered[len(ordered) // 2]} / {ordered[len(ordered) * 9 // 10]} / {ordered[-1]}"


def code_lines(module: SourceModule) -> int:
    """Count a module's lines without blank lines, comments and docstrings."""
    rows: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type not in _NOT_CODE:
            rows.update(range(token.start[0], token.end[0] + 1))
    return len(rows - _docstring_rows(module))


def _docstring_rows(module: SourceModule) -> set[int]:
    rows: set[int] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            rows.update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    return rows


def local_imports(module: SourceModule) -> int:
    """Count the imports inside functions."""
    rows = {
        (child.lineno, child.col_offset)
        for node in functions(module)
        for child in ast.walk(node)
        if isinstance(child, ast.Import | ast.ImportFrom)
    }
    return len(rows)


def uses_of_any(module: SourceModule) -> int:
    """Count a module's uses of the type `Any`, without its import."""
    return sum(
        (isinstance(node, ast.Name) and node.id == "Any") or (isinstance(node, ast.Attribute) and node.attr == "Any")
        for node in ast.walk(module.tree)
    )


if __name__ == "__main__":
    sys.exit(main())
