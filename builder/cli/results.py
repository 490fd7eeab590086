"""Results: where each verb's dataclass is declared, its JSON, and its JSON Schema."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from builder.errors import UsageError
from builder.host import records
from builder.host.records import DIALECT, schema_of
from builder.host.toml.documents import printable, suggest

if TYPE_CHECKING:
    from builder.host.console import Console

# Verb, or `error` for what any verb prints when it fails; module below `builder.cli`, and dataclass or union of them.
RESULTS = {
    "init": "verbs.init:InitResult",
    "list": "verbs.list_:ListResult",
    "show": "verbs.show:ShowResult",
    "matrix": "verbs.cell_matrix:MatrixResult",
    "recipe": "run_view:RecipeResult",
    "lock": "verbs.stages:LockResult",
    "audit": "verbs.audit:AuditResult",
    "render": "run_view:RunResult",
    "build": "run_view:RunResult",
    "system": "verbs.system:SystemResult",
    "smoke": "run_view:RunResult",
    "push": "run_view:RunResult",
    "promote": "verbs.promote:PromoteResult",
    "tags": "verbs.tags:TagsResult",
    "verify": "verbs.verify:VerifyResult",
    "verdict": "verbs.verdict:VerdictResult",
    "why": "verbs.why:WhyResult",
    "fit": "verbs.fit:FitResult",
    "diff": "verbs.diff:DiffResult",
    "models": "verbs.models:ModelsResult",
    "compose": "verbs.compose:ComposeResult",
    "run": "verbs.run:ServerResult",
    "pick": "verbs.pick:PickResult",
    "bench": "verbs.bench:Bench",
    "report": "verbs.report:ReportResult",
    "summary": "verbs.summary:SummaryResult",
    "cache": "verbs.cache:CacheResult",
    "completion": "verbs.completion:CompletionResult",
    "schema": "verbs.schema:SchemaResult",
    "doctor": "verbs.doctor:DoctorResult",
    "error": "error_output:VerbFailure",
}


def show(result: Any, text: str, console: Console) -> None:
    """Print a result: as JSON with `--json`, else its text."""
    console.result(records.to_json(result), text)


def without_controls(line: str) -> str:
    """Return a line without control characters: names in wheels and logs may hold any."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


def result_schema(verb: str, *, closed: bool = False) -> dict[str, Any]:
    """Return the JSON Schema of a verb's result, or of `error`. A `closed` one allows no other keys.

    Raises:
        UsageError: there is no such verb.
    """
    if verb not in RESULTS:
        raise UsageError(f"there is no verb `{printable(verb)}`", hint=suggest(verb, RESULTS, noun="results"))
    module, _, name = RESULTS[verb].partition(":")
    schema = schema_of(getattr(importlib.import_module(f"builder.cli.{module}"), name), closed=closed)
    return {"$schema": DIALECT, **schema, "title": f"jbuild {verb} --json"}
