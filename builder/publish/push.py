"""From a proven image to its tags in every registry: all registries hold the digest before any gets a tag."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from builder.errors import IntegrityError, JbuildError, RegistryError
from builder.http import Retry
from builder.publish.failure import PublicationError
from builder.publish.model import Publication, PublicationFailure, RegistryPublication, TagPut
from builder.publish.parallel import Stop, run_all
from builder.publish.target import Sent, Source, Target, blob_file
from builder.registry.client import connect
from builder.registry.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from builder.config import Config
    from builder.console import Console
    from builder.image.model import Image

_BASE_NAME = "org.opencontainers.image.base.name"


def publish(
    image: Image,
    layout: Path,
    targets: tuple[str, ...],
    *,
    repository: str,
    tags: tuple[str, ...],
    config: Config,
    console: Console,
    all_or_nothing: bool = True,
    retry: Retry | None = None,
) -> Publication:
    """Bring an image to `<target>/<repository>` of every target, then put its tags there.

    `layout` is the OCI layout with the image's blobs. What a registry holds is not sent again, so a second run
    finishes what a first one left. If a registry fails to take the image, none is tagged; without `all_or_nothing`
    the others are.

    Raises:
        PublicationError: a registry failed.
        RecipeError: a target, repository or tag is malformed.
        IntegrityError: the layout does not hold the image.
    """
    stop = Stop()
    policy = replace(retry or Retry(), sleep=stop.sleep)
    goals = _goals(targets, repository=repository, tags=tags, config=config, retry=policy, console=console, stop=stop)
    source = _source(image, layout)
    sent = _send_everywhere(goals, source, _base_of(image, config), console, stop)
    failed = {goal: outcome for goal, outcome in sent.items() if isinstance(outcome, Exception)}
    ready = () if failed and all_or_nothing else tuple(goal for goal in goals if goal not in failed)
    put: dict[str, list[TagPut]] = {goal: [] for goal in goals}
    outcomes = run_all([partial(goals[goal].tag, source, tags, put[goal].append) for goal in ready], len(ready), stop)
    publication = _publication(image.digest, sent, put, dict(zip(ready, outcomes, strict=True)))
    if publication.failures:
        raise PublicationError(publication)
    return publication


def _goals(
    targets: Iterable[str],
    *,
    repository: str,
    tags: Iterable[str],
    config: Config,
    retry: Retry,
    console: Console,
    stop: Stop,
) -> dict[str, Target]:
    """Return the targets by name, each once, after all names and tags have been checked."""
    references = {r.name: r for r in (Reference.parse(f"{target}/{repository}") for target in targets)}
    for reference in references.values():
        for tag in tags:
            replace(reference, tag=tag)
    own = {reference.host for reference in references.values()}

    def target(reference: Reference) -> Target:
        switch = stop.child()
        policy = replace(
            retry, sleep=switch.sleep, on_retry=lambda why: console.say(f"pushing to {reference.host}: {why}")
        )
        client = connect(reference.host, config, own=own, retry=policy)
        return Target(client=client, reference=reference, stop=switch)

    return {name: target(reference) for name, reference in references.items()}


def _source(image: Image, layout: Path) -> Source:
    path = blob_file(layout, image.manifest)
    manifest = path.read_bytes()
    if f"sha256:{hashlib.sha256(manifest).hexdigest()}" != image.digest:
        raise IntegrityError(
            "the built image's manifest is damaged", where=str(path), hint="build it again with --force"
        )
    source = Source(image=image, manifest=manifest, layout=layout)
    for blob in source.blobs:
        source.path(blob)
    return source


def _base_of(image: Image, config: Config) -> Reference | None:
    """Return where the base image was taken from: its layers can be mounted if that is in the same registry."""
    name = dict(image.labels).get(_BASE_NAME)
    try:
        return Reference.parse(config.mirrored(name)[0]) if name else None
    except JbuildError:
        return None  # a label is only a hint; without it the layers are sent


def _send_everywhere(
    goals: dict[str, Target], source: Source, base: Reference | None, console: Console, stop: Stop
) -> dict[str, Sent | Exception]:
    """Send to all hosts at once, to the repositories of one host in turn: the later can mount from the first."""
    hosts: dict[str, list[str]] = {}
    for name, target in goals.items():
        hosts.setdefault(target.reference.host, []).append(name)
    outcomes: dict[str, Sent | Exception] = dict.fromkeys(goals, RegistryError("not tried"))

    def send_to(host: str) -> None:
        sources = [base.repository] if base and base.host == host else []
        for name in hosts[host]:
            outcomes[name] = _caught(partial(goals[name].send, source, tuple(sources), console))
            if isinstance(outcomes[name], Sent):
                sources.append(goals[name].reference.repository)

    run_all([partial(send_to, host) for host in hosts], len(hosts), stop)
    return {name: outcomes[name] for name in goals}


def _caught(job: Callable[[], Sent]) -> Sent | Exception:
    try:
        return job()
    except Exception as error:  # noqa: BLE001  # `_failure` raises what is no failure of a registry
        return error


def _publication(
    digest: str,
    sent: dict[str, Sent | Exception],
    put: dict[str, list[TagPut]],
    tagging: dict[str, Exception | None],
) -> Publication:
    registries, failures = [], []
    for name, outcome in sent.items():
        tagging_error = tagging.get(name)
        if isinstance(outcome, Exception):
            failures.append(_failure(name, "image", outcome))
            continue
        if tagging_error:
            failures.append(_failure(name, "tags", tagging_error))
        registries.append(
            RegistryPublication(
                repository=name,
                digest=digest,
                tags=tuple(put[name]),
                bytes_sent=outcome.sent,
                bytes_mounted=outcome.mounted,
                bytes_there=outcome.there,
                seconds=outcome.seconds,
            )
        )
    return Publication(digest=digest, registries=tuple(registries), failures=tuple(failures))


def _failure(name: str, stage: str, error: Exception) -> PublicationFailure:
    if not isinstance(error, JbuildError):
        raise error
    return PublicationFailure(repository=name, stage=stage, message=error.message, hint=error.hint)
