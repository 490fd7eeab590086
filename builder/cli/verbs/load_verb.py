"""`jbuild load`: images of bundles in an engine, or in a registry of a closed network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import click

from builder.cli.cell_selection import session_verb
from builder.cli.results import show
from builder.cli.verb_options import key_option, load_registry_option, refuse_options, unsigned_option
from builder.cli.verbs.published_images import publication_text
from builder.host import records
from builder.host.engine.docker import find_engine
from builder.host.file_locks import in_use
from builder.host.session import Session
from builder.host.signing import public_keys
from builder.model.publications import Publication
from builder.publish.bundle.engine_loading import EngineImage, load_into_engine
from builder.publish.bundle.opened import OpenBundle, open_bundle
from builder.publish.bundle.registry_loading import push_bundle
from builder.publish.promotion import PromoteOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadResult:
    """The image of a bundle, in an engine or in registries."""

    folder: str
    recipe: str
    cell: str
    digest: str
    engine: EngineImage | None = field(default=None, metadata=records.OPTIONAL)
    publication: Publication | None = field(default=None, metadata=records.OPTIONAL)


@session_verb(
    "load",
    click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path, file_okay=False)),
    load_registry_option,
    key_option("With --registry, trust verdicts signed with this public key."),
    unsigned_option,
)
def load_bundle(
    session: Session, folder: Path, registries: tuple[str, ...], keys: tuple[Path, ...], unsigned: bool
) -> None:
    """Load the image of a bundle, FOLDER, into the engine, or push it to a registry.

    Every file of the bundle is verified first. Into a registry go the image, its signatures, SBOM and verdict, and
    the tags whose level the verdict reaches.
    """
    if not registries:
        refuse_options(("keys", "unsigned"), "needs --registry")
    with in_use(session.workspace), open_bundle(folder, session) as bundle:
        result, text = _pushed(bundle, registries, keys, unsigned, session) if registries else _loaded(bundle, session)
    show(result, text, session.console)


def _loaded(bundle: OpenBundle, session: Session) -> tuple[LoadResult, str]:
    image = load_into_engine(bundle, find_engine(session.workspace, session.config.gpu), session)
    state = "there    " if image.present else "loaded   "
    lines = [
        f"image     {bundle.bundle.image.digest}",
        f"{state} {image.name}{', nothing was sent' if image.present else ''}",
        f"engine    {image.endpoint}",
    ]
    return _result(bundle, engine=image), "\n".join(lines)


def _pushed(
    bundle: OpenBundle, registries: tuple[str, ...], keys: tuple[Path, ...], unsigned: bool, session: Session
) -> tuple[LoadResult, str]:
    options = PromoteOptions(targets=registries, keys=public_keys(session.config, keys), unsigned=unsigned)
    publication = push_bundle(bundle, options, session)
    return _result(bundle, publication=publication), publication_text(publication)


def _result(
    bundle: OpenBundle, engine: EngineImage | None = None, publication: Publication | None = None
) -> LoadResult:
    record = bundle.bundle
    return LoadResult(
        folder=str(bundle.folder),
        recipe=record.recipe,
        cell=record.cell,
        digest=record.image.digest,
        engine=engine,
        publication=publication,
    )
