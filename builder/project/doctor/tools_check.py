"""Checks the programs that jbuild runs: uv, and cosign if images are signed."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.version import Version

from builder.errors import JbuildError
from builder.host.process import find_program, run
from builder.project.doctor.check_table import ok, problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.project.doctor.check_records import Check, DoctorContext

_ANSWER_S = 20
# Used in a checkout that is not installed, without package metadata.
_LEAST_UV = "0.8"


def check(case: DoctorContext) -> Iterator[Check]:
    """Check uv, and cosign if the configuration has keys."""
    yield _uv()
    if case.session.config.cosign_key or case.session.config.trusted_keys:
        path = find_program("cosign")
        yield ok("cosign", path) if path else problem("cosign", "missing", "not installed")


def _uv() -> Check:
    from builder.lock.solve import uv  # noqa: PLC0415  # slow to import

    least = _least()
    try:
        output = run([uv(), "--version"], timeout_s=_ANSWER_S).stdout.strip()
    except (JbuildError, FileNotFoundError) as error:
        return problem("uv", "missing", str(error), least=least)
    version = re.search(r"\d+(\.\d+)+", output)
    if version is None or Version(version[0]) < Version(least):
        return problem("uv", "old", f"{output}; {least} or newer is needed", least=least)
    return ok("uv", output)


def _least() -> str:
    try:
        requirements = [Requirement(text) for text in requires("jbuild") or ()]
    except PackageNotFoundError:
        return _LEAST_UV
    return next(
        (specifier.version for item in requirements if item.name == "uv" for specifier in item.specifier), _LEAST_UV
    )
