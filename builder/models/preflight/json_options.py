"""Options whose values are JSON: the keys that the release's configuration classes have, and the form of the JSON."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from builder.host.wording import nearest, printable
from builder.models.preflight.server_context import server_finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.model.audits import Finding, Severity
    from builder.models.preflight.arguments import Argument
    from builder.models.preflight.server_context import ServerContext
    from builder.models.preflight.server_facts import ServerOption

_OPTION = "server-option"
# vLLM 0.15.1 and 0.20.2: MultiModalConfig._validate_limit_per_prompt.
_LIMITS = "--limit-mm-per-prompt"
# vLLM takes 8k and 1.5G within JSON too.
_SUFFIXED = re.compile(r"(?<=[:\[,\s])([0-9.]+)[kmgtKMGT](?=\s*[,}\]])")


def json_options(context: ServerContext) -> Iterator[Finding]:
    """Yield JSON values that cannot be read, and keys that the release refuses or ignores."""
    release = context.sources.vllm
    if release is None:
        return
    yield from _limits(context)
    for argument in context.arguments:
        if argument.option is None or not argument.option.keys or argument.flaw:
            continue
        name = argument.option.name
        document, flaw = _document(argument)
        if flaw:
            yield server_finding(_OPTION, "error", name, flaw, "correct `arguments` under [server]")
        for key in _unknown(document, argument.option):
            severity: Severity = "error" if argument.option.only_keys else "warning"
            effect = "" if argument.option.only_keys else ", which ignores it"
            detail = f"has no key `{key}` in {release}{effect}"
            yield server_finding(_OPTION, severity, name, detail, _hint(key, argument.option))


def _limits(context: ServerContext) -> Iterator[Finding]:
    """Yield numbers of images, videos and the like that are none."""
    for argument in context.arguments:
        if argument.option is None or argument.option.name != _LIMITS or argument.flaw:
            continue
        document, flaw = _document(argument)
        if flaw:
            yield server_finding(_OPTION, "error", _LIMITS, flaw, "correct `arguments` under [server]")
        is_dotted = "." in argument.text.partition("=")[0]
        for kind, value in document.items() if isinstance(document, dict) and not is_dotted else ():
            if not isinstance(value, dict) and not (isinstance(value, int) and value >= 0):
                detail = (
                    f"sets {printable(str(kind))} to {printable(json.dumps(value))}, which is not a number of items"
                )
                yield server_finding(_OPTION, "error", _LIMITS, detail, 'write {"image": 2}')


def _document(argument: Argument) -> tuple[object, str | None]:
    """Return the value of an argument as JSON, or a flaw; `--option.key=value` is one with that key."""
    _, dot, path = argument.text.partition("=")[0].partition(".")
    if dot:
        document: object = None
        for key in reversed(path.removesuffix("+").split(".")):
            document = {key: document}
        return document, None
    text = argument.values[0] if argument.values else ""
    if not text.lstrip().startswith("{"):
        # Some classes read a level or a name.
        return None, None
    try:
        return json.loads(_SUFFIXED.sub(r"\1", text)), None
    except (ValueError, RecursionError) as error:
        return None, f"is not valid JSON: {error}"


def _unknown(document: object, option: ServerOption, prefix: str = "") -> Iterator[str]:
    """Yield the keys that an option does not have, with those that contain them."""
    if not isinstance(document, dict):
        return
    for key, value in document.items():
        whole = f"{prefix}{key}"
        if whole not in option.keys:
            yield whole
        elif any(other.startswith(f"{whole}.") for other in option.keys):
            yield from _unknown(value, option, f"{whole}.")


def _hint(key: str, option: ServerOption) -> str:
    within = key.rpartition(".")[0]
    choices = [other for other in option.keys if other.rpartition(".")[0] == within]
    similar = nearest(key, choices)
    return f"did you mean `{similar}`?" if similar else f"its keys: {', '.join(sorted(choices))}"
