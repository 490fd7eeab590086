"""Errors in a registry's answers: their text, and the next step by the error rather than by the status."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from builder.host.json_documents import decode_json
from builder.host.toml.declarations import Source, declaration_of, load_rows, regex, string
from builder.remote.addresses import scrub
from builder.remote.web_pages import beginning, is_web_page, titled

if TYPE_CHECKING:
    import requests

_REFUSALS = Path(__file__).with_name("refusals.toml")
_LONGEST_DETAIL = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryRefusal:
    """A row of `refusals.toml`."""

    id: Annotated[str, string(r"[a-z][a-z-]*", "a short id")]
    pattern: Annotated[re.Pattern[str], regex()]
    when: Annotated[str, string(r"push|pull|any", "push, pull or any")]
    hint: Annotated[str, string(".+", "the next step")]
    source: Source


_REFUSAL = declaration_of(RegistryRefusal)


@cache
def refusals(path: Path = _REFUSALS) -> tuple[RegistryRefusal, ...]:
    """Return the rows of `refusals.toml`.

    Raises:
        DocumentError: the file has mistakes.
    """
    return load_rows(path, "the table of refusals has mistakes", "refusals", _REFUSAL, "id")


def refusal_for(explanation: str, right: str) -> RegistryRefusal | None:
    """Return the first row that matches a registry's errors; `right` is `pull` or `push`."""
    rows = (row for row in refusals() if row.when in ("any", right))
    return next((row for row in rows if re.search(row.pattern.pattern, explanation, re.IGNORECASE)), None)


def explanation_of(response: requests.Response) -> str:
    """Return the errors in a registry's answer (OCI distribution specification, "Error Codes"), or ""."""
    content = beginning(response)
    if is_web_page(response):
        return f"a web page{titled(content)}"
    try:
        text = _errors_text(decode_json(content))
    except ValueError:
        is_text = response.headers.get("Content-Type", "").startswith("text/plain")
        text = content.decode("utf-8", "replace") if is_text else ""
    line = " ".join(text.split())
    return scrub("".join(filter(str.isprintable, line)))[:_LONGEST_DETAIL]


def _errors_text(document: Any) -> str:
    if not isinstance(document, dict):
        return ""
    errors = document.get("errors")
    if isinstance(errors, list):
        return "; ".join(_error_text(error) for error in errors if isinstance(error, dict))
    return _error_text(document)


def _error_text(error: dict[str, Any]) -> str:
    extra = error.get("detail")
    if isinstance(extra, dict):
        # Artifactory's details are in an object.
        extra = extra.get("description") or extra.get("message")
    code, message = error.get("code") or error.get("__type"), error.get("message") or error.get("error")
    texts = (code, message, extra if isinstance(extra, str) else None)
    return ": ".join(dict.fromkeys(str(text) for text in texts if text))
