"""Which images a device can run: the driver is the host's, the CUDA libraries are the image's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.toml import documents

if TYPE_CHECKING:
    from builder.host.toml.documents import Table
    from builder.model.platforms import Platform

_HOSTS = Path(__file__).with_name("hosts.toml")
_VERSION = r"[0-9]+(\.[0-9]+){0,2}"
_RELEASE_NOUN = "a release such as 36.4"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseRange:
    """L4T releases from one (inclusive) up to another (exclusive)."""

    start: str
    below: str

    def __contains__(self, release: str) -> bool:
        return _numbers(self.start) <= _numbers(release) < _numbers(self.below)

    def __str__(self) -> str:
        return f"{self.start} up to {self.below}"


@dataclass(frozen=True, kw_only=True, slots=True)
class HostRule:
    """Devices with these releases run images made for those."""

    releases: ReleaseRange
    images: ReleaseRange
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A failure that is known: on hosts of these releases, with images of those or with CUDA from a version on."""

    hosts: ReleaseRange
    images: ReleaseRange | None
    cuda_from: str | None
    reason: str
    source: str

    def applies(self, host: str, image: Platform) -> bool:
        """Tell whether an image fails in this way on a host."""
        if host not in self.hosts:
            return False
        if self.images is not None and (image.l4t or "") in self.images:
            return True
        return bool(self.cuda_from and image.cuda and _numbers(image.cuda) >= _numbers(self.cuda_from))


@dataclass(frozen=True, kw_only=True, slots=True)
class HostRules:
    """Everything that is known of hosts and images."""

    hosts: tuple[HostRule, ...]
    refusals: tuple[Refusal, ...]


@cache
def host_rules() -> HostRules:
    """Return the rules that ship with jbuild."""
    return read_hosts(_HOSTS)


def runs(host_l4t: str, image: Platform) -> str | None:
    """Return why a device with an L4T release does not run an image of a platform, or None if it does.

    An image without a GPU runs on every arm64 device.
    """
    if image.architecture != "arm64":
        return f"the image is for {image.architecture}, and every Jetson is arm64"
    if image.l4t is None:
        return None
    rules = host_rules()
    refusal = next((row for row in rules.refusals if row.applies(host_l4t, image)), None)
    if refusal:
        return f"{refusal.reason} [{refusal.source}]"
    row = next((row for row in rules.hosts if host_l4t in row.releases), None)
    if row is None:
        return f"nothing is known of devices with L4T {host_l4t}"
    if image.l4t in row.images:
        return None
    return f"a device with L4T {host_l4t} runs images for L4T {row.images}, not for {image.l4t} [{row.source}]"


def read_hosts(path: Path) -> HostRules:
    """Read a file of rules.

    Raises:
        DocumentError: a row is not well-formed.
    """

    def parse(root: Table) -> HostRules:
        return HostRules(
            hosts=tuple(_host(table) for table in root.tables("hosts")),
            refusals=tuple(_refusal(table) for table in root.tables("refusals")),
        )

    return documents.load(path, "the rules of hosts have mistakes", parse)


def _host(table: Table) -> HostRule:
    row = HostRule(releases=_releases(table), images=_inner(table, "images"), source=_source(table))
    table.done()
    return row


def _refusal(table: Table) -> Refusal:
    row = Refusal(
        hosts=_inner(table, "hosts"),
        images=_inner(table, "images") if "images" in table else None,
        cuda_from=table.optional_string("cuda-from", pattern=_VERSION, noun="a version such as 13.0"),
        reason=table.string("reason", pattern=".+", noun="what people see"),
        source=_source(table),
    )
    if row.images is None and row.cuda_from is None:
        table.problem(None, "a refusal says which images it is about", "add `images` or `cuda-from`")
    table.done(("images",))
    return row


def _inner(table: Table, key: str) -> ReleaseRange:
    inner = table.table(key)
    releases = _releases(inner)
    inner.done()
    return releases


def _releases(table: Table) -> ReleaseRange:
    releases = ReleaseRange(
        start=table.string("from", pattern=_VERSION, noun=_RELEASE_NOUN),
        below=table.string("below", pattern=_VERSION, noun=_RELEASE_NOUN),
    )
    if releases.start and releases.below and _numbers(releases.start) >= _numbers(releases.below):
        table.problem("below", f"{releases.below} does not come after {releases.start}")
    return releases


def _source(table: Table) -> str:
    return table.string("source", pattern=".+", noun="a source")


def _numbers(version: str) -> tuple[int, ...]:
    numbers = [int(number) for number in version.split(".") if number.isdigit()]
    return (*numbers, 0, 0, 0)[:3] if numbers else (0, 0, 0)
