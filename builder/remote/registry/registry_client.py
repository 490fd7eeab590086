"""Client of the OCI distribution specification 1.1: manifests and blobs."""

from __future__ import annotations

import hashlib
import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

import requests

from builder.errors import IntegrityError, RegistryError
from builder.host.json_documents import decode_json
from builder.model.images import Descriptor
from builder.remote import http, web_pages
from builder.remote.download import BLOCK, PartialBlob, receive
from builder.remote.registry.auth import find_credentials
from builder.remote.registry.reference import DIGEST_PATTERN
from builder.remote.registry.transport import Transport, scopes_for
from builder.remote.registry.upload import CANCEL_WITHIN_S, Upload, upload_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from builder.errors import JbuildError
    from builder.host.config import Config
    from builder.remote.registry.upload import BlobSource, Readable

_T = TypeVar("_T")
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = (OCI_INDEX, DOCKER_INDEX)
_ACCEPT = {"Accept": f"{OCI_INDEX}, {OCI_MANIFEST}, {DOCKER_INDEX}, {DOCKER_MANIFEST}"}
LONGEST_DOCUMENT = 32 << 20
_CREATED = HTTPStatus.CREATED
_NO_BYTES = f"sha256:{hashlib.sha256().hexdigest()}"


class RegistryClient:
    """Reads and writes one registry. Safe for threads.

    Every method raises RegistryUnreachableError if the registry does not answer, ImageMissingError if it lacks a
    manifest or blob, and RegistryError if it refuses.
    """

    def __init__(self, transport: Transport) -> None:
        """Take the registry."""
        self.host, self._transport, self._call = transport.host, transport, transport.call

    def head_manifest(self, repository: str, reference: str) -> Descriptor | None:
        """Return the descriptor of a tag or digest, or None if the registry lacks it."""
        path, doing = f"manifests/{reference}", f"cannot ask for {_short(reference)}"
        response = self._call("HEAD", repository, path, doing, headers=_ACCEPT, absent_ok=True)
        if response.status_code == HTTPStatus.NOT_FOUND:
            return None
        digest, size = response.headers.get("Docker-Content-Digest", ""), response.headers.get("Content-Length", "")
        if not re.fullmatch(DIGEST_PATTERN, digest) or not size.isdecimal():
            return self.get_manifest(repository, reference)[1]
        return Descriptor(media_type=_media_type(response), digest=digest, size=int(size))

    def get_manifest(self, repository: str, reference: str) -> tuple[bytes, Descriptor]:
        """Return a manifest or index, checked against its digest in `reference` or in the answer's header.

        Raises:
            RegistryError: also if the bytes do not have the digest.
        """
        doing = f"cannot read the manifest of {_short(reference)}"
        response = self._call("GET", repository, f"manifests/{reference}", doing, headers=_ACCEPT)
        content = response.content
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        promised = response.headers.get("Docker-Content-Digest") or digest
        for expected in (reference if reference.startswith("sha256:") else digest, promised):
            if expected != digest:
                raise RegistryError(
                    f"the registry sent {digest} where {expected} was expected",
                    where=f"{self.host}/{repository}:{_short(reference)}",
                    hint="the registry, or a cache in front of it, is damaged: repair it, then run this again",
                )
        try:
            decode_json(content)
        except ValueError as error:
            raise RegistryError(
                f"the registry's answer for {_short(reference)} is not a manifest: it is not JSON",
                where=f"{self.host}/{repository}:{_short(reference)}",
                hint="is it a container image, in a registry of API version 2?",
            ) from error
        return content, Descriptor(media_type=_media_type(response), digest=digest, size=len(content))

    def put_manifest(self, repository: str, reference: str, content: bytes, media_type: str) -> bool:
        """Store a manifest under a tag or its digest; return whether the registry has the referrers API."""
        path, doing, headers = f"manifests/{reference}", f"cannot put {_short(reference)}", {"Content-Type": media_type}
        response = self._call("PUT", repository, path, doing, right="push", headers=headers, body=lambda: content)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        stored = response.headers.get("Docker-Content-Digest", digest if response.status_code == _CREATED else "")
        if stored != digest:
            raise RegistryError(
                f"the registry did not store {_short(reference)}: it answers {response.status_code}"
                + (f" with the digest {stored}" if stored else ", not 201"),
                where=f"{self.host}/{repository}",
                hint="check the address, and the log of the registry and of proxies in front of it",
            )
        return "OCI-Subject" in response.headers

    def tags(self, repository: str) -> tuple[str, ...]:
        """Return all tags of a repository, sorted; none if the repository does not exist."""
        pages = self._pages(repository, "tags/list")
        return tuple(sorted(name for page in pages for name in self._entries(page, "tags", str, repository)))

    def referrers(self, repository: str, digest: str) -> tuple[dict[str, Any], ...] | None:
        """Return the descriptors of a digest's referrers, or None if the registry has no referrers API."""
        pages = list(self._pages(repository, f"referrers/{digest}"))
        entries = (entry for page in pages for entry in self._entries(page, "manifests", dict, repository))
        return tuple(entries) if pages else None

    def _pages(self, repository: str, path: str) -> Iterator[dict[str, Any]]:
        """Yield the pages of a list, which `Link` headers connect (RFC 5988)."""
        address, visited = path, set[str]()
        while address:
            response = self._call("GET", repository, address, f"cannot list {path}", absent_ok=True)
            if response.status_code == HTTPStatus.NOT_FOUND:
                return
            yield self._object(response, repository, path)
            link = response.links.get("next", {}).get("url", "")
            address = self._next_page(response, link, repository, path) if link else ""
            if address in visited:
                raise self._no_list(repository, path, "goes in a circle")
            visited.add(address)

    def _next_page(self, response: requests.Response, link: str, repository: str, path: str) -> str:
        with self._transport.explained(repository, "pull", f"cannot list {path}"):
            return self._transport.address_in_header(link, "Link", base=response.url)

    def _entries(self, page: dict[str, Any], key: str, kind: type[_T], repository: str) -> list[_T]:
        entries = page.get(key) or []
        if isinstance(entries, list) and all(isinstance(entry, kind) for entry in entries):
            return entries
        raise self._no_list(repository, key, "has another form")

    def _object(self, response: requests.Response, repository: str, path: str) -> dict[str, Any]:
        try:
            page = decode_json(response.content)
        except ValueError as error:
            raise self._no_list(repository, path, "is not JSON") from error
        if not isinstance(page, dict):
            raise self._no_list(repository, path, "is not a JSON object")
        return page

    def _no_list(self, repository: str, path: str, flaw: str) -> RegistryError:
        return RegistryError(
            f"the registry's list of {path} {flaw}",
            where=f"{self.host}/{repository}",
            hint="is it a registry of API version 2?",
        )

    def has_blob(self, repository: str, digest: str, *, right: str = "pull", size: int | None = None) -> bool:
        """Return whether the repository has a blob (of `size` bytes, if given).

        With the right to `push` the token serves for later uploads.
        """
        doing = f"cannot ask for blob {_short(digest)}"
        response = self._call("HEAD", repository, f"blobs/{digest}", doing, right=right, absent_ok=True)
        if response.status_code == HTTPStatus.NOT_FOUND:
            return False
        stored = response.headers.get("Content-Length", "")
        promised = response.headers.get("Docker-Content-Digest", digest)
        # Some proxies answer HEAD with a length of 0.
        same_size = size is None or not stored.isdecimal() or int(stored) in (0, size)
        return same_size and promised == digest

    def mount_blob(self, repository: str, digest: str, from_repository: str) -> bool:
        """Mount a blob from another repository of the registry; return whether that worked."""
        query = urlencode({"mount": digest, "from": from_repository})
        scopes = (*scopes_for(repository, "push"), *scopes_for(from_repository, "pull"))
        with suppress(requests.RequestException):
            # A mount only saves time: a real problem will show in the upload.
            response = self._transport.once(
                "POST", f"/v2/{repository}/blobs/uploads/?{query}", scopes=scopes, body=bytes
            )
            if response.status_code == _CREATED:
                return True
            if location := response.headers.get("Location"):
                # 202: the registry opened an upload instead, which stays unused.
                self._transport.once("DELETE", location, scopes=scopes, timeout=CANCEL_WITHIN_S)
        return False

    def begin_push(self, repository: str) -> None:
        """Send the request that every push begins with; it does not show whether the account may push."""
        path, doing = f"blobs/{_NO_BYTES}", "the push would fail"
        response = self._call("HEAD", repository, path, doing, right="push", absent_ok=True)
        with self._transport.explained(repository, "push", doing):
            web_pages.refuse_web_page(response)

    def try_upload(self, repository: str) -> None:
        """Begin an upload and cancel it, which needs the right to push.

        Raises:
            RegistryUnreachableError: also if the upload's address does not answer.
        """
        response = self._call("POST", repository, "blobs/uploads/", "cannot begin an upload", right="push", body=bytes)
        with self._transport.explained(repository, "push", "cannot send to an upload"):
            location = upload_address(self._transport, repository, response)
            try:
                self._transport.once("DELETE", location, scopes=scopes_for(repository, "push"))
            except requests.HTTPError as error:
                # Registries purge abandoned uploads after some days anyway.
                if web_pages.is_web_page(error.response):
                    raise

    def send_blob(
        self, repository: str, source: BlobSource, on_bytes: Callable[[int], object] = lambda _: None
    ) -> None:
        """Upload a blob: streamed, resumed when the connection breaks, checked at the end.

        Raises:
            IntegrityError: the source's bytes do not have its digest.
        """
        Upload(self._transport, repository, source, on_bytes).run()

    @contextmanager
    def open_blob(self, repository: str, digest: str, offset: int = 0) -> Iterator[Readable]:
        """Open a blob's bytes from an offset on, unchecked; reads raise urllib3's errors if the connection is cut."""
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={offset}-"} if offset else {})}
        doing = f"cannot read blob {_short(digest)}"
        response = self._call("GET", repository, f"blobs/{digest}", doing, headers=headers, stream=True)
        with response:
            left = 0 if response.status_code == HTTPStatus.PARTIAL_CONTENT else offset
            while left and (block := response.raw.read(min(left, BLOCK))):
                left -= len(block)
            yield response.raw

    def read_blob(self, repository: str, digest: str) -> bytes:
        """Return a small blob, such as a configuration.

        Raises:
            IntegrityError: its bytes do not have the digest.
            RegistryError: it is longer than `LONGEST_DOCUMENT`.
        """
        content = bytearray()

        def take(block: bytes) -> None:
            content.extend(block)
            if len(content) > LONGEST_DOCUMENT:
                raise RegistryError(
                    f"blob {_short(digest)} is longer than {LONGEST_DOCUMENT} bytes",
                    where=f"{self.host}/{repository}",
                    hint="check that jbuild built the image",
                )

        self.get_blob(repository, digest, take)
        return bytes(content)

    def get_blob(self, repository: str, digest: str, sink: Callable[[bytes], object]) -> int:
        """Stream a blob into `sink`, resuming after lost connections; return its size in bytes.

        Raises:
            IntegrityError: the bytes do not have the digest; `sink` has received them.
        """
        blob = PartialBlob(sink)
        self.fetch_blob(repository, digest, blob)
        if f"sha256:{blob.sha256}" != digest:
            raise IntegrityError(
                f"the registry sent other bytes than those of {digest}",
                where=f"{self.host}/{repository}",
                hint="the registry, or a cache in front of it, is damaged",
            )
        return blob.size

    def fetch_blob(self, repository: str, digest: str, blob: PartialBlob) -> None:
        """Append the missing bytes of a blob; the caller checks its hash."""
        request = partial(
            self._transport.once,
            "GET",
            f"/v2/{repository}/blobs/{digest}",
            scopes=scopes_for(repository, "pull"),
            stream=True,
        )
        with self._transport.explained(repository, "pull", f"cannot read blob {_short(digest)}"):
            receive(lambda headers: request(headers=headers), blob, self._transport.retry)


@dataclass(frozen=True, slots=True)
class RemoteBlob:
    """A blob that is streamed from a registry."""

    client: RegistryClient
    repository: str
    digest: str
    size: int

    def open(self, offset: int) -> AbstractContextManager[Readable]:
        """Request the bytes from an offset on."""
        return self.client.open_blob(self.repository, self.digest, offset)

    def find_corruption(self) -> JbuildError | None:
        """Read the blob again and compare it with its digest."""
        try:
            self.client.get_blob(self.repository, self.digest, lambda _: None)
        except IntegrityError as error:
            return error
        return None


def connect(
    host: str,
    config: Config,
    *,
    publish: bool = False,
    retry: http.Retry | None = None,
    patience: http.Patience | None = None,
) -> RegistryClient:
    """Return a client with the settings of the configuration; `publish` tells that jbuild publishes to this host."""
    config = config.for_registry(host)
    session, credentials = http.session(config, patience), partial(find_credentials, host, publish=publish)
    return RegistryClient(Transport(host, session, credentials, insecure=config.insecure_registries, retry=retry))


def _media_type(response: requests.Response) -> str:
    return response.headers.get("Content-Type", OCI_MANIFEST).partition(";")[0].strip()


def _short(reference: str) -> str:
    return f"{reference[:19]}…" if reference.startswith("sha256:") else reference
