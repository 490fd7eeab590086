"""Rules for the images that a device can run: the driver is the host's, the CUDA libraries are the image's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from builder.host.toml import documents
from builder.host.toml.declarations import Source, declaration_of, nested, string, tables

if TYPE_CHECKING:
    from builder.host.toml.documents import Table
    from builder.model.platforms import Platform

_HOSTS = Path(__file__).with_name("hosts.toml")
_VERSION = r"[0-9]+(\.[0-9]+){0,2}"
_RELEASE = string(_VERSION, "a release such as 36.4")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseRange:
    """L4T releases from one (inclusive) up to another (exclusive)."""

    start: Annotated[str, _RELEASE]
    below: Annotated[str, _RELEASE]

    def __contains__(self, release: str) -> bool:
        return _numbers(self.start) <= _numbers(release) < _numbers(self.below)

    def __str__(self) -> str:
        return f"{self.start} up to {self.below}"


def _check_range(table: Table, row: ReleaseRange, _: None) -> None:
    if row.start and row.below and _numbers(row.start) >= _numbers(row.below):
        table.problem("below", f"{row.below} does not come after {row.start}")


_KEYS = {"start": "from"}
_RANGE = declaration_of(ReleaseRange, keys=_KEYS, check=_check_range)


@dataclass(frozen=True, kw_only=True, slots=True)
class HostRule(ReleaseRange):
    """Devices with these releases run images for the releases `images`."""

    images: Annotated[ReleaseRange, nested(_RANGE)]
    source: Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A known failure: on hosts of these releases, with images for `images` or with CUDA `cuda_from` and later."""

    hosts: Annotated[ReleaseRange, nested(_RANGE)]
    images: Annotated[ReleaseRange | None, nested(_RANGE, always=False)] = None
    cuda_from: Annotated[str | None, string(_VERSION, "a version such as 13.0")] = None
    reason: Annotated[str, string(".+", "a description of the failure")]
    source: Source

    def applies(self, host: str, image: Platform) -> bool:
        """Return whether an image fails in this way on a host."""
        if host not in self.hosts:
            return False
        if self.images is not None and (image.l4t or "") in self.images:
            return True
        return bool(self.cuda_from and image.cuda and _numbers(image.cuda) >= _numbers(self.cuda_from))


def _check_images(table: Table, row: Refusal, _: None) -> None:
    if row.images is None and row.cuda_from is None:
        table.problem(None, "a refusal must name images", "add `images` or `cuda-from`")


@dataclass(frozen=True, kw_only=True, slots=True)
class HostRules:
    """All rows of `hosts.toml`."""

    hosts: Annotated[tuple[HostRule, ...], tables(declaration_of(HostRule, keys=_KEYS, check=_check_range))]
    refusals: Annotated[tuple[Refusal, ...], tables(declaration_of(Refusal, check=_check_images))]


@cache
def host_rules(path: Path = _HOSTS) -> HostRules:
    """Return the rules of a file.

    Raises:
        DocumentError: the file has mistakes.
    """
    return documents.load(path, "the host rules have mistakes", declaration_of(HostRules).read)


def refusal_reason(host_l4t: str, image: Platform) -> str | None:
    """Return why a device with an L4T release does not run an image of a platform, or None if it does.

    An image without a GPU runs on every arm64 device.
    """
    if image.architecture != "arm64":
        return f"the image is for {image.architecture}; every Jetson is arm64"
    if image.l4t is None:
        return None
    rules = host_rules()
    refusal = next((row for row in rules.refusals if row.applies(host_l4t, image)), None)
    if refusal:
        return f"{refusal.reason} [{refusal.source}]"
    row = next((row for row in rules.hosts if host_l4t in row), None)
    if row is None:
        return f"jbuild has no rule for devices with L4T {host_l4t}"
    if image.l4t in row.images:
        return None
    return f"a device with L4T {host_l4t} runs images for L4T {row.images}, not for {image.l4t} [{row.source}]"


def _numbers(version: str) -> tuple[int, ...]:
    numbers = [int(number) for number in version.split(".") if number.isdigit()]
    return (*numbers, 0, 0, 0)[:3] if numbers else (0, 0, 0)
