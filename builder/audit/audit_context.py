"""What the rules look at: one cell's environment, what the loader says of its files, and the platform's GPU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from builder.audit.loader import Loader
from builder.audit.rule_tables import tables
from builder.model.audits import Finding

if TYPE_CHECKING:
    from builder.audit.environment import Environment, Node
    from builder.audit.load_outcome import LoadOutcome
    from builder.audit.rule_tables import Exempt
    from builder.model.audits import Severity
    from builder.model.locks import LockedWheel


@dataclass(frozen=True, kw_only=True)
class AuditContext:
    """One cell to audit. `sms` are compute capabilities as numbers (87); `driver` is the CUDA of the host's driver.

    `unread` says why the base image could not be read, if it could not; `stand_in` why it is not the one that was asked
    for, if it is not; `loose` that the wheels belong to no recipe, so that advice is about options.
    """

    environment: Environment
    sms: tuple[int, ...] = ()
    driver: tuple[int, int] | None = None
    l4t: str | None = None
    unread: str | None = None
    stand_in: str | None = None
    loose: bool = False

    @cached_property
    def loader(self) -> Loader:
        """The loader of this environment."""
        return Loader(self.environment)

    @cached_property
    def verdicts(self) -> tuple[LoadOutcome, ...]:
        """What the loader says of every library and extension module of the wheels."""
        nodes = sorted(self.environment.nodes, key=lambda node: node.path)
        return tuple(self.loader.verdict(node) for node in nodes if node.is_library)

    @property
    def assumed(self) -> str | None:
        """What findings about the base image rest on, where it could not be read."""
        if self.unread is None:
            return None
        platform = self.environment.platform
        known = f"glibc {platform.glibc} and GLIBCXX {platform.glibcxx} of {platform.distribution}"
        return f"the base image could not be read ({self.unread}); {known} are assumed"

    def exempt(self, node: Node) -> Exempt | None:
        """Return the row that says why a file's failing to load means little."""
        return _fitting(tables().optional, node)

    def other_gpus(self, node: Node) -> Exempt | None:
        """Return the row that says that a file is made for other GPUs than these."""
        row = _fitting(tables().other_gpus, node)
        return row if row and not {sm_number(sm) for sm in row.sms} & set(self.sms) else None

    def hidden_code(self, node: Node) -> bool:
        """Return whether a file keeps its GPU code where it cannot be read."""
        return _fitting(tables().hidden_code, node) is not None


def _fitting(rows: tuple[Exempt, ...], node: Node) -> Exempt | None:
    name = node.wheel.name if node.wheel else ""
    return next((row for row in rows if row.fits(name, node.shown)), None)


def sm_number(sm: str) -> int:
    """Return a compute capability as CUDA's file names have it: 87 for 8.7, 110 for 11.0."""
    major, _, minor = sm.partition(".")
    return int(major) * 10 + int(minor or 0)


def named(wheel: LockedWheel | None) -> str:
    """Return a wheel as findings name it: distribution and version."""
    return f"{wheel.name} {wheel.version}" if wheel else "the base image"


def finding(
    rule: str,
    severity: Severity,
    node: Node,
    detail: str,
    fix: str,
    *,
    assumed: str | None = None,
    also: tuple[str, ...] = (),
) -> Finding:
    """Return a finding about a file of a wheel."""
    wheel = named(node.wheel)
    return Finding(
        rule=rule, severity=severity, wheel=wheel, file=node.shown, detail=detail, fix=fix, assumed=assumed, also=also
    )
