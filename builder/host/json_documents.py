"""JSON from other programs and servers."""

from __future__ import annotations

import json
from typing import Any


def decode_json(content: bytes | str) -> Any:
    """Return the value of a JSON document.

    Raises:
        ValueError: it is not JSON, or nested deeper than Python reads.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
