"""What can be seen to be wrong with a recipe only once its cells are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.host.toml.documents import printable, suggest
from builder.jetson.platform import platform_for
from builder.model.recipes import TagRule
from builder.recipe import placeholders, value_checks
from builder.recipe.globs import matches
from builder.recipe.matrix import CPU_TAG, JETSON_TAG, expand

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.host.toml.documents import Document
    from builder.model.recipes import Cell, Pairs, Recipe
    from builder.recipe.slots import Slot

    CellFacts = Sequence[tuple[Cell, Mapping[str, str]]]

_LONGEST_ID = 100


def check_texts(document: Document, recipe: Recipe, slots: Sequence[Slot]) -> None:
    """Note what is wrong with strings, and with the names of their placeholders, whatever the cells are."""
    plain = {*placeholders.FACTS, *(axis.name for axis in recipe.matrix.axes)}
    for slot in slots:
        names = _names(plain, slot)
        placeholder_names = placeholders.names(slot.text)
        if not placeholder_names and (problem := slot.check(slot.text)):
            document.problem(slot.path, problem)
        for name in placeholder_names:
            if name not in names:
                document.problem(slot.path, f"`{{{name}}}` is not an axis or fact", suggest(name, names, noun="known"))


def _names(plain: set[str], slot: Slot) -> set[str]:
    """Return the placeholders that a string may have: what the image shows only a tag."""
    return plain | set(placeholders.MEASURED_FACTS) if slot.check is value_checks.tag else plain


def check_cells(document: Document, recipe: Recipe, slots: Sequence[Slot]) -> None:
    """Note the mistakes that cells show: ids, rules that match nothing, values once filled in, tags."""
    cells = expand(recipe)
    _check_ids(document, cells)
    _check_rules(document, recipe, cells)
    facts = [
        (cell, placeholders.facts(cell, platform_for(cell.values, recipe.architecture)) | placeholders.marks())
        for cell in cells
        if not cell.impossible
    ]
    names = {*placeholders.FACTS, *(axis.name for axis in recipe.matrix.axes)}
    before = len(document.problems)
    for slot in slots:
        placeholder_names = placeholders.names(slot.text)
        if placeholder_names and _names(names, slot).issuperset(placeholder_names):
            _check_filled(document, slot, placeholder_names, facts)
    if len(document.problems) == before:
        _check_tags(document, recipe, facts)


def _check_ids(document: Document, cells: Sequence[Cell]) -> None:
    first_cells: dict[str, Pairs] = {}
    for cell in cells:
        if len(cell.id) > _LONGEST_ID:
            hint = f"at most {_LONGEST_ID} characters: shorten the values or names of axes"
            document.problem(("matrix",), f"the cell id `{cell.id}` is too long", hint)
            return
        if cell.id in first_cells:
            document.problem(*_same_id(cell, first_cells[cell.id]))
            return
        first_cells[cell.id] = cell.values


def _same_id(cell: Cell, earlier: Pairs) -> tuple[tuple[str, ...], str, str]:
    differing = [axis for (axis, one), (_, two) in zip(cell.values, earlier, strict=True) if one != two]
    if not differing:
        return ("matrix", "include"), f"the cell `{cell.id}` is there already", "take it out of `include`"
    pairs = " and ".join(f"`{dict(values)[differing[0]]}`" for values in (earlier, cell.values))
    return ("matrix", differing[0]), f"two cells have the id `{cell.id}`", f"{pairs} look the same in it: rename one"


def _check_rules(document: Document, recipe: Recipe, cells: Sequence[Cell]) -> None:
    rules: list[tuple[tuple[str | int, ...], Pairs, Sequence[Cell]]] = []
    plain = cells[: len(cells) - len(recipe.matrix.include)]
    rules.extend((("matrix", "exclude", n), rule.when, plain) for n, rule in enumerate(recipe.matrix.exclude))
    rules.extend((("overrides", n), rule.when, cells) for n, rule in enumerate(recipe.overrides))
    for path, when, candidates in rules:
        if when and not any(matches(when, cell.values) for cell in candidates):
            combined = ", ".join(f"{axis}={value}" for axis, value in when)
            document.problem(path, f"no cell has {printable(combined)}", "correct the values, or take the rule out")


def _check_filled(document: Document, slot: Slot, names: tuple[str, ...], facts_by_cell: CellFacts) -> None:
    tried: set[tuple[str, ...]] = set()
    for cell, facts in facts_by_cell:
        if slot.when and not matches(slot.when, cell.values):
            continue
        missing = next((name for name in names if name not in facts), None)
        if missing:
            hint = f"known there: {', '.join(sorted(set(facts) - set(placeholders.MEASURED_FACTS)))}"
            document.problem(slot.path, f"cell {cell.id} has no `{{{missing}}}`", hint)
            return
        values = tuple(facts[name] for name in names)
        if values in tried:
            continue
        tried.add(values)
        if problem := slot.check(placeholders.fill(slot.text, facts)):
            document.problem(slot.path, f"{problem} (in cell {cell.id})")
            return


def _check_tags(document: Document, recipe: Recipe, facts_by_cell: CellFacts) -> None:
    owners: dict[tuple[str, str], tuple[Cell, str]] = {}
    path = ("publish", "tags")
    for cell, facts in facts_by_cell:
        repository = placeholders.fill(recipe.spec.publish.repository, facts)
        for rule in recipe.spec.publish.tags or (TagRule(name=JETSON_TAG if "l4t" in facts else CPU_TAG),):
            template = rule.name
            if "vllm" not in facts and "{vllm}" in template:
                document.problem(path, "the usual tag needs an axis `vllm`", "add the axis, or `publish.tags`")
                return
            tag = placeholders.fill(template, facts)
            if problem := value_checks.tag(tag):
                document.problem(path, f"{problem} (in cell {cell.id})")
                return
            owner, template_there = owners.setdefault((repository, tag), (cell, template))
            # Cells may compete for a tag that moves: the newest versions get it.
            shared = rule.moving and owner is not cell and template_there == template
            if not shared and (owner is not cell or template_there != template):
                document.problem(path, *_same_tag(tag, template, (owner, cell)))
                return


def _same_tag(tag: str, template: str, cells: tuple[Cell, Cell]) -> tuple[str, str]:
    one, two = cells
    if one is two:
        return f"two templates give the same tag `{tag}`", "take one of them out"
    missing = [f"{{{axis}}}" for axis in _differing(one, two) if f"{{{axis}}}" not in template] or ["{cell}"]
    message = f"cells {one.id} and {two.id} would both be tagged `{tag}`"
    return message, f"add {' or '.join(missing)} to the template, such as `{template}-{missing[0]}`"


def _differing(one: Cell, two: Cell) -> Iterator[str]:
    return (axis for (axis, a), (_, b) in zip(one.values, two.values, strict=True) if a != b)
