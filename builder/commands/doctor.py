"""`jbuild doctor`."""

from __future__ import annotations

import click

from builder import records
from builder.commands import complete
from builder.commands.common import as_json, open_session
from builder.doctor.examine import case_of, examine
from builder.doctor.mending import mend
from builder.errors import EngineError
from builder.recipe.find import find
from builder.recipe.load import load
from builder.report.doctor import text


@click.command("doctor")
@click.argument("recipe", required=False, shell_complete=complete.recipes)
@click.option("--fix", is_flag=True, help="Run the safe ones of the commands that mend something, then look again.")
@as_json
def command(recipe: str | None, fix: bool, as_json: bool) -> int:
    """Check this machine, and with RECIPE whether it can make that: what is found, why it matters, what mends it."""
    session = open_session(as_json=as_json)
    found = load(find(recipe, session.workspace.recipe_folders)) if recipe else None
    checks = list(examine(case_of(session, found)))
    mended = mend(checks, session.console) if fix else []
    if mended:
        checks = list(examine(case_of(session, found)))
    usable = all(check.state != "error" for check in checks)
    described = {"usable": usable, "checks": records.plain(checks), "mended": records.plain(mended)}
    session.console.result(described, text(checks, mended))
    return 0 if usable else EngineError.exit_code
