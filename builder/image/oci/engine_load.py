"""Loads an image from a layout into the engine, as a tar archive, and removes it after use."""

from __future__ import annotations

import json
import re
import tarfile
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from docker.errors import APIError, DockerException, NotFound
from requests import RequestException

from builder.errors import EngineError
from builder.host.engine.container import forget_tag
from builder.host.engine.image_lists import list_images
from builder.host.engine.sdk_errors import engine_errors, reason_of
from builder.host.engine.temporary import SMOKE, tags_left, temporary_tag
from builder.host.process import signals_deferred
from builder.image.oci.layout import absence, absent_blobs, blob, find_corruption, image_blobs, open_blob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from docker import DockerClient

    from builder.host.console import Console, Task
    from builder.host.engine.docker import Engine
    from builder.image.oci.layout import MakeBlobs
    from builder.model.images import Descriptor, Image

_BLOCK = 1 << 20
# The engine drops the name of an image at once.
_NAME_GONE_S = 2.0
_DISK_FULL = re.compile(r"no space left on device", re.IGNORECASE)
# containerd's words when another process removes an image whose layers this one has, too, while they are unpacked.
_REMOVED_MEANWHILE = re.compile(r"\bsnapshot \S+ does not exist\b|\bcontent digest \S+: not found\b")
_TRIES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineBlobs:
    """The layers of an image that its layout lacks: the digests of those that the engine has as they are.

    `uncompressed` are files with the content of others, by their digests.
    """

    present: frozenset[str] = frozenset()
    uncompressed: Mapping[str, Path] = field(default_factory=dict)

    @property
    def digests(self) -> frozenset[str]:
        """The digests of all these layers."""
        return self.present.union(self.uncompressed)


@contextmanager
def loaded(
    image: Image,
    layout: Path,
    engine: Engine,
    console: Console,
    *,
    keep_as: str | None = None,
    blobs: EngineBlobs | None = None,
    make: MakeBlobs | None = None,
) -> Iterator[str]:
    """Load the image if the engine lacks it; give the engine's reference to it.

    A loaded image is deleted at the end, unless another process uses it; with `keep_as` it stays under that name if
    the block succeeds. `blobs` are layers that the layout lacks, and `make` makes missing blobs by their digests.

    Raises:
        EngineError: the engine could not load or tag the image.
        IntegrityError: a blob of the image is missing or truncated in the layout.
    """
    with closing(engine.client()) as client:
        with engine_errors(engine):
            # An image of a killed process may lack layers.
            _forget_abandoned(client)
            # The tag names the process, so that jbuild processes do not remove each other's images.
            name = temporary_tag(SMOKE, image.digest.partition(":")[2][:12])
            present = _present(client, image, name)
            if present is None:
                _load(client, image, layout, name, console, blobs or EngineBlobs(), make)
            reference = present or name
        try:
            yield reference
            if keep_as:
                _tag(client, reference, keep_as)
        except KeyboardInterrupt:
            if present is None:
                console.note("removing the loaded image from the engine")
            if reference == name:
                _hand_back(engine, reference)
            raise
        finally:
            if reference == name:
                forget_tag(client, reference)


def _hand_back(engine: Engine, reference: str) -> None:
    """Let the engine remove an image, and do not wait for its files, which may take a minute."""
    # An engine that is gone needs no clean-up, and must not hide the interrupt.
    with suppress(EngineError), closing(engine.client(_NAME_GONE_S)) as client:
        forget_tag(client, reference)


def reference_of(client: DockerClient, image: Image) -> str | None:
    """Return the image's ID in the engine: the manifest's digest, or the config's if the engine unpacks layers."""
    for digest in (image.digest, image.config.digest):
        with suppress(NotFound):
            if client.images.get(digest).attrs.get("Architecture") == image.platform.split("/")[1]:
                return digest
    return None


def _present(client: DockerClient, image: Image, name: str) -> str | None:
    """Return the reference of an image that the engine has, else None.

    Of an image with names, it is a new one, under which the image stays if another process removes the others. An
    image without a name keeps its ID, since it would go with the new name.
    """
    digest = reference_of(client, image)
    if digest is None:
        return None
    repository, _, tag = name.partition(":")
    try:
        if not client.images.get(digest).tags:
            return digest
        client.api.tag(digest, repository, tag, force=True)
    except NotFound:
        # Another process has removed it meanwhile.
        return None
    return name


def _load(
    client: DockerClient,
    image: Image,
    layout: Path,
    name: str,
    console: Console,
    blobs: EngineBlobs,
    make: MakeBlobs | None,
) -> None:
    if layers := _layers_in_use(client, layout):
        some = replace(blobs, present=blobs.present | layers)
        _provide(image, layout, some, make)
        if not _send(client, image, layout, name, console, some):
            return
    _provide(image, layout, blobs, make)
    reason: str | None = None
    for _ in range(_TRIES):
        reason = _send(client, image, layout, name, console, blobs)
        if not (reason and _REMOVED_MEANWHILE.search(reason)):
            break
    if reason:
        # A damaged blob explains a refusal.
        sent = (descriptor.digest for descriptor in image_blobs(image) if descriptor.digest not in blobs.digests)
        changed = next(filter(None, (find_corruption(layout, digest) for digest in sent)), None)
        raise changed or _not_taken(reason, name)


def _provide(image: Image, layout: Path, blobs: EngineBlobs, make: MakeBlobs | None) -> None:
    """Let `make` make the blobs that must be sent and are missing.

    Raises:
        IntegrityError: one is missing or truncated.
    """

    def lost() -> set[str]:
        return {blob.digest for blob in absent_blobs(layout, image)} - blobs.digests

    if (gone := lost()) and make:
        make(gone)
        gone = lost()
    if gone:
        raise absence(layout, min(gone))


def _send(
    client: DockerClient, image: Image, layout: Path, name: str, console: Console, blobs: EngineBlobs
) -> str | None:
    """Send an image to the engine; return the engine's error, None on success."""
    try:
        with console.task("loading the image into the engine", float(image.size), unit="B") as task:
            content = _announcing(stream(image, layout, name, task.advance, blobs), task)
            events = list(client.api.load_image(content))  # type: ignore[no-untyped-call]
        reason = next((str(event["error"]) for event in events if "error" in event), None)
    except (DockerException, RequestException) as error:
        reason = reason_of(error)
    except BaseException:
        # Another connection removes what the engine may have named already.
        with signals_deferred():
            forget_tag(client, name)
        raise
    if reason:
        # containerd names an image before it checks all layers, and would accept a damaged one the next time.
        forget_tag(client, name)
    return reason


def _announcing(content: Iterator[bytes], task: Task) -> Iterator[bytes]:
    """Yield the bytes of an image; the engine answers only after it has unpacked them."""
    yield from content
    task.note("all is sent, the engine unpacks it")


def _layers_in_use(client: DockerClient, layout: Path) -> frozenset[str]:
    """Return the layers of this layout that an engine with containerd's store has already; they need not be sent.

    Other engines name images by their configuration, so the set is empty.
    """
    layers: set[str] = set()
    for image in list_images(client):
        path = blob(layout, str(image["Id"]))
        with suppress(OSError, ValueError, KeyError, TypeError):
            layers |= {str(layer["digest"]) for layer in json.loads(path.read_bytes())["layers"]}
    return frozenset(layers)


def _not_taken(reason: str, name: str) -> EngineError:
    hint = "run `jbuild doctor`"
    if _DISK_FULL.search(reason):
        hint = "free space where the engine keeps its data: `docker system df`, `docker image prune`"
    return EngineError(f"the engine could not load the image: {reason.strip()}", where=name, hint=hint)


def _tag(client: DockerClient, reference: str, name: str) -> None:
    """Move a tag to an image; remove the previous image if it has no other tag, or rebuilds would fill the disk."""
    before = None
    repository, _, tag = name.rpartition(":")
    try:
        with suppress(NotFound):
            before = client.images.get(name)
        client.api.tag(reference, repository, tag, force=True)
        if before is None or before.id == client.images.get(name).id:
            return
    except (DockerException, RequestException) as error:
        hint = "check the engine with `jbuild doctor`; the same command then resumes here"
        raise EngineError(f"the engine could not tag the image: {reason_of(error)}", where=name, hint=hint) from error
    with suppress(APIError):
        # Without force: an image with a tag or a container stays.
        if not client.images.get(str(before.id)).tags:
            client.api.remove_image(str(before.id))


def _forget_abandoned(client: DockerClient) -> None:
    """Remove the tags of killed jbuild processes."""
    for name in tags_left(list_images(client, SMOKE)):
        forget_tag(client, name)


def stream(
    image: Image, layout: Path, name: str, on_bytes: Callable[[float], None], blobs: EngineBlobs | None = None
) -> Iterator[bytes]:
    """Yield the tar of an image of a layout, under a name such as `repository:tag`.

    Every Docker engine can load it: those with containerd's store read `index.json`, the others `manifest.json`.
    `on_bytes` gets the number of bytes read. Layers in `blobs` are not read from the layout.
    """
    blobs = blobs or EngineBlobs()
    texts: dict[str, object] = {"manifest.json": _docker_manifest(image, name)}
    if not blobs.uncompressed:
        # An index of blobs with other digests would be wrong.
        texts = {"oci-layout": {"imageLayoutVersion": "1.0.0"}, "index.json": _index(image, name), **texts}
    for path, content in texts.items():
        data = json.dumps(content).encode()
        yield from _entry(path, len(data), [data])
    for descriptor in image_blobs(image):
        if descriptor.digest in blobs.present:
            on_bytes(descriptor.size)
        elif file := blobs.uncompressed.get(descriptor.digest):
            yield from _entry(_path(descriptor), file.stat().st_size, _file_blocks(file))
            on_bytes(descriptor.size)
        else:
            yield from _entry(_path(descriptor), descriptor.size, _blocks(descriptor, layout, on_bytes))
    yield bytes(2 * tarfile.BLOCKSIZE)


def _index(image: Image, name: str) -> dict[str, object]:
    """Return the `index.json` of a layout with only this image."""
    system, architecture = image.platform.split("/")[:2]
    manifest = {
        "mediaType": image.manifest.media_type,
        "digest": image.manifest.digest,
        "size": image.manifest.size,
        "platform": {"os": system, "architecture": architecture},
        "annotations": {
            "io.containerd.image.name": f"docker.io/library/{name}",
            "org.opencontainers.image.ref.name": name.rpartition(":")[2],
        },
    }
    return {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]}


def _docker_manifest(image: Image, name: str) -> list[dict[str, object]]:
    """Return the `manifest.json` of `docker save`."""
    return [{"Config": _path(image.config), "RepoTags": [name], "Layers": [_path(layer) for layer in image.layers]}]


def _path(descriptor: Descriptor) -> str:
    return "blobs/" + descriptor.digest.replace(":", "/", 1)


def _blocks(descriptor: Descriptor, layout: Path, on_bytes: Callable[[float], None]) -> Iterator[bytes]:
    with open_blob(layout, descriptor.digest) as file:
        while block := file.read(_BLOCK):
            on_bytes(len(block))
            yield block


def _file_blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _entry(path: str, size: int, blocks: Iterable[bytes]) -> Iterator[bytes]:
    entry = tarfile.TarInfo(path)
    entry.size = size
    yield entry.tobuf(tarfile.USTAR_FORMAT if size < 8 << 30 else tarfile.GNU_FORMAT)
    yield from blocks
    yield bytes(-size % tarfile.BLOCKSIZE)
