"""The audit's rows are well-formed, sourced, and agree with what lies elsewhere."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from builder.audit import rule_tables as module
from builder.audit.rule_tables import major_minor, rules, table_digest, tables
from builder.errors import DocumentError
from builder.jetson.distributions import distributions, platforms
from builder.recipe.sections import AUDIT_RULES

DOCS = Path(__file__).parents[2] / "docs" / "audit.md"


def test_the_recipes_know_every_rule() -> None:
    assert tuple(rule.id for rule in rules()) == AUDIT_RULES


def test_every_rule_has_its_place_in_the_documentation() -> None:
    headings = re.findall(r"(?m)^### (\S+)$", DOCS.read_text(encoding="utf-8"))
    assert headings == [rule.id for rule in rules()]


def test_the_documentation_says_what_the_rows_say() -> None:
    """One text in two places: the page for who reads, the row for who asks `jbuild audit --explain`."""
    text = DOCS.read_text(encoding="utf-8")
    sections = dict(re.findall(r"(?ms)^### (\S+)\n\n(.*?)\n(?=\n### |\n## )", text))
    assert {rule.id: rule.says for rule in rules()} == sections


def test_packages_are_of_known_distributions() -> None:
    known = {row.name for row in distributions()} | {"*"}
    assert {name for row in tables().packages for name in row.on} <= known


@pytest.mark.parametrize("distribution", [row.name for row in distributions()])
def test_every_distribution_has_advice_for_common_libraries(distribution: str) -> None:
    for library in ("libnuma.so.1", "libgomp.so.1", "libGL.so.1", "libglib-2.0.so.0", "libsndfile.so.1"):
        rows = [row.package for row in tables().packages if row.is_on(distribution) and row.has(library)]
        assert len(rows) == 1, library


@pytest.mark.parametrize("row", platforms(), ids=lambda row: row.l4t)
def test_every_platform_has_a_policy_and_a_driver_whose_ptx_is_known(row: object) -> None:
    l4t, cuda = str(row.l4t), str(row.cuda)  # type: ignore[attr-defined]
    assert any(fnmatchcase(l4t, pattern) for pattern in tables().policies)
    assert any(found <= major_minor(cuda) for _, found in tables().ptx)


def test_ptx_grows_with_cuda() -> None:
    versions = [cuda for _, cuda in tables().ptx]
    assert versions == sorted(versions)


def test_globally_loaded_libraries_are_known_by_their_symbols() -> None:
    """A library that everything sees and that may define anything would hide every undefined symbol."""
    for library in ("libz.so.1", "libexpat.so.1"):
        first = next(row for row in tables().packages if row.package == "python3" and row.has(library))
        assert first.symbols


def test_rows_are_part_of_what_an_audit_is_made_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = table_digest()
    (tmp_path / "rules.toml").write_text("")
    monkeypatch.setattr(module, "_FOLDER", tmp_path)
    assert table_digest() != before


COMPILE = '[compile]\nseconds-per-mb = 1\nboard-factor = 1\nsource = "s"\n'


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("rules.toml", '[[rules]]\nid = "a-b"\nseverity = "grave"\ntitle = "t"\nsays = "s"\n', "unknown severity"),
        ("rules.toml", '[[rules]]\nid = "a-b"\nseverity = "info"\ntitle = "t"\nsays = "s"\n' * 2, "occurs twice"),
        ("rules.toml", '[[rules]]\nid = "a-b"\nseverity = "info"\ntitle = "t"\n', "`says` is missing"),
        ("packages.toml", '[[packages]]\nname = "x"\nsource = "s"\n', "at least one library"),
        ("packages.toml", '[[packages]]\nname = "x"\nlibraries = ["l"]\n', "`source` is missing"),
        (
            "gpu.toml",
            f'{COMPILE}[[policies]]\nl4t = "36.*"\nsame-major = true\nevidence = "proven"\nsource = "s"\n',
            "must be for",
        ),
        ("exceptions.toml", '[[other-gpus]]\nwheel = "x"\nfile = "*"\nwhy = "w"\nsource = "s"\n', "must name the GPUs"),
        ("preloads.toml", '[[preloads]]\npackage = "x"\nlaod = []\nsource = "s"\n', "did you mean `load`"),
    ],
)
def test_mistakes_are_located(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str, text: str, problem: str
) -> None:
    for path in module._FOLDER.glob("*.toml"):
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / file).write_text(text)
    monkeypatch.setattr(module, "_FOLDER", tmp_path)
    rules.cache_clear()
    tables.cache_clear()
    try:
        with pytest.raises(DocumentError) as caught:
            (rules if file == "rules.toml" else tables)()
    finally:
        rules.cache_clear()
        tables.cache_clear()
    assert any(problem in f"{each.message} {each.hint}" for each in caught.value.problems)
    assert all(each.line for each in caught.value.problems if each.key != "policies")
