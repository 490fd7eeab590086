"""The push stage: a proven image, its evidence and the tags that its verdict earns go to the recipe's registries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import JbuildError, UsageError
from builder.foundry.shared_wheels import push_wheel
from builder.host import signing
from builder.host.config import with_options
from builder.host.files import sha256_of
from builder.image.layers.layer_blobs import blobs_of, drop_published
from builder.image.precompile.shared_cubins import push_cubins
from builder.model.builds import BuiltWheels
from builder.model.images import Plan
from builder.model.publications import Publication
from builder.model.verdicts import Verdict
from builder.pipeline.cell import CellRecords
from builder.pipeline.stage import Stage
from builder.publish.built_image import published_in
from builder.publish.evidence import Evidence, evidence
from builder.publish.image_source import from_layout
from builder.publish.push import PublishOptions, publish
from builder.publish.registry_check import check_registries
from builder.remote.registry.reference import Reference
from builder.remote.registry.referrers import referrers
from builder.remote.registry.registry_client import connect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.host.config import Config
    from builder.model.recipes import PublishSpec
    from builder.pipeline.cell import CellRun


class _PushStage(Stage[Publication]):
    """From an image with a passed verdict to a publication."""

    name = "push"
    record = Publication

    def project_inputs(self, run: CellRun) -> Mapping[str, object]:
        return {"recipe": run.job.spec.publish, "settings": _targets(run)}

    def run_inputs(self, run: CellRun) -> object:
        key = run.session.config.cosign_key
        return run.image.digest, run.get(Verdict).level, sha256_of(key) if key else None

    def check(self, run: CellRun) -> None:
        config = run.session.config
        required_targets(run.job.spec.publish, run.options.registries, config, location=str(run.job.recipe.path))
        if config.cosign_key:
            signing.check(config.cosign_key)

    def check_servers(self, runs: Sequence[CellRun]) -> None:
        specs = [(_targets(run), run.job.spec.publish) for run in runs]
        images = {(tuple(f"{target}/{spec.repository}" for target in to), spec.on_failure) for to, spec in specs}
        check_registries(images, runs[0].session)

    def holds(self, run: CellRun, record: Publication) -> bool:
        return not run.options.force_tags and still_published(record, run.session.config)

    def make(self, run: CellRun) -> Publication:
        session, spec = run.session, run.job.spec.publish
        wish = PublishOptions(
            repository=spec.repository,
            tags=spec.tags,
            level=run.get(Verdict).level,
            on_failure=spec.on_failure,
            force_tags=run.options.force_tags,
            evidence=evidence(run, signing.signer(session.config, session.workspace)) if spec.attach else Evidence(),
        )
        source = from_layout(
            run.image, session.workspace.images, blobs_of(run), published_in(CellRecords(run.folder).publication())
        )
        publication = publish(source, _targets(run), wish, config=session.config, console=session.console)
        _share_cubins(run)
        _share_wheels(run)
        return publication

    def clean_up(self, runs: Sequence[CellRun]) -> None:
        """Remove the blobs of published layers from the cache."""
        drop_published([run.plan for run in runs], runs[0].session)


STAGE = _PushStage()


def _share_cubins(run: CellRun) -> None:
    """Push the kernels that the build compiled; other machines compile them themselves if that fails."""
    keys = tuple(key for wheel in run.get(Plan).slimmed for key in wheel.cubins)
    for registry in _targets(run) if keys else ():
        try:
            push_cubins(keys, registry, run.job.spec.publish.repository, run.session)
        except JbuildError as error:
            run.session.console.warn(f"{run.job.cell.id}: compiled kernels were not pushed: {error.message}")


def _share_wheels(run: CellRun) -> None:
    """Push the wheels that the cell has built; other machines build them themselves if that fails."""
    record, repository = run.find(BuiltWheels), run.job.spec.publish.repository
    by_fingerprint = {built.fingerprint: built.wheel for built in record.wheels} if record else {}
    builds = [build for build in run.lock.builds or () if build.fingerprint in by_fingerprint]
    for registry in _targets(run) if builds else ():
        try:
            for build in builds:
                wheel = by_fingerprint[build.fingerprint]
                path = run.session.workspace.wheel(wheel.sha256, wheel.filename)
                push_wheel(path, wheel, build, registry, repository, run.session)
        except JbuildError as error:
            run.session.console.warn(f"{run.job.cell.id}: built wheels were not pushed: {error.message}")


def _targets(run: CellRun) -> tuple[str, ...]:
    return targets(run.job.spec.publish, run.options.registries, run.session.config)


def targets(spec: PublishSpec, overrides: tuple[str, ...], config: Config) -> tuple[str, ...]:
    """Return the registries of the command line, else of the recipe, else of the configuration."""
    return with_options(config, registries=overrides or spec.registries).registries


def required_targets(
    spec: PublishSpec, overrides: tuple[str, ...], config: Config, *, location: str
) -> tuple[str, ...]:
    """Return the registries; `location` is the recipe's file.

    Raises:
        UsageError: no registry is configured.
    """
    registries = targets(spec, overrides, config)
    if not registries:
        raise UsageError(
            "no registry is configured",
            where=location,
            hint="name one with --registry HOST/PREFIX, or `registries` under [publish] in the recipe or jbuild.toml",
        )
    return registries


def still_published(publication: Publication, config: Config) -> bool:
    """Return whether every registry still has all tags of a publication on its digest, and all its evidence.

    Raises:
        RegistryError: a registry does not answer.
    """
    names = [Reference.parse(registry.repository) for registry in publication.registries]
    for name, registry in zip(names, publication.registries, strict=True):
        client = connect(name.host, config, publish=True)
        for tag in registry.tags:
            descriptor = client.head_manifest(name.repository, tag.name)
            if descriptor is None or descriptor.digest != publication.digest:
                return False
        if registry.attached:
            digests = {entry.descriptor.digest for entry in referrers(client, name.repository, publication.digest)}
            if not digests.issuperset(artifact.digest for artifact in registry.attached):
                return False
    return not publication.failures
