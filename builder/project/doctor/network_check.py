"""Index, hub and clock: who answers within seconds, and what time they have."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING

import requests

from builder.host.concurrency import TaskGroup
from builder.lock.index_sources import ties_of
from builder.lock.inspect_index import default_address
from builder.project.doctor.check_table import fine, idle, trouble
from builder.remote import http
from builder.remote.hub.model_sources import HubSource, locate
from builder.remote.index.index_client import client_of
from builder.remote.index.logins import without_login
from builder.remote.registry.reference import Reference, api_base

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.project.doctor.check_records import Check, DoctorContext

# For a connection, and for the first bytes of an answer, in seconds.
_WITHIN_S = (5.0, 8.0)
# uv tries several times by itself.
_UV_S = 15.0
_REFUSED = (401, 403)
_SERVER_FAULT = 500
# Log-in tokens live for a minute or more; certificates are made for days.
_OFF_S, _WRONG_S = 30, 300


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """What came of asking one address: `failure` if nobody answered; the answer's status and date if somebody did."""

    subject: str
    name: str
    url: str
    failure: str | None = None
    status: int = 0
    ahead_s: float | None = None


def check(case: DoctorContext) -> Iterator[Check]:
    """Ask everybody at once; the clock is compared with whoever tells the time."""
    questions = list(_questions(case))
    with TaskGroup(max(len(questions), 1)) as group:
        asked = group.map(lambda ask: ask(), questions)
    yield from (_judged(each) for each in asked if each.subject == "index")
    hubs = [each for each in asked if each.subject == "hub"]
    yield from (_judged(each) for each in hubs)
    if not hubs:
        offline = os.environ.get("HF_HUB_OFFLINE")
        yield idle("hub", "HF_HUB_OFFLINE is set" if offline else "every model is in a folder or a registry")
    yield _clock(asked)


def _questions(case: DoctorContext) -> Iterator[Callable[[], _Asked]]:
    config = case.session.config
    client = client_of(config, case.session.workspace.index_states)
    yield partial(_ask_default, case, client.get)
    for name, url in dict(_indexes(case)).items():
        yield partial(_ask, client.get, "index", name, without_login(url))
    session = http.session(config, http.Patience(connect_s=_WITHIN_S[0], read_s=_WITHIN_S[1]))
    for address in sorted(_hubs(case)):
        yield partial(_ask, partial(session.get, stream=True), "hub", address, address)
    for registry in config.registries:
        host = Reference.parse(f"{registry}/x").host
        base = api_base(host, config.for_registry(host).insecure_registries)
        own = http.session(config.for_registry(host), http.Patience(connect_s=_WITHIN_S[0], read_s=_WITHIN_S[1]))
        yield partial(_ask, partial(own.get, stream=True), "registry", host, f"{base}/v2/")


def _indexes(case: DoctorContext) -> Iterator[tuple[str, str]]:
    """Yield name and address of every index that the recipe's packages are tied to, as far as rules do not move it."""
    for job in case.jobs:
        for index in ties_of(job, case.session.config).indexes:
            yield index.name, index.addresses[0].url


def _hubs(case: DoctorContext) -> set[str]:
    if os.environ.get("HF_HUB_OFFLINE"):
        return set()
    config = case.session.config
    if case.recipe is None:
        return {HubSource(repository="", revision="", endpoint=config.hub_endpoint).address}
    folder = case.recipe.path.parent
    places = [locate(model.source, folder, config) for job in case.jobs for model in job.spec.models]
    return {place.address for place in places if isinstance(place, HubSource)}


def _ask_default(case: DoctorContext, get: Callable[..., requests.Response]) -> _Asked:
    """Ask uv's own default index, whose address uv alone knows."""
    address = default_address(case.session, within_s=_UV_S)
    if address is None:
        return _Asked(subject="index", name="uv's own", url="", failure="uv finds nothing there")
    return _ask(get, "index", "uv's own", f"{address.rstrip('/')}/packaging/")


def _ask(get: Callable[..., requests.Response], subject: str, name: str, url: str) -> _Asked:
    try:
        with get(url, timeout=_WITHIN_S) as answer:
            return _Asked(subject=subject, name=name, url=url, status=answer.status_code, ahead_s=_ahead_s(answer))
    except requests.RequestException as error:
        status = error.response.status_code if error.response is not None else 0
        return _Asked(subject=subject, name=name, url=url, failure=http.reason(error), status=status)


def _ahead_s(answer: requests.Response) -> float | None:
    """Return by how many seconds this machine's clock is ahead of a server's. Answers from a cache tell an old time."""
    try:
        theirs = parsedate_to_datetime(answer.headers["Date"])
    except (KeyError, ValueError, TypeError):
        return None
    if theirs.tzinfo is None or "Age" in answer.headers:
        return None
    return (datetime.now(timezone.utc) - theirs).total_seconds()


def _judged(asked: _Asked) -> Check:
    where = http.scrub(asked.url) or asked.name
    said = asked.failure or f"it answers {asked.status}"
    if asked.subject == "index" and asked.status in _REFUSED:
        return trouble("index", "refused", f"{asked.name}: {where}: {said}")
    if asked.status >= _SERVER_FAULT or (asked.failure and not asked.status):
        return trouble(
            asked.subject, "silent", f"{asked.name}: {said}" + (f" ({where})" if where != asked.name else "")
        )
    return fine(asked.subject, where if where == asked.name else f"{asked.name}: {where}")


def _clock(asked: list[_Asked]) -> Check:
    told = [(abs(each.ahead_s), each.ahead_s, each.name) for each in asked if each.ahead_s is not None]
    if not told:
        return idle("clock", "nobody answered with the time")
    # One server's clock may be wrong; ours is if all disagree with it.
    off, ahead, name = min(told)
    found = f"{off:.0f} s {'ahead of' if ahead > 0 else 'behind'} {name}"
    if off > _WRONG_S:
        now = datetime.fromtimestamp(datetime.now(timezone.utc).timestamp() - ahead, timezone.utc)
        return trouble("clock", "wrong", found, now=now.isoformat(timespec="seconds"))
    return trouble("clock", "off", found) if off > _OFF_S else fine("clock", found)
