"""Where a model's files are: in a folder or on a hub, after the user's mirrors."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import ModelError
from builder.model import patterns
from builder.remote.registry.reference import Reference

if TYPE_CHECKING:
    from builder.host.config import Config

_HUB = "hf://"
_OCI = "oci://"
_COMMIT = r"[0-9a-f]{40}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderSource:
    """A folder. `revision` is the hub commit that it mirrors, if known; `stand_in` why it is not the same model."""

    path: Path
    hint: str
    revision: str | None = None
    stand_in: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSource:
    """A model of a hub; `endpoint` None stands for the hub client's own."""

    repository: str
    revision: str
    endpoint: str | None

    @property
    def address(self) -> str:
        """The hub's address, without a slash at its end."""
        from huggingface_hub import constants  # noqa: PLC0415  # slow to import

        return str(self.endpoint or constants.ENDPOINT).rstrip("/")

    @property
    def source(self) -> str:
        """The place as recipes write it."""
        return f"{_HUB}{self.repository}@{self.revision}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistrySource:
    """A model in a registry, after mirror rules; `stand_in` says why it is not the same model, if a rule says so."""

    source: str
    reference: Reference
    stand_in: str | None = None

    def at(self, digest: str) -> RegistrySource:
        """Return the place pinned to a digest."""
        return replace(self, reference=self.reference.at(digest))


Place = FolderSource | HubSource | RegistrySource


def locate(source: str, recipe_folder: Path, config: Config) -> Place:
    """Return where a recipe's model is; nothing is looked at.

    Raises:
        ModelError: the source is of no known kind.
    """
    if source.startswith(_OCI):
        return _in_registry(source, config)
    if "://" not in source:
        hint = "correct `source` in the recipe: it is relative to the recipe's own folder"
        return FolderSource(path=_expanded(recipe_folder, source), hint=hint)
    if not re.fullmatch(patterns.HUB_SOURCE, source) or ".." in source:
        raise ModelError(
            "this is not a source of models that jbuild knows",
            where=source,
            hint="write hf://organisation/name@revision, oci://host/name:tag, or the path of a folder",
        )
    repository, _, revision = source.removeprefix(_HUB).partition("@")
    wanted = (source, f"{_HUB}{repository}")
    for rule in sorted(config.model_mirrors, key=lambda r: r.source != source):
        if rule.source in wanted:
            return FolderSource(
                path=rule.folder,
                hint=f"correct the folder that [[model-mirrors]] in jbuild.toml gives for {rule.source}",
                revision=revision if re.fullmatch(_COMMIT, revision) else None,
                stand_in=rule.stand_in,
            )
    return HubSource(repository=repository, revision=revision, endpoint=config.hub_endpoint)


def _in_registry(source: str, config: Config) -> RegistrySource:
    if not re.fullmatch(patterns.OCI_SOURCE, source):
        hint = "write oci://host/name:tag, or oci://host/name@sha256:…"
        raise ModelError("this is not the name of a model in a registry", where=source, hint=hint)
    used, rule = config.mirrored(source.removeprefix(_OCI))
    return RegistrySource(source=source, reference=Reference.parse(used), stand_in=rule.stand_in if rule else None)


def _expanded(recipe_folder: Path, source: str) -> Path:
    try:
        return recipe_folder.absolute() / Path(source).expanduser()
    except RuntimeError as error:  # `~name` of nobody
        raise ModelError(str(error), where=source, hint="write the folder's full path") from error
