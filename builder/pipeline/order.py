"""The list of stages, in order, and the options of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.model.recipes import Spec

# The module of each stage, whose `STAGE` implements `builder.pipeline.stage.Stage`.
MODULES = {
    "lock": "builder.lock.stage",
    "wheel": "builder.foundry.stage",
    "audit": "builder.audit.stage",
    "render": "builder.image.render.stage",
    "build": "builder.image.build.stage",
    "smoke": "builder.smoke.stage",
    "push": "builder.publish.stage",
}
STAGES = tuple(MODULES)
# Only cells that build packages have it.
_BUILDS = "wheel"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """The options of a run.

    Attributes:
        until: The last stage.
        again: The first stage that runs even if nothing changed; later stages do so too.
        locked_only: Whether a missing or stale lock is an error.
        upgrade: Packages whose locked versions are not kept, `*` for all.
        registries: Registries that replace those of the recipe and the configuration.
        force_tags: Whether tags are put even where a rule keeps them.
        builders: Builders that replace the configured ones.
        verify: Whether the image is built a second time and compared.
        record: Whether the answers of the smoke run become the golden ones.
        standalone: Whether the plan has the folders of its layers, for plain `docker buildx build`.
    """

    until: str = "smoke"
    again: str | None = None
    locked_only: bool = False
    upgrade: tuple[str, ...] = ()
    registries: tuple[str, ...] = ()
    force_tags: bool = False
    builders: tuple[str, ...] = ()
    verify: bool = False
    record: bool = False
    standalone: bool = False

    def forces(self, stage: str) -> bool:
        """Return whether a stage runs even if nothing changed."""
        return self.again is not None and STAGES.index(stage) >= STAGES.index(self.again)

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the stages up to the last one, in order."""
        return STAGES[: STAGES.index(self.until) + 1]


def stages_of(spec: Spec, stages: Iterable[str] = STAGES) -> tuple[str, ...]:
    """Return those of some stages that a cell has."""
    return tuple(stage for stage in stages if stage != _BUILDS or spec.builds)
