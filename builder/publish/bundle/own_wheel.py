"""The wheel of the running jbuild, made from its files: a checkout that is installed editable has no wheel."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import UsageError
from builder.host.paths import shipped

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = "jbuild"
_SHIPPED = ("recipes", "schemas", "dockerfiles")
_WHEEL = "Wheel-Version: 1.0\nGenerator: jbuild\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_ENTRY_POINTS = "[console_scripts]\njbuild = builder.cli.main:main\n"
_LEFT_OUT = ("__pycache__", "share")
# The first moment that zip archives can hold.
_TIME = (1980, 1, 1, 0, 0, 0)
_MODE = 0o644 << 16


def installed_jbuild() -> Distribution:
    """Return the metadata of the running jbuild.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return distribution(_NAME)
    except PackageNotFoundError as error:
        hint = "install it, for example with `uv pip install -e .` in the checkout"
        raise UsageError("--with-jbuild: the running jbuild is not installed", hint=hint) from error


def own_wheel() -> tuple[str, bytes]:
    """Return the file name and the bytes of the running jbuild's wheel: the same for the same files.

    Raises:
        UsageError: it is not installed.
    """
    own = installed_jbuild()
    info = f"{_NAME}-{own.version}.dist-info"
    files = dict(sorted(_package_files()))
    files[f"{info}/METADATA"] = (own.read_text("METADATA") or "").encode()
    files[f"{info}/WHEEL"] = _WHEEL.encode()
    files[f"{info}/entry_points.txt"] = _ENTRY_POINTS.encode()
    rows = [f"{name},sha256={_encoded(content)},{len(content)}" for name, content in files.items()]
    files[f"{info}/RECORD"] = "".join(f"{row}\n" for row in (*rows, f"{info}/RECORD,,")).encode()
    return f"{_NAME}-{own.version}-py3-none-any.whl", _zipped(files)


def _package_files() -> Iterator[tuple[str, bytes]]:
    package = Path(__file__).parents[2]
    for path in package.rglob("*"):
        inside = path.relative_to(package)
        if path.is_file() and not any(part in _LEFT_OUT for part in inside.parts):
            yield f"{package.name}/{inside.as_posix()}", path.read_bytes()
    for name in _SHIPPED:
        folder = shipped(name)
        for path in folder.rglob("*"):
            if path.is_file():
                yield f"{package.name}/share/{name}/{path.relative_to(folder).as_posix()}", path.read_bytes()


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _zipped(files: dict[str, bytes]) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = _MODE
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return output.getvalue()
