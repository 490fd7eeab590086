"""Checks whether index, hub and registries answer, the clock by their time, and the rules that replace servers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING

import requests

from builder.errors import RegistryError
from builder.host.concurrency import TaskGroup
from builder.lock.index_sources import index_pins_of
from builder.lock.inspect_index import default_address
from builder.model.recipes import PublishSpec
from builder.project.doctor.check_table import ok, problem, skipped
from builder.publish.stage import targets
from builder.remote import answer_bodies, http, web_pages
from builder.remote.addresses import scrub
from builder.remote.index.index_client import client_of
from builder.remote.index.logins import without_login
from builder.remote.index.pages import parse
from builder.remote.model_sources import HubSource, locate
from builder.remote.registry.reference import Reference, api_base
from builder.remote.registry.registry_client import connect
from builder.remote.registry.registry_failures import NotRegistryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.project.doctor.check_table import Check, DoctorContext
    from builder.remote.registry.registry_client import RegistryClient

# For a connection, and for the first bytes of an answer, in seconds.
_WITHIN_S = (5.0, 8.0)
_UPLOAD_PATIENCE = http.Patience(connect_s=5.0, read_s=10.0)
# Without a recipe: the default repository of recipes.
_REPOSITORY = "vllm"
_TAG = "latest"
# For indexes that are pinned by globs only.
_PACKAGE = "torch"
_LONGEST_PAGE = 64 << 20
_HUB_LIST = "/api/models?limit=1"
# uv tries several times by itself.
_UV_S = 15.0
_REFUSED = (401, 403)
_SERVER_FAULT = 500
# Log-in tokens are valid for a minute or more, certificates for days.
_OFF_S, _WRONG_S = 30, 300


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """The answer of one address: its status and clock offset, or `failure` without an answer.

    `page` describes a web page where an index or hub has something else.
    """

    subject: str
    name: str
    url: str
    failure: str | None = None
    page: str | None = None
    status: int = 0
    ahead_s: float | None = None


def check(case: DoctorContext) -> Iterator[Check]:
    """Check all servers in parallel, and compare the clock with their time."""
    questions = list(_questions(case))
    with TaskGroup(len(questions)) as group:
        answers = group.map(lambda ask: ask(), questions)
    # The check of uploads tells whether registries answer.
    yield from (_check(answer) for answer in answers if answer.subject != "registry")
    if not any(answer.subject == "hub" for answer in answers):
        offline = os.environ.get("HF_HUB_OFFLINE")
        yield skipped("hub", "HF_HUB_OFFLINE is set" if offline else "every model is in a folder or a registry")
    yield _clock(answers)


def _questions(case: DoctorContext) -> Iterator[Callable[[], _Answer]]:
    config = case.session.config
    client = client_of(config, case.session.workspace.index_states)
    yield partial(_ask_default, case, client.get)
    for name, (url, package) in dict(_indexes(case)).items():
        address = without_login(url)
        yield partial(_ask, client.get, "index", name, address, f"{address.rstrip('/')}/{package}/")
    session = http.session(config)
    for address in sorted(_hubs(case)):
        yield partial(_ask, partial(session.get, stream=True), "hub", address, address, f"{address}{_HUB_LIST}")
    for registry in config.registries:
        host = Reference.parse(f"{registry}/x").host
        settings = config.for_registry(host)
        get = partial(http.session(settings).get, stream=True)
        yield partial(_ask, get, "registry", host, f"{api_base(host, settings.insecure_registries)}/v2/")


def _indexes(case: DoctorContext) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield name, first address and a package of every index that the recipe's packages are pinned to."""
    for job in case.jobs:
        ties = index_pins_of(job, case.session.config)
        for index in ties.indexes:
            names = (
                pin.packages for pin in ties.pins if pin.index == index.name and not set("*?[") & set(pin.packages)
            )
            yield index.name, (index.addresses[0].url, next(names, _PACKAGE))


def _hubs(case: DoctorContext) -> set[str]:
    if os.environ.get("HF_HUB_OFFLINE"):
        return set()
    config = case.session.config
    if case.recipe is None:
        return {HubSource(repository="", revision="", endpoint=config.hub_endpoint).address}
    folder = case.recipe.path.parent
    sources = [locate(model.source, folder, config) for job in case.jobs for model in job.spec.models]
    return {source.address for source in sources if isinstance(source, HubSource)}


def _ask_default(case: DoctorContext, get: Callable[..., requests.Response]) -> _Answer:
    """Check uv's default index, whose address only uv knows."""
    address = default_address(case.session, within_s=_UV_S)
    if address is None:
        return _Answer(subject="index", name="uv's own", url="", failure="uv cannot fetch a package from it")
    return _ask(get, "index", "uv's own", f"{address.rstrip('/')}/packaging/")


def _ask(
    get: Callable[..., requests.Response], subject: str, name: str, url: str, page_url: str | None = None
) -> _Answer:
    """Request a page of a server whose address is `url`."""
    try:
        with get(page_url or url, timeout=_WITHIN_S) as answer:
            return _Answer(
                subject=subject,
                name=name,
                url=url,
                page=_web_page(subject, answer),
                status=answer.status_code,
                ahead_s=_ahead_s(answer),
            )
    except requests.RequestException as error:
        status = error.response.status_code if error.response is not None else 0
        return _Answer(subject=subject, name=name, url=url, failure=http.reason(error), status=status)


def _web_page(subject: str, answer: requests.Response) -> str | None:
    """Return a description of a web page in place of an index's page or a hub's list, else None."""
    if not answer.ok or not web_pages.is_web_page(answer):
        return None
    if subject == "index":
        content = answer_bodies.read_body(answer, _LONGEST_PAGE, sum(_WITHIN_S))
        try:
            # An index's page is HTML too.
            parse(content or b"", answer.headers.get("Content-Type", ""), answer.url)
        except ValueError:
            return f"a web page answers{web_pages.titled(content or b'')}"
        return None
    return str(web_pages.WebPageError(answer))


def _ahead_s(answer: requests.Response) -> float | None:
    """Return the seconds by which this machine's clock is ahead of a server's, or None for cached answers."""
    try:
        theirs = parsedate_to_datetime(answer.headers["Date"])
    except (KeyError, ValueError, TypeError):
        return None
    if theirs.tzinfo is None or "Age" in answer.headers:
        return None
    return (datetime.now(timezone.utc) - theirs).total_seconds()


def _check(answer: _Answer) -> Check:
    url = scrub(answer.url) or answer.name
    outcome = answer.failure or f"it answers {answer.status}"
    if answer.page:
        text = f"{answer.name}: {answer.page}" + (f" ({url})" if url != answer.name else "")
        return problem(answer.subject, "web-page", text, url=url)
    if answer.subject == "index" and answer.status in _REFUSED:
        return problem("index", "refused", f"{answer.name}: {url}: {outcome}")
    if answer.status >= _SERVER_FAULT or (answer.failure and not answer.status):
        return problem(
            answer.subject, "silent", f"{answer.name}: {outcome}" + (f" ({url})" if url != answer.name else "")
        )
    return ok(answer.subject, url if url == answer.name else f"{answer.name}: {url}")


def _clock(answers: list[_Answer]) -> Check:
    offsets = [(abs(answer.ahead_s), answer.ahead_s, answer.name) for answer in answers if answer.ahead_s is not None]
    if not offsets:
        return skipped("clock", "no server sent a Date header")
    # One server's clock may be wrong; this machine's is wrong if it differs from all.
    off, ahead, name = min(offsets)
    text = f"{off:.0f} s {'ahead of' if ahead > 0 else 'behind'} {name}"
    if off > _WRONG_S:
        now = datetime.fromtimestamp(datetime.now(timezone.utc).timestamp() - ahead, timezone.utc)
        return problem("clock", "wrong", text, now=now.isoformat(timespec="seconds"))
    return problem("clock", "off", text) if off > _OFF_S else ok("clock", text)


def registries(case: DoctorContext) -> Iterator[Check]:
    """Start an upload in every registry of the images, and cancel it."""
    repositories = list(dict.fromkeys(_repositories(case)))
    if not repositories:
        text = "no registry is configured"
        yield problem("registry", "none", text) if case.builds else skipped("registry", text)
        return
    with TaskGroup(len(repositories)) as group:
        yield from group.map(partial(_try_upload, case), repositories)


def _repositories(case: DoctorContext) -> Iterator[str]:
    specs = [job.spec.publish for job in case.jobs] or [PublishSpec(repository=_REPOSITORY)]
    for spec in specs:
        for target in targets(spec, (), case.session.config):
            yield f"{target}/{spec.repository}"


def _try_upload(case: DoctorContext, name: str) -> Check:
    reference = Reference.parse(name)
    once = http.Retry(tries=1)
    client = connect(reference.host, case.session.config, publish=True, retry=once, patience=_UPLOAD_PATIENCE)
    try:
        client.try_upload(reference.repository)
        _try_reading(client, reference.repository)
    except RegistryError as error:
        return problem("registry", "refused", f"{name}: {error.message}", fix=error.hint or "see docs/publishing.md")
    return ok("registry", f"{name} accepts uploads")


def _try_reading(client: RegistryClient, repository: str) -> None:
    """Read a tag, which may be missing or forbidden.

    Raises:
        NotRegistryError: a web page answers.
    """
    try:
        client.get_manifest(repository, _TAG)
    except NotRegistryError:
        raise
    except RegistryError:
        return


def stand_ins(case: DoctorContext) -> Iterator[Check]:
    """Warn of every rule with a stand-in."""
    config = case.session.config
    rules = [(r.prefix, r.mirror, r.stand_in) for r in config.registry_mirrors]
    rules += [(r.prefix, r.mirror, r.stand_in) for r in config.index_mirrors]
    rules += [(r.source, str(r.folder), r.stand_in) for r in config.model_mirrors]
    for name, replacement, stand_in in rules:
        if stand_in:
            yield problem("stand-in", "used", f"{name} is taken from {replacement}: {stand_in}", rule=name)
