"""The facts of a base image, read once by digest: libraries and their symbols, search paths, packages."""

from __future__ import annotations

import base64
import gzip
import os
import re
import shutil
import tarfile
import threading
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from builder.audit import elf
from builder.audit.byte_source import File, MalformedError, Plain
from builder.audit.gather_facts import read_facts, write_facts
from builder.audit.wheel_facts import READER, compact
from builder.errors import JbuildError, RegistryError
from builder.host.files import mark_used, work_folder
from builder.host.json_documents import decode_json
from builder.model.audits import BaseFacts
from builder.remote.registry.base_lookup import base_registry, connect_in, image_manifest
from builder.remote.registry.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.audit.byte_source import ByteSource
    from builder.host.session import Session
    from builder.model.audits import Binary
    from builder.remote.registry.registry_client import RegistryClient

_LIBRARY = re.compile(r"(usr/|opt/|lib/|lib64/)(.*/)?[^/]+\.so(\.[^/]*)?")
_PYTHON = re.compile(r"usr/(local/)?bin/python3(\.[0-9]+)?")
_APT = re.compile(r"etc/apt/(sources\.list|trusted\.gpg)(\.d/[^/]+)?|(etc/apt|usr/share)/keyrings/[^/]+")
_TEXT = re.compile(
    rf"etc/ld\.so\.conf(\.d/[^/]+\.conf)?|var/lib/dpkg/status(\.d/[^/]+)?|(etc|usr/lib)/os-release|{_APT.pattern}"
)
_LINK = re.compile(r"(lib|lib64|usr|opt|etc/alternatives|etc/apt|bin)(/.*)?")
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_IN_MEMORY = 16 << 20
_LARGEST_LIBRARY = 4 << 30
_LARGEST_TEXT = 32 << 20
_MOST_LAYERS = 512
# ldconfig's own folders, besides those of ld.so.conf.
_TRUSTED = ("/lib", "/usr/lib", "/lib64", "/usr/lib64")
_FLAWS = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError)


@dataclass(slots=True)
class _Tree:
    """The files of the layers read so far, by path without leading slash."""

    binaries: dict[str, Binary] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)

    def remove(self, path: str, *, below_only: bool = False) -> None:
        for files in (self.binaries, self.links, self.texts):
            for removed in [p for p in files if p.startswith(f"{path}/") or (p == path and not below_only)]:
                del files[removed]


def read_base(used: str, digest: str, architecture: str, session: Session) -> BaseFacts:
    """Return the facts of a base image: from the cache, else read from its registry.

    Raises:
        NetworkError, RegistryError, IntegrityError: the image cannot be read.
        DiskError: its facts cannot be stored.
    """
    name = digest.removeprefix("sha256:")
    cached = session.workspace.facts / name[:2] / f"{name}-{architecture}-{READER}"
    mark_used(cached)
    facts = read_facts(cached, BaseFacts)
    if facts is None:
        with base_registry(used):
            facts = _read(Reference.parse(used), digest, architecture, session)
        write_facts(cached, facts)
    return facts


def _read(reference: Reference, digest: str, architecture: str, session: Session) -> BaseFacts:
    client = connect_in(session, reference)
    try:
        manifest = decode_json(image_manifest(client, reference.at(digest), architecture))
        config = _blob(client, reference.repository, manifest["config"])
        layers = [(layer["mediaType"], layer["digest"], int(layer["size"])) for layer in manifest["layers"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistryError("the base image's manifest is malformed", where=str(reference)) from error
    tree = _Tree()
    title = f"reading the libraries of {reference.name}"
    with session.console.task(title, sum(layer[2] for layer in layers)) as task:
        for media_type, blob, size in layers[:_MOST_LAYERS]:
            with streamed(client, reference.repository, blob) as stream:
                _read_layer(stream, media_type, tree, task.advance)
            task.advance(size)
    return _facts(tree, config)


def _blob(client: RegistryClient, repository: str, descriptor: dict[str, Any]) -> dict[str, Any]:
    if int(descriptor["size"]) > _LARGEST_TEXT:
        raise ValueError("not a configuration")
    return dict(decode_json(client.read_blob(repository, descriptor["digest"])))


def _read_layer(stream: IO[bytes], media_type: str, tree: _Tree, advance: Callable[[float], object]) -> None:
    # A layer removes files of the layers below, whatever the order of its entries.
    new = _Tree()
    for entry, opened in members(stream, media_type):
        advance(0)
        path = str(PurePosixPath("/", entry.name)).lstrip("/")
        folder, _, name = path.rpartition("/")
        if name == _OPAQUE:
            tree.remove(folder, below_only=True)
        elif name.startswith(_WHITEOUT):
            tree.remove(f"{folder}/{name[len(_WHITEOUT) :]}".lstrip("/"))
        else:
            if not entry.isdir():
                tree.remove(path)
            _take(entry, path, opened, new, tree)
    for kind in ("binaries", "links", "texts"):
        getattr(tree, kind).update(getattr(new, kind))


def _take(entry: tarfile.TarInfo, path: str, opened: Callable[[], IO[bytes] | None], new: _Tree, below: _Tree) -> None:
    if entry.issym():
        if _LINK.fullmatch(path):
            new.links[path] = entry.linkname
    elif entry.islnk():
        target = str(PurePosixPath("/", entry.linkname)).lstrip("/")
        if binary := new.binaries.get(target) or below.binaries.get(target):
            new.binaries[path] = replace(binary, path=f"/{path}")
        elif text := new.texts.get(target) or below.texts.get(target):
            new.texts[path] = text
    elif entry.isfile() and (_LIBRARY.fullmatch(path) or _PYTHON.fullmatch(path)):
        if binary := _binary(entry, path, opened):
            new.binaries[path] = binary
    elif entry.isfile() and _TEXT.fullmatch(path) and entry.size <= _LARGEST_TEXT:
        file = opened()
        new.texts[path] = file.read() if file else b""


def _binary(entry: tarfile.TarInfo, path: str, opened: Callable[[], IO[bytes] | None]) -> Binary | None:
    """Read a library of a layer; skip other files, such as linker scripts, as the loader does."""
    file = opened()
    if file is None or not elf.HEADER_SIZE <= entry.size <= _LARGEST_LIBRARY:
        return None
    head = file.read(4)
    if head != elf.MAGIC:
        return None
    try:
        source = Plain(head + file.read()) if entry.size <= _IN_MEMORY else _spooled(head, file)
        return compact(f"/{path}", elf.read_source(source))
    except MalformedError:
        return None


def _spooled(head: bytes, file: IO[bytes]) -> ByteSource:
    with work_folder("jbuild-audit") as folder:
        path = folder / "library"
        with path.open("wb") as temporary:
            temporary.write(head)
            shutil.copyfileobj(file, temporary)
        # The file stays readable through what is open when its name goes.
        return File(path)


def _facts(tree: _Tree, config: dict[str, Any]) -> BaseFacts:
    environment = dict(text.partition("=")[::2] for text in (config.get("config") or {}).get("Env") or ())
    library_path = environment.get("LD_LIBRARY_PATH", "")
    texts = {path: text.decode("utf-8", "replace") for path, text in tree.texts.items() if not _APT.fullmatch(path)}
    status = "\n\n".join(text for path, text in sorted(texts.items()) if path.startswith("var/lib/dpkg/"))
    return BaseFacts(
        binaries=tuple(sorted(tree.binaries.values(), key=lambda b: b.path)),
        links=tuple(sorted((f"/{path}", target) for path, target in tree.links.items())),
        folders=tuple(dict.fromkeys([*_configured(texts, "etc/ld.so.conf"), *_TRUSTED])),
        library_path=tuple(folder for folder in library_path.split(":") if folder.startswith("/")),
        packages=_packages(status),
        distribution=_distribution(texts),
        apt=tuple(_apt_files(tree)),
    )


def _apt_files(tree: _Tree) -> Iterator[tuple[str, str]]:
    """Yield apt's sources and keys; a link to a key becomes a copy of it."""
    for path in sorted({*tree.texts, *tree.links}):
        target = tree.links.get(path)
        actual = os.path.normpath(str(PurePosixPath("/", path).parent / target)).lstrip("/") if target else path
        if _APT.fullmatch(path) and actual in tree.texts:
            yield path, base64.b64encode(tree.texts[actual]).decode()


def _distribution(texts: dict[str, str]) -> tuple[str, ...]:
    """Return the distribution's name as in platforms, `debian-12`, if the image has os-release."""
    text = texts.get("etc/os-release") or texts.get("usr/lib/os-release") or ""
    lines = dict(line.partition("=")[::2] for line in text.splitlines())
    name, version = (lines.get(key, "").strip("\"'") for key in ("ID", "VERSION_ID"))
    return (f"{name}-{version}",) if name and version else ()


def _configured(texts: dict[str, str], path: str, depth: int = 4) -> list[str]:
    """Return the folders of ld.so.conf, in order."""
    folders: list[str] = []
    for line in texts.get(path, "").splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("include ") and depth:
            pattern = PurePosixPath(text.split(None, 1)[1].lstrip("/"))
            for included in sorted(texts):
                if PurePosixPath(included).match(str(pattern)):
                    folders += _configured(texts, included, depth - 1)
        elif text.startswith("/"):
            folders.append(text.rstrip("/"))
    return folders


def _packages(status: str) -> tuple[str, ...]:
    """Return the names of the installed packages."""
    names = set()
    for paragraph in status.split("\n\n"):
        keys = dict(re.findall(r"(?m)^(Package|Status): (.*)", paragraph))
        if keys.get("Package") and keys.get("Status", " installed").endswith(" installed"):
            names.add(keys["Package"])
    return tuple(sorted(names))


@contextmanager
def streamed(client: RegistryClient, repository: str, digest: str) -> Iterator[IO[bytes]]:
    """Provide the bytes of a blob as a file that is read once, while they arrive.

    Raises:
        RegistryError, IntegrityError: the blob cannot be fetched or its digest differs; raised at the end of the block.
    """
    reading, writing = os.pipe()
    failures: list[BaseException] = []

    def fetch() -> None:
        try:
            with os.fdopen(writing, "wb", buffering=0) as target:
                client.get_blob(repository, digest, lambda block: _write_all(target, block))
        except BrokenPipeError:
            # The reader stopped, and raises its own error.
            return
        except JbuildError as error:
            failures.append(error)

    thread = threading.Thread(target=fetch, daemon=True)
    with os.fdopen(reading, "rb", buffering=1 << 20) as source:
        thread.start()
        try:
            yield source
            while source.read(1 << 20):
                pass
        except MalformedError:
            # A failed transfer that cut the blob off is not the image's fault.
            source.close()
            thread.join()
            if failures:
                raise failures[0] from None
            raise
    thread.join()
    if failures:
        raise failures[0]


def _write_all(target: Any, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[target.write(view) :]


def members(blob: IO[bytes], media_type: str) -> Iterator[tuple[tarfile.TarInfo, Callable[[], IO[bytes] | None]]]:
    """Yield the entries of a layer, each with a function that opens it before the next one is read.

    Raises:
        MalformedError: the layer cannot be read.
        RegistryError: its compression is not supported.
    """
    try:
        with tarfile.open(fileobj=_plain(blob, media_type), mode="r|") as archive:
            for entry in archive:
                yield entry, lambda entry=entry: archive.extractfile(entry)  # type: ignore[misc]
                # `tarfile` keeps all entries, and a base image can have 100,000.
                archive.members.clear()  # type: ignore[attr-defined]
    except _FLAWS as error:
        raise MalformedError(f"a layer of the base image cannot be read: {error}") from error


def _plain(blob: IO[bytes], media_type: str) -> IO[bytes]:
    if media_type.endswith(("gzip", "tar.gzip", "+gzip")):
        return gzip.GzipFile(fileobj=blob)  # type: ignore[return-value]
    if media_type.endswith("zstd"):
        import zstandard  # noqa: PLC0415  # few base images need it

        return zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(blob)
    if media_type.endswith("tar"):
        return blob
    raise RegistryError(
        f"layers of the type {media_type} cannot be read", hint="use a base image with gzip or zstd layers"
    )
