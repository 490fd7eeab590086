"""Who asks for what: the requirements of locked wheels, as their METADATA says, on one platform."""

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
    """A requirement and who has it: the recipe, or a distribution of a version."""

    by: str
    version: str | None
    requirement: Requirement

    @property
    def words(self) -> str:
        """Who asks for what, in words."""
        who = f"{self.by} {self.version}" if self.version else self.by
        plain = f"{self.requirement.name}{self.requirement.specifier}"
        return f"{who} asks for {plain}"


def asks_of(
    spec: Spec, metadata: Mapping[str, tuple[str, bytes]], platform: Platform
) -> dict[str, tuple[Requester, ...]]:
    """Return for each distribution all that is asked of it.

    `metadata` is the version and METADATA of each distribution that is there. Extras are followed. What the recipe
    replaces is asked by the recipe alone.
    """
    environment = {**markers(platform), "extra": ""}
    found: dict[str, list[Requester]] = {}
    replaced = {str(canonicalize_name(Requirement(text).name)) for text in spec.replace}
    own = [Requirement(text) for text in (*spec.requires, *spec.replace)]
    queue = deque(
        Requester(by=RECIPE, version=None, requirement=each)
        for each in own
        if not each.marker or each.marker.evaluate(environment)
    )
    done: set[tuple[str, str]] = set()
    while queue:
        ask = queue.popleft()
        name = str(canonicalize_name(ask.requirement.name))
        if ask.by == RECIPE or name not in replaced:
            found.setdefault(name, []).append(ask)
        if name not in metadata:
            continue
        version, content = metadata[name]
        for extra in ("", *ask.requirement.extras):
            if (name, extra) not in done:
                done.add((name, extra))
                queue.extend(_of(name, version, content, environment, extra))
    return {name: tuple({ask.words: ask for ask in asks[::-1]}.values())[::-1] for name, asks in found.items()}


def _of(name: str, version: str, content: bytes, environment: Mapping[str, str], extra: str) -> Iterator[Requester]:
    """Yield what a distribution asks for with an extra, without what it asks for anyway."""
    for requirement in requirements(content):
        marker = requirement.marker
        always = marker is None or marker.evaluate(environment)
        with_extra = always or (marker is not None and marker.evaluate({**environment, "extra": extra}))
        if with_extra and not (extra and always):
            yield Requester(by=name, version=version, requirement=requirement)


def requirements(content: bytes) -> list[Requirement]:
    """Return the requirements of a METADATA file; those that no standard knows are left out."""
    headers = BytesParser(policy=compat32).parsebytes(content, headersonly=True)
    found = []
    for text in headers.get_all("Requires-Dist", []):
        try:
            found.append(Requirement(str(text)))
        except InvalidRequirement:
            continue
    return found


def metadata_of(
    wheels: Iterable[LockedWheel], ties: IndexPins, client: IndexClient, workspace: Workspace
) -> tuple[dict[str, tuple[str, bytes]], tuple[str, ...]]:
    """Return the version and METADATA of each wheel, and the names of those whose server did not give it."""
    default = Index(name=DEFAULT, addresses=())

    def read(wheel: LockedWheel) -> bytes:
        file = IndexFile(filename=wheel.filename, url=wheel.url, sha256=wheel.sha256, size=wheel.size)
        return wheel_metadata(ties.named(wheel.index) if wheel.index else default, file, client, workspace)

    found, silent = {}, []
    with TaskGroup(_CONNECTIONS) as group:
        running = [(wheel, group.submit(read, wheel)) for wheel in wheels]
        for wheel, future in running:
            try:
                found[wheel.name] = (wheel.version, future.result())
            except (NetworkError, IntegrityError):
                silent.append(wheel.name)
    return found, tuple(silent)
