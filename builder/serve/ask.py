"""How people ask a server that runs: the command to try, and the key that it wants."""

from __future__ import annotations

import json
import secrets
import shlex
from typing import TYPE_CHECKING

from builder.image.runtime.settings import EVERYWHERE, LOOPBACK

if TYPE_CHECKING:
    from builder.serve.model import Published, Service

_QUESTION = "What is the capital of France?"


def new_key() -> str:
    """Return a new API key, as the only line of a file."""
    return f"{secrets.token_urlsafe(32)}\n"


def address_of(published: Published, host: str | None = None) -> str:
    """Return where the server is reached; `host` is the engine's machine, None for this one.

    On a loopback address only that machine reaches it.
    """
    reached = LOOPBACK[0] if published.address in EVERYWHERE else published.address
    address = host if host and published.address not in LOOPBACK else reached
    return f"http://{f'[{address}]' if ':' in address else address}:{published.port}"


def ask_line(service: Service, model: str | None, host: str | None = None) -> str:
    """Return a command that asks the server a question, or, not knowing its model, what it serves."""
    url = address_of(service.published, host)
    words = ["curl"]
    if service.key_file:
        words += ["-H", f'"Authorization: Bearer $(cat {shlex.quote(str(service.key_file))})"']
    elif dict(service.environment).get("VLLM_API_KEY"):
        words += ["-H", '"Authorization: Bearer $VLLM_API_KEY"']
    if model is None:
        return " ".join([*words, f"{url}/v1/models"])
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": _QUESTION}]})
    json_type = "'Content-Type: application/json'"
    return " ".join([*words, "-H", json_type, "-d", shlex.quote(body), f"{url}/v1/chat/completions"])
