"""Compiled modules in registries: an OCI artifact each, so that one machine of a team compiles for all.

The repository is beside that of the images, and the tag is the fingerprint of the module's inputs. What is pulled
counts only if the artifact states these inputs and the cubin has the kernels of the PTX that it replaces.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.host import records
from builder.host.config import with_options
from builder.image.precompile.cubin_store import checked_cubin, fingerprint_of, store_frame, stored_frame
from builder.remote.registry.manifests import TaggedArtifact
from builder.remote.registry.reference import Reference
from builder.remote.registry.registry_client import connect
from builder.remote.registry.registry_failures import ImageMissingError
from builder.remote.registry.upload import BytesBlob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.host.session import Session
    from builder.image.precompile.module_compiler import FetchCubin
    from builder.model.locks import Job
    from builder.model.precompiled import CubinKey
    from builder.remote.registry.registry_client import RegistryClient

ARTIFACT = "application/vnd.jbuild.kernels.v1"
_CUBIN = "application/vnd.nvidia.cubin+zstd"
_INPUTS = "io.jbuild.kernels.inputs"
_LARGEST = 256 << 20


def kernels_repository(registry: str, repository: str) -> Reference:
    """Return the repository of compiled modules beside that of images.

    Raises:
        RecipeError: the name is malformed.
    """
    return Reference.parse(f"{registry}/{repository}-kernels")


def fetcher_of(job: Job, session: Session) -> FetchCubin:
    """Return a function that pulls modules from the cell's registries."""
    spec = job.spec.publish
    return fetcher(with_options(session.config, registries=spec.registries).registries, spec.repository, session)


def fetcher(registries: Sequence[str], repository: str, session: Session) -> FetchCubin:
    """Return a function that pulls modules from registries; one that does not answer is left out after that."""
    names = [kernels_repository(registry, repository) for registry in registries]
    clients = {name: connect(name.host, session.config, publish=True) for name in names}

    def fetch(key: CubinKey, ptx: bytes) -> bool:
        for name, client in tuple(clients.items()):
            try:
                frame = _pulled(client, name.repository, key)
            except JbuildError as error:
                clients.pop(name, None)
                session.console.say(f"compiled kernels cannot be pulled from {name.host}: {error.message}")
                continue
            if frame and checked_cubin(frame, key, ptx):
                store_frame(key, frame, session.workspace)
                return True
        return False

    return fetch


def _pulled(client: RegistryClient, repository: str, key: CubinKey) -> bytes | None:
    """Return the compressed cubin of a registry, or None if it has none with these inputs."""
    try:
        content, _ = client.get_manifest(repository, fingerprint_of(key))
        layer = _artifact(key).layer(content, _LARGEST)
        if layer is None:
            return None
        blocks: list[bytes] = []
        client.get_blob(repository, layer["digest"], blocks.append)
    except ImageMissingError:
        return None
    return b"".join(blocks)


def push_cubins(keys: Sequence[CubinKey], registry: str, repository: str, session: Session) -> int:
    """Push the modules that a registry lacks, and return how many.

    Raises:
        RegistryError: the registry refuses.
    """
    name = kernels_repository(registry, repository)
    client = connect(name.host, session.config, publish=True)
    pushed = 0
    with session.console.task(f"pushing compiled kernels to {name}", len(keys), unit="modules") as task:
        for key in keys:
            frame = stored_frame(session.workspace.cubin(fingerprint_of(key)))
            if frame and client.head_manifest(name.repository, fingerprint_of(key)) is None:
                _artifact(key).put(client, name.repository, fingerprint_of(key), BytesBlob(frame))
                pushed += 1
            task.advance(1)
    return pushed


def _artifact(key: CubinKey) -> TaggedArtifact:
    return TaggedArtifact(artifact_type=ARTIFACT, media_type=_CUBIN, annotations={_INPUTS: _stated(key)})


def _stated(key: CubinKey) -> str:
    return json.dumps(records.to_json(key), sort_keys=True)
