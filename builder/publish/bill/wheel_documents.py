"""The documents of a wheel that describe its contents: METADATA, bills of materials, and distributions inside it."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from builder.image.wheels.licences import metadata
from builder.publish.bill.installed_packages import python_distributions
from builder.publish.bill.layer_texts import head_of
from builder.remote.index.remote_wheel import FLAWS, LONGEST_METADATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from builder.host.paths import Workspace
    from builder.model.wheels import LockedWheel
    from builder.publish.bill.installed_packages import PythonDistribution

LARGEST_BILL = 16 << 20
MOST_BILLS = 64
_BILL = re.compile(r"[^/]+\.dist-info/sboms/(?P<name>.*[^/])")
_INNER = re.compile(r"[^/]+/(?:.*/)?[^/]+\.(?:dist-info/METADATA|egg-info/PKG-INFO|egg-info)")
_INSTALLED = re.compile(r"(?P<packages>(?:.*/)?(?:site|dist)-packages/)(?P<info>[^/]+\.dist-info)/METADATA")


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelDocuments:
    """METADATA, None if it could not be read; bills by file name; distributions inside the wheel; unread documents."""

    metadata: bytes | None
    bills: tuple[tuple[str, bytes], ...] = ()
    inside: tuple[PythonDistribution, ...] = ()
    flaws: tuple[str, ...] = ()


def wheel_documents(
    wheel: LockedWheel, workspace: Workspace, installed: Callable[[], Mapping[str, str]] = dict
) -> WheelDocuments:
    """Return the documents of a wheel in the wheelhouse, or else of the wheel that `installed` texts describe."""
    path = workspace.wheel(wheel.sha256, wheel.filename)
    if path.is_file():
        return _of_archive(wheel, workspace)
    return _of_image(wheel, metadata(wheel, workspace), installed())


def _of_archive(wheel: LockedWheel, workspace: Workspace) -> WheelDocuments:
    content = metadata(wheel, workspace)
    flaws: list[str] = []
    bills: list[tuple[str, bytes]] = []
    texts: dict[str, str] = {}
    try:
        with zipfile.ZipFile(workspace.wheel(wheel.sha256, wheel.filename)) as archive:
            for entry in archive.infolist():
                if match := _BILL.fullmatch(entry.filename):
                    bills += _read(archive, entry, match["name"], LARGEST_BILL, flaws)
                elif _INNER.fullmatch(entry.filename) and not _is_own(entry.filename):
                    read = _read(archive, entry, entry.filename, LONGEST_METADATA, flaws)
                    texts |= {name: head_of(text.decode()) for name, text in read}
    except (OSError, *FLAWS) as error:
        flaws.append(f"{wheel.filename} cannot be read: {error}")
    return _documents(content, bills, texts, flaws)


def _is_own(name: str) -> bool:
    return name.count("/") == 1 and name.endswith((".dist-info/METADATA", ".egg-info/PKG-INFO"))


def _read(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, most: int, flaws: list[str]
) -> Iterator[tuple[str, bytes]]:
    if entry.file_size > most:
        flaws.append(_too_large(name, most))
        return
    try:
        with archive.open(entry) as file:
            # As the texts of layers, so that both give the same bill.
            yield name, file.read(most).decode("utf-8", "replace").encode()
    except (OSError, *FLAWS) as error:
        flaws.append(f"{name} cannot be read: {error}")


def _too_large(name: str, most: int) -> str:
    return f"{name} is larger than {most >> 20} MiB"


def _of_image(wheel: LockedWheel, content: bytes | None, texts: Mapping[str, str]) -> WheelDocuments:
    info = _info_folder(wheel, texts)
    if info is None:
        return WheelDocuments(metadata=content)
    packages, folder = info
    flaws: list[str] = []
    bills: list[tuple[str, bytes]] = []
    for path, text in texts.items():
        name = path.removeprefix(f"{packages}{folder}/sboms/")
        if name != path and len(text) <= LARGEST_BILL:
            bills.append((name, text.encode()))
        elif name != path:
            flaws.append(_too_large(name, LARGEST_BILL))
    listed = (line.partition(",")[0].strip('"') for line in texts.get(f"{packages}{folder}/RECORD", "").splitlines())
    inner = {path: texts[packages + path] for path in listed if packages + path in texts and not _is_own(path)}
    return _documents(content or texts[f"{packages}{folder}/METADATA"].encode(), bills, inner, flaws)


def _info_folder(wheel: LockedWheel, texts: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the folder of packages and the dist-info folder of an installed wheel."""
    for path in texts:
        if match := _INSTALLED.fullmatch(path):
            name, _, version = match["info"].removesuffix(".dist-info").partition("-")
            if canonicalize_name(name) == wheel.name and version == wheel.filename.split("-")[1]:
                return match["packages"], match["info"]
    return None


def _documents(
    content: bytes | None, bills: list[tuple[str, bytes]], texts: Mapping[str, str], flaws: list[str]
) -> WheelDocuments:
    # A damaged archive can have two files of one name.
    named = sorted(dict(bills).items())
    if len(named) > MOST_BILLS:
        flaws.append(f"it has {len(named)} bills of materials; only {MOST_BILLS} are read")
    return WheelDocuments(
        metadata=content,
        bills=tuple(named[:MOST_BILLS]),
        inside=tuple(python_distributions(texts)),
        flaws=tuple(flaws),
    )
