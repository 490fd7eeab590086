"""Lets vLLM inspect the model's class beside a server that starts under emulation.

At its first start, a server waits for a second process that imports everything again, only to inspect the class. vLLM
keeps the result in its cache. The same function runs on another processor here, while the server imports its own parts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from docker.errors import APIError

from builder.image.runtime import MODELS, served_model
from builder.model.images import ENVIRONMENT
from builder.smoke.probe import script

if TYPE_CHECKING:
    from builder.host.engine.container import RunningContainer
    from builder.smoke.launch import Launch
    from builder.smoke.steps import SmokeRun

_PROBE = script("model_info")
# The exit code of the probe if this vLLM keeps no results, or has no class of the model.
NOTHING_KEPT = 3
_DONE = "a second process inspected the model's class beside the start"


def prepared(run: SmokeRun) -> Launch:
    """Return the launch settings of a server's container, with the probe if the server starts under emulation."""
    return replace(run.launch, files=(*run.launch.files, _PROBE)) if _is_wanted(run) else run.launch


def begin(run: SmokeRun, container: RunningContainer) -> str | None:
    """Start the inspection; return its program, or None where it would only slow the server down."""
    model = served_model(run.spec)
    if model is None or not _is_wanted(run) or container.processors() == 1:
        return None
    try:
        return container.begin((f"{ENVIRONMENT}/bin/python", f"/{_PROBE.name}", f"{MODELS}/{model.name}"))
    except APIError as error:
        # The server may have ended already; the next step reports that.
        run.console.say(f"{run.name}: {_PROBE.stem} could not be started: {error.explanation or error}")
        return None


def end(run: SmokeRun, container: RunningContainer, program: str | None) -> None:
    """Note in the run that its start was helped; if the inspection failed, say so: the server then did it itself."""
    if program is None:
        return
    code = container.exit_code(program)
    if code in (0, None):
        run.emulation.append(_DONE)
    elif code != NOTHING_KEPT:
        run.console.say(f"{run.name}: {_PROBE.stem} exited with code {code}: the server inspected the model's class")


def _is_wanted(run: SmokeRun) -> bool:
    # A warm image has to start without help: its start proves that the server uses the image's files.
    return run.emulated and not run.compiled.in_image and served_model(run.spec) is not None
