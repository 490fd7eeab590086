"""Registries: whether they answer, and whether they would take an image."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from builder.errors import RegistryError
from builder.host.concurrency import TaskGroup
from builder.model.recipes import PublishSpec
from builder.project.doctor.check_table import fine, trouble
from builder.publish.destinations import targets
from builder.remote import http
from builder.remote.registry.reference import Reference
from builder.remote.registry.registry_client import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.project.doctor.check_records import Check, DoctorContext

_PATIENCE = http.Patience(connect_s=5.0, read_s=10.0)
# Where no recipe says what its images are called: the repository of a recipe that names none.
_REPOSITORY = "vllm"


def check(case: DoctorContext) -> Iterator[Check]:
    """Begin an upload in every registry that images go to, and cancel it."""
    places = list(dict.fromkeys(_places(case)))
    if not places:
        yield trouble("registry", "none", "none is configured")
        return
    with TaskGroup(len(places)) as group:
        yield from group.map(partial(_place, case), places)


def _places(case: DoctorContext) -> Iterator[str]:
    specs = [job.spec.publish for job in case.jobs] or [PublishSpec(repository=_REPOSITORY)]
    for spec in specs:
        for target in targets(spec, (), case.session.config):
            yield f"{target}/{spec.repository}"


def _place(case: DoctorContext, name: str) -> Check:
    reference = Reference.parse(name)
    retry = http.Retry(tries=1)
    own = {reference.host}
    client = connect(reference.host, case.session.config, own=own, retry=retry, patience=_PATIENCE)
    try:
        client.try_upload(reference.repository)
    except RegistryError as error:
        return trouble("registry", "refused", f"{name}: {error.message}", mend=error.hint or "see docs/publishing.md")
    return fine("registry", f"{name} takes an upload")
