"""Pushes an image and its tags to registries: all registries hold the digest before any gets a tag."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from builder.errors import JbuildError, RegistryError
from builder.host.concurrency import CancelToken, TaskGroup
from builder.host.records import to_json
from builder.model.publications import Publication, PublicationFailure, RegistryPublication
from builder.publish.attachments import attach
from builder.publish.evidence import Evidence
from builder.publish.registry_target import RegistryTarget
from builder.publish.tag_policy import earned, named
from builder.remote.http import Retry
from builder.remote.registry.reference import Reference
from builder.remote.registry.registry_client import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from builder.host.config import Config
    from builder.host.console import Console
    from builder.model.publications import Attached, TagPut, TagWithheld
    from builder.model.recipes import OnFailure, TagRule
    from builder.publish.image_source import ImageSource
    from builder.publish.registry_target import BytesSent


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishOptions:
    """Options for every registry.

    `repository` is below each target; `tags` are set if a verdict of `level` (None: no verdict) earns them. `ignored`
    is the level of a verdict that no trusted key has signed.
    A `building_block` of images never runs by itself: its tags need no verdict. `evidence` is pushed before any tag.
    """

    repository: str
    tags: tuple[TagRule, ...] = ()
    level: str | None = None
    ignored: str | None = None
    on_failure: OnFailure = "none"
    force_tags: bool = False
    building_block: bool = False
    evidence: Evidence = field(default_factory=Evidence)


@dataclass(slots=True, kw_only=True)
class _Destination:
    """One registry with its progress and its failure."""

    target: RegistryTarget
    sent: BytesSent | None = None
    attached: tuple[Attached, ...] = ()
    withheld: tuple[TagWithheld, ...] = ()
    put: list[TagPut] = field(default_factory=list)
    failure: PublicationFailure | None = None

    @property
    def name(self) -> str:
        return self.target.reference.name

    def attempt(self, stage: str, step: Callable[[_Destination], object]) -> None:
        try:
            step(self)
        except JbuildError as error:
            # The registry is named anyway; a file, or an index, is not.
            elsewhere = error.where and self.target.reference.host not in error.where
            message = f"{error.message} ({error.where})" if elsewhere else error.message
            self.failure = PublicationFailure(repository=self.name, stage=stage, message=message, hint=error.hint)


def publish(
    source: ImageSource,
    targets: tuple[str, ...],
    wish: PublishOptions,
    *,
    config: Config,
    console: Console,
    retry: Retry | None = None,
) -> Publication:
    """Push an image to `<target>/<repository>` of every target, then set the tags that it has earned.

    A second run resumes the first one: a registry's blobs are not sent again. If a registry fails, no registry gets a
    tag, unless `on_failure` is `complete-others`.

    Raises:
        PublicationError: a registry failed.
        RecipeError: a target, repository or tag is malformed.
    """
    token = CancelToken()
    rules, unnamed = named(wish.tags, dict(source.labels))
    wish = replace(wish, tags=rules)
    goals = _goals(targets, wish, config, replace(retry or Retry(), sleep=token.sleep), console, token)
    allowed, withheld = (wish.tags, ()) if wish.building_block else earned(wish.tags, wish.level, wish.ignored)

    def add(goal: _Destination) -> None:
        target = goal.target
        goal.attached = attach(target.client, target.reference.repository, source.digest, wish.evidence)

    def judge(goal: _Destination) -> None:
        moves = goal.target.judge(source, allowed, force=wish.force_tags)
        goal.withheld = moves.withheld
        for warning in moves.warnings:
            console.warn(warning)

    def tag(goal: _Destination) -> None:
        names = {tag.name for tag in goal.withheld}
        goal.target.tag(source, [rule.name for rule in allowed if rule.name not in names], goal.put.append)

    _send_everywhere(goals, source, config, console, token)
    _everywhere([goal for goal in goals if not goal.failure], "attachments", add, token)
    for stage, step in (("tags", judge), ("tags", tag)):
        _everywhere(_ready(goals, wish), stage, step, token)
    publication = Publication(
        digest=source.digest,
        level=wish.level,
        registries=tuple(_record(goal, goal.sent, source, signed=wish.evidence.signed) for goal in goals if goal.sent),
        failures=tuple(goal.failure for goal in goals if goal.failure),
        withheld=(*unnamed, *withheld),
    )
    if publication.failures:
        raise PublicationError(publication)
    return publication


def _goals(
    targets: Iterable[str], wish: PublishOptions, config: Config, retry: Retry, console: Console, token: CancelToken
) -> list[_Destination]:
    """Check all names and tags; return the distinct targets."""
    references = {r.name: r for r in (Reference.parse(f"{target}/{wish.repository}") for target in targets)}
    for reference in references.values():
        for rule in wish.tags:
            replace(reference, tag=rule.name)

    def goal(reference: Reference) -> _Destination:
        own_token = token.child()
        policy = replace(
            retry, sleep=own_token.sleep, on_retry=lambda why: console.say(f"pushing to {reference.host}: {why}")
        )
        client = connect(reference.host, config, publish=True, retry=policy)
        return _Destination(target=RegistryTarget(client=client, reference=reference, token=own_token))

    return [goal(reference) for reference in references.values()]


def _ready(goals: list[_Destination], wish: PublishOptions) -> list[_Destination]:
    """Return the registries without a failure; none after any failure, unless `on_failure` is `complete-others`."""
    sound = [goal for goal in goals if not goal.failure]
    return sound if len(sound) == len(goals) or wish.on_failure == "complete-others" else []


def _everywhere(
    goals: list[_Destination], stage: str, step: Callable[[_Destination], object], token: CancelToken
) -> None:
    with TaskGroup(len(goals), token=token) as group:
        group.map(lambda goal: goal.attempt(stage, step), goals)


def _send_everywhere(
    goals: list[_Destination], source: ImageSource, config: Config, console: Console, token: CancelToken
) -> None:
    """Send to all hosts at once, and to one host's repositories in turn: later ones can mount blobs of earlier ones."""
    hosts: dict[str, list[_Destination]] = {}
    for goal in goals:
        hosts.setdefault(goal.target.reference.host, []).append(goal)
    references = [reference for reference in (base_of(source, config), *source.origins) if reference]

    def send_to(host: str) -> None:
        sources = [reference.repository for reference in references if reference.host == host]

        def send(goal: _Destination) -> None:
            goal.sent = goal.target.send(source, tuple(sources), console)
            sources.append(goal.target.reference.repository)

        for goal in hosts[host]:
            goal.attempt("image", send)

    with TaskGroup(len(hosts), token=token) as group:
        group.map(send_to, hosts)


def base_of(source: ImageSource, config: Config) -> Reference | None:
    """Return the base image's source: its layers can be mounted within the same registry."""
    try:
        return Reference.parse(config.mirrored(source.base_name)[0]) if source.base_name else None
    except JbuildError:
        return None  # a label is only a hint; without it the layers are sent


def _record(goal: _Destination, sent: BytesSent, source: ImageSource, *, signed: bool) -> RegistryPublication:
    return RegistryPublication(
        repository=goal.name,
        digest=source.digest,
        tags=tuple(goal.put),
        bytes_sent=sent.uploaded,
        bytes_mounted=sent.mounted,
        bytes_there=sent.present,
        seconds=sent.seconds,
        withheld=goal.withheld,
        attached=goal.attached,
        signed=signed,
    )


class PublicationError(RegistryError):
    """At least one registry is incomplete. `publication` lists the content of every registry."""

    def __init__(self, publication: Publication) -> None:
        """Store the incomplete publication."""
        self.publication = publication
        failures = publication.failures
        reasons = "; ".join(f"{failure.repository}: {failure.message}" for failure in failures)
        super().__init__(
            f"{reasons}. {_tags_now(publication)}",
            where=", ".join(failure.repository for failure in failures),
            hint="; ".join(dict.fromkeys(failure.hint for failure in failures if failure.hint)) or None,
        )

    def as_json(self) -> dict[str, object]:
        """Return the error with the publication."""
        return {**super().as_json(), "publication": to_json(self.publication)}


def _tags_now(publication: Publication) -> str:
    tagged = [
        f"{registry.repository} ({', '.join(t.name for t in registry.tags)})"
        for registry in publication.registries
        if registry.tags
    ]
    if tagged:
        return f"Tags were put in {', '.join(tagged)}"
    is_tagging = any(failure.stage == "tags" for failure in publication.failures)
    return "No tag points to the pushed image" if is_tagging else "No tags were set"
