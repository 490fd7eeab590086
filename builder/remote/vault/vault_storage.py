"""Where vaults are stored: a folder, an address on a web server, or an artifact in a registry."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import requests

from builder.errors import IntegrityError, NetworkError, RegistryError, UsageError
from builder.host.json_documents import decode_json
from builder.model.vaults import CATALOGUE
from builder.remote import http
from builder.remote.addresses import scrub
from builder.remote.answer_bodies import read_body
from builder.remote.artifact import TITLE
from builder.remote.download import receive
from builder.remote.index.logins import Logins
from builder.remote.index.remote_wheel import RemoteFile
from builder.remote.registry.reference import Reference
from builder.remote.registry.registry_client import RegistryClient, connect
from builder.remote.web_pages import refuse_web_page

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterator

    from builder.host.config import Config
    from builder.remote.download import PartialFile

OCI = "oci://"
_WEB = ("http://", "https://")
_LONGEST = 64 << 20


class VaultStorage(Protocol):
    """A stored vault; `location` is as users write it."""

    @property
    def location(self) -> str:
        """The folder, address or name of the vault."""

    def read(self, path: str) -> bytes:
        """Return a small file of the vault.

        Raises:
            JbuildError: it cannot be read.
        """

    def receive(self, path: str, sha256: str, content: PartialFile) -> None:
        """Append the missing bytes of a file.

        Raises:
            JbuildError: they cannot be had.
        """

    def open_wheel(self, path: str) -> io.IOBase | None:
        """Open a file that is read in parts, or return None if it must be fetched.

        Raises:
            requests.RequestException, NoRangesError, OSError: it cannot be read.
        """


@dataclass(frozen=True, slots=True)
class FolderVault:
    """A vault in a folder."""

    folder: Path

    @property
    def location(self) -> str:
        """The folder."""
        return str(self.folder)

    def read(self, path: str) -> bytes:
        """Return a small file of the vault."""
        with self._explained(path):
            return (self.folder / path).read_bytes()

    def receive(self, path: str, sha256: str, content: PartialFile) -> None:  # noqa: ARG002  # for registries
        """Copy a file."""
        with self._explained(path), (self.folder / path).open("rb") as file:
            content.copy_from(file)

    def open_wheel(self, path: str) -> io.IOBase | None:
        """Open a file."""
        return (self.folder / path).open("rb")

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if path == CATALOGUE:
                hint = "correct the folder, mount its disk, or write it with `jbuild vault RECIPE --output FOLDER`"
                message = f"no vault is in this folder: {error.strerror}"
                raise UsageError(message, where=str(self.folder), hint=hint) from error
            hint = f"`jbuild vault --check {self.folder}` lists what is missing"
            message = f"a file of the vault cannot be read: {error.strerror}"
            raise IntegrityError(message, where=str(self.folder / path), hint=hint) from error


@dataclass(slots=True)
class WebVault:
    """A vault on a web server that serves its folder."""

    location: str
    logins: Logins

    def read(self, path: str) -> bytes:
        """Return a small file of the vault."""
        url = self._url(path)
        try:
            content = http.Retry(tries=3, within_s=60.0).run(lambda: self._read_once(url))
        except requests.RequestException as error:
            raise http.network_error(error, url, "the vault does not answer") from error
        if content is None:
            raise NetworkError(f"the file is longer than {_LONGEST >> 20} MiB", where=scrub(url))
        return content

    def _read_once(self, url: str) -> bytes | None:
        with self.logins.get(url) as answer:
            answer.raise_for_status()
            refuse_web_page(answer)
            return read_body(answer, _LONGEST)

    def receive(self, path: str, sha256: str, content: PartialFile) -> None:  # noqa: ARG002  # for registries
        """Append the missing bytes of a file."""
        url = self._url(path)
        try:
            receive(lambda headers: self.logins.get(url, headers=headers), content, http.Retry(tries=3))
        except requests.RequestException as error:
            raise http.network_error(error, url, "the vault does not give this file") from error

    def open_wheel(self, path: str) -> io.IOBase | None:
        """Open a file by ranges."""
        return RemoteFile(self._url(path), self.logins.get)

    def _url(self, path: str) -> str:
        return f"{self.location.rstrip('/')}/{quote(path)}"


@dataclass(slots=True)
class RegistryVault:
    """A vault in a registry: an artifact with a layer for each file, named by its title."""

    location: str
    connected: Callable[[], RegistryClient]
    _digests: dict[str, str] = field(default_factory=dict)
    _client: RegistryClient | None = None

    @property
    def reference(self) -> Reference:
        """The name of the artifact."""
        return Reference.parse(self.location.removeprefix(OCI))

    def read(self, path: str) -> bytes:
        """Return a small file of the vault."""
        return self._connection().read_blob(self.reference.repository, self._digest(path))

    def receive(self, path: str, sha256: str, content: PartialFile) -> None:  # noqa: ARG002  # for web servers
        """Append the missing bytes of a file."""
        self._connection().fetch_blob(self.reference.repository, f"sha256:{sha256}", content)

    def open_wheel(self, path: str) -> io.IOBase | None:  # noqa: ARG002  # for folders and web servers
        """Return None."""
        return None

    def _connection(self) -> RegistryClient:
        if self._client is None:
            self._client = self.connected()
        return self._client

    def _digest(self, path: str) -> str:
        if not self._digests:
            content, _ = self._connection().get_manifest(self.reference.repository, self.reference.tag_or_digest)
            self._digests.update(titled_layers(content))
        if path not in self._digests:
            hint = "`jbuild vault RECIPE --output FOLDER --push NAME` writes a vault into a registry"
            raise RegistryError(f"the artifact has no {path}: it is not a vault", where=self.location, hint=hint)
        return self._digests[path]


def titled_layers(manifest: bytes) -> dict[str, str]:
    """Return the digests of an artifact's layers by their titles."""
    try:
        layers: list[dict[str, Any]] = decode_json(manifest)["layers"]
        return {str(layer["annotations"][TITLE]): str(layer["digest"]) for layer in layers}
    except (ValueError, KeyError, TypeError):
        return {}


def storage_of(location: str, config: Config) -> VaultStorage:
    """Return the storage of a vault: `oci://` names a registry's artifact, `http` a web server, other words a folder.

    Raises:
        RecipeError: the name of the artifact is malformed.
    """
    if location.startswith(OCI):
        host = Reference.parse(location.removeprefix(OCI)).host
        return RegistryVault(location, partial(connect, host, config))
    if location.startswith(_WEB):
        return WebVault(scrub(location), Logins(config, http.session(config)))
    return FolderVault(Path(location))
