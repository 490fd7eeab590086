"""The status of every tag of a recipe in every registry, with the digest and the level of its image."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from builder.errors import JbuildError
from builder.host.concurrency import CancelToken, TaskGroup
from builder.pipeline.cell import CellRecords
from builder.publish.attachments import evidence_of, is_evidence
from builder.publish.registry_target import RegistryTarget
from builder.publish.tag_policy import earned, named
from builder.publish.trust import attestations_of, best_verdict
from builder.recipe.levels import reaches
from builder.recipe.placeholders import unmarked
from builder.remote.http import announced
from builder.remote.registry.reference import Reference
from builder.remote.registry.registry_client import connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.host.session import Session
    from builder.model.images import Image
    from builder.model.locks import Job
    from builder.model.recipes import TagRule

# On the image built last on this machine; on another image; missing; not wanted by any cell; unknown.
State = Literal["current", "other", "missing", "stray", "unknown"]
_WORKERS = 8
_RECIPE = "io.jbuild.recipe"


@dataclass(frozen=True, kw_only=True, slots=True)
class TagState:
    """One tag in one registry.

    `cell` owns it, None for a stray one. `level` and `proved` (UTC, ISO 8601) are those of the image's best
    verdict; `note` is the reason why a tag is missing or unknown.
    """

    repository: str
    tag: str | None
    state: State
    cell: str | None = None
    digest: str | None = None
    level: str | None = None
    proved: str | None = None
    note: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Expected:
    """A cell's tag, and the image that it should be on, None if this machine has not built one.

    `level` is that of the verdict here, `imported` that of an accepted verdict of another machine.
    """

    cell: str
    rule: TagRule
    image: Image | None
    level: str | None
    imported: str | None


def overview(jobs: Sequence[Job], targets: Sequence[str], session: Session) -> tuple[TagState, ...]:
    """Return the tags of a recipe's cells in all registries, then stray tags of the recipe.

    A registry that does not answer gives one row of state `unknown`.
    """
    expected: dict[str, list[_Expected]] = {}
    for job in jobs:
        for target in targets:
            name = Reference.parse(f"{target}/{job.spec.publish.repository}").name
            expected.setdefault(name, []).extend(_expected(job, session))

    def look(name: str) -> list[TagState]:
        try:
            return _look(name, expected[name], jobs[0].recipe.name, session, group.token)
        except JbuildError as error:
            return [TagState(repository=name, tag=None, state="unknown", note=error.message)]

    with TaskGroup(_WORKERS) as group:
        return tuple(itertools.chain.from_iterable(group.map(look, expected)))


def _expected(job: Job, session: Session) -> list[_Expected]:
    records = CellRecords(session.workspace.cell(job.recipe.name, job.cell.id))
    image, verdict = records.image(), records.proven()
    imported, rules = records.imported(), job.spec.publish.tags
    levels = {"level": verdict.level if verdict else None, "imported": imported.level if imported else None}
    if image:
        rules, _ = named(rules, dict(image.labels))
    return [_Expected(cell=job.cell.id, rule=rule, image=image, **levels) for rule in rules]


def _look(
    name: str, tags_of_cells: list[_Expected], recipe: str, session: Session, token: CancelToken
) -> list[TagState]:
    reference = Reference.parse(name)
    retry = announced(session.console.say, reference.host)
    client = connect(reference.host, session.config, publish=True, retry=retry)
    target = RegistryTarget(client=client, reference=reference, token=token)
    tags = [tag for tag in client.tags(reference.repository) if not is_evidence(tag)]
    names = {item.rule.name for item in tags_of_cells}
    strays = [tag for tag in tags if tag not in names]
    with TaskGroup(_WORKERS, token=token.child()) as group:
        states = [
            *group.map(lambda expected: _row(target, expected, tags), tags_of_cells),
            *group.map(lambda tag: _stray(target, tag, recipe), strays),
        ]
    return [state for state in states if state]


def _row(target: RegistryTarget, expected: _Expected, tags: list[str]) -> TagState | None:
    tag, cell = expected.rule.name, expected.cell
    descriptor = target.client.head_manifest(target.reference.repository, tag) if tag in tags else None
    if descriptor is None:
        return TagState(
            repository=target.reference.name,
            tag=unmarked(tag),
            state="missing",
            cell=cell,
            note=_why_missing(expected),
        )
    current = expected.image is not None and expected.image.digest == descriptor.digest
    return _described(target, tag, descriptor.digest, "current" if current else "other", cell)


def _why_missing(expected: _Expected) -> str:
    if expected.image is None:
        return "not built on this machine"
    _, withheld = earned((expected.rule,), expected.level)
    if withheld and expected.imported and reaches(expected.imported, expected.rule.level):
        return f"`jbuild promote --verdict` puts it, by the verdict of another machine at level {expected.imported}"
    return withheld[0].reason if withheld else "not pushed yet"


def _stray(target: RegistryTarget, tag: str, recipe: str) -> TagState | None:
    """Return a tag of no cell if it is on an image of this recipe: recipes may share a repository."""
    descriptor = target.client.head_manifest(target.reference.repository, tag)
    if descriptor is None or dict(target.labels(descriptor.digest)).get(_RECIPE) != recipe:
        return None
    return _described(target, tag, descriptor.digest, "stray", None)


def _described(target: RegistryTarget, tag: str, digest: str, state: State, cell: str | None) -> TagState:
    repository = target.reference.repository
    beside = evidence_of(target.client, repository, digest)
    verdicts = [attestation.statement for attestation in attestations_of(target.client, repository, digest, beside, ())]
    level, proved = best_verdict(verdicts)
    return TagState(
        repository=target.reference.name,
        tag=tag,
        state=state,
        cell=cell,
        digest=digest,
        level=level,
        proved=proved or None,
    )
