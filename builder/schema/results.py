"""Which type each verb's result has."""

from __future__ import annotations

from typing import Any

from builder.bench.model import Bench
from builder.errors import UsageError
from builder.schema import images, recipes, runs, serving
from builder.schema.convert import DIALECT, schema_of
from builder.schema.errors import Failure
from builder.tomldoc import shown, suggest

RESULTS: dict[str, Any] = {
    "init": recipes.Init,
    "list": recipes.Recipes,
    "show": recipes.Show,
    "matrix": recipes.MatrixResult,
    "recipe": runs.RunResult,
    "lock": runs.LockResult,
    "audit": runs.AuditResult,
    "render": runs.Run,
    "build": runs.Run,
    "system": runs.System,
    "smoke": runs.Run,
    "push": runs.Run,
    "promote": runs.Publications,
    "tags": images.Tags,
    "verify": images.Verify,
    "verdict": images.Verdict,
    "why": recipes.WhyCells,
    "fit": recipes.Fit,
    "diff": images.Diff,
    "models": runs.ModelsResult,
    "compose": serving.Compose,
    "run": serving.RunResult,
    "pick": serving.Pick,
    "bench": Bench,
    "report": serving.Report,
    "summary": runs.Summary,
    "cache": images.CacheResult,
    "completion": images.Completion,
    "schema": runs.Schema,
    "doctor": images.Doctor,
    # What any of them prints where it fails.
    "error": Failure,
}


def schema_for(verb: str, *, closed: bool = False) -> dict[str, Any]:
    """Return the JSON Schema of a verb's result, or of the errors of all.

    Raises:
        UsageError: there is no such verb.
    """
    if verb not in RESULTS:
        raise UsageError(f"there is no result of `{shown(verb)}`", hint=suggest(verb, RESULTS, noun="results"))
    return {"$schema": DIALECT, "title": f"jbuild {verb} --json", **_untitled(schema_of(RESULTS[verb], closed=closed))}


def _untitled(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "title"}
