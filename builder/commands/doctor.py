"""`jbuild doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from builder import records
from builder.commands.common import as_json, open_session
from builder.doctor import examine
from builder.errors import EngineError

if TYPE_CHECKING:
    from builder.doctor import Check


@click.command("doctor")
@as_json
def command(as_json: bool) -> int:
    """Check this machine: what is there, why it matters, and the command that mends what is missing."""
    session = open_session(as_json=as_json)
    checks = list(examine(session))
    missing = [check.name for check in checks if check.state == "missing"]
    verdict = f"missing: {', '.join(missing)}" if missing else "this machine can make images"
    text = "\n".join([*(_text(check) for check in checks), verdict])
    session.console.result({"usable": not missing, "checks": [records.plain(check) for check in checks]}, text)
    return EngineError.exit_code if missing else 0


def _text(check: Check) -> str:
    line = f"{check.state:<8} {check.name:<12} {check.found}"
    if check.state == "ok":
        return line
    return line + f"\n{'':<22}why: {check.why}" + (f"\n{'':<22}mend: {check.mend}" if check.mend else "")
