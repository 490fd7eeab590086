"""`jbuild promote`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder import records
from builder.cache.use import in_use
from builder.commands import complete
from builder.commands.common import as_json, cell_option, open_recipe, open_session
from builder.commands.working import checked_registries, force_tags_option
from builder.errors import UsageError
from builder.publish.promote import Asked, from_cell, from_image, is_about, promote
from builder.publish.signing import public_keys
from builder.publish.where import required_targets
from builder.recipe.levels import levels
from builder.registry.reference import Reference
from builder.report.summary import references, withheld
from builder.resolve.jobs import job_of

if TYPE_CHECKING:
    from builder.publish.model import Publication
    from builder.publish.promote import Candidate
    from builder.session import Session


@click.command("promote")
@click.argument("what", metavar="RECIPE|IMAGE@DIGEST", shell_complete=complete.recipes)
@cell_option
@click.option(
    "--to",
    "targets",
    multiple=True,
    metavar="HOST/PREFIX",
    callback=checked_registries,
    help="Where the image goes; may be repeated. Default for a recipe: where it is pushed.",
)
@click.option("--tag", "tags", multiple=True, help="Put this tag instead of the recipe's; may be repeated.")
@click.option("--level", type=click.Choice(levels()), help="What the verdict must reach for tags given by --tag.")
@click.option("--repository", help="The repository below HOST/PREFIX, if it is to be another.")
@click.option("--verdict", type=click.Path(path_type=Path), help="A verdict made elsewhere, see `jbuild verdict`.")
@click.option(
    "--key", "keys", multiple=True, type=click.Path(path_type=Path), help="Trust verdicts signed by this public key."
)
@click.option("--unsigned-verdict", is_flag=True, help="Take verdicts that nobody has signed.")
@force_tags_option
@as_json
def command(
    what: str, selectors: tuple[str, ...], verdict: Path | None, unsigned_verdict: bool, as_json: bool, **options: Any
) -> None:
    """Bring an image that exists to registries, and put the tags that it has earned; nothing is built.

    The image is that of RECIPE's cells as built here last, or IMAGE@DIGEST in a registry. Blobs go from registry to
    registry, and what lies beside the image goes along.
    """
    session = open_session(as_json=as_json)
    keys = public_keys(session.config, options.pop("keys"))
    asked = Asked(verdict=verdict, keys=keys, unsigned=unsigned_verdict, **options)
    with in_use(session.workspace):
        if "/" in what or "@" in what:
            candidates, asked = _of_image(what, asked, session)
        else:
            candidates, asked = _of_recipe(what, selectors, asked, session)
        done = [promote(candidate, asked, session) for candidate in candidates]
    text = "\n\n".join(_text(each) for each in done)
    session.console.result({"publications": [records.plain(each) for each in done]}, text)


def _of_image(what: str, asked: Asked, session: Session) -> tuple[list[Candidate], Asked]:
    if not asked.targets:
        raise UsageError("where is the image to go?", where=what, hint="name a registry with --to HOST/PREFIX")
    reference = Reference.parse(what)
    if reference.digest is None:
        raise UsageError(
            "a tag may move on; an image is promoted by its digest",
            where=what,
            hint=f"`jbuild verify {what}` shows the digest; then name IMAGE@DIGEST",
        )
    return [from_image(reference, session, asked.keys)], asked


def _of_recipe(what: str, selectors: tuple[str, ...], asked: Asked, session: Session) -> tuple[list[Candidate], Asked]:
    found, cells = open_recipe(what, selectors, session.workspace)
    targets = required_targets(found.spec.publish, asked.targets, session.config, where=str(found.path))
    candidates = [from_cell(job_of(found, cell), session) for cell in cells if not cell.impossible]
    if asked.verdict:
        about = [candidate for candidate in candidates if is_about(asked.verdict, candidate)]
        # With none, the check of the verdict itself says what it is about.
        candidates = about or candidates[:1]
    return candidates, asked.to(targets)


def _text(publication: Publication) -> str:
    lines = [f"image     {publication.digest}", f"level     {publication.level or 'no verdict that counts'}"]
    lines += [f"there     {each.repository}" for each in publication.registries]
    lines += [f"tagged    {tag}" for tag in references(publication)]
    return "\n".join(lines + [f"withheld  {line}" for line in withheld(publication)])
