"""Finds the platform of a cell's axes, or the reason why there is none."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from builder.errors import RecipeError
from builder.host.wording import suggest
from builder.jetson.distributions import (
    Distribution,
    L4tRelease,
    distributions,
    gpu_platforms,
    platforms,
    standalone,
    version_numbers,
)
from builder.model.platforms import Platform

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.model.recipes import Architecture

PLATFORM_AXES = ("l4t", "distribution", "ubuntu", "cuda", "python", "sm")
_FORMATS = {"python": r"[0-9]\.[0-9]+", "cuda": r"[0-9]+\.[0-9]+"}
_NEAREST = 3
# Compute capabilities that one image serves.
SMS = r"[0-9]+\.[0-9](\+[0-9]+\.[0-9])*"
# Names of releases: 6.2, jetpack-6.2, JetPack 6.0 DP, jp6.2, r36.4.3, L4T 36.4, "R36 (release), REVISION: 4.3".
_RELEASE_NAME = re.compile(
    r"(?:nvidia[ _-]*)?(?:(?P<jetpack>(?:jetpack|jp)[ _-]*(?:sdk[ _-]*)?v?)|(?P<l4t>(?:l4t|jetson[ _-]linux)?[ _-]*r?))"
    r"(?P<number>(?P<major>[0-9]+)(?:\.[0-9]+)*)(?:[ _-]*(?P<preview>dp|developer preview))?"
    r"(?:[ ]*\(release\),?[ ]*revision:?[ ]*(?P<rest>[0-9.]+))?",
    re.IGNORECASE,
)


class ImpossibleError(RecipeError):
    """A combination of known axis values that does not exist; lists and reports show `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, hint="remove these values from the matrix, or exclude the cell with a reason")
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class _Axes:
    """A cell's values of the platform axes."""

    l4t: str | None
    distribution: str | None
    ubuntu: str | None
    cuda: str | None
    python: str | None
    sm: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Base:
    """One distribution for images of an L4T release, its image and its CUDA versions."""

    distribution: Distribution
    image: str
    cuda: tuple[str, ...]


def platform_for(values: Iterable[tuple[str, str]], architecture: Architecture, base: str | None = None) -> Platform:
    """Return the platform of a cell with these axis values.

    `l4t` selects a Jetson release with one or more distributions. `ubuntu`, `python` and `cuda` filter them; the first
    match is used, with its own CUDA unless `cuda` is set. `sm` narrows the GPUs to those of some compute capabilities.
    Without `l4t`, it selects machines whose GPU has its own memory. `distribution` selects a platform without a GPU.
    `base` is the recipe's own base image, if any.

    Raises:
        ImpossibleError: the values are known, but no platform has all of them.
        RecipeError: a value is unknown, or no axis selects a platform.
    """
    axes = dict(values)
    for axis in PLATFORM_AXES:
        if axis in axes and (mistake := check_value(axis, axes[axis])):
            raise RecipeError(mistake[0], hint=mistake[1])
    platform = _find(architecture, _Axes(**{axis: axes.get(axis) for axis in PLATFORM_AXES}))
    if isinstance(platform, str):
        raise ImpossibleError(platform)
    return replace(platform, base=base) if base else platform


def check_axes(axes: Iterable[str]) -> tuple[str, str] | None:
    """Return the problem of a matrix with these platform axes and its hint, or None."""
    names = set(axes)
    if {"l4t", "distribution"} <= names:
        return "`l4t` and `distribution` both select a platform", "keep one of the two axes"
    if {"sm", "distribution"} <= names:
        return "`distribution` selects a platform without a GPU, and `sm` names GPUs", "keep one of the two axes"
    if not names & {"l4t", "distribution", "sm"}:
        hint = (
            'add `l4t = ["36.4.0"]` for a Jetson, `sm = ["9.0"]` for a machine with such a GPU, or '
            '`distribution = ["debian-12"]` for any CPU'
        )
        return "no axis selects a platform", hint
    return None


def check_value(axis: str, value: str) -> tuple[str, str] | None:
    """Return the problem of one value of a platform axis and its hint, or None."""
    if axis == "l4t" and value not in (releases := [row.l4t for row in platforms()]):
        return release_mistake(value) or (
            f"unknown L4T release `{value}`",
            f"nearest: {', '.join(_nearest(value, releases))}",
        )
    if axis == "distribution" and value not in (names := [row.name for row in distributions()]):
        return f"unknown distribution `{value}`", f"known: {', '.join(names)}"
    ubuntu = [row.release for row in distributions() if row.name.startswith("ubuntu-")]
    if axis == "ubuntu" and value not in ubuntu:
        return f"unknown Ubuntu release `{value}`", suggest(value, ubuntu, noun="known")
    if axis == "sm":
        return _sm_mistake(value)
    if axis in _FORMATS and not re.fullmatch(_FORMATS[axis], value):
        example = "3.11" if axis == "python" else "12.6"
        return f"`{value}` is not a {axis} version", f"write major and minor, such as {example}"
    return None


def _sm_mistake(value: str) -> tuple[str, str] | None:
    """Return the problem and its hint of a value of `sm`: one or more compute capabilities, ascending."""
    known = known_sms()
    if not re.fullmatch(SMS, value):
        digits = re.fullmatch(r"(?:sm)?_?([0-9]{1,2})([0-9])[af]?", value, re.IGNORECASE)
        example = f"{digits[1]}.{digits[2]}" if digits else "8.7, or 8.7+11.0 for images that serve both"
        return f"`{value}` is not a compute capability", f"write {example}"
    names = value.split("+")
    if unknown := [name for name in names if name not in known]:
        return f"no platform has a GPU with SM {', '.join(unknown)}", f"known: {', '.join(known)}"
    ascending = [name for name in known if name in names]
    return None if names == ascending else (f"`{value}` is not in order", f"write {'+'.join(ascending)}")


@cache
def known_sms() -> tuple[str, ...]:
    """Return the compute capabilities of all platforms, ascending."""
    sms = {sm for row in platforms() for sm in row.sms} | {sm for row in gpu_platforms() for sm in row.sms}
    return tuple(sorted(sms, key=version_numbers))


def release_mistake(value: str) -> tuple[str, str] | None:
    """Return the problem and its hint if a value is another name of L4T releases: JetPack's, one with `r`, a series."""
    match = _RELEASE_NAME.fullmatch(value.strip())
    if not match:
        return None
    numbers = f"{match['major']}.{match['rest']}" if match["rest"] else match["number"]
    is_jetpack = bool(match["jetpack"])
    exact = [row.l4t for row in platforms() if row.l4t == numbers and not is_jetpack]
    if exact:
        return f"unknown L4T release `{value}`: it is written {numbers} here", _instead(exact)
    jetpack = numbers + " DP" * bool(match["preview"])
    # JetPack's releases have no third number where it is 0.
    names = {jetpack, numbers.removesuffix(".0") if numbers.count(".") > 1 else jetpack}
    is_l4t = match["l4t"] or match["rest"]
    rows = [] if is_l4t else [row for row in platforms() if row.jetpack in names]
    if rows:
        releases = [row.l4t for row in rows]
        return f"unknown L4T release `{value}`: JetPack {rows[0].jetpack} is L4T {_either(releases)}", _instead(
            releases
        )
    series = [row.l4t for row in platforms() if row.l4t.startswith(f"{numbers}.") and not is_jetpack]
    if series:
        return f"unknown L4T release `{value}`: L4T {numbers} has the releases {', '.join(series)}", _instead(series)
    known = [row for row in platforms() if not is_l4t and (row.jetpack or "").startswith(f"{numbers}.")]
    if not known and not is_jetpack:
        return None
    pairs = ", ".join(f"{row.jetpack} (L4T {row.l4t})" for row in known or platforms() if row.jetpack)
    problem = f"JetPack {numbers} has several releases" if known else f"JetPack {jetpack} is unknown"
    return f"unknown L4T release `{value}`: {problem}", f"write the L4T release of one of them: {pairs}"


def _either(names: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _instead(releases: list[str]) -> str:
    return "write " + _either([f'"{release}"' for release in releases])


@lru_cache(maxsize=4096)
def _find(architecture: Architecture, axes: _Axes) -> Platform | str:
    """Return a platform, or the reason why there is none; both are cached."""
    if mistake := check_axes(name for name in ("l4t", "distribution", "sm") if getattr(axes, name)):
        raise RecipeError(mistake[0], hint=mistake[1])
    if axes.sm and not axes.l4t:
        return _gpu_machine(axes.sm, architecture, axes)
    if axes.l4t:
        return _jetson(next(row for row in platforms() if row.l4t == axes.l4t), architecture, axes)
    row = next(row for row in distributions() if row.name == axes.distribution)
    if axes.cuda:
        return f"{row.name} is a platform without a GPU and has no CUDA {axes.cuda}"
    if axes.ubuntu and row.name != f"ubuntu-{axes.ubuntu}":
        return f"{row.name} is not Ubuntu {axes.ubuntu}"
    if axes.python and axes.python not in (row.python, *row.standalone):
        return f"{row.name} has Python {', '.join((row.python, *row.standalone))}, not {axes.python}"
    return _platform(row, axes.python, name=row.name, architecture=architecture, base=row.image, source=row.source)


def _jetson(row: L4tRelease, architecture: Architecture, axes: _Axes) -> Platform | str:
    if architecture != "arm64":
        return f"L4T {row.l4t} runs on arm64 only, not on {architecture}"
    base = _narrow(row, axes)
    if isinstance(base, str):
        return base
    sms = _sms(row.sms, axes.sm)
    if not sms:
        return f"L4T {row.l4t} has no GPU with SM {axes.sm} (it has {', '.join(row.sms)})"
    is_default = base.distribution.name == row.distribution
    platform = _platform(
        base.distribution,
        axes.python,
        name=f"l4t-{row.l4t}" if is_default else f"l4t-{row.l4t}-{base.distribution.name}",
        architecture=architecture,
        base=base.image,
        source=row.source,
    )
    return replace(platform, l4t=row.l4t, jetpack=row.jetpack, cuda=axes.cuda or base.cuda[0], sms=sms)


def _gpu_machine(sm: str, architecture: Architecture, axes: _Axes) -> Platform | str:
    """Return the platform of machines whose GPUs have their own memory; by default the newest CUDA that serves them."""
    rows = [row for row in gpu_platforms() if row.architecture == architecture]
    if not rows:
        return f"no platform for GPUs with SM {sm} on {architecture} is known without `l4t`; a machine on amd64 has one"
    rows = [row for row in rows if axes.cuda in (None, row.cuda)]
    if not rows:
        versions = ", ".join(row.cuda for row in gpu_platforms() if row.architecture == architecture)
        return f"CUDA {axes.cuda} is not known for machines on {architecture} (known: {versions})"
    serving = [row for row in rows if _sms(row.sms, sm)]
    if not serving:
        return f"CUDA {rows[-1].cuda} serves no GPU with SM {sm} (it serves {', '.join(rows[-1].sms)})"
    row = serving[-1]
    base = next(distribution for distribution in distributions() if distribution.name == row.distribution)
    if axes.ubuntu not in (None, base.release):
        return f"CUDA {row.cuda} has no image on Ubuntu {axes.ubuntu} (known: {base.release})"
    if axes.python not in (None, base.python, *base.standalone):
        return f"{base.name} has Python {', '.join((base.python, *base.standalone))}, not {axes.python}"
    name = f"gpu-cuda-{row.cuda}"
    platform = _platform(base, axes.python, name=name, architecture=architecture, base=base.image, source=row.source)
    return replace(platform, cuda=row.cuda, sms=_sms(row.sms, sm))


def _sms(sms: tuple[str, ...], axis: str | None) -> tuple[str, ...]:
    """Return those of a platform's compute capabilities that a value of the axis names, empty if it lacks one."""
    names = axis.split("+") if axis else sms
    return tuple(names) if set(names) <= set(sms) else ()


def _narrow(row: L4tRelease, axes: _Axes) -> _Base | str:
    """Return the first base of a release that has all the axis values, or why none has.

    A Python of python-build-standalone is used only if the recipe names the base: without a name, another base may
    package that Python.
    """
    bases = _bases(row)
    on = [base for base in bases if axes.ubuntu in (None, base.distribution.release)]
    if not on:
        releases = ", ".join(base.distribution.release for base in bases)
        return f"L4T {row.l4t} has no image on Ubuntu {axes.ubuntu} (known: {releases})"
    with_python = [base for base in on if axes.python in (None, base.distribution.python)]
    with_python += [base for base in on if axes.ubuntu and axes.python in base.distribution.standalone]
    if not with_python:
        pythons = ", ".join(
            f"{python} on Ubuntu {base.distribution.release}"
            for base in on
            for python in (base.distribution.python, *(base.distribution.standalone if axes.ubuntu else ()))
        )
        return f"L4T {row.l4t} has no Python {axes.python} (it has {pythons})"
    with_cuda = [base for base in with_python if axes.cuda is None or axes.cuda in base.cuda]
    if not with_cuda:
        return _no_cuda(row, axes, with_python, on)
    return with_cuda[0]


def _no_cuda(row: L4tRelease, axes: _Axes, with_python: list[_Base], on: list[_Base]) -> str:
    options = "; ".join(f"{', '.join(base.cuda)} on Ubuntu {base.distribution.release}" for base in with_python)
    releases = [base.distribution.release for base in on if axes.cuda in base.cuda]
    if not releases:
        return f"CUDA {axes.cuda} is not published for L4T {row.l4t} (known: {options})"
    message = (
        f"CUDA {axes.cuda} for L4T {row.l4t} needs Ubuntu {releases[0]}, which does not package Python {axes.python} "
        f"(that Python has CUDA {options})"
    )
    fetched = [base for base in on if axes.cuda in base.cuda and axes.python in base.distribution.standalone]
    return f'{message}; add the axis `ubuntu = ["{releases[0]}"]` to download that Python' if fetched else message


def _bases(row: L4tRelease) -> list[_Base]:
    """Return the bases of a release, with its own distribution and its own CUDA first."""
    named = {distribution.name: distribution for distribution in distributions()}
    cuda = (row.cuda, *(version for version in row.cuda_published if version != row.cuda))
    default = _Base(distribution=named[row.distribution], image=row.base, cuda=cuda)
    alternatives = [
        _Base(distribution=named[entry.distribution], image=named[entry.distribution].image, cuda=entry.cuda_published)
        for entry in row.also_on
    ]
    return [default, *alternatives]


def _platform(
    row: Distribution, python: str | None, *, name: str, architecture: Architecture, base: str, source: str
) -> Platform:
    """Return a platform with `python` from python-build-standalone, unless that is the distribution's own."""
    python = python or row.python
    is_own = python == row.python
    return Platform(
        name=name,
        architecture=architecture,
        distribution=row.name,
        release=row.release,
        python=python,
        glibc=row.glibc,
        glibcxx=row.glibcxx,
        base=base,
        python_packages=row.python_packages if is_own else (),
        standalone=None if is_own else standalone(python).release,
        source=source,
    )


def _nearest(value: str, values: list[str]) -> list[str]:
    target = version_numbers(value)

    def distances(name: str) -> list[int]:
        return [abs(one - other) for one, other in zip(version_numbers(name), target, strict=True)]

    return sorted(values, key=distances)[:_NEAREST]
