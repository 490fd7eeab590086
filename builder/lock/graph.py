"""Says which wheels request a distribution on one platform, and so why the wheels of two locks differ."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, fields, replace
from email.parser import BytesParser
from email.policy import compat32
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from builder.errors import IntegrityError, NetworkError
from builder.host.concurrency import TaskGroup
from builder.host.index_rows import DEFAULT
from builder.lock import source_metadata
from builder.lock.index_sources import index_pins_of
from builder.lock.uv_target import markers
from builder.model.builds import LockedBuild
from builder.model.locks import LockChange
from builder.remote.index.index_view import wheel_metadata
from builder.remote.index.listing import Index, IndexFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from builder.host.paths import Workspace
    from builder.host.session import Session
    from builder.model.locks import Job, Lock
    from builder.model.platforms import Platform
    from builder.model.recipes import Spec
    from builder.model.wheels import LockedWheel
    from builder.remote.index.index_client import IndexClient
    from builder.remote.index.listing import IndexPins

_CONNECTIONS = 16
_NAMED = 3
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


def unmet_requirements(requires: Iterable[str], lock: Lock) -> Iterator[str]:
    """Yield the requirements of a wheel that a lock does not meet."""
    environment = {**markers(lock.platform), "extra": ""}
    for requirement in map(Requirement, requires):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            version = lock.versions.get(str(canonicalize_name(requirement.name)))
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                yield f"{requirement.name}{requirement.specifier}"


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


def built_metadata(lock: Lock, job: Job, workspace: Workspace) -> dict[str, tuple[str, bytes]]:
    """Return version and METADATA of the packages that a lock builds, of sources that this machine has."""
    metadata = {}
    for build in lock.builds or ():
        listed = job.spec.builds.named(build.name) if job.spec.builds else None
        if content := source_metadata.of_locked(build, listed, workspace):
            metadata[build.name] = (build.version, content)
    return metadata


def changes_of(
    before: Lock | None, after: Lock, job: Job, client: IndexClient, session: Session, *, upgrade: tuple[str, ...] = ()
) -> tuple[LockChange, ...]:
    """Return the differences between a lock and the previous one, sorted by name; none without a previous lock."""
    changed = _differing(before, after) if before else []
    if before is None or not changed:
        return ()
    with session.console.task(f"{job.cell.id}: finding out why {len(changed)} packages changed"):
        # Without an answer of the server, the reason is missing, but not the lock.
        metadata, _ = metadata_of(after.wheels, index_pins_of(job, session.config), client, session.workspace)
        metadata |= built_metadata(after, job, session.workspace)
    asks = asks_of(job.spec, metadata, job.platform)
    return tuple(
        replace(change, why=_why(change, asks.get(change.name, ()), before, after, job, upgrade)) for change in changed
    )


def _differing(before: Lock, after: Lock) -> list[LockChange]:
    old, new = map(_contents, (before, after))
    return [
        LockChange(
            name=name,
            before=before.versions.get(name),
            after=after.versions.get(name),
            what=_part(old.get(name), new.get(name)),
        )
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _part(old: object, new: object) -> str | None:
    """Return what is different about a distribution of the same version, if that is not its file."""
    if isinstance(old, LockedBuild) and isinstance(new, LockedBuild):
        return "another source" if old.source != new.source else "other inputs of its build"
    if isinstance(old, LockedBuild):
        return "a wheel of the index in place of a build"
    return "a build in place of the index's wheel" if isinstance(new, LockedBuild) else None


def _contents(lock: Lock) -> dict[str, object]:
    """Return what identifies each distribution: the sha256 of its wheel, or all inputs of its build."""
    builds: dict[str, object] = {build.name: build for build in lock.builds or ()}
    return builds | {wheel.name: wheel.sha256 for wheel in lock.as_written.wheels}


def _why(
    change: LockChange, requesters: tuple[Requester, ...], before: Lock, after: Lock, job: Job, upgrade: tuple[str, ...]
) -> str | None:
    if change.after is None:
        return "nothing requires it any more"
    if change.before is None:
        return _joined(requesters) or None
    moved = f"it comes from {after.sources.get(change.name) or 'the default index'} now"
    upgraded = "its upgrade was requested"
    against = tuple(
        ask for ask in requesters if not ask.requirement.specifier.contains(change.before, prereleases=True)
    )
    return (
        (upgraded if change.name in upgrade else None)
        or _joined(against)
        or _rule(change, job, after)
        or (moved if before.sources.get(change.name) != after.sources.get(change.name) else None)
        or (upgraded if "*" in upgrade else None)
        or _other_inputs(change, before, after)
        or "the locked file is no longer offered, or no longer fits the others"
    )


def _other_inputs(change: LockChange, before: Lock, after: Lock) -> str | None:
    """Return which inputs of a build of the same version differ."""
    old, new = (next((b for b in lock.builds or () if b.name == change.name), None) for lock in (before, after))
    if old is None or new is None or change.before != change.after:
        return None
    names = [field.name for field in fields(old) if getattr(old, field.name) != getattr(new, field.name)]
    return f"its {' and '.join(names)} changed" if names else None


def _rule(change: LockChange, job: Job, after: Lock) -> str | None:
    """Return the constraint of the recipe or of an advisory that the previous version breaks."""
    rules = [(text, "a constraint of the recipe") for text in job.spec.constraints]
    rules += [(text, f"advisory {advisory.id}") for advisory in after.advisories for text in advisory.constrain]
    for text, source in rules:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) == change.name and not requirement.specifier.contains(
            change.before or "", prereleases=True
        ):
            return f"{source} asks for {text}"
    return None


def _joined(asks: tuple[Requester, ...]) -> str:
    # The recipe comes before packages.
    ordered = sorted(asks, key=lambda ask: ask.by != RECIPE)
    more = len(ordered) - _NAMED
    text = " and ".join(ask.words for ask in ordered[:_NAMED])
    return f"{text} and {more} more" if more > 0 else text
