"""The registries of a recipe's images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import UsageError
from builder.host.config import with_options

if TYPE_CHECKING:
    from builder.host.config import Config
    from builder.model.recipes import PublishSpec


def targets(spec: PublishSpec, overrides: tuple[str, ...], config: Config) -> tuple[str, ...]:
    """Return the registries of the command line, else of the recipe, else of the configuration."""
    return with_options(with_options(config, registries=spec.registries), registries=overrides).registries


def required_targets(
    spec: PublishSpec, overrides: tuple[str, ...], config: Config, *, location: str
) -> tuple[str, ...]:
    """Return the registries; `location` is the recipe's file.

    Raises:
        UsageError: no registry is configured.
    """
    registries = targets(spec, overrides, config)
    if not registries:
        raise UsageError(
            "no registry is configured",
            where=location,
            hint="name one with --registry HOST/PREFIX, or `registries` under [publish] in the recipe or jbuild.toml",
        )
    return registries
