"""Copies vaults to and from registries: an artifact with a layer for each file, and the catalogue as one more."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from builder.errors import RegistryError
from builder.host.concurrency import CancelToken, map_with_progress
from builder.host.json_documents import decode_json
from builder.host.records import as_bytes
from builder.model.images import Descriptor
from builder.model.vaults import CATALOGUE, Vault
from builder.publish.image_source import ImageSource, ordered
from builder.publish.registry_target import BytesSent, RegistryTarget
from builder.publish.vault.vault_folder import catalogue_bytes
from builder.publish.vault.vault_merge import merged
from builder.publish.vault.write_vault import VaultChange
from builder.remote.artifact import TITLE
from builder.remote.registry.registry_client import OCI_MANIFEST, RemoteBlob, connect
from builder.remote.registry.registry_failures import ImageMissingError
from builder.remote.registry.upload import BytesBlob, file_blob
from builder.remote.vault.vault_reader import VaultReader
from builder.remote.vault.vault_storage import OCI, RegistryVault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.host.concurrency import Progress
    from builder.host.session import Session
    from builder.model.vaults import VaultFile
    from builder.publish.vault.vault_folder import VaultFolder
    from builder.remote.registry.reference import Reference
    from builder.remote.registry.registry_client import RegistryClient
    from builder.remote.registry.upload import BlobSource

VAULT_TYPE = "application/vnd.jbuild.vault.v1"
_CATALOGUE_TYPE = "application/vnd.jbuild.vault.v1+json"
_FILE_TYPE = "application/octet-stream"
# The empty configuration of the OCI image specification, "Guidance for an Empty Descriptor".
_EMPTY_TYPE, _EMPTY = "application/vnd.oci.empty.v1+json", b"{}"
_CONNECTIONS = 4
_TRIES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class PushedVault:
    """A vault that was pushed: its name with the tag, the digest of its manifest, and the bytes."""

    name: str
    digest: str
    files: int
    transfer: BytesSent


def push_vault(folder: VaultFolder, reference: Reference, session: Session) -> PushedVault:
    """Push a vault; files of the vault that the tag has already stay in it.

    Registries replace a tag without a condition. So the tag is read again right before and after it is set: if another
    push has set it, the two vaults are merged, and the push is repeated.

    Raises:
        IntegrityError: an index has two files of one name, in the folder and in the registry.
        RegistryError: the registry refused or could not be reached, or others push all the time.
    """
    client, own = connect(reference.host, session.config, publish=True), folder.catalogue()
    target = RegistryTarget(client=client, reference=reference, token=CancelToken())
    sent: list[BytesSent] = []
    name = f"{reference.name}:{reference.tag_or_digest}"
    for _ in range(_TRIES):
        before, vault, layers = _present(client, reference)
        source, files = _source(folder, own, vault, layers, client, reference)
        digest = source.manifest.digest
        sent.append(target.send(source, (), session.console))
        if _digest(client, reference) == before:
            client.put_manifest(reference.repository, reference.tag_or_digest, source.content, OCI_MANIFEST)
            if _digest(client, reference) == digest:
                return PushedVault(name=name, digest=digest, files=files, transfer=_total(sent))
        session.console.say(f"another push has changed {name} meanwhile: merging the two vaults")
    raise RegistryError(f"others push to {name} all the time", hint="push again when they have finished")


def _total(sent: Sequence[BytesSent]) -> BytesSent:
    """Return what all tries have sent; `present` was there before the first one."""
    return BytesSent(
        uploaded=sum(each.uploaded for each in sent),
        mounted=sum(each.mounted for each in sent),
        present=sent[0].present,
        seconds=sum(each.seconds for each in sent),
    )


def _source(
    folder: VaultFolder,
    own: Vault,
    before: Vault,
    layers: Mapping[str, dict[str, Any]],
    client: RegistryClient,
    reference: Reference,
) -> tuple[ImageSource, int]:
    """Return a vault in a folder, with the files of the tag, as an artifact, and the number of its files."""
    vault, found = merged(before, own.files, str(reference)), dict(layers)
    blobs: list[BlobSource] = [
        RemoteBlob(client, reference.repository, layer["digest"], layer["size"]) for layer in layers.values()
    ]
    for title, blob in (*_blobs(folder, own), (CATALOGUE, BytesBlob(catalogue_bytes(vault)))):
        found[title] = _layer(title, blob)
        blobs.append(blob)
    empty = BytesBlob(_EMPTY)
    content = _manifest([found[title] for title in sorted(found)], empty)
    manifest = Descriptor(media_type=OCI_MANIFEST, digest=BytesBlob(content).digest, size=len(content))
    source = ImageSource(manifest=manifest, content=content, labels=(), blobs=ordered((*blobs, empty)))
    return source, len(vault.files)


def _digest(client: RegistryClient, reference: Reference) -> str | None:
    present = client.head_manifest(reference.repository, reference.tag_or_digest)
    return present.digest if present else None


def pull_vault(reference: Reference, folder: VaultFolder, session: Session) -> VaultChange:
    """Add the files of a vault in a registry to a folder.

    Raises:
        IntegrityError: an index has two files of one name, in the folder and in the registry.
        RegistryError: the registry refused or could not be reached.
        DiskError: the folder cannot be written.
    """
    client = connect(reference.host, session.config)
    reader = VaultReader(RegistryVault(f"{OCI}{reference}", lambda: client))
    arriving = reader.contents()
    with folder.changing(session.workspace) as before:
        vault = merged(before, arriving.files, str(folder.path))
        missing = [file for file in arriving.files if not folder.has(file)]
        total = sum(file.size for file in missing)
        if missing:
            fetch = partial(_fetch, reader=reader, folder=folder)
            with session.console.task(f"fetching {len(missing)} files", total) as task:
                map_with_progress(fetch, missing, task.advance, _CONNECTIONS)
        pages = folder.publish(vault)
    return VaultChange(vault=vault, added=len(missing), added_bytes=total, copied_bytes=total, pages=pages)


def _fetch(file: VaultFile, progress: Progress, *, reader: VaultReader, folder: VaultFolder) -> None:
    folder.receive(file, lambda path: reader.fetch(file, path, progress), reader.metadata(file))


def _present(client: RegistryClient, reference: Reference) -> tuple[str | None, Vault, dict[str, dict[str, Any]]]:
    """Return the digest of a tag and its vault, with the layers by title; an empty one if the tag does not exist.

    Raises:
        RegistryError: the tag is on something else.
    """
    try:
        content, descriptor = client.get_manifest(reference.repository, reference.tag_or_digest)
    except ImageMissingError:
        return None, Vault(), {}
    vault = VaultReader(RegistryVault(f"{OCI}{reference.at(descriptor.digest)}", lambda: client)).contents()
    layers = {str(layer["annotations"][TITLE]): layer for layer in decode_json(content)["layers"]}
    return descriptor.digest, vault, layers


def _blobs(folder: VaultFolder, vault: Vault) -> list[tuple[str, BlobSource]]:
    files = [(file.path, file.sha256) for file in vault.files]
    files += [(file.metadata_path, file.metadata) for file in vault.files if file.metadata]
    return [(path, file_blob(folder.path / path, f"sha256:{sha256}")) for path, sha256 in files]


def _layer(title: str, blob: BlobSource) -> dict[str, Any]:
    kind = _CATALOGUE_TYPE if title == CATALOGUE else _FILE_TYPE
    return {"mediaType": kind, "digest": blob.digest, "size": blob.size, "annotations": {TITLE: title}}


def _manifest(layers: list[dict[str, Any]], empty: BytesBlob) -> bytes:
    config = {"mediaType": _EMPTY_TYPE, "digest": empty.digest, "size": empty.size}
    return as_bytes(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": VAULT_TYPE,
            "config": config,
            "layers": layers,
        }
    )
