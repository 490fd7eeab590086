"""The records of the audit: facts about wheels and base images, and findings."""

from __future__ import annotations

import zlib
from array import array
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from builder.model.kernel_verdicts import KernelVerdict

Kind = Literal["ptx", "sass"]
# `a`: code that uses features of one compute capability, and runs on no other; `f`: of a family, such as 10.0 and 10.3.
Variant = Literal["", "a", "f"]
Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


class GpuCode(NamedTuple):
    """Code for one GPU in a library: `isa` is the version of PTX, `times` the number of copies."""

    target: GpuTarget
    isa: tuple[int, int]
    times: int


@dataclass(frozen=True, kw_only=True)
class LoaderFacts:
    """The facts of an ELF file for the loader; `executable_stack` is None if the file has no header for it."""

    header: Header
    dynamic: bool = False
    executable_stack: bool | None = None
    needed: tuple[str, ...] = ()
    soname: str | None = None
    rpath: str | None = None
    runpath: str | None = None
    version_needs: tuple[VersionNeed, ...] = ()
    version_defines: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Binary(LoaderFacts):
    """An ELF file, compact. `path` is relative to site-packages in wheels, absolute in a base image.

    Symbols are hashed (`builder.audit.wheel_facts`): `defines` are the keys of its symbols, `wants` two alternative
    keys for each strong undefined symbol, `wanted` their names, deflated. `inits` are the Python modules that it can
    be imported as.
    """

    path: str
    inits: tuple[str, ...] = ()
    gpu: tuple[GpuCode, ...] = ()
    defines: bytes = b""
    wants: bytes = b""
    wanted: bytes = b""

    @cached_property
    def defined_keys(self) -> array[int]:
        """The keys of the symbols that it defines."""
        return array("Q", self.defines)

    @cached_property
    def wanted_keys(self) -> array[int]:
        """The keys of its undefined symbols, two for each."""
        return array("Q", self.wants)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of its undefined symbols, `name@VERSION` for a version."""
        return _inflated(self.wanted, "replace")


@dataclass(frozen=True, kw_only=True)
class WheelFacts:
    """The facts about a wheel. `files` are its installed paths, deflated; their keys and contents are hashed.

    `flaws` are unreadable or unexpected files: (path, flaw). `tags` are those of its own metadata, `requires` its
    dependencies.
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
        """Installed paths, relative to site-packages."""
        return _inflated(self.files, "surrogateescape")


@dataclass(frozen=True, kw_only=True)
class BaseFacts:
    """The facts about a base image. Paths are absolute.

    `folders` are the folders of the loader's cache, in order, `library_path` those of LD_LIBRARY_PATH, `packages` the
    names of installed packages; `distribution` is empty if the image does not name it. `apt` are the files with apt's
    sources and keys: paths without leading slash, and contents in base64.
    """

    binaries: tuple[Binary, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    folders: tuple[str, ...] = ()
    library_path: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    distribution: tuple[str, ...] = ()
    apt: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A mistake or a note. `file` is relative to site-packages; `waived` is the recipe's reason.

    `assumed` is the assumption in place of an unreadable fact; `also` are further files with the same cause.
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
    """How a library runs on a GPU; `meant` is False if it is for other GPUs only.

    `verdict` is `native`, `same-major`, `same-major-refused`, `ptx`, `ptx-too-new`, `none` or `unknown`.
    """

    sass: tuple[int, ...]
    ptx: tuple[int, ...]
    verdict: str
    meant: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class FindingCounts:
    """The number of findings by severity, without waived ones, and of waived ones."""

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
    """The audit of a cell. `gpu` is by SM and `wheel/file`, `kernels` by SM; `files` are the loader's messages.

    `injected` are the libraries that a file loads only under the NVIDIA runtime; `warnings` are about the recipe's
    waivers; `assumed` is the reason why the platform's facts replace the base image's own.
    """

    cell: str
    findings: tuple[Finding, ...]
    base: str
    gpu: dict[str, dict[str, GpuVerdict]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    injected: dict[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    assumed: str | None = None
    kernels: dict[str, tuple[KernelVerdict, ...]] = field(default_factory=dict)
    elapsed_s: float = 0.0

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The errors that are not waived."""
        return tuple(finding for finding in self.findings if finding.severity == "error" and finding.waived is None)

    @property
    def failure(self) -> str | None:
        """The first error and the number of others; None if there is none."""
        if not self.errors:
            return None
        first, more = self.errors[0], f", and {len(self.errors) - 1} more" if len(self.errors) > 1 else ""
        return f"{first.rule}: {first.wheel}: {first.file} {first.detail}{more}"

    @property
    def counts(self) -> FindingCounts:
        """The number of findings of each severity, and of waived ones."""
        waived = sum(1 for finding in self.findings if finding.waived is not None)
        return FindingCounts(**{severity: self.counted(severity) for severity in SEVERITIES}, waived=waived)

    def counted(self, severity: Severity) -> int:
        """Return the number of findings of a severity that are not waived."""
        return sum(1 for finding in self.findings if finding.severity == severity and finding.waived is None)


def _inflated(paths: bytes, errors: str) -> tuple[str, ...]:
    return tuple(zlib.decompress(paths).decode("utf-8", errors).split("\n")) if paths else ()


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
    variant: Variant = ""
