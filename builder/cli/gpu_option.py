"""The option --sm of verbs that work on wheel files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from builder.audit.slim_tables import slim_tables
from builder.host.wording import suggest
from builder.jetson.boards import dotted_sm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def sm_option(text: str, *, required: bool = False) -> Callable[[Any], Any]:
    """Return the option --sm, whose values are numbers such as 87, in their order."""
    return click.option(
        "--sm", "sms", multiple=True, required=required, metavar="X.Y", callback=_sms, help=f"{text} Can be repeated."
    )


def _sms(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> tuple[int, ...]:
    """Read compute capabilities, written as 8.7 or 87, or several as 8.7+11.0 like the axis `sm`."""
    known = {dotted_sm(sm): sm for sm in slim_tables().gpus}
    spelt = known | {str(sm): sm for sm in known.values()}
    capabilities = [capability for value in values for capability in value.split("+")]
    for capability in capabilities:
        if capability not in spelt:
            hint = suggest(capability, known, noun="known")
            message = f"`{capability}` is not the compute capability of a GPU such as 8.7: {hint}"
            raise click.BadParameter(message, context, parameter)
    return tuple(sorted({spelt[capability] for capability in capabilities}))
