"""Compares a bundle's OCI layout with the bundle's record."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from builder.errors import BuildError, IntegrityError
from builder.host import records
from builder.host.json_documents import decode_json
from builder.image.oci.layout import image_blobs, read_image
from builder.model.bundles import BUNDLE_FILE, RECORD_ANNOTATION

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.model.bundles import Bundle
    from builder.model.images import Descriptor

BLOBS = "blobs/sha256/"
# The limit of registries for a manifest; configurations and indexes are shorter.
_LONGEST_DOCUMENT = 16 << 20
_HINT = "make the bundle again"


def check_layout(root: Path, bundle: Bundle, folder: Path) -> None:
    """Make sure that the layout `root` of the bundle in `folder` holds the image that the bundle's record names.

    Raises:
        IntegrityError: it does not, or a blob is neither in the bundle nor among the missing ones.
    """
    _Layout(root, bundle, folder).check()


class _Layout:
    def __init__(self, root: Path, bundle: Bundle, folder: Path) -> None:
        self._root, self._bundle, self._folder = root, bundle, folder
        self._sizes = {file.path: file.size for file in bundle.files}

    def check(self) -> None:
        for file in self._bundle.files:
            if file.path.startswith("blobs/") and file.path != f"{BLOBS}{file.sha256}":
                raise self._refused(f"the blob {file.path} has the content of sha256:{file.sha256}")
        self._check_blobs()
        self._check_image()
        if self._document("oci-layout").get("imageLayoutVersion") != "1.0.0":
            raise self._refused("the file oci-layout names another version of OCI layouts than 1.0.0")
        self._check_index()
        self._check_docker_manifest()

    def _check_blobs(self) -> None:
        image, missing = self._bundle.image, {blob.digest for blob in self._bundle.missing}
        needed = missing.intersection((image.manifest.digest, image.config.digest))
        for blob in image_blobs(image):
            if self._size(blob.digest) != blob.size and (blob.digest in needed or blob.digest not in missing):
                raise self._refused(f"the image's blob {blob.digest} ({blob.size:,} bytes) is not in it")

    def _check_image(self) -> None:
        image = self._bundle.image
        self._document(_path(image.manifest))
        config = self._document(_path(image.config))
        try:
            labelled = replace(image, labels=tuple(sorted(image.labels)))
            same = read_image(self._root, image.digest, image.platform) == labelled
            diff_ids = config["rootfs"]["diff_ids"]
            platform = f"{config['os']}/{config['architecture']}"
            sound = len(diff_ids) == len(image.layers) and image.platform.startswith(platform)
        except (BuildError, KeyError, TypeError, AttributeError) as error:
            raise self._refused(f"{image.digest} is not the manifest of an image") from error
        if not same or not sound:
            raise self._refused(f"the image {image.digest} is another one than {BUNDLE_FILE} describes")

    def _check_index(self) -> None:
        index = self._document("index.json")
        entries = index.get("manifests")
        try:
            listed = {str(entry["digest"]): entry["size"] for entry in entries or ()}
        except (KeyError, TypeError) as error:
            raise self._refused("the file index.json is not an index of images") from error
        if self._bundle.image.digest not in listed:
            raise self._refused(f"the file index.json does not list the image {self._bundle.image.digest}")
        for digest, size in listed.items():
            if self._size(digest) != size:
                raise self._refused(f"the file index.json lists {digest}, which is not in it")

        annotations = index.get("annotations")
        covered = records.fingerprint(replace(self._bundle, files=()))
        if not isinstance(annotations, dict) or annotations.get(RECORD_ANNOTATION) != covered:
            raise self._refused(f"{BUNDLE_FILE} has another content than when the bundle was made")

    def _check_docker_manifest(self) -> None:
        """Check the file that `docker load` reads, for those who load the bundle without jbuild."""
        image = self._bundle.image
        content = self._json("manifest.json")
        try:
            (entry,) = content
            same = (entry["Config"], entry["Layers"]) == (_path(image.config), [_path(layer) for layer in image.layers])
        except (KeyError, TypeError, ValueError) as error:
            raise self._refused("the file manifest.json does not describe one image") from error
        if not same:
            raise self._refused(f"the file manifest.json describes another image than {BUNDLE_FILE}")

    def _document(self, path: str) -> Mapping[str, Any]:
        document = self._json(path)
        if not isinstance(document, dict):
            raise self._refused(f"{path} is not a JSON object")
        return document

    def _json(self, path: str) -> Any:
        size = self._sizes.get(path)
        if size is None:
            raise self._refused(f"the file {path} is not in it")
        if size > _LONGEST_DOCUMENT:
            raise self._refused(f"{path} is too long ({size:,} bytes)")
        try:
            return decode_json((self._root / path).read_bytes())
        except (OSError, ValueError) as error:
            raise self._refused(f"{path} is not JSON") from error

    def _size(self, digest: str) -> int | None:
        return self._sizes.get(f"blobs/{digest.replace(':', '/', 1)}")

    def _refused(self, flaw: str) -> IntegrityError:
        return IntegrityError(f"the bundle's layout is damaged: {flaw}", where=str(self._folder), hint=_HINT)


def _path(descriptor: Descriptor) -> str:
    return f"blobs/{descriptor.digest.replace(':', '/', 1)}"
