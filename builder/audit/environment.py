"""The files of an image as the loader finds them: the base image's, those of apt's packages, the wheels'."""

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

    from builder.jetson.distributions import Distribution
    from builder.model.audits import BaseFacts, Binary, WheelFacts
    from builder.model.platforms import Platform
    from builder.model.wheels import LockedWheel

MACHINES = {"arm64": 183, "amd64": 62}
_CEILINGS = {"GLIBC": "glibc", "GLIBCXX": "glibcxx"}
_LIBRARY = re.compile(r"\.so(\.[0-9][^/]*)?$")
_PYTHON_SYMBOL = re.compile(r"_?Py[A-Za-z_]")
_MOST_LINKS = 40


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Node:
    """A file in the image; `wheel` is None in the base image. `path` is absolute, `file` as findings name it."""

    path: str
    file: str
    binary: Binary
    wheel: LockedWheel | None = None

    @property
    def folder(self) -> str:
        """Its folder, $ORIGIN."""
        return posixpath.dirname(self.path)

    @property
    def name(self) -> str:
        """Its file name."""
        return posixpath.basename(self.path)

    @property
    def is_library(self) -> bool:
        """Whether it is a library or an extension module, which the loader can load by name, and not a program."""
        return self.binary.dynamic and _LIBRARY.search(self.name) is not None

    @property
    def is_module(self) -> bool:
        """Whether Python imports it or loads it by its path; other files load those named `lib…`."""
        return bool(self.binary.inits) or not self.name.startswith("lib")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class UnreadLibrary:
    """A library known by its name only; `assumed` if even its presence is a guess."""

    name: str
    exports: KnownExports
    injected: bool = False
    assumed: bool = False


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The files of one cell's image. `base` is None if it could not be read; the platform's row replaces it then."""

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
        nodes: dict[str, Node] = {}
        for wheel in self.wheels:
            for binary in self.facts[wheel.sha256].binaries:
                path = posixpath.normpath(f"{self.site}/{binary.path}")
                nodes[path] = Node(path=path, file=binary.path, binary=binary, wheel=wheel)
        return tuple(nodes.values())

    @cached_property
    def base_nodes(self) -> tuple[Node, ...]:
        """All libraries of the base image."""
        binaries = self.base.binaries if self.base else ()
        return tuple(Node(path=binary.path, file=binary.path, binary=binary) for binary in binaries)

    @cached_property
    def _by_path(self) -> dict[str, Node]:
        return {node.path: node for node in (*self.base_nodes, *self.nodes)}

    @cached_property
    def _links(self) -> dict[str, str]:
        return dict(self.base.links) if self.base else {}

    def find(self, path: str) -> Node | None:
        """Return the file at a path, through the base image's links."""
        path = posixpath.normpath(path)
        return self._by_path.get(path) or self._by_path.get(self._real(path))

    def _real(self, path: str) -> str:
        """Follow the links of a path as the kernel does."""
        rest, done, links = path.strip("/").split("/"), "", 0
        while rest:
            name = rest.pop(0)
            if name in ("", "."):
                continue
            if name == "..":
                done = posixpath.dirname(done)
                continue
            current = f"{done}/{name}"
            target = self._links.get(current)
            if target is None:
                done = current
                continue
            links += 1
            if links > _MOST_LINKS:
                return path
            rest = [*target.split("/"), *rest]
            done = "" if target.startswith("/") else done
        return done or "/"

    @cached_property
    def system(self) -> dict[str, Node]:
        """The loader's cache: libraries in its folders by file name and by soname."""
        libraries: dict[str, Node] = {}
        folders = self.base.folders if self.base else ()
        real = {self._real(folder): number for number, folder in reversed(list(enumerate(folders)))}
        inside = sorted((node for node in self.base_nodes if node.folder in real), key=lambda node: real[node.folder])
        for node in inside:
            if node.binary.soname:
                libraries.setdefault(node.binary.soname, node)
        for node in inside:
            libraries.setdefault(node.name, node)
        for path in self._links:
            folder, name = posixpath.split(path)
            target = self.find(path) if self._real(folder) in real else None
            if target:
                libraries.setdefault(name, target)
        return libraries

    @cached_property
    def opaque(self) -> dict[str, UnreadLibrary]:
        """Libraries known by name only."""
        libraries: dict[str, UnreadLibrary] = {}
        rows = [(row, True) for row in tables().essential if self.base is None]
        rows += [(row, False) for package in self.installed for row in tables().packages if row.package == package]
        for row, assumed in rows:
            for name in row.libraries if row.is_on(self.platform.distribution) else ():
                libraries.setdefault(name, UnreadLibrary(name=name, exports=row, assumed=assumed))
        for row in tables().injected:
            for name in row.libraries:
                libraries.setdefault(name, UnreadLibrary(name=name, exports=row, injected=True))
        return libraries

    @property
    def installed(self) -> tuple[str, ...]:
        """The packages that the image's system step installs: the recipe's and Python's."""
        names = (text.partition("=")[0].partition(":")[0] for text in (*self.apt, *self.platform.python_packages))
        return tuple(dict.fromkeys(names))

    @cached_property
    def unknown_packages(self) -> tuple[str, ...]:
        """Packages of the recipe whose libraries the audit does not know."""
        packages = {row.package for row in tables().packages} | set(self.base.packages if self.base else ())
        names = (text.partition("=")[0] for text in self.apt)
        return tuple(sorted({name for name in names if name not in packages}))

    def package_for(self, library: str) -> str | None:
        """Return the distribution's package with a library, if it is known."""
        rows = (row for row in tables().packages if row.is_on(self.platform.distribution) and row.has(library))
        return next((row.package for row in rows), None)


class Providers:
    """The definers of all symbols that files of wheels need."""

    def __init__(self, environment: Environment) -> None:
        keys: set[int] = set()
        for node in environment.nodes:
            keys.update(node.binary.wanted_keys)
        self._definers: dict[int, set[Node]] = {}
        for node in (*environment.base_nodes, *environment.nodes):
            for key in keys.intersection(node.binary.defined_keys):
                self._definers.setdefault(key, set()).add(node)

    def has(self, node: Node, index: int, scope: set[Node]) -> bool:
        """Return whether a file in scope defines a symbol."""
        keys = node.binary.wanted_keys
        for key in keys[2 * index : 2 * index + 2]:
            definers = self._definers.get(key)
            if definers and not scope.isdisjoint(definers):
                return True
        return False

    def of_all(self, node: Node, indices: Iterable[int]) -> tuple[Node, ...]:
        """Return files of wheels that together define all of some symbols; none if one symbol has no definer."""
        chosen: dict[Node, None] = {}
        keys = node.binary.wanted_keys
        for index in indices:
            definers = set().union(*(self._definers.get(key, ()) for key in keys[2 * index : 2 * index + 2]))
            candidates = sorted((n for n in definers if n.wheel and n is not node), key=lambda n: n.path)
            if not candidates:
                return ()
            chosen.setdefault(next((n for n in candidates if n in chosen), candidates[0]))
        return tuple(chosen)


def ceiling(row: Platform | Distribution, family: str) -> str:
    """Return the newest version that a row's C or C++ library has of a family such as GLIBCXX; else an empty string."""
    return str(getattr(row, _CEILINGS.get(family, ""), ""))


@lru_cache(maxsize=4096)
def _pattern(symbols: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(translate(symbol) for symbol in symbols))


def may_define(name: str, patterns: Iterable[tuple[str, ...]]) -> bool:
    """Return whether Python or a library known by name only may define a symbol: by its globs, else all but C++."""
    return _PYTHON_SYMBOL.match(name) is not None or any(
        bool(_pattern(symbols).match(name)) if symbols else not name.startswith("_Z") for symbols in patterns
    )
