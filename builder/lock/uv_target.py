"""uv's flags for a platform, and its compatible wheel tags, best first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.tags import Tag, compatible_tags, cpython_tags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.model.platforms import Platform

MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}
# PEP 600: the oldest glibc of each machine's wheels.
_OLDEST_GLIBC = {"arm64": 17, "amd64": 5}
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
# The glibc versions (2.x) that uv has a name for; newer ones use the nearest older name.
_UV_GLIBC = (17, 28, *range(31, 41))
# The values of environment markers on a Linux target.
_MARKERS = {"os_name": "posix", "sys_platform": "linux", "platform_system": "Linux", "implementation_name": "cpython"}


def machine(platform: Platform) -> str:
    """Return the machine's name in wheel tags (`aarch64`)."""
    return MACHINES[platform.architecture]


def uv_flags(platform: Platform) -> list[str]:
    """Return uv's flags to solve for the platform, wheels only."""
    libc = max(minor for minor in _UV_GLIBC if minor <= _glibc(platform))
    return [
        "--python-version",
        platform.python,
        "--python-platform",
        f"{machine(platform)}-manylinux_2_{libc}",
        "--only-binary",
        ":all:",
    ]


def tags(platform: Platform) -> list[Tag]:
    """Return the compatible wheel tags, best first, in pip's order."""
    python = tuple(int(number) for number in platform.python.split("."))
    abi = f"cp{platform.python.replace('.', '')}"
    names = list(_platform_tags(platform))
    return [*cpython_tags(python, [abi], names), *compatible_tags(python, abi, names)]


def _glibc(platform: Platform) -> int:
    return int(platform.glibc.split(".")[1])


def _platform_tags(platform: Platform) -> Iterator[str]:
    for minor in range(_glibc(platform), _OLDEST_GLIBC[platform.architecture] - 1, -1):
        yield f"manylinux_2_{minor}_{machine(platform)}"
        if minor in _LEGACY:
            yield f"{_LEGACY[minor]}_{machine(platform)}"
    yield f"linux_{machine(platform)}"


def markers(platform: Platform) -> dict[str, str]:
    """Return the values of environment markers on the platform."""
    return {
        **_MARKERS,
        "platform_machine": machine(platform),
        "platform_python_implementation": "CPython",
        "python_version": platform.python,
        "python_full_version": f"{platform.python}.0",
        "implementation_version": f"{platform.python}.0",
        "platform_release": "",
        "platform_version": "",
    }
