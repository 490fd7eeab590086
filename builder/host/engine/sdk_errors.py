"""Errors of Docker's SDK as errors of jbuild."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from builder.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.engine.docker import Engine


@contextmanager
def engine_errors(engine: Engine) -> Iterator[None]:
    """Turn what the SDK raises in the block into an EngineError."""
    from docker.errors import DockerException  # noqa: PLC0415  # slow to import
    from requests import RequestException  # noqa: PLC0415  # this, too

    try:
        yield
    except (DockerException, RequestException) as error:
        hint = "check the engine with `jbuild doctor`, then run the same command again"
        raise EngineError(f"the engine failed: {reason_of(error)}", where=engine.endpoint, hint=hint) from error


def reason_of(error: Exception) -> str:
    """Return the engine's own words in an error of the SDK, or else those of the SDK."""
    return str(getattr(error, "explanation", None) or error).strip()
