"""The requirements of locked wheels by requested distribution, from their METADATA, on one platform."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import compat32
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from builder.errors import IntegrityError, NetworkError
from builder.host.concurrency import TaskGroup
from builder.host.index_rows import DEFAULT
from builder.lock.uv_target import markers
from builder.remote.index.index_view import wheel_metadata
from builder.remote.index.listing import Index, IndexFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from builder.host.paths import Workspace
    from builder.model.locks import LockedWheel
    from builder.model.platforms import Platform
    from builder.model.recipes import Spec
    from builder.remote.index.index_client import IndexClient
    from builder.remote.index.listing import IndexPins

_CONNECTIONS = 16
RECIPE = "the recipe"


@dataclass(frozen=True, kw_only=True, slots=True)
class Requester:
    """A requirement and its source: the recipe, or a version of a distribution."""

    by: str
    version: str | None
    requirement: Requirement

    @property
    def words(self) -> str:
        """The request as a sentence."""
        requester = f"{self.by} {self.version}" if self.version else self.by
        plain = f"{self.requirement.name}{self.requirement.specifier}"
        return f"{requester} asks for {plain}"


def asks_of(
    spec: Spec, metadata: Mapping[str, tuple[str, bytes]], platform: Platform
) -> dict[str, tuple[Requester, ...]]:
    """Return the requests for each distribution.

    `metadata` is the version and METADATA of each locked distribution. Extras are followed. Only the recipe requests
    the packages that it replaces.
    """
    environment = {**markers(platform), "extra": ""}
    asks: dict[str, list[Requester]] = {}
    replaced = {str(canonicalize_name(Requirement(text).name)) for text in spec.replace}
    direct = [Requirement(text) for text in (*spec.requires, *spec.replace)]
    queue = deque(
        Requester(by=RECIPE, version=None, requirement=requirement)
        for requirement in direct
        if not requirement.marker or requirement.marker.evaluate(environment)
    )
    done: set[tuple[str, str]] = set()
    while queue:
        ask = queue.popleft()
        name = str(canonicalize_name(ask.requirement.name))
        if ask.by == RECIPE or name not in replaced:
            asks.setdefault(name, []).append(ask)
        if name not in metadata:
            continue
        version, content = metadata[name]
        for extra in ("", *ask.requirement.extras):
            if (name, extra) not in done:
                done.add((name, extra))
                queue.extend(_requests_of(name, version, content, environment, extra))
    return {name: tuple({ask.words: ask for ask in requests[::-1]}.values())[::-1] for name, requests in asks.items()}


def _requests_of(
    name: str, version: str, content: bytes, environment: Mapping[str, str], extra: str
) -> Iterator[Requester]:
    """Yield a distribution's requests with an extra, without those that it has anyway."""
    for requirement in requirements(content):
        marker = requirement.marker
        always = marker is None or marker.evaluate(environment)
        with_extra = always or (marker is not None and marker.evaluate({**environment, "extra": extra}))
        if with_extra and not (extra and always):
            yield Requester(by=name, version=version, requirement=requirement)


def requirements(content: bytes) -> list[Requirement]:
    """Return the requirements of a METADATA file, without invalid ones."""
    headers = BytesParser(policy=compat32).parsebytes(content, headersonly=True)
    parsed = []
    for text in headers.get_all("Requires-Dist", []):
        try:
            parsed.append(Requirement(str(text)))
        except InvalidRequirement:
            continue
    return parsed


def metadata_of(
    wheels: Iterable[LockedWheel], ties: IndexPins, client: IndexClient, workspace: Workspace
) -> tuple[dict[str, tuple[str, bytes]], tuple[str, ...]]:
    """Return the version and METADATA of each wheel, and the names of wheels whose METADATA could not be read."""
    default = Index(name=DEFAULT, addresses=())

    def read(wheel: LockedWheel) -> bytes:
        file = IndexFile(filename=wheel.filename, url=wheel.url, sha256=wheel.sha256, size=wheel.size)
        return wheel_metadata(ties.named(wheel.index) if wheel.index else default, file, client, workspace)

    metadata, unread = {}, []
    with TaskGroup(_CONNECTIONS) as group:
        running = [(wheel, group.submit(read, wheel)) for wheel in wheels]
        for wheel, future in running:
            try:
                metadata[wheel.name] = (wheel.version, future.result())
            except (NetworkError, IntegrityError):
                unread.append(wheel.name)
    return metadata, tuple(unread)
