"""The texts of a layer that describe packages, read once by the layer's digest."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING

from builder.audit.base_image import members
from builder.host import records
from builder.host.files import mark_used

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from builder.host.paths import Workspace
    from builder.model.images import Descriptor

# Part of each record's name: raise it when the same layer gives other texts.
_FORMAT = "texts-1"
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_LARGEST_FILE = 32 << 20
# Bytes of texts that are kept of one layer.
_LARGEST_LAYER = 128 << 20
_METADATA = r"(.*/)?[^/]+\.(dist-info/METADATA|egg-info/PKG-INFO|egg-info)"
_DATABASE = r"var/lib/dpkg/status(\.d/[^/]+(?<!\.md5sums))?"
_COPYRIGHT = r"usr/share/doc/[^/]+/copyright"
# What stands at a path instead of a folder removes the folder of the layers below.
_FOLDER = re.compile(
    r"var(/lib(/dpkg(/status\.d)?)?)?|etc|usr(/lib|/share(/doc(/[^/]+)?)?)?|opt(/venv(/lib)?)?"
    r"|(.*/)?(python[^/]*|(site|dist)-packages|[^/]+\.(dist-info|egg-info)|sboms)"
)
_FIELDS = ("package", "status", "version", "architecture", "source", "depends", "pre-depends", "provides")
_LICENCE = re.compile(r"(?m)^License:[ \t]*(\S.*)$")
# Before the name of a licence's file: the text around it says which versions of the licence apply.
COMMON = "common:"
_COMMON_LICENCE = re.compile(r"/usr/share/common-licenses/([A-Za-z0-9.+-]*[A-Za-z0-9+])")


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerTexts:
    """The texts of a layer by path, without leading slash, each cut to the lines that matter.

    `removed` are the paths that it removes of the layers below; one with a slash at its end removes only what is below
    the folder. `links` are the symbolic links of documentation folders. `unread` are the paths of files that are too
    large.
    """

    texts: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def layer_texts(
    layer: Descriptor, opened: Callable[[], AbstractContextManager[IO[bytes]]], workspace: Workspace
) -> LayerTexts:
    """Return the texts of a layer: from the cache, else read from what `opened` provides.

    Raises:
        MalformedError, RegistryError: the layer cannot be read.
        DiskError: the texts cannot be stored.
    """
    path = _record_path(layer, workspace)
    mark_used(path)
    cached = records.read(path, layer.digest, LayerTexts)
    if cached is not None:
        return cached
    with opened() as stream:
        texts = read_texts(stream, layer.media_type)
    records.write(path, layer.digest, texts)
    return texts


def _record_path(layer: Descriptor, workspace: Workspace) -> Path:
    name = layer.digest.partition(":")[2]
    return workspace.facts / name[:2] / f"{name}-{_FORMAT}"


def read_texts(stream: IO[bytes], media_type: str) -> LayerTexts:
    """Read the texts of a layer from its blob, one file at a time.

    Raises:
        MalformedError, RegistryError: the layer cannot be read.
    """
    reader = _Reader()
    for entry, opened in members(stream, media_type):
        reader.take(entry, opened)
    return LayerTexts(
        texts=reader.texts, links=reader.links, removed=tuple(sorted(reader.removed)), unread=tuple(reader.unread)
    )


class _Reader:
    """Collects the texts of a layer."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.links: dict[str, str] = {}
        self.removed: set[str] = set()
        self.unread: list[str] = []
        self._size = 0

    def take(self, entry: tarfile.TarInfo, opened: Callable[[], IO[bytes] | None]) -> None:
        path = _plain(entry.name)
        folder, _, name = path.rpartition("/")
        if name == _OPAQUE:
            self.removed.add(f"{folder}/")
        elif name.startswith(_WHITEOUT):
            self.removed.add(f"{folder}/{name[len(_WHITEOUT) :]}".lstrip("/"))
        elif not entry.isdir():
            self._take_file(path, entry, opened)

    def _take_file(self, path: str, entry: tarfile.TarInfo, opened: Callable[[], IO[bytes] | None]) -> None:
        kind = _kind(path)
        if kind or _FOLDER.fullmatch(path):
            self.removed.add(path)
        if entry.issym():
            if re.fullmatch(r"usr/share/doc/[^/]+", path):
                self.links[path] = entry.linkname
        elif entry.islnk():
            target = _plain(entry.linkname)
            if kind and target in self.texts:
                self.texts[path] = self.texts[target]
        elif kind and entry.isfile():
            self._read(path, kind, entry.size, opened)

    def _read(self, path: str, reduce: Callable[[str], str], size: int, opened: Callable[[], IO[bytes] | None]) -> None:
        file = opened() if size <= _LARGEST_FILE else None
        text = reduce(file.read(_LARGEST_FILE).decode("utf-8", "replace")) if file else ""
        self._size += len(text)
        if file is None or self._size > _LARGEST_LAYER:
            self.unread.append(path)
        else:
            self.texts[path] = text


def _plain(name: str) -> str:
    path = str(PurePosixPath("/", name)).lstrip("/")
    # A record is UTF-8, which has no bytes of another encoding.
    return path.encode("utf-8", "replace").decode()


def _kind(path: str) -> Callable[[str], str] | None:
    """Return the function that cuts the text at a path to what matters, or None if the path does not matter."""
    for pattern, reduce in _KINDS:
        if pattern.fullmatch(path):
            return reduce
    return None


def head_of(text: str) -> str:
    """Return the fields of a METADATA file, without its description."""
    return re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]


def record_of_metadata(text: str) -> str:
    """Return the lines of a RECORD that name the metadata of other distributions inside the wheel."""
    return _lines(line for line in text.splitlines() if re.match(rf'"?{_METADATA}"?,', line))


def licences_of(text: str) -> str:
    """Return the licences that a copyright file names, one a line: its `License` fields, else common licences."""
    found = _LICENCE.findall(text) if re.match(r"\s*Format(-Specification)?:", text) else []
    common = (f"{COMMON}{name}" for name in _COMMON_LICENCE.findall(text))
    return _lines(sorted({name.strip() for name in found or common}))


def _dpkg_fields(text: str) -> str:
    """Return the fields of dpkg's paragraphs that matter, each on one line."""
    lines: list[str] = []
    wanted = False
    for line in text.splitlines():
        if line[:1] in (" ", "\t") and line.strip():
            if wanted:
                lines[-1] += f" {line.strip()}"
            continue
        wanted = line.partition(":")[0].lower() in _FIELDS
        if wanted or not line.strip():
            lines.append(line.strip())
    return "\n".join(lines)


def _whole(text: str) -> str:
    return text


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)


_KINDS: tuple[tuple[re.Pattern[str], Callable[[str], str]], ...] = (
    (re.compile(_DATABASE), _dpkg_fields),
    (re.compile(r"(etc|usr/lib)/os-release"), _whole),
    (re.compile(_COPYRIGHT), licences_of),
    (re.compile(_METADATA), head_of),
    (re.compile(r".*/[^/]+\.dist-info/RECORD"), record_of_metadata),
    (re.compile(r".*/[^/]+\.dist-info/sboms/.+"), _whole),
)
