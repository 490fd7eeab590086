"""The packages of an image, read from its layers, where they are: in the cache's layout, else in a registry."""

from __future__ import annotations

import posixpath
import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.parser import HeaderParser
from typing import IO, TYPE_CHECKING

from packaging.utils import canonicalize_name

from builder.audit.base_image import streamed
from builder.audit.byte_source import MalformedError
from builder.errors import IntegrityError
from builder.image.build.system_pins import pinned, pinned_base
from builder.image.layers.layer_blobs import LayerBlobs
from builder.image.oci.layout import find_corruption, is_present, open_blob
from builder.publish.bill.debian_packages import installed
from builder.publish.bill.layer_texts import layer_texts
from builder.remote.registry.base_lookup import connect_to
from builder.remote.registry.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from builder.host.session import Session
    from builder.model.images import Descriptor, Image, Plan
    from builder.model.locks import Job, Lock
    from builder.publish.bill.debian_packages import DebianPackage
    from builder.publish.bill.layer_texts import LayerTexts

_DATABASE = re.compile(r"var/lib/dpkg/status(\.d/.+)?")
_METADATA = re.compile(r"(?:.*/)?[^/]+\.(?:dist-info/METADATA|egg-info/PKG-INFO|egg-info)")
_INTERPRETER = "interpreter-"
_MOST_LINKS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonDistribution:
    """A Python distribution in the image's file system; `path` is that of its metadata, without leading slash."""

    name: str
    version: str
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class InstalledPackages:
    """The packages in an image's layers, without those of the wheels that jbuild put there.

    `system` and `release` are ID and VERSION_ID of its os-release, empty if it has none. `layers` are the digests of
    the layers that brought the packages, `licences` the texts of copyright files by the package's name. `unread` are
    the paths that could not be read.
    """

    system: str = ""
    release: str = ""
    packages: tuple[DebianPackage, ...] = ()
    layers: Mapping[DebianPackage, str] = field(default_factory=dict)
    licences: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    python: tuple[PythonDistribution, ...] = ()
    unread: tuple[str, ...] = ()


def system_contents(job: Job, lock: Lock, plan: Plan, image: Image, session: Session) -> InstalledPackages:
    """Return the contents of an image's base, its system layer and its own interpreter.

    Raises:
        JbuildError: a layer is missing, or cannot be read.
    """
    read = _LayerReader(job, lock, plan, session)
    return contents_of([(layer.digest, read.texts(layer)) for layer in _foreign_layers(plan, image)])


def wheel_texts(job: Job, lock: Lock, plan: Plan, image: Image, session: Session) -> dict[str, str]:
    """Return the texts of the layers with wheels, as far as they can be read: METADATA and bills, by path."""
    read = _LayerReader(job, lock, plan, session)
    below = len(image.layers) - len(plan.layers) if plan.system is not None else 0
    texts, missing = [], read.blobs.missing(image)
    for layer in image.layers[max(below, 0) :]:
        # A wheel without METADATA is named in the bill's flaws.
        with suppress(IntegrityError, OSError):
            texts += [read.texts(layer)] if layer.digest not in missing else []
    return merged(texts)


def _foreign_layers(plan: Plan, image: Image) -> Sequence[Descriptor]:
    """Return the layers with files that jbuild has not put there: all but those of wheels, models and scripts."""
    below = len(image.layers) - len(plan.layers)
    if plan.system is None or below < 0:
        return image.layers
    own = zip(plan.layers, image.layers[below:], strict=True)
    return [*image.layers[:below], *(layer for name, layer in own if name.startswith(_INTERPRETER))]


class _LayerReader:
    """Reads the layers of a cell's image."""

    def __init__(self, job: Job, lock: Lock, plan: Plan, session: Session) -> None:
        self._job, self._lock, self._session = job, lock, session
        self.blobs = LayerBlobs(job=job, lock=lock, plan=plan, session=session)

    def texts(self, layer: Descriptor) -> LayerTexts:
        try:
            return layer_texts(layer, lambda: self._opened(layer), self._session.workspace)
        except MalformedError as error:
            raise IntegrityError(
                f"the packages in layer {layer.digest} cannot be listed: {error.message}",
                where=self._job.name,
                hint="build the cell again with --force",
            ) from error

    @contextmanager
    def _opened(self, layer: Descriptor) -> Iterator[IO[bytes]]:
        layout = self._session.workspace.images
        self.blobs.make([layer.digest])
        if is_present(layout, layer):
            if corruption := find_corruption(layout, layer.digest):
                raise corruption
            with open_blob(layout, layer.digest) as file:
                yield file
            return
        with self._streamed(layer) as stream:
            yield stream

    @contextmanager
    def _streamed(self, layer: Descriptor) -> Iterator[IO[bytes]]:
        """Provide a layer of the base or of the pinned system layer from its registry."""
        session = self._session
        for reference in self._references():
            client = connect_to(reference, session.config)
            if client.has_blob(reference.repository, layer.digest):
                title = f"reading the packages of {reference.name}"
                with session.console.task(title), streamed(client, reference.repository, layer.digest) as stream:
                    yield stream
                return
        raise IntegrityError(
            f"layer {layer.digest} is neither in the cache nor in the registry of the base image",
            where=self._job.name,
            hint="build the cell again with --force",
        )

    def _references(self) -> list[Reference]:
        layer = pinned(self._job, self._lock, self._session)
        names = [pinned_base(self._lock), *([layer.reference(self._session.config)] if layer else [])]
        return [Reference.parse(name) for name in names]


def contents_of(layers: Sequence[tuple[str, LayerTexts]]) -> InstalledPackages:
    """Return the contents of layers, the lowest first, each with its digest."""
    first: dict[tuple[str, str, str], str] = {}
    for digest, layer in layers:
        for package in _packages(layer.texts):
            first.setdefault(package.key, digest)
    texts, links = merged(layer for _, layer in layers), {}
    for _, layer in layers:
        links.update(layer.links)
    packages = tuple(sorted(_packages(texts), key=lambda package: package.key))
    system, release = _release(texts)
    return InstalledPackages(
        system=system,
        release=release,
        packages=packages,
        layers={package: first[package.key] for package in packages},
        licences={package.name: _licences(package.name, texts, links) for package in packages},
        python=tuple(python_distributions(texts)),
        unread=tuple(sorted({path for _, layer in layers for path in layer.unread})),
    )


def merged(layers: Iterable[LayerTexts]) -> dict[str, str]:
    """Return the texts that are left when layers are put on each other, the lowest first."""
    texts: dict[str, str] = {}
    for layer in layers:
        removed = {path for path in layer.removed if not path.endswith("/")}
        emptied = {path.rstrip("/") for path in layer.removed if path.endswith("/")}
        if removed or emptied:
            texts = {
                path: text for path, text in texts.items() if path not in removed and _stays(path, removed | emptied)
            }
        texts |= layer.texts
    return texts


def _stays(path: str, folders: set[str]) -> bool:
    while path:
        path = path.rpartition("/")[0]
        if path in folders:
            return False
    return True


def _packages(texts: Mapping[str, str]) -> Iterable[DebianPackage]:
    databases = [texts[path] for path in sorted(texts) if _DATABASE.fullmatch(path)]
    return {package.key: package for database in databases for package in installed(database)}.values()


def _release(texts: Mapping[str, str]) -> tuple[str, str]:
    text = texts.get("etc/os-release") or texts.get("usr/lib/os-release") or ""
    lines = dict(line.strip().partition("=")[::2] for line in text.splitlines())
    system, version, name = (lines.get(key, "").strip("\"' ") for key in ("ID", "VERSION_ID", "VERSION_CODENAME"))
    return system.lower(), version or name


def _licences(package: str, texts: Mapping[str, str], links: Mapping[str, str]) -> tuple[str, ...]:
    """Return the licences of a package's copyright file; packages of one source share a folder by links."""
    folder = f"usr/share/doc/{package}"
    for _ in range(_MOST_LINKS):
        text = texts.get(f"{folder}/copyright")
        if text is not None or folder not in links:
            return tuple((text or "").splitlines())
        folder = posixpath.normpath(posixpath.join("/usr/share/doc", links[folder])).lstrip("/")
    return ()


def python_distributions(texts: Mapping[str, str]) -> Iterator[PythonDistribution]:
    """Yield the Python distributions among texts, by path; metadata without name or version is none."""
    for path in sorted(texts):
        if not _METADATA.fullmatch(path):
            continue
        headers = HeaderParser().parsestr(texts[path])
        name, version = (str(headers.get(key) or "").strip() for key in ("Name", "Version"))
        if name and version:
            yield PythonDistribution(name=str(canonicalize_name(name)), version=version, path=path)
