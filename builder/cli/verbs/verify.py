"""`jbuild verify`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import click

from builder.cli.cell_selection import open_session
from builder.cli.results import show
from builder.cli.verb_options import json_option
from builder.errors import UsageError
from builder.host import records
from builder.publish.signing import public_keys
from builder.publish.verification import Verification, VerificationError, verify
from builder.recipe.find import recipe_paths
from builder.recipe.levels import levels
from builder.remote.registry.reference import Reference


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyResult:
    """An image in a registry and the findings about it; `holds`: none of them failed."""

    verification: Verification = field(metadata=records.FLAT)
    holds: bool


@click.command("verify")
@click.argument("image")
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Trust signatures of this public key instead of the configured ones. Can be repeated.",
)
@click.option("--level", type=click.Choice(levels()), help="Level that the verdict must reach.")
@click.option("--whole", is_flag=True, help="Read every blob and compare it with its digest.")
@json_option
def command(image: str, keys: tuple[Path, ...], level: str | None, whole: bool, as_json: bool) -> int:
    """Check IMAGE in its registry: digest, signature, verdict, SBOM and provenance.

    Ends with exit code 6 if a check fails.
    """
    session = open_session(as_json=as_json)
    if image in recipe_paths(session.workspace.recipe_folders):
        hint = f"`jbuild tags {image}` shows where its images are; then `jbuild verify HOST/NAME:TAG`"
        raise UsageError(f"{image} is a recipe; `jbuild verify` checks an image in a registry", hint=hint)
    trusted = public_keys(session.config, keys)
    with session.console.task(f"checking {image}") as task:
        done = verify(
            Reference.parse(image), session.config, trusted, level=level, check_blobs=whole, on_bytes=task.advance
        )
    rows = [(finding.name, finding.state, finding.said) for finding in done.findings]
    text = f"{done.image}\n{done.digest}\n\n" + session.console.table(("check", "state", "finding"), rows)
    show(VerifyResult(verification=done, holds=done.holds), text, session.console)
    if done.holds:
        return 0
    # With --json the findings are the only object on standard output.
    session.console.failure(VerificationError(done), as_result=False)
    return VerificationError.exit_code
