"""Programs that jbuild runs: uv, and cosign where something is signed."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.version import Version

from builder.errors import JbuildError
from builder.host.process import find_program, run
from builder.project.doctor.check_table import fine, trouble

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.project.doctor.check_records import Check, DoctorContext

_ANSWER_S = 20
# Where jbuild runs from a checkout without being installed, nothing tells it.
_LEAST_UV = "0.8"


def check(case: DoctorContext) -> Iterator[Check]:
    """Look at uv, and at cosign if the configuration has keys."""
    yield _uv()
    if case.session.config.cosign_key or case.session.config.trusted_keys:
        found = find_program("cosign")
        yield fine("cosign", found) if found else trouble("cosign", "missing", "not installed")


def _uv() -> Check:
    from builder.lock.solve import uv  # noqa: PLC0415  # slow to import

    least = _least()
    try:
        said = run([uv(), "--version"], timeout_s=_ANSWER_S).stdout.strip()
    except (JbuildError, FileNotFoundError) as error:
        return trouble("uv", "missing", str(error), least=least)
    version = re.search(r"\d+(\.\d+)+", said)
    if version is None or Version(version[0]) < Version(least):
        return trouble("uv", "old", f"{said}; {least} or newer is needed", least=least)
    return fine("uv", said)


def _least() -> str:
    try:
        wanted = [Requirement(text) for text in requires("jbuild") or ()]
    except PackageNotFoundError:
        return _LEAST_UV
    return next((each.version for item in wanted if item.name == "uv" for each in item.specifier), _LEAST_UV)
