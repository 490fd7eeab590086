"""Image names: `host[:port]/repository[:tag][@digest]`, with the grammar of distribution's `reference` package."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.errors import RecipeError
from builder.model import patterns
from builder.remote.addresses import is_loopback, scrub

if TYPE_CHECKING:
    from collections.abc import Collection

DOCKER_HUB = "docker.io"
_HUB_API = "registry-1.docker.io"
_HUB_NAMES = frozenset({DOCKER_HUB, "index.docker.io", _HUB_API})
_LONGEST_NAME = 255

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]{{1,5}})?"
DIGEST_PATTERN = r"sha256:[0-9a-f]{64}"
_NAME = re.compile(rf"(?P<name>[^@]+?)(?::(?P<tag>{patterns.TAG}))?(?:@(?P<digest>{DIGEST_PATTERN}))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """An image's name: registry host with port, repository, and a tag, a digest, both or none."""

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        """Check each component.

        Raises:
            RecipeError: a component is malformed.
        """
        checks = (
            ("registry host", _HOST, self.host),
            ("repository", patterns.REPOSITORY, self.repository),
            ("tag", patterns.TAG, self.tag),
            ("digest", DIGEST_PATTERN, self.digest),
        )
        for noun, pattern, value in checks:
            if value is not None and not re.fullmatch(pattern, value):
                raise RecipeError(f"{value!r} is not a valid {noun}", hint=_hint(value))
        if len(f"{self.host}/{self.repository}") > _LONGEST_NAME:
            raise RecipeError(
                f"the image name is longer than {_LONGEST_NAME} characters", where=self.repository, hint="shorten it"
            )

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse a name; names without a host are Docker Hub's, those without an organisation are in `library`.

        Raises:
            RecipeError: the text is not an image name.
        """
        match = _NAME.fullmatch(text)
        if not match or "://" in text:
            raise RecipeError(f"{scrub(text)!r} is not an image name", hint=_hint(text))
        host, _, path = match["name"].partition("/")
        if not path or not has_host(host):
            host, path = DOCKER_HUB, match["name"]
        if host in _HUB_NAMES:
            host, path = DOCKER_HUB, path if "/" in path else f"library/{path}"
        return cls(host=host, repository=path, tag=match["tag"], digest=match["digest"])

    @property
    def name(self) -> str:
        """Host and repository, without tag and digest."""
        return f"{self.host}/{self.repository}"

    @property
    def tag_or_digest(self) -> str:
        """The digest, else the tag, else `latest`."""
        return self.digest or self.tag or "latest"

    def at(self, digest: str) -> Reference:
        """Return the repository pinned to a digest, without tag."""
        return replace(self, tag=None, digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}" + (f"@{self.digest}" if self.digest else "")


def has_host(name: str) -> bool:
    """Return whether a name begins with a registry's host, by Docker's rules; the others are Docker Hub's."""
    first = name.partition("/")[0]
    return first == "localhost" or "." in first or ":" in first or first.lower() != first


def _hint(text: str) -> str:
    if "://" in text:
        return "omit the scheme: registry.example.com/team/image:tag"
    if text.lower() != text:
        return "repositories are in lower case, such as registry.example.com/team/image:tag"
    return "write a name such as registry.example.com/team/image:tag or debian:bookworm"


def api_base(host: str, insecure: Collection[str] = ()) -> str:
    """Return the address of a registry's API: plain HTTP on loopback and for hosts in `insecure`, else HTTPS."""
    insecure_hosts = {entry.partition("/")[0] for entry in insecure}
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    scheme = "http" if host in insecure_hosts or is_loopback(name) else "https"
    return f"{scheme}://{_HUB_API if host == DOCKER_HUB else host}"
