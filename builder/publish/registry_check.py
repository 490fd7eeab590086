"""Asks registries, before the first stage of a run, whether they answer and accept the log-in."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from requests import exceptions

from builder.errors import RegistryError
from builder.host.concurrency import TaskGroup
from builder.remote.http import TOO_MANY_REQUESTS, Patience, announced
from builder.remote.registry.reference import Reference
from builder.remote.registry.registry_client import connect

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from builder.host.session import Session
    from builder.model.recipes import OnFailure

    # The repositories of one image, such as `host:5000/edge/vllm`, and what a failure means for the others.
    Destinations = tuple[tuple[str, ...], OnFailure]

# A connection may take as long as in the push. A registry that is slow to answer is left to the push.
_PATIENCE = Patience(read_s=5.0)
# Only failures that come sooner than a slow answer are tried again.
_RETRY_WITHIN_S = 5.0


def check_registries(images: Collection[Destinations], session: Session) -> None:
    """Send one request to each repository of some images; warn of a failure that does not stop the push.

    Raises:
        RegistryError: an image would not be pushed to all its repositories, or to none (`complete-others`).
        RecipeError: the name of a repository is malformed.
    """
    names = sorted({name for repositories, _ in images for name in repositories})
    with TaskGroup(len(names)) as group:
        errors = group.map(partial(_failure, session=session), map(Reference.parse, names))
    failures = {name: error for name, error in zip(names, errors, strict=True) if error}
    for repositories, on_failure in images:
        failed = [failures[name] for name in repositories if name in failures]
        if failed and (on_failure == "none" or len(failed) == len(repositories)):
            raise _joined(failed)
    for error in failures.values():
        session.console.warn(f"{error.where}: {error.message}")


def _failure(reference: Reference, *, session: Session) -> RegistryError | None:
    retry = replace(announced(session.console.say, reference.host), within_s=_RETRY_WITHIN_S)
    client = connect(reference.host, session.config, publish=True, retry=retry, patience=_PATIENCE)
    try:
        client.begin_push(reference.repository)
    except RegistryError as error:
        return None if _may_pass(error) else error
    return None


def _may_pass(error: RegistryError) -> bool:
    """Return whether the registry may take a push later: it is slow, or limits requests for now."""
    cause = error.__cause__
    if isinstance(cause, exceptions.HTTPError):
        return cause.response is not None and cause.response.status_code == TOO_MANY_REQUESTS
    return isinstance(cause, exceptions.Timeout) and not isinstance(cause, exceptions.ConnectTimeout)


def _joined(errors: Sequence[RegistryError]) -> RegistryError:
    if len(errors) == 1:
        return errors[0]
    return RegistryError(
        "; ".join(f"{error.where}: {error.message}" for error in errors),
        where=", ".join(error.where or "" for error in errors),
        hint="; ".join(dict.fromkeys(error.hint for error in errors if error.hint)) or None,
    )
