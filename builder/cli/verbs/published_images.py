"""`jbuild promote`, `tags`, `verify` and `verdict`: images in registries and what proves them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from builder.cli.cell_selection import CellSelection, recipe_verb, select_cells, session_verb
from builder.cli.results import show, table
from builder.cli.verb_options import (
    FILE,
    cell_option,
    complete_recipes,
    force_tags_option,
    key_option,
    level_option,
    lookup_registry_option,
    refuse_options,
    registry_names,
    repository_option,
    tag_option,
    unsigned_option,
)
from builder.errors import RegistryError, UsageError
from builder.host import records
from builder.host.file_locks import in_use
from builder.host.session import Session
from builder.host.signing import public_keys
from builder.model.publications import Publication
from builder.publish.promotion import (
    PromoteOptions,
    PromotionCandidate,
    clean_up,
    from_cell,
    from_image,
    is_about,
    promote,
)
from builder.publish.stage import required_targets
from builder.publish.tag_status import TagState, overview
from builder.publish.trust import write_verdict
from builder.publish.verification import Verification, VerificationError, verify
from builder.publish.warm_candidate import has_warm_image
from builder.recipe.find import recipe_paths
from builder.remote.http import announced
from builder.remote.registry.reference import Reference


@dataclass(frozen=True, kw_only=True, slots=True)
class PromoteResult:
    """Registries and tags of promoted images."""

    publications: tuple[Publication, ...]


@session_verb(
    "promote",
    click.argument("source", metavar="RECIPE|IMAGE@DIGEST", shell_complete=complete_recipes),
    cell_option,
    click.option(
        "--to",
        "targets",
        multiple=True,
        metavar="HOST/PREFIX",
        callback=registry_names,
        help="Copy to this registry. Can be repeated. Default for a recipe: the registries that it is pushed to.",
    ),
    tag_option,
    level_option("Level that the verdict must reach for tags of --tag."),
    repository_option,
    click.option(
        "--verdict",
        metavar="FILE|FOLDER",
        type=click.Path(path_type=Path),
        help="Use a verdict from another machine: the file of `jbuild verdict`, or the best one of a bundle or folder.",
    ),
    key_option("Trust verdicts signed with this public key."),
    unsigned_option,
    click.option(
        "--warm",
        is_flag=True,
        help="Copy the warm image of the last smoke run here, or of that in the folder of --verdict.",
    ),
    force_tags_option,
)
def promote_images(
    session: Session, source: str, selectors: tuple[str, ...], keys: tuple[Path, ...], **options: Any
) -> None:
    """Copy an image to other registries or tags, without a build.

    Copies the images of RECIPE that this machine built last, or IMAGE@DIGEST from a registry, with their signatures,
    SBOMs and verdicts. Sets the tags whose level the verdict reaches.
    """
    if not options["tags"]:
        refuse_options(("level",), "needs --tag")
    request = PromoteOptions(keys=public_keys(session.config, keys), **options)
    with in_use(session.workspace):
        if "/" in source or "@" in source:
            refuse_options(("selectors", "warm"), "is for recipes")
            candidates = [_of_image(source, request, session)]
        else:
            candidates, request = _of_recipe(source, selectors, request, session)
        publications = tuple(promote(candidate, request, session) for candidate in candidates)
    clean_up(candidates, session)
    show(PromoteResult(publications=publications), "\n\n".join(map(publication_text, publications)), session.console)


def _of_image(image: str, request: PromoteOptions, session: Session) -> PromotionCandidate:
    if not request.targets:
        raise UsageError("no registry to copy to", where=image, hint="name one with --to HOST/PREFIX")
    reference = Reference.parse(image)
    if reference.digest is None:
        hint = f"`jbuild verify {image}` shows the digest; then name IMAGE@DIGEST"
        raise UsageError("a tag can move: promote an image by its digest", where=image, hint=hint)
    return from_image(reference, session, request.keys)


def _of_recipe(
    name: str, selectors: tuple[str, ...], request: PromoteOptions, session: Session
) -> tuple[list[PromotionCandidate], PromoteOptions]:
    selection = select_cells(name, selectors, session)
    recipe = selection.recipe
    targets = required_targets(recipe.spec.publish, request.targets, session.config, location=str(recipe.path))
    jobs = selection.possible_jobs()
    if request.warm:
        # Without one, the first cell's error says what is missing.
        found = [job for job in jobs if has_warm_image(job, request.verdict, session)]
        for job in jobs if found else ():
            if job not in found:
                session.console.warn(f"{job.name}: its latest image has no warm image")
        jobs = found or jobs[:1]
    candidates = [from_cell(job, session, request) for job in jobs]
    if request.verdict:
        about = [candidate for candidate in candidates if is_about(request.verdict, candidate)]
        # Without one, the check of the verdict names the image that it is about.
        candidates = about or candidates[:1]
    return candidates, replace(request, targets=targets)


def publication_text(publication: Publication) -> str:
    """Return a publication as text."""
    lines = [f"image     {publication.digest}", f"level     {publication.level or 'no verdict that counts'}"]
    lines += [f"there     {registry.repository}" for registry in publication.registries]
    lines += [f"tagged    {tag}" for tag in publication.references]
    return "\n".join(lines + [f"withheld  {reason}" for reason in publication.withheld_reasons])


@dataclass(frozen=True, kw_only=True, slots=True)
class TagsResult:
    """Where the tags of a recipe point to."""

    recipe: str
    tags: tuple[TagState, ...]


@recipe_verb("tags", lookup_registry_option)
def show_tags(selection: CellSelection, registries: tuple[str, ...]) -> int:
    """Show which image each tag of RECIPE points to in every registry, and tags that are missing or left over."""
    session, recipe = selection.session, selection.recipe
    targets = required_targets(recipe.spec.publish, registries, session.config, location=str(recipe.path))
    with session.console.task(f"reading the tags of {recipe.name}", unit="tags"):
        rows = overview(selection.possible_jobs(), targets, session)
    text = table(("repository", "tag", "state", "level", "age", "image"), [_tag_row(row) for row in rows])
    show(TagsResult(recipe=recipe.name, tags=tuple(rows)), text, session.console)
    unknown = [row for row in rows if row.state == "unknown"]
    for row in unknown:
        session.console.warn(f"{row.repository}: {row.note}")
    return RegistryError.exit_code if unknown else 0


def _tag_row(row: TagState) -> tuple[str, ...]:
    image = row.digest[:19] if row.digest else row.note or ""
    return (row.repository, row.tag or "-", row.state, row.level or "-", _age(row.proved), image)


def _age(proved: str | None) -> str:
    try:
        since = datetime.now(timezone.utc) - datetime.fromisoformat((proved or "").replace("Z", "+00:00"))
    except (ValueError, TypeError):
        return "-"
    hours = int(since.total_seconds() // 3600)
    return f"{hours // 24} days" if hours >= 48 else f"{hours} hours"  # noqa: PLR2004  # two days


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyResult:
    """An image in a registry and the findings about it; `holds`: none of them failed."""

    verification: Verification = field(metadata=records.FLAT)
    holds: bool


@session_verb(
    "verify",
    click.argument("image"),
    key_option("Trust signatures of this public key instead of the configured ones. Can be repeated."),
    level_option("Level that the verdict must reach."),
    click.option("--whole", is_flag=True, help="Also read every blob and compare it with its digest."),
)
def verify_image(session: Session, image: str, keys: tuple[Path, ...], level: str | None, whole: bool) -> int:
    """Check IMAGE in its registry: digest, signature, verdict, SBOM and provenance.

    Exits with code 6 if a check fails.
    """
    if image in recipe_paths(session.workspace.recipe_folders):
        hint = f"`jbuild tags {image}` shows where its images are; then `jbuild verify HOST/NAME:TAG`"
        raise UsageError(f"{image} is a recipe; `jbuild verify` checks an image in a registry", hint=hint)
    trusted = public_keys(session.config, keys)
    with session.console.task(f"checking {image}") as task:
        reference = Reference.parse(image)
        done = verify(
            reference,
            session.config,
            trusted,
            level=level,
            check_blobs=whole,
            on_bytes=task.advance,
            retry=announced(session.console.say, reference.host),
        )
    rows = [(finding.name, finding.state, finding.said) for finding in done.findings]
    text = f"{done.image}\n{done.digest}\n\n" + table(("check", "state", "finding"), rows)
    show(VerifyResult(verification=done, holds=done.holds), text, session.console)
    if done.holds:
        return 0
    # With --json the findings are the only object on standard output.
    session.console.failure(VerificationError(done), as_result=False)
    return VerificationError.exit_code


@dataclass(frozen=True, kw_only=True, slots=True)
class VerdictResult:
    """A verdict that was written to a file."""

    file: str
    digest: str
    level: str
    when: str


@recipe_verb("verdict", click.option("--output", required=True, type=FILE, help="File to write."))
def export_verdict(selection: CellSelection, output: Path) -> None:
    """Export the smoke verdict of RECIPE's image to a file, signed if `cosign-key` is configured.

    `jbuild promote --verdict FILE` reads it on another machine.
    """
    verdict = write_verdict(selection.only_job("a verdict is about one image"), selection.session, output)
    result = VerdictResult(file=str(output), digest=verdict.digest, level=verdict.level, when=verdict.when)
    show(result, f"{output}: level {verdict.level}, {verdict.digest}", selection.session.console)
