"""`jbuild verify`."""

from __future__ import annotations

from pathlib import Path

import click

from builder import records
from builder.commands.common import as_json, open_session
from builder.errors import UsageError
from builder.publish.signing import public_keys
from builder.publish.verify import VerificationError, verify
from builder.recipe.find import recipe_paths
from builder.recipe.levels import levels
from builder.registry.reference import Reference


@click.command("verify")
@click.argument("image")
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Trust signatures by this public key instead of the configured ones; may be repeated.",
)
@click.option("--level", type=click.Choice(levels()), help="What the verdict must reach.")
@click.option("--whole", is_flag=True, help="Read every blob through and compare it with its digest.")
@as_json
def command(image: str, keys: tuple[Path, ...], level: str | None, whole: bool, as_json: bool) -> int:
    """Check IMAGE in its registry: digest, signature, verdict, SBOM and provenance."""
    session = open_session(as_json=as_json)
    if image in recipe_paths(session.workspace.recipe_folders):
        hint = f"`jbuild tags {image}` shows where its images are; then `jbuild verify HOST/NAME:TAG`"
        raise UsageError(f"{image} is a recipe, and an image in a registry is verified", hint=hint)
    trusted = public_keys(session.config, keys)
    with session.console.task(f"checking {image}") as task:
        done = verify(Reference.parse(image), session.config, trusted, level=level, whole=whole, on_bytes=task.advance)
    rows = [(each.name, each.state, each.said) for each in done.findings]
    text = f"{done.image}\n{done.digest}\n\n" + session.console.table(("what", "state", "found"), rows)
    session.console.result({**records.plain(done), "holds": done.holds}, text)
    if done.holds:
        return 0
    # The findings are the result, and a program reads one.
    session.console.failure(VerificationError(done), as_result=False)
    return VerificationError.exit_code
