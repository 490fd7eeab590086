"""Checks the project's configuration for stand-ins of images, indexes and models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.project.doctor.check_table import problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.project.doctor.check_records import Check, DoctorContext


def check(case: DoctorContext) -> Iterator[Check]:
    """Warn of every rule with a stand-in."""
    config = case.session.config
    rules = [(r.prefix, r.mirror, r.stand_in) for r in config.registry_mirrors]
    rules += [(r.prefix, r.mirror, r.stand_in) for r in config.index_mirrors]
    rules += [(r.source, str(r.folder), r.stand_in) for r in config.model_mirrors]
    for name, replacement, stand_in in rules:
        if stand_in:
            yield problem("stand-in", "used", f"{name} is taken from {replacement}: {stand_in}", rule=name)
