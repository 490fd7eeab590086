"""Checks whether registries answer and accept an image."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from builder.errors import RegistryError
from builder.host.concurrency import TaskGroup
from builder.model.recipes import PublishSpec
from builder.project.doctor.check_table import ok, problem
from builder.publish.destinations import targets
from builder.remote import http
from builder.remote.registry.reference import Reference
from builder.remote.registry.registry_client import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.project.doctor.check_records import Check, DoctorContext

_PATIENCE = http.Patience(connect_s=5.0, read_s=10.0)
# Without a recipe: the default repository of recipes.
_REPOSITORY = "vllm"


def check(case: DoctorContext) -> Iterator[Check]:
    """Start an upload in every registry of the images, and cancel it."""
    repositories = list(dict.fromkeys(_repositories(case)))
    if not repositories:
        yield problem("registry", "none", "no registry is configured")
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
    retry = http.Retry(tries=1)
    client = connect(reference.host, case.session.config, publish=True, retry=retry, patience=_PATIENCE)
    try:
        client.try_upload(reference.repository)
    except RegistryError as error:
        return problem("registry", "refused", f"{name}: {error.message}", fix=error.hint or "see docs/publishing.md")
    return ok("registry", f"{name} accepts uploads")
