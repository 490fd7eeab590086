"""Checks of a recipe that need its axes or its cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.host.wording import printable, suggest
from builder.jetson.platform import platform_for
from builder.model.recipes import TagRule
from builder.recipe import placeholders, value_checks
from builder.recipe.matrix import default_tag, expand, image_of
from builder.recipe.select import matches

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.host.toml.tables import Document
    from builder.model.platforms import Platform
    from builder.model.recipes import Cell, Pairs, Recipe
    from builder.recipe.slots import Slot

    CellFacts = Sequence[tuple[Cell, Mapping[str, str]]]

_LONGEST_ID = 100


def check_texts(document: Document, recipe: Recipe, slots: Sequence[Slot]) -> None:
    """Note mistakes in strings and in the names of their placeholders, without a look at the cells."""
    for slot in slots:
        names, allowed = placeholders.names(slot.text), _allowed(recipe, slot)
        if not names and (problem := slot.check(slot.text)):
            document.problem(slot.path, problem)
        for name in names:
            if name not in allowed:
                hint = suggest(name, allowed, noun="known")
                document.problem(slot.path, f"`{{{name}}}` is not an axis or fact", hint)


def _allowed(recipe: Recipe, slot: Slot) -> set[str]:
    """Return the placeholders that a string may have; only tags may have facts measured in the image."""
    names = {*placeholders.FACTS, *(axis.name for axis in recipe.matrix.axes)}
    return names.union(placeholders.MEASURED_FACTS) if slot.check is value_checks.tag else names


def check_cells(document: Document, recipe: Recipe, slots: Sequence[Slot]) -> None:
    """Note mistakes that show in cells: ids, rules without a match, filled values, tags."""
    cells = expand(recipe)
    _check_ids(document, cells)
    _check_rules(document, recipe, cells)
    possible = [(cell, platform_for(cell.values, recipe.architecture)) for cell in cells if not cell.impossible]
    _check_gpu_code(document, recipe, possible)
    facts = [(cell, placeholders.facts(cell, platform) | placeholders.marks()) for cell, platform in possible]
    before = len(document.problems)
    known = [slot for slot in slots if _allowed(recipe, slot).issuperset(placeholders.names(slot.text))]
    for slot in known:
        if names := placeholders.names(slot.text):
            _check_filled(document, slot, names, facts)
    if len(document.problems) == before and len(known) == len(slots):
        _check_tags(document, recipe, facts)


def _check_gpu_code(document: Document, recipe: Recipe, possible: Sequence[tuple[Cell, Platform]]) -> None:
    """Note what a recipe asks of GPU code where no cell has a GPU, and settings of cells that contradict each other."""
    image = recipe.spec.image
    asked: list[tuple[tuple[str | int, ...], bool | None, Pairs]] = [
        (("image", "slim"), image.slim, ()),
        (("image", "slim-packages"), any(slim for _, slim in image.slim_packages), ()),
        (("image", "precompile"), image.compiles, ()),
        (("audit", "kernels"), recipe.spec.kernels != "any", ()),
    ]
    for number, rule in enumerate(recipe.overrides):
        asked.append((("overrides", number, "slim"), rule.slim, rule.when))
        asked.append((("overrides", number, "precompile"), rule.precompile not in (None, "off"), rule.when))
    for path, is_asked, when in asked:
        platforms = [platform for cell, platform in possible if matches(when, cell.values)]
        if is_asked and platforms and not any(platform.has_gpu for platform in platforms):
            cells = "no cell has" if not when else "none of these cells has"
            document.problem(path, f"`{path[-1]}` has no effect: {cells} a GPU", "remove it")
    for cell, _ in possible:
        image = image_of(recipe, cell)
        if image.slim is False and image.compiles:
            hint = "remove `slim = false`, or name the packages that stay in `slim-packages`"
            message = "compiled kernels need the room of the code that `slim` leaves out"
            document.problem(("image", "precompile"), f"{message} (in cell {cell.id})", hint)
            return


def _check_ids(document: Document, cells: Sequence[Cell]) -> None:
    first_cells: dict[str, Cell] = {}
    for cell in cells:
        if len(cell.id) > _LONGEST_ID:
            hint = f"at most {_LONGEST_ID} characters: shorten the values or names of axes"
            document.problem(("matrix",), f"the cell id `{cell.id}` is too long", hint)
            return
        if first_cells.setdefault(cell.id, cell) is not cell:
            document.problem(*_same_id(cell, first_cells[cell.id]))
            return


def _same_id(cell: Cell, earlier: Cell) -> tuple[tuple[str, ...], str, str]:
    axis = next(_differing(cell, earlier), None)
    if axis is None:
        return ("matrix", "include"), f"the cell `{cell.id}` exists already", "remove it from `include`"
    hint = f"`{earlier.value(axis)}` and `{cell.value(axis)}` look the same in it: rename one"
    return ("matrix", axis), f"two cells have the id `{cell.id}`", hint


def _check_rules(document: Document, recipe: Recipe, cells: Sequence[Cell]) -> None:
    rules: list[tuple[tuple[str | int, ...], Pairs, Sequence[Cell]]] = []
    plain = cells[: len(cells) - len(recipe.matrix.include)]
    rules.extend((("matrix", "exclude", n), rule.when, plain) for n, rule in enumerate(recipe.matrix.exclude))
    rules.extend((("overrides", n), rule.when, cells) for n, rule in enumerate(recipe.overrides))
    for path, when, candidates in rules:
        if when and not any(matches(when, cell.values) for cell in candidates):
            combined = ", ".join(f"{axis}={value}" for axis, value in when)
            document.problem(path, f"no cell has {printable(combined)}", "correct the values, or remove the rule")


def _check_filled(document: Document, slot: Slot, names: tuple[str, ...], facts_by_cell: CellFacts) -> None:
    tried: set[tuple[str, ...]] = set()
    for cell, facts in facts_by_cell:
        if slot.when and not matches(slot.when, cell.values):
            continue
        missing = next((name for name in names if name not in facts), None)
        if missing:
            hint = f"it has: {', '.join(sorted(set(facts) - set(placeholders.MEASURED_FACTS)))}"
            document.problem(slot.path, f"cell {cell.id} has no `{{{missing}}}`", hint)
            return
        values = tuple(facts[name] for name in names)
        if values in tried:
            continue
        tried.add(values)
        filling = placeholders.in_tag(facts) if slot.check is value_checks.tag else facts
        if problem := slot.check(placeholders.fill(slot.text, filling)):
            document.problem(slot.path, f"{problem} (in cell {cell.id})")
            return


def _check_tags(document: Document, recipe: Recipe, facts_by_cell: CellFacts) -> None:
    owners: dict[tuple[str, str], tuple[Cell, str]] = {}
    path = ("publish", "tags")
    for cell, facts in facts_by_cell:
        repository = placeholders.fill(recipe.spec.publish.repository, facts)
        for rule in recipe.spec.publish.tags or (TagRule(name=default_tag(cell, facts)),):
            template = rule.name
            if "vllm" not in facts and "{vllm}" in template:
                document.problem(path, "the default tag needs an axis `vllm`", "add the axis, or `publish.tags`")
                return
            tag = placeholders.fill(template, placeholders.in_tag(facts))
            if problem := value_checks.tag(tag):
                # A tag without placeholders has been checked as it is.
                if placeholders.names(template):
                    document.problem(path, f"{problem} (in cell {cell.id})")
                return
            owner, owner_template = owners.setdefault((repository, tag), (cell, template))
            # Cells may compete for a moving tag: the newest versions get it.
            if owner_template != template or not (rule.moving or owner is cell):
                document.problem(path, *_same_tag(tag, template, (owner, cell)))
                return


def _same_tag(tag: str, template: str, cells: tuple[Cell, Cell]) -> tuple[str, str]:
    one, two = cells
    if one is two:
        return f"two templates give the same tag `{tag}`", "remove one of them"
    missing = [f"{{{axis}}}" for axis in _differing(one, two) if f"{{{axis}}}" not in template] or ["{cell}"]
    message = f"cells {one.id} and {two.id} would both be tagged `{tag}`"
    return message, f"add {' or '.join(missing)} to the template, such as `{template}-{missing[0]}`"


def _differing(one: Cell, two: Cell) -> Iterator[str]:
    return (axis for (axis, a), (_, b) in zip(one.values, two.values, strict=True) if a != b)
