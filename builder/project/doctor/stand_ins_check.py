"""What the project's configuration makes different: stand-ins for images, indexes and models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.project.doctor.check_table import trouble

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.project.doctor.check_records import Check, DoctorContext


def check(case: DoctorContext) -> Iterator[Check]:
    """Name every rule that takes something else than what its name promises."""
    config = case.session.config
    rules = [(r.prefix, r.mirror, r.stand_in) for r in config.registry_mirrors]
    rules += [(r.prefix, r.mirror, r.stand_in) for r in config.index_mirrors]
    rules += [(r.source, str(r.folder), r.stand_in) for r in config.model_mirrors]
    for name, place, stand_in in rules:
        if stand_in:
            yield trouble("stand-in", "used", f"{name} is taken from {place}: {stand_in}", rule=name)
