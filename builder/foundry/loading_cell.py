"""The wheels of a cell that a built wheel needs when it is loaded, and the audit of all of them together."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.audit.audit_context import AuditContext
from builder.audit.base_image import read_base
from builder.audit.environment import Environment
from builder.audit.gather_facts import gather, gather_files
from builder.audit.stage import judge
from builder.errors import NetworkError, RegistryError
from builder.host.files import sha256_of
from builder.model.wheels import LockedWheel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.audits import Audit, WheelFacts
    from builder.model.builds import LockedBuild
    from builder.model.locks import Lock


@dataclass(frozen=True, kw_only=True)
class LoadingCell:
    """A built wheel in its cell: `wheel` with its facts, and `others`, the locked wheels that it needs, with theirs."""

    wheel: LockedWheel
    others: tuple[LockedWheel, ...]
    facts: Mapping[str, WheelFacts]
    lock: Lock

    @property
    def built(self) -> WheelFacts:
        """The facts of the built wheel."""
        return self.facts[self.wheel.sha256]


def loading_cell(wheel: Path, build: LockedBuild, lock: Lock, session: Session) -> LoadingCell:
    """Return a built wheel with the locked wheels that it requires, directly or not, and its torch.

    Raises:
        NetworkError, IntegrityError, DiskError: one of them cannot be fetched.
    """
    sha256 = sha256_of(wheel)
    version = wheel.name.split("-")[1]
    own = LockedWheel(name=build.name, version=version, filename=wheel.name, url=str(wheel), sha256=sha256)
    facts = gather_files({sha256: wheel}, session)
    by_name = {locked.name: locked for locked in lock.wheels if locked.name != build.name}
    if build.target.torch:
        by_name["torch"] = build.target.torch
    waiting = {*facts[sha256].requires, *(["torch"] if build.target.torch else [])} & by_name.keys()
    chosen: dict[str, LockedWheel] = {}
    while waiting:
        added = {name: by_name[name] for name in sorted(waiting)}
        chosen |= added
        facts |= gather(list(added.values()), session)
        needed = {name for locked in added.values() for name in facts[locked.sha256].requires}
        waiting = (needed & by_name.keys()) - chosen.keys()
    others = tuple(chosen[name] for name in sorted(chosen))
    return LoadingCell(wheel=own, others=others, facts=facts, lock=lock)


def audit_context(cell: LoadingCell, session: Session, apt: Iterable[str] = ()) -> AuditContext:
    """Return the input of the audit's rules for a built wheel on the cell's base image."""
    lock = cell.lock
    base, unread = None, None
    try:
        base = read_base(lock.base.used, lock.base.digest, lock.platform.architecture, session)
    except (NetworkError, RegistryError) as error:
        unread = error.message
    environment = Environment(
        platform=lock.platform,
        wheels=(*cell.others, cell.wheel),
        facts=cell.facts,
        base=base,
        apt=tuple(apt),
    )
    return AuditContext(environment=environment, unread=unread, stand_in=lock.base.stand_in, torch_cuda=lock.torch_cuda)


def audit_built(cell: LoadingCell, case: AuditContext) -> Audit:
    """Return the audit of a built wheel in its cell, with the findings about this wheel alone."""
    audit = judge(case, cell.lock.cell, cell.lock.base.name, (), time.monotonic())
    label = f"{cell.wheel.name} {cell.wheel.version}"
    return replace(audit, findings=tuple(finding for finding in audit.findings if finding.wheel == label))
