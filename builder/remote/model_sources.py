"""Sources of models: folders, hubs and registries, after the configuration's mirror rules."""

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
    """A folder. `revision` is the hub commit that it mirrors, or None; `stand_in` is the reason for another model."""

    path: Path
    hint: str
    revision: str | None = None
    stand_in: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSource:
    """A model on a hub; `endpoint` is None for the hub client's default."""

    repository: str
    revision: str
    endpoint: str | None

    @property
    def address(self) -> str:
        """The hub's address, without a trailing slash."""
        from huggingface_hub import constants  # noqa: PLC0415  # slow to import

        return str(self.endpoint or constants.ENDPOINT).rstrip("/")

    @property
    def uri(self) -> str:
        """The source as recipes write it."""
        return f"{_HUB}{self.repository}@{self.revision}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistrySource:
    """A model in a registry, after mirror rules; `stand_in` is the rule's reason for another model, or None."""

    uri: str
    reference: Reference
    stand_in: str | None = None

    def at(self, digest: str) -> RegistrySource:
        """Return the source pinned to a digest."""
        return replace(self, reference=self.reference.at(digest))


ModelSource = FolderSource | HubSource | RegistrySource


def locate(uri: str, recipe_folder: Path, config: Config) -> ModelSource:
    """Return the source of a recipe's model, without access to it.

    Raises:
        ModelError: the source is of an unknown kind.
    """
    if uri.startswith(_OCI):
        return _in_registry(uri, config)
    if "://" not in uri:
        hint = "correct `source` in the recipe: it is relative to the recipe's folder"
        on_hub = f"{_HUB}{uri}" if "@" in uri else f"{_HUB}{uri}@main"
        if re.fullmatch(patterns.HUB_SOURCE, on_hub):
            hint += f"; a model of the hub is `{on_hub}`"
        return FolderSource(path=_expanded(recipe_folder, uri), hint=hint)
    if not re.fullmatch(patterns.HUB_SOURCE, uri) or ".." in uri:
        raise ModelError(
            "not a valid source of a model",
            where=uri,
            hint="write hf://organisation/name@revision, oci://host/name:tag, or the path of a folder",
        )
    repository, _, revision = uri.removeprefix(_HUB).partition("@")
    for rule in sorted(config.model_mirrors, key=lambda r: r.source != uri):
        if rule.source in (uri, f"{_HUB}{repository}"):
            return FolderSource(
                path=rule.folder,
                hint=f"correct the folder that [[model-mirrors]] in jbuild.toml gives for {rule.source}",
                revision=revision if re.fullmatch(_COMMIT, revision) else None,
                stand_in=rule.stand_in,
            )
    return HubSource(repository=repository, revision=revision, endpoint=config.hub_endpoint)


def _in_registry(uri: str, config: Config) -> RegistrySource:
    if not re.fullmatch(patterns.OCI_SOURCE, uri):
        hint = "write oci://host/name:tag, or oci://host/name@sha256:…"
        raise ModelError("not the name of a model in a registry", where=uri, hint=hint)
    used, rule = config.mirrored(uri.removeprefix(_OCI))
    return RegistrySource(uri=uri, reference=Reference.parse(used), stand_in=rule.stand_in if rule else None)


def _expanded(recipe_folder: Path, path: str) -> Path:
    try:
        return recipe_folder.absolute() / Path(path).expanduser()
    except RuntimeError as error:  # `~name` of an unknown user
        raise ModelError(str(error), where=path, hint="write the folder's full path") from error
