"""The dependencies between the wheels of a lock, as their METADATA declares them for the cell's platform."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.lock.graph import requirements
from builder.lock.uv_target import markers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from builder.model.platforms import Platform


def python_edges(
    metadata: Mapping[str, bytes], requested: Iterable[Requirement], platform: Platform
) -> frozenset[tuple[str, str]]:
    """Return pairs of locked distributions, the first of which requires the second.

    `metadata` is the METADATA of each locked distribution, by its name. Extras count if the recipe's requirements or
    other distributions ask for them.
    """
    needs = {name: requirements(content) for name, content in metadata.items()}
    environment = markers(platform)
    waiting = [(name, "") for name in sorted(metadata)]
    waiting += [pair for requirement in requested for pair in _extras(requirement)]
    done: set[tuple[str, str]] = set()
    edges: set[tuple[str, str]] = set()
    while waiting:
        pair = waiting.pop()
        if pair in done:
            continue
        done.add(pair)
        name, extra = pair
        for requirement in _applying(needs.get(name, ()), {**environment, "extra": extra}):
            edges.add((name, _name(requirement)))
            waiting += _extras(requirement)
    return frozenset((upper, lower) for upper, lower in edges if lower in metadata and upper != lower)


def requested_by(texts: Iterable[str], platform: Platform) -> tuple[Requirement, ...]:
    """Return the requirements of a recipe that apply to a platform."""
    return tuple(_applying([Requirement(text) for text in texts], {**markers(platform), "extra": ""}))


def names_of(requirements: Iterable[Requirement]) -> frozenset[str]:
    """Return the normalised names of requirements."""
    return frozenset(_name(requirement) for requirement in requirements)


def _applying(requirements: Iterable[Requirement], environment: dict[str, str]) -> Iterator[Requirement]:
    return (r for r in requirements if r.marker is None or r.marker.evaluate(environment))


def _extras(requirement: Requirement) -> Iterator[tuple[str, str]]:
    return ((_name(requirement), extra) for extra in requirement.extras)


def _name(requirement: Requirement) -> str:
    return str(canonicalize_name(requirement.name))
