"""The tags that an image may have, by its verdict's level and by the tag's present image."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from packaging.version import InvalidVersion, Version

from builder.model.publications import TagWithheld
from builder.recipe import placeholders
from builder.recipe.levels import reaches

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from builder.model.recipes import TagRule

_PREFIX = "io.jbuild."
# The labels that decide which of two images is newer, the most important first.
_DECIDING = ("vllm", "l4t", "cuda", "torch")
_ORIGIN = ("recipe", "cell")


def earned(
    rules: Iterable[TagRule], level: str | None, ignored: str | None = None
) -> tuple[tuple[TagRule, ...], tuple[TagWithheld, ...]]:
    """Split tags into those that a verdict of this level earns and the others; None: no verdict.

    `ignored` is the level of a verdict that no trusted key has signed.
    """
    allowed, withheld = [], []
    for rule in rules:
        if level is not None and reaches(level, rule.level):
            allowed.append(rule)
        else:
            requirement = f"a passed verdict at level {rule.level} or better" if rule.level else "a passed verdict"
            reason = f"it needs {requirement}, but {_present(level, ignored)}"
            withheld.append(TagWithheld(name=rule.name, reason=reason))
    return tuple(allowed), tuple(withheld)


def _present(level: str | None, ignored: str | None) -> str:
    has = f"the image has one at level {level}" if level else "the image has none"
    unsigned = f"no trusted key has signed the image's verdict at level {ignored}"
    if not ignored or (level and reaches(level, ignored)):
        return has
    return f"{has}, and {unsigned}" if level else unsigned


def named(rules: Iterable[TagRule], labels: Mapping[str, str]) -> tuple[tuple[TagRule, ...], tuple[TagWithheld, ...]]:
    """Replace the placeholders in tags with the image's labels; a tag whose label is missing is withheld."""
    allowed, withheld = [], []
    for rule in rules:
        name, lacking = rule.name, []
        for fact, mark in placeholders.marks().items():
            value = labels.get(_PREFIX + fact.removeprefix("image-"))
            if mark in name and not value:
                lacking.append(fact)
            name = name.replace(mark, placeholders.in_tag({fact: value or mark})[fact])
        if lacking:
            reason = f"the image has no label for {', '.join(lacking)}"
            withheld.append(TagWithheld(name=placeholders.unmarked(rule.name), reason=reason))
        else:
            allowed.append(replace(rule, name=name))
    return tuple(allowed), tuple(withheld)


def not_forward(labels: Mapping[str, str], current: Mapping[str, str]) -> str | None:
    """Return why a moving tag must not move from the image with the labels `current` to one with `labels`, or None.

    Images are compared by the versions that their labels hold; the same versions of the same cell are a rebuild.
    """
    for name in _DECIDING:
        new, old = labels.get(_PREFIX + name), current.get(_PREFIX + name)
        if new == old:
            continue
        order = _compare(new, old)
        if order is None:
            return f"its {name} ({old or 'unknown'}) cannot be compared with this image's ({new or 'unknown'})"
        if order < 0:
            return f"it is on a newer image ({name} {old}, this one has {new})"
        if order > 0:
            return None
    origins = [tuple(label_set.get(_PREFIX + name) for name in _ORIGIN) for label_set in (labels, current)]
    if origins[0] != origins[1]:
        return f"it is on an image of the same versions from another cell ({'/'.join(map(str, origins[1]))})"
    return None


def other_recipe(labels: Mapping[str, str], current: Mapping[str, str]) -> str | None:
    """Return the recipe of the image with the labels `current`, if it is another one than that of `labels`."""
    mine, other = labels.get(f"{_PREFIX}recipe"), current.get(f"{_PREFIX}recipe")
    return other if mine and other != mine else None


def _compare(new: str | None, old: str | None) -> int | None:
    try:
        one, two = Version(new or ""), Version(old or "")
    except InvalidVersion:
        return None
    return (one > two) - (one < two)
