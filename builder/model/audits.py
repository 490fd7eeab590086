"""The records of the audit: what was read of a wheel or a base image, and what is found wrong."""

from __future__ import annotations

import zlib
from array import array
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

Kind = Literal["ptx", "sass"]
Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


class GpuCode(NamedTuple):
    """Code for one GPU in a library: `isa` is the version of its language for PTX, `times` how often it is there."""

    target: GpuTarget
    isa: tuple[int, int]
    times: int


@dataclass(frozen=True, kw_only=True)
class Binary:
    """An ELF file, compact. `path` is seen from site-packages in wheels, absolute in a base image.

    Symbols are hashed (`builder.audit.wheel_facts`): `defines` are the keys that it answers to, `wants` two keys for
    each of its strong undefined symbols, any of which will do; `wanted` are their names, deflated. `inits` are the
    names of the Python modules that it can be imported as.
    """

    path: str
    header: Header
    needed: tuple[str, ...] = ()
    soname: str | None = None
    rpath: str | None = None
    runpath: str | None = None
    version_needs: tuple[VersionNeed, ...] = ()
    version_defines: tuple[str, ...] = ()
    inits: tuple[str, ...] = ()
    gpu: tuple[GpuCode, ...] = ()
    defines: bytes = b""
    wants: bytes = b""
    wanted: bytes = b""
    dynamic: bool = False
    executable_stack: bool | None = None

    @cached_property
    def defined_keys(self) -> array[int]:
        """The keys of what it defines."""
        return array("Q", self.defines)

    @cached_property
    def wanted_keys(self) -> array[int]:
        """The keys of what it wants, two for each symbol."""
        return array("Q", self.wants)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of what it wants, `name@VERSION` where it wants a version."""
        text = zlib.decompress(self.wanted).decode("utf-8", "replace") if self.wanted else ""
        return tuple(text.split("\n")) if text else ()


@dataclass(frozen=True, kw_only=True)
class WheelFacts:
    """What was read of one wheel. `files` are its installed paths, deflated; their keys and contents are hashed.

    `flaws` are files that cannot be read or should not be there: (path, what is wrong). `tags` are those that its own
    metadata claims, `requires` the distributions that it names as dependencies.
    """

    tags: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    flaws: tuple[tuple[str, str], ...] = ()
    binaries: tuple[Binary, ...] = ()
    files: bytes = b""
    file_keys: bytes = b""
    contents: bytes = b""

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Installed paths, seen from site-packages."""
        text = zlib.decompress(self.files).decode("utf-8", "surrogateescape") if self.files else ""
        return tuple(text.split("\n")) if text else ()


@dataclass(frozen=True, kw_only=True)
class BaseFacts:
    """What was read of a base image. Paths are absolute.

    `folders` are those that the loader's cache is made of, in order; `library_path` those of LD_LIBRARY_PATH;
    `packages` the names of what its package manager has installed; `distribution` its name, if the image says it.
    """

    binaries: tuple[Binary, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    folders: tuple[str, ...] = ()
    library_path: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    distribution: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that is wrong or worth knowing. `file` is seen from site-packages; `waived` is the recipe's reason.

    `assumed` says what the finding rests on where a fact could not be read; `also` are further files of that cause.
    """

    rule: str
    severity: Severity
    wheel: str
    file: str
    detail: str
    fix: str
    assumed: str | None = None
    waived: str | None = None
    also: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuVerdict:
    """How one library runs on one GPU; `meant` is False for one made for other GPUs only.

    `verdict` is `native`, `same-major`, `same-major-refused`, `ptx`, `ptx-too-new`, `none` or `unknown`.
    """

    sass: tuple[int, ...]
    ptx: tuple[int, ...]
    verdict: str
    meant: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class FindingCounts:
    """Findings of an audit that nobody waived, by severity, and those waived."""

    error: int
    warning: int
    info: int
    waived: int

    def __str__(self) -> str:
        """Return the counts in words."""
        nouns = ((self.error, "error"), (self.warning, "warning"), (self.info, "note"))
        words = ", ".join(f"{number} {noun}{'' if number == 1 else 's'}" for number, noun in nouns)
        return words + (f", {self.waived} waived" if self.waived else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What the audit of a cell found. `gpu` is by SM and `wheel/file`; `files` holds what the loader would say.

    `injected` names what each file loads only under the NVIDIA runtime; `warnings` are about the recipe's waivers;
    `assumed` says why the platform's facts stand in for the base image's own.
    """

    cell: str
    findings: tuple[Finding, ...]
    base: str
    gpu: dict[str, dict[str, GpuVerdict]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    injected: dict[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    assumed: str | None = None
    elapsed_s: float = 0.0

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The errors that nobody waived."""
        return tuple(each for each in self.findings if each.severity == "error" and each.waived is None)

    @property
    def failure(self) -> str | None:
        """The first of these errors, and how many there are besides; None if there is none."""
        if not self.errors:
            return None
        first, more = self.errors[0], f", and {len(self.errors) - 1} more" if len(self.errors) > 1 else ""
        return f"{first.rule}: {first.wheel}: {first.file} {first.detail}{more}"

    @property
    def counts(self) -> FindingCounts:
        """The number of findings of each severity, and of those waived."""
        waived = sum(1 for finding in self.findings if finding.waived is not None)
        return FindingCounts(**{severity: self.counted(severity) for severity in SEVERITIES}, waived=waived)

    def counted(self, severity: Severity) -> int:
        """Return how many findings of a severity are not waived."""
        return sum(1 for finding in self.findings if finding.severity == severity and finding.waived is None)


class Header(NamedTuple):
    """The identity of an ELF file: bits (32 or 64), byte order, type and machine as `elf.h` numbers them."""

    bits: int
    little: bool
    type: int
    machine: int
    flags: int


class VersionNeed(NamedTuple):
    """A version that a needed library must define; a weak one need not."""

    file: str
    version: str
    weak: bool


class GpuTarget(NamedTuple):
    """Code for one GPU: SASS runs on it, PTX is compiled by the driver. `sm` is 87 for 8.7, 110 for 11.0."""

    kind: Kind
    sm: int
