"""Built wheels in registries: an OCI artifact each, so that one machine of a team builds for all.

The repository is beside that of the images, and the tag is the fingerprint of the wheel's inputs. The artifact is
signed as images are. What is pulled counts only if the artifact and the provenance inside the wheel state these
inputs, and, where there are trusted keys, if one of them signed it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from packaging.utils import parse_wheel_filename

from builder.errors import IntegrityError, JbuildError
from builder.foundry.wheel_agreement import differing_files, require_agreement, require_name
from builder.host.concurrency import Progress
from builder.host.file_locks import scratch
from builder.host.json_documents import decode_json
from builder.host.signing import signer
from builder.model.builds import BuiltWheel
from builder.model.wheels import LockedWheel
from builder.remote.download import Expected, download, download_once
from builder.remote.registry.cosign_images import cosign_layers, is_trusted, put_cosign_layers, signature_layer
from builder.remote.registry.manifests import TaggedArtifact
from builder.remote.registry.reference import Reference
from builder.remote.registry.registry_client import connect
from builder.remote.registry.registry_failures import ImageMissingError
from builder.remote.registry.upload import file_blob

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from builder.host.session import Session
    from builder.model.builds import LockedBuild
    from builder.remote.download import PartialFile
    from builder.remote.registry.registry_client import RegistryClient

ARTIFACT = "application/vnd.jbuild.wheel.v1"
_WHEEL = "application/vnd.jbuild.wheel.v1+zip"
_FINGERPRINT = "io.jbuild.wheel.fingerprint"
_TITLE = "org.opencontainers.image.title"
_LARGEST = 16 << 30
_MOST_NAMED = 5
_ADDRESS = "urn:jbuild:wheel"


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedWheel:
    """What a registry has for a build after a push: `digest` is that of the wheel's file.

    `state` is `pushed`, `present` if it was there, or `different` if another file is there for the same inputs.
    """

    repository: str
    state: Literal["pushed", "present", "different"]
    digest: str


def wheels_repository(registry: str, repository: str) -> Reference:
    """Return the repository of built wheels beside that of images.

    Raises:
        RecipeError: the name is malformed.
    """
    return Reference.parse(f"{registry}/{repository}-wheels")


def fetch_shared(build: LockedBuild, registries: Sequence[str], repository: str, session: Session) -> BuiltWheel | None:
    """Pull the wheel of a build into the wheelhouse; None if no registry has it.

    A registry that does not answer, or whose wheel does not count, is left out with a message.
    """
    for registry in registries:
        name = wheels_repository(registry, repository)
        try:
            wheel = _pulled(connect(name.host, session.config, publish=True), name, build, session)
        except JbuildError as error:
            session.console.warn(f"the wheel of {build.name} cannot be pulled from {name}: {error.message}")
        else:
            if wheel:
                return BuiltWheel(fingerprint=build.fingerprint, wheel=wheel, origin=f"registry:{name}")
    return None


def _pulled(client: RegistryClient, name: Reference, build: LockedBuild, session: Session) -> LockedWheel | None:
    try:
        content, descriptor = client.get_manifest(name.repository, build.fingerprint)
    except ImageMissingError:
        return None
    layer = _artifact(build).layer(content, _LARGEST)
    if layer is None:
        raise IntegrityError("its artifact does not state these inputs", where=str(name))
    if keys := session.config.trusted_keys:
        layers = cosign_layers(client, name.repository, descriptor.digest, "sig")
        if not is_trusted(layers, descriptor.digest, keys):
            raise IntegrityError("it is not signed by a trusted key", where=str(name))
    filename = _filename(content, build)
    sha256 = str(layer["digest"]).partition(":")[2]
    wheel = _locked(build, filename, sha256, int(layer["size"]))
    target = session.workspace.wheel(sha256, filename)
    title = f"pulling {filename}"
    with session.console.task(title, float(layer["size"]), unit="B") as task:

        def fetch(path: Path) -> None:
            _download(client, name, layer, path, Progress(on_bytes=task.advance))
            require_agreement(path, build)

        download_once(target, fetch, session.console.check)
    return wheel


def _download(client: RegistryClient, name: Reference, layer: dict[str, Any], path: Path, progress: Progress) -> None:
    digest = str(layer["digest"])
    expected = Expected(sha256=digest.partition(":")[2], size=int(layer["size"]))

    def mismatch(content: PartialFile) -> IntegrityError:
        hint = "the registry, or a cache in front of it, is damaged: repair it, then run this again"
        return IntegrityError(f"the registry sent other bytes: {content.flaw()}", where=str(name), hint=hint)

    download(partial(client.fetch_blob, name.repository, digest), mismatch, path, expected, progress)


def _filename(manifest: bytes, build: LockedBuild) -> str:
    """Return the wheel's file name in the artifact.

    Raises:
        IntegrityError: it is not that of this build.
    """
    filename = str((decode_json(manifest).get("annotations") or {}).get(_TITLE) or "")
    require_name(filename, build)
    return filename


def _locked(build: LockedBuild, filename: str, sha256: str, size: int) -> LockedWheel:
    version = str(parse_wheel_filename(filename)[1])
    url = f"{_ADDRESS}:{build.fingerprint}"
    return LockedWheel(name=build.name, version=version, filename=filename, url=url, sha256=sha256, size=size)


def _artifact(build: LockedBuild, **annotations: str) -> TaggedArtifact:
    stated = {_FINGERPRINT: build.fingerprint, **annotations}
    return TaggedArtifact(artifact_type=ARTIFACT, media_type=_WHEEL, annotations=stated)


def push_wheel(
    path: Path, wheel: LockedWheel, build: LockedBuild, registry: str, repository: str, session: Session
) -> SharedWheel:
    """Push a built wheel, unless the registry has one for the same inputs; sign it if a key is configured.

    If the registry has another file for the same inputs, that one stays, and a warning names both digests and the
    files that differ.

    Raises:
        RegistryError: the registry refuses.
        UsageError: the artifact cannot be signed.
    """
    name = wheels_repository(registry, repository)
    client = connect(name.host, session.config, publish=True)
    ours = f"sha256:{wheel.sha256}"
    if theirs := _present(client, name, build):
        if theirs["digest"] == ours:
            return SharedWheel(repository=str(name), state="present", digest=ours)
        session.console.warn(_difference(client, name, theirs, path, ours, session))
        return SharedWheel(repository=str(name), state="different", digest=str(theirs["digest"]))
    with session.console.task(f"pushing {wheel.filename} to {name}", unit="wheels") as task:
        artifact = _artifact(build, **{_TITLE: wheel.filename})
        descriptor = artifact.put(client, name.repository, build.fingerprint, file_blob(path, ours))
        if sign := signer(session.config, session.workspace):
            layer = signature_layer(descriptor.digest, f"{repository}-wheels", sign)
            put_cosign_layers(client, name.repository, descriptor.digest, "sig", [layer])
        task.advance(1)
    return SharedWheel(repository=str(name), state="pushed", digest=ours)


def _present(client: RegistryClient, name: Reference, build: LockedBuild) -> dict[str, Any] | None:
    """Return the descriptor of the wheel that a registry has for a build."""
    try:
        content, _ = client.get_manifest(name.repository, build.fingerprint)
    except ImageMissingError:
        return None
    return _artifact(build).layer(content, _LARGEST)


def _difference(
    client: RegistryClient, name: Reference, theirs: dict[str, Any], path: Path, ours: str, session: Session
) -> str:
    """Return the message that two machines built different wheels from the same inputs."""
    with scratch(session.workspace.cache) as folder:
        other = folder / path.name
        _download(client, name, theirs, other, Progress())
        names = differing_files(path, other)
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    files = f"they differ in {', '.join(names[:_MOST_NAMED])}{more}" if names else "only their compression differs"
    return (
        f"{name} has another {path.name} for the same inputs: {theirs['digest']} there, {ours} here; {files}. "
        "The registry keeps its own; build again on both machines, and report the package if they still differ"
    )
