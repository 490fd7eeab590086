"""`jbuild promote`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from builder.cli import completers
from builder.cli.cell_selection import open_session, select_cells
from builder.cli.results import show
from builder.cli.verb_options import cell_option, force_tags_option, json_option, refuse_options, registry_names
from builder.errors import UsageError
from builder.host.file_locks import in_use
from builder.host.session import Session
from builder.model.publications import Publication
from builder.publish.promotion import PromoteOptions, PromotionCandidate, from_cell, from_image, is_about, promote
from builder.publish.signing import public_keys
from builder.publish.stage import required_targets
from builder.recipe.levels import levels
from builder.remote.registry.reference import Reference


@dataclass(frozen=True, kw_only=True, slots=True)
class PromoteResult:
    """Registries and tags of promoted images."""

    publications: tuple[Publication, ...]


@click.command("promote")
@click.argument("source", metavar="RECIPE|IMAGE@DIGEST", shell_complete=completers.recipes)
@cell_option
@click.option(
    "--to",
    "targets",
    multiple=True,
    metavar="HOST/PREFIX",
    callback=registry_names,
    help="Copy to this registry. Can be repeated. Default for a recipe: the registries that it is pushed to.",
)
@click.option("--tag", "tags", multiple=True, help="Put this tag instead of the recipe's. Can be repeated.")
@click.option("--level", type=click.Choice(levels()), help="Level that the verdict must reach for tags of --tag.")
@click.option("--repository", help="Repository below HOST/PREFIX. Default: the image's own.")
@click.option("--verdict", type=click.Path(path_type=Path), help="Verdict of another machine, see `jbuild verdict`.")
@click.option(
    "--key", "keys", multiple=True, type=click.Path(path_type=Path), help="Trust verdicts signed with this public key."
)
@click.option("--unsigned-verdict", is_flag=True, help="Accept unsigned verdicts.")
@force_tags_option
@json_option
def command(
    source: str, selectors: tuple[str, ...], verdict: Path | None, unsigned_verdict: bool, as_json: bool, **options: Any
) -> None:
    """Copy an image to other registries or tags, without a build.

    Copies the images of RECIPE that this machine built last, or IMAGE@DIGEST from a registry, with their signatures,
    SBOMs and verdicts. Puts the tags whose level the verdict reaches.
    """
    if not options["tags"]:
        refuse_options(("level",), "needs --tag")
    session = open_session(as_json=as_json)
    keys = public_keys(session.config, options.pop("keys"))
    request = PromoteOptions(verdict=verdict, keys=keys, unsigned=unsigned_verdict, **options)
    with in_use(session.workspace):
        if "/" in source or "@" in source:
            refuse_options(("selectors",), "is for recipes")
            candidates = [_of_image(source, request, session)]
        else:
            candidates, request = _of_recipe(source, selectors, request, session)
        publications = tuple(promote(candidate, request, session) for candidate in candidates)
    show(PromoteResult(publications=publications), "\n\n".join(map(_text, publications)), session.console)


def _of_image(image: str, request: PromoteOptions, session: Session) -> PromotionCandidate:
    if not request.targets:
        raise UsageError("no registry to copy to", where=image, hint="name one with --to HOST/PREFIX")
    reference = Reference.parse(image)
    if reference.digest is None:
        raise UsageError(
            "a tag can move: promote an image by its digest",
            where=image,
            hint=f"`jbuild verify {image}` shows the digest; then name IMAGE@DIGEST",
        )
    return from_image(reference, session, request.keys)


def _of_recipe(
    name: str, selectors: tuple[str, ...], request: PromoteOptions, session: Session
) -> tuple[list[PromotionCandidate], PromoteOptions]:
    selection = select_cells(name, selectors, session)
    recipe = selection.recipe
    targets = required_targets(recipe.spec.publish, request.targets, session.config, location=str(recipe.path))
    candidates = [from_cell(job, session) for job in selection.possible_jobs()]
    if request.verdict:
        about = [candidate for candidate in candidates if is_about(request.verdict, candidate)]
        # Without one, the check of the verdict names the image that it is about.
        candidates = about or candidates[:1]
    return candidates, replace(request, targets=targets)


def _text(publication: Publication) -> str:
    lines = [f"image     {publication.digest}", f"level     {publication.level or 'no verdict that counts'}"]
    lines += [f"there     {registry.repository}" for registry in publication.registries]
    lines += [f"tagged    {tag}" for tag in publication.references]
    return "\n".join(lines + [f"withheld  {reason}" for reason in publication.withheld_reasons])
