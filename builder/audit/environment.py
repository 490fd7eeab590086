"""The files of an image as the loader will find them: the base image's, those of apt's packages, the wheels'."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from builder.audit.rule_tables import KnownExports, tables
from builder.model.images import site_packages

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from builder.model.audits import BaseFacts, Binary, WheelFacts
    from builder.model.locks import LockedWheel
    from builder.model.platforms import Platform

MACHINES = {"arm64": 183, "amd64": 62}
_LIBRARY = re.compile(r"\.so(\.[0-9][^/]*)?$")
_MOST_LINKS = 40


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Node:
    """A file in the image; `wheel` is None in the base image. `path` is absolute, `shown` as people look for it."""

    path: str
    shown: str
    binary: Binary
    wheel: LockedWheel | None = None

    @property
    def folder(self) -> str:
        """The folder that it lies in, its $ORIGIN."""
        return posixpath.dirname(self.path)

    @property
    def name(self) -> str:
        """Its file name."""
        return posixpath.basename(self.path)

    @property
    def is_library(self) -> bool:
        """Whether the loader may be asked for it by name: a library or an extension module, not a program."""
        return self.binary.dynamic and _LIBRARY.search(self.name) is not None

    @property
    def is_module(self) -> bool:
        """Whether Python imports it, or loads it by its path: what is called `lib…` belongs to others."""
        return bool(self.binary.inits) or not self.name.startswith("lib")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class UnreadLibrary:
    """A library known by its name only. `why` says how it comes there; `assumed` if that is a guess."""

    name: str
    brought: KnownExports
    why: str
    injected: bool = False
    assumed: bool = False


@dataclass(frozen=True, kw_only=True)
class Environment:
    """All that one cell's image holds. `base` is None where it could not be read: then the platform's row stands in."""

    platform: Platform
    wheels: tuple[LockedWheel, ...]
    facts: Mapping[str, WheelFacts]
    base: BaseFacts | None
    apt: tuple[str, ...] = ()

    @property
    def site(self) -> str:
        """The folder of the environment's packages."""
        return site_packages(self.platform.python)

    @property
    def machine(self) -> int:
        """The machine's number in ELF files."""
        return MACHINES[self.platform.architecture]

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All ELF files of the wheels; where two wheels own one path, the last installed one has it."""
        found: dict[str, Node] = {}
        for wheel in self.wheels:
            for binary in self.facts[wheel.sha256].binaries:
                path = posixpath.normpath(f"{self.site}/{binary.path}")
                found[path] = Node(path=path, shown=binary.path, binary=binary, wheel=wheel)
        return tuple(found.values())

    @cached_property
    def base_nodes(self) -> tuple[Node, ...]:
        """All libraries of the base image."""
        binaries = self.base.binaries if self.base else ()
        return tuple(Node(path=binary.path, shown=binary.path, binary=binary) for binary in binaries)

    @cached_property
    def by_path(self) -> dict[str, Node]:
        """Every ELF file by its absolute path."""
        return {node.path: node for node in (*self.base_nodes, *self.nodes)}

    @cached_property
    def _links(self) -> dict[str, str]:
        return dict(self.base.links) if self.base else {}

    def find(self, path: str) -> Node | None:
        """Return what lies at a path, through the base image's links."""
        path = posixpath.normpath(path)
        found = self.by_path.get(path)
        return found or self.by_path.get(self._real(path))

    def _real(self, path: str) -> str:
        """Follow the links of a path as the kernel does."""
        rest, done, links = path.strip("/").split("/"), "", 0
        while rest:
            part = rest.pop(0)
            if part in ("", "."):
                continue
            if part == "..":
                done = posixpath.dirname(done)
                continue
            here = f"{done}/{part}"
            target = self._links.get(here)
            if target is None:
                done = here
                continue
            links += 1
            if links > _MOST_LINKS:
                return path
            rest = [*target.split("/"), *rest]
            done = "" if target.startswith("/") else done
        return done or "/"

    @cached_property
    def folders(self) -> tuple[str, ...]:
        """The folders of the loader's cache."""
        return self.base.folders if self.base else ()

    @cached_property
    def system(self) -> dict[str, Node]:
        """The loader's cache: libraries in its folders by file name and by the name that they give themselves."""
        found: dict[str, Node] = {}
        real = {self._real(folder): number for number, folder in reversed(list(enumerate(self.folders)))}
        inside = [(real[node.folder], node) for node in self.base_nodes if node.folder in real]
        for _, node in sorted(inside, key=lambda pair: pair[0]):
            if node.binary.soname:
                found.setdefault(node.binary.soname, node)
        for _, node in sorted(inside, key=lambda pair: pair[0]):
            found.setdefault(node.name, node)
        for path in self._links:
            folder, name = posixpath.split(path)
            target = self.find(path) if self._real(folder) in real else None
            if target:
                found.setdefault(name, target)
        return found

    @cached_property
    def opaque(self) -> dict[str, UnreadLibrary]:
        """Libraries known by name only."""
        found: dict[str, UnreadLibrary] = {}
        if self.base is None:
            why = f"{self.platform.distribution} has it"
            self._add(found, tables().essential, why, assumed=True)
        for package in self.installed:
            rows = [row for row in tables().packages if row.package == package]
            self._add(found, rows, f"apt package {package}")
        for row in tables().injected:
            for name in row.libraries:
                found.setdefault(name, UnreadLibrary(name=name, brought=row, why="the NVIDIA runtime", injected=True))
        return found

    def _add(
        self, found: dict[str, UnreadLibrary], rows: Iterable[KnownExports], why: str, *, assumed: bool = False
    ) -> None:
        for row in rows:
            if row.is_on(self.platform.distribution):
                for name in row.libraries:
                    found.setdefault(name, UnreadLibrary(name=name, brought=row, why=why, assumed=assumed))

    @cached_property
    def installed(self) -> tuple[str, ...]:
        """The packages that the image's system step installs: the recipe's and Python's."""
        names = (text.partition("=")[0].partition(":")[0] for text in (*self.apt, *self.platform.python_packages))
        return tuple(dict.fromkeys(names))

    @cached_property
    def unknown_packages(self) -> tuple[str, ...]:
        """Packages of the recipe that may bring libraries that nobody here knows of."""
        known = {row.package for row in tables().packages} | set(self.base.packages if self.base else ())
        asked = (text.partition("=")[0] for text in self.apt)
        return tuple(sorted({name for name in asked if name not in known}))

    def package_for(self, library: str) -> str | None:
        """Return the distribution's package that brings a library, if it is known."""
        rows = (row for row in tables().packages if row.is_on(self.platform.distribution) and row.has(library))
        return next((row.package for row in rows), None)


_PYTHON = re.compile(r"_?Py[A-Za-z_]")


class Providers:
    """Which files define what is wanted by any."""

    def __init__(self, environment: Environment) -> None:
        wanted: set[int] = set()
        for node in environment.nodes:
            wanted.update(node.binary.wanted_keys)
        self._found: dict[int, set[Node]] = {}
        for node in (*environment.base_nodes, *environment.nodes):
            for key in wanted.intersection(node.binary.defined_keys):
                self._found.setdefault(key, set()).add(node)

    def has(self, node: Node, index: int, scope: set[Node]) -> bool:
        """Return whether a file in scope defines a symbol."""
        keys = node.binary.wanted_keys
        for key in keys[2 * index : 2 * index + 2]:
            found = self._found.get(key)
            if found and not scope.isdisjoint(found):
                return True
        return False

    def of_all(self, node: Node, indices: Iterable[int]) -> tuple[Node, ...]:
        """Return files of wheels that together define all of some symbols; none if one of these is defined nowhere."""
        found: dict[Node, None] = {}
        keys = node.binary.wanted_keys
        for index in indices:
            each = set().union(*(self._found.get(key, ()) for key in keys[2 * index : 2 * index + 2]))
            known = sorted((n for n in each if n.wheel and n is not node), key=lambda n: n.path)
            if not known:
                return ()
            found.setdefault(next((n for n in known if n in found), known[0]))
        return tuple(found)


@lru_cache(maxsize=4096)
def _pattern(symbols: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(translate(each) for each in symbols))


def is_given(name: str, patterns: Iterable[tuple[str, ...]]) -> bool:
    """Return whether Python or a library known by name only defines a symbol."""
    return _PYTHON.match(name) is not None or any(_may_define(symbols, name) for symbols in patterns)


def _may_define(symbols: tuple[str, ...], name: str) -> bool:
    """Return whether a library known by name only may define a symbol: by its globs, else anything but C++."""
    return bool(_pattern(symbols).match(name)) if symbols else not name.startswith("_Z")
