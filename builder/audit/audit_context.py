"""The input of the rules: one cell's environment, the loader's verdicts on its files, and the platform's GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from builder.audit.loader import Loader
from builder.audit.rule_tables import major_minor, tables
from builder.audit.runnable_code import remaining
from builder.jetson.boards import sm_number
from builder.jetson.distributions import platforms
from builder.model.audits import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from builder.audit.environment import Environment, Node
    from builder.audit.load_outcome import LoadOutcome
    from builder.audit.rule_tables import Exempt
    from builder.model.audits import GpuCode, Severity
    from builder.model.platforms import Platform
    from builder.model.slimming import SlimRules
    from builder.model.wheels import LockedWheel


@dataclass(frozen=True, kw_only=True)
class AuditContext:
    """One cell to audit.

    `unread` is the reason why the base image could not be read, `stand_in` why another one replaces it. Advice on
    `loose` wheels, without a recipe, names options. `torch_cuda` is the CUDA version of the locked torch. `slim` are
    the rules for the GPU code of wheels that lose some, by name.
    """

    environment: Environment
    unread: str | None = None
    stand_in: str | None = None
    loose: bool = False
    torch_cuda: str | None = None
    slim: Mapping[str, SlimRules] = field(default_factory=dict)

    @property
    def l4t(self) -> str | None:
        """The L4T release of the platform."""
        return self.environment.platform.l4t

    @property
    def host(self) -> str:
        """The host of the driver, as findings name it."""
        return f"L4T {self.l4t}" if self.l4t else "the oldest host"

    @cached_property
    def sms(self) -> tuple[int, ...]:
        """The compute capabilities of the platform's GPUs as numbers (87)."""
        return tuple(map(sm_number, self.environment.platform.sms))

    @cached_property
    def driver(self) -> tuple[int, int] | None:
        """The CUDA of the host's driver: that of the L4T release, else the oldest that the platform allows."""
        return driver_of(self.environment.platform)

    @cached_property
    def loader(self) -> Loader:
        """The loader of this environment."""
        return Loader(self.environment)

    @cached_property
    def verdicts(self) -> tuple[LoadOutcome, ...]:
        """The loader's verdicts on all libraries and extension modules of the wheels."""
        nodes = sorted(self.environment.nodes, key=lambda node: node.path)
        return tuple(self.loader.verdict(node) for node in nodes if node.is_library)

    @property
    def assumed(self) -> str | None:
        """The assumption of findings about a base image that could not be read."""
        if self.unread is None:
            return None
        platform = self.environment.platform
        row = f"glibc {platform.glibc} and GLIBCXX {platform.glibcxx} of {platform.distribution}"
        return f"the base image could not be read ({self.unread}); {row} are assumed"

    def gpu_code(self, node: Node) -> tuple[GpuCode, ...]:
        """Return the GPU code of a file as the image has it."""
        rules = self.slim.get(node.wheel.name) if node.wheel else None
        return remaining(node.binary.gpu, rules) if rules else node.binary.gpu

    def exempt(self, node: Node) -> Exempt | None:
        """Return the row of an optional file, whose failure to load means little."""
        return _fitting(tables().optional, node)

    def other_gpus(self, node: Node) -> Exempt | None:
        """Return the row of a file made for other GPUs than these."""
        row = _fitting(tables().other_gpus, node)
        return row if row and not {sm_number(sm) for sm in row.sms} & set(self.sms) else None

    def hidden_code(self, node: Node) -> bool:
        """Return whether a file's GPU code cannot be read."""
        return _fitting(tables().hidden_code, node) is not None


def driver_of(platform: Platform) -> tuple[int, int] | None:
    """Return the CUDA of the driver of a platform's machines, None if it is not known."""
    if platform.l4t is None and platform.cuda:
        return major_minor(platform.cuda)
    return next((major_minor(row.cuda) for row in platforms() if row.l4t == platform.l4t), None)


def _fitting(rows: tuple[Exempt, ...], node: Node) -> Exempt | None:
    name = node.wheel.name if node.wheel else ""
    return next((row for row in rows if row.fits(name, node.file)), None)


def named(wheel: LockedWheel | None) -> str:
    """Return a wheel's name in findings: distribution and version."""
    return f"{wheel.name} {wheel.version}" if wheel else "the base image"


def finding(
    rule: str, severity: Severity, nodes: Iterable[Node], detail: str, fix: str, *, assumed: str | None = None
) -> Finding:
    """Return a finding about files of wheels: about the first one, and the others too."""
    first, *others = dict.fromkeys(nodes)
    return Finding(
        rule=rule,
        severity=severity,
        wheel=named(first.wheel),
        file=first.file,
        detail=detail,
        fix=fix,
        assumed=assumed,
        also=tuple(dict.fromkeys(node.file for node in others)),
    )
