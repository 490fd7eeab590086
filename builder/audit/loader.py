"""The dynamic loader's verdict on each file, by the rules of ld.so(8) and dlopen(3) with RTLD_NOW.

Python is assumed to load every library and extension module of the wheels by its path, after importing the packages
of `preloads.toml`.
"""

from __future__ import annotations

import posixpath
import re
from collections import deque
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from builder.audit.environment import Node, Providers, UnreadLibrary, ceiling, may_define
from builder.audit.load_outcome import (
    Cause,
    Dependent,
    ExecutableStack,
    LoadOutcome,
    MissingLibrary,
    Outdated,
    UnresolvedSymbol,
)
from builder.audit.rule_tables import tables, version_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.audit.environment import Environment
    from builder.audit.rule_tables import Preload

# What the loader replaces in search paths, and by what.
_LIB_FOLDERS = {"arm64": "lib/aarch64-linux-gnu", "amd64": "lib/x86_64-linux-gnu"}
_PLATFORMS = {"arm64": "aarch64", "amd64": "x86_64"}
# The names of C++'s own library.
_STANDARD = re.compile(r"_Z(T[A-Z]|GV)?(N?K?S[a-z]|N9__gnu_cxx|N10__cxxabiv1)")
_CXX = "libstdc++.so.6"
# What the distributions' interpreters load; that of python-build-standalone has these inside.
_PYTHONS = ("libz.so.1", "libexpat.so.1")
# From this C library on, dlopen refuses files that want an executable stack (its NEWS).
STRICT_GLIBC = (2, 41)
_X86_64 = 62


@dataclass(slots=True)
class Closure:
    """A file and all files loaded with it, in the loader's order; `before` are files loaded earlier.

    `names` are the loader's names of the files: the requested names and the sonames.
    """

    nodes: list[Node] = field(default_factory=list)
    opaque: dict[str, UnreadLibrary] = field(default_factory=dict)
    missing: list[MissingLibrary] = field(default_factory=list)
    before: list[Node] = field(default_factory=list)
    names: dict[str, Node] = field(default_factory=dict)
    by_import: set[str] = field(default_factory=set)

    @property
    def everything(self) -> Iterator[Node]:
        """All files in scope."""
        yield from self.nodes
        yield from self.before


class Loader:
    """Simulates the dynamic loader."""

    def __init__(self, environment: Environment) -> None:
        """Load Python, and the libraries that its imports preload."""
        self._environment = environment
        self._loaded: dict[str, Node] = {}
        self._begun: set[Node] = set()
        self._broken: dict[Node, tuple[Cause, ...]] = {}
        self._by_folder: dict[str, list[Node]] = {}
        self._everywhere: dict[Node, None] = {}
        self._everywhere_opaque: dict[str, UnreadLibrary] = {}
        self._providers = Providers(environment)
        self._open: dict[Node, tuple[int, ...]] = {}
        self._strict_stack = self._refuses_stacks()
        self._begin()

    def verdict(self, node: Node) -> LoadOutcome:
        """Return the loader's verdict on a file."""
        if not self.fits(node):
            return LoadOutcome(node=node, failures=(MissingLibrary(node=node, library=node.name),))
        closure = self._closure(node)
        # The loader returns a file that an import has loaded, and searches no further.
        loaded = node in self._begun and node not in self._broken
        causes = () if loaded else self._failures(closure)
        if causes and (siblings := self._siblings(node)):
            with_siblings = self._closure(node, siblings)
            if not self._failures(with_siblings):
                closure, causes = with_siblings, ()
        failures = causes if loaded else (*self._dependent(closure), *causes)
        injected = tuple(sorted(name for name, library in closure.opaque.items() if library.injected))
        by_import = tuple(sorted(closure.by_import))
        return LoadOutcome(node=node, failures=failures, injected=injected, by_import=by_import)

    def _dependent(self, closure: Closure) -> tuple[Dependent, ...]:
        broken = next((node for node in closure.before if node in self._broken), None)
        if broken is None:
            return ()
        library = broken.binary.soname or broken.name
        return (Dependent(node=closure.nodes[0], library=library, causes=self._broken[broken]),)

    def _siblings(self, node: Node) -> dict[str, Node]:
        """Return the libraries beside a file in its wheel: packages load those themselves, before their users."""
        if node.folder not in self._by_folder:
            self._by_folder[node.folder] = [n for n in self._environment.nodes if n.folder == node.folder]
        beside = [n for n in self._by_folder[node.folder] if n.wheel is node.wheel and n is not node and self.fits(n)]
        return {name: n for n in beside for name in (n.name, n.binary.soname) if name and n.is_library}

    def _failures(self, closure: Closure) -> tuple[Cause, ...]:
        outdated = [failure for node in closure.nodes for failure in self._outdated(node, closure)]
        # A missing version explains its missing symbols: report it once.
        reported = {(failure.node, failure.need.version) for failure in outdated}
        stacks = [ExecutableStack(node=node) for node in closure.nodes if self._strict_stack and self._asks(node)]
        return (*closure.missing, *stacks, *outdated, *self._undefined(closure, reported))

    def _asks(self, node: Node) -> bool:
        """Return whether a file asks for an executable stack; without a flag, only x86-64 files do."""
        flag = node.binary.executable_stack
        return node.wheel is not None and (node.binary.header.machine == _X86_64 if flag is None else flag)

    def _refuses_stacks(self) -> bool:
        libc = self._environment.system.get("libc.so.6")
        names = libc.binary.version_defines if libc else (f"GLIBC_{self._environment.platform.glibc}",)
        numbers = [version_numbers(name) for name in names if re.fullmatch(r"GLIBC_[0-9.]+", name)]
        return max(numbers, default=(0,)) >= STRICT_GLIBC

    def fits(self, node: Node) -> bool:
        """Return whether a file is of this machine."""
        header = node.binary.header
        return header.bits == 64 and header.little and header.machine == self._environment.machine  # noqa: PLR2004

    def _begin(self) -> None:
        version = self._environment.platform.python
        interpreters = (f"/usr/bin/python{version}", f"/usr/local/bin/python{version}")
        python = next(filter(None, map(self._environment.find, interpreters)), None)
        if python and self.fits(python):
            closure = self._closure(python)
            self._take(closure, everywhere=True)
        for name in ("libc.so.6", "libm.so.6", *(() if self._environment.platform.standalone else _PYTHONS)):
            library = self._environment.system.get(name)
            if library:
                closure = self._closure(library)
                closure.names.setdefault(name, library)
                self._take(closure, everywhere=True)
            elif opaque := self._environment.opaque.get(name):
                self._everywhere_opaque[name] = opaque
        for preload in tables().preloads:
            if any(wheel.name == preload.package for wheel in self._environment.wheels):
                self._preload(preload)

    def _preload(self, row: Preload) -> None:
        fitting = [node for node in self._environment.nodes if self.fits(node)]
        nodes = [node for pattern in row.load for node in fitting if fnmatchcase(node.file, pattern)]
        marks = [node for node in nodes if any(fnmatchcase(node.file, pattern) for pattern in row.everywhere)]
        needed = [library for node in marks for library in node.binary.needed]
        if row.only_with and not any(fnmatchcase(library, row.only_with) for library in needed):
            nodes = [node for node in nodes if not node.file.startswith(("nvidia/", "cusparselt/"))]
        for node in nodes:
            closure = self._closure(node)
            # Keep failing files too, so that others are judged as they would be without that failure.
            inherited = (cause for dependent in self._dependent(closure) for cause in dependent.causes)
            if failures := (*self._failures(closure), *inherited):
                self._broken.update(dict.fromkeys(closure.nodes, failures))
            self._take(closure, everywhere=node in marks)

    def _take(self, closure: Closure, *, everywhere: bool) -> None:
        self._begun.update(closure.nodes)
        for name, node in closure.names.items():
            self._loaded.setdefault(name, node)
        if everywhere:
            self._everywhere |= dict.fromkeys(closure.nodes)
            self._everywhere_opaque |= closure.opaque

    def _closure(self, root: Node, siblings: Mapping[str, Node] | None = None) -> Closure:
        """Load a file and its dependencies, breadth first; `siblings` are the last resort."""
        # The loader knows a file opened by its path by its soname, not by its file name.
        closure = Closure(nodes=[root], names={root.binary.soname: root} if root.binary.soname else {})
        names = closure.names
        chains: dict[Node, tuple[Node, ...]] = {root: (root,)}
        seen_before: set[Node] = set()
        queue = deque([root])
        while queue:
            node = queue.popleft()
            for library in node.binary.needed:
                if library in names or library in closure.opaque:
                    continue
                if before := self._loaded.get(library):
                    self._remember(before, node, closure, seen_before, chains)
                    continue
                provider = self._search(library, chains[node])
                if provider is None and siblings and library in siblings:
                    provider = siblings[library]
                    closure.by_import.add(library)
                if provider is None:
                    closure.missing.append(MissingLibrary(node=node, library=library))
                elif isinstance(provider, UnreadLibrary):
                    closure.opaque[library] = provider
                else:
                    names[library] = provider
                    if provider.binary.soname:
                        names.setdefault(provider.binary.soname, provider)
                    if provider not in chains:
                        chains[provider] = (*chains[node], provider)
                        closure.nodes.append(provider)
                        queue.append(provider)
        return closure

    def _remember(
        self, before: Node, needing: Node, closure: Closure, visited: set[Node], chains: dict[Node, tuple[Node, ...]]
    ) -> None:
        """Add a library loaded earlier, with its dependencies, to the scope."""
        if before.wheel and needing.wheel is not before.wheel:
            own_copy = self._search(before.name, chains[needing])
            if own_copy is None or isinstance(own_copy, UnreadLibrary):
                closure.by_import.add(before.binary.soname or before.name)
        queue = deque([before])
        while queue:
            node = queue.popleft()
            if node in visited:
                continue
            visited.add(node)
            closure.before.append(node)
            for library in node.binary.needed:
                if library in self._loaded:
                    queue.append(self._loaded[library])
                elif opaque := self._environment.opaque.get(library):
                    closure.opaque.setdefault(library, opaque)

    def _search(self, library: str, chain: tuple[Node, ...]) -> Node | UnreadLibrary | None:
        """Find a library as the loader does for the last file of a chain of files that load each other."""
        if "/" in library:
            node = self._environment.find(library) if library.startswith("/") else None
            return node if node and self.fits(node) else None
        for folder in self._folders(chain):
            node = self._environment.find(f"{folder}/{library}")
            if node and self.fits(node):
                return node
        node = self._environment.system.get(library)
        if node and self.fits(node):
            return node
        return self._opaque(library)

    def _opaque(self, library: str) -> UnreadLibrary | None:
        opaque = self._environment.opaque
        # Some files request the link's target: libgomp.so.1.0.0 instead of libgomp.so.1.
        for name in (library, re.sub(r"(\.so\.[0-9]+)[0-9.]*$", r"\1", library)):
            if name in opaque:
                return opaque[name]
        return next((row for row in opaque.values() if row.injected and row.exports.has(library)), None)

    def _folders(self, chain: tuple[Node, ...]) -> Iterator[str]:
        last = chain[-1]
        if last.binary.runpath is None:
            for node in reversed(chain):
                if node.binary.rpath and node.binary.runpath is None:
                    yield from self._expanded(node.binary.rpath, node)
        if self._environment.base:
            yield from self._environment.base.library_path
        if last.binary.runpath is not None:
            yield from self._expanded(last.binary.runpath, last)

    def _expanded(self, path: str, node: Node) -> Iterator[str]:
        architecture = self._environment.platform.architecture
        values = {"ORIGIN": node.folder, "LIB": _LIB_FOLDERS[architecture], "PLATFORM": _PLATFORMS[architecture]}
        for folder in path.split(":"):
            text = re.sub(r"\$(?:\{(\w+)\}|(ORIGIN|LIB|PLATFORM))", lambda m: values.get(m[1] or m[2], m[0]), folder)
            if text.startswith("/"):
                yield posixpath.normpath(text)

    def _outdated(self, node: Node, closure: Closure) -> Iterator[Outdated]:
        for need in node.binary.version_needs:
            provider = self._provider(need.file, closure)
            if provider is None or need.weak:
                continue
            if isinstance(provider, UnreadLibrary):
                if provider.assumed and self._beyond(need.version):
                    yield Outdated(node=node, need=need, provider=provider, assumed=True)
            elif provider.binary.version_defines and need.version not in provider.binary.version_defines:
                yield Outdated(node=node, need=need, provider=provider, assumed=False)

    def _provider(self, name: str, closure: Closure) -> Node | UnreadLibrary | None:
        for node in closure.everything:
            if name in (node.binary.soname, node.name):
                return node
        return self._loaded.get(name) or closure.opaque.get(name) or self._everywhere_opaque.get(name)

    def _beyond(self, version: str) -> bool:
        """Return whether a version is newer than those in the platform's row."""
        family, _, number = version.partition("_")
        newest = ceiling(self._environment.platform, family)
        if version == "GLIBC_ABI_DT_RELR":
            number = "2.36"
        return bool(newest and number[:1].isdigit() and version_numbers(number) > version_numbers(newest))

    def _undefined(self, closure: Closure, reported: set[tuple[Node, str]]) -> Iterator[UnresolvedSymbol]:
        scope = {*closure.everything, *self._everywhere}
        opaque = [*closure.opaque.values(), *self._everywhere_opaque.values()]
        # A missing library may define anything but C++ symbols: only those are surely undefined.
        patterns = [candidate.exports.symbols for candidate in opaque] + [()] * bool(closure.missing)
        for node in closure.nodes:
            if not node.wheel:
                continue
            left = {index: node.binary.names[index] for index in self._unresolved(node, scope)}
            left = {i: name for i, name in left.items() if (node, name.partition("@")[2]) not in reported}
            left = {i: name for i, name in left.items() if not may_define(name.partition("@")[0], patterns)}
            std = {i: name for i, name in left.items() if _STANDARD.match(name)}
            rest = {i: name for i, name in left.items() if i not in std}
            if std:
                library = self._provider(_CXX, closure)
                blamed = library if isinstance(library, Node) else None
                yield UnresolvedSymbol(node=node, names=tuple(std.values()), blamed=blamed)
            if rest:
                definers, blamed = self._providers.of_all(node, rest), self._blamed(node, closure)
                yield UnresolvedSymbol(node=node, names=tuple(rest.values()), definers=definers, blamed=blamed)

    def _blamed(self, node: Node, closure: Closure) -> Node | None:
        for library in node.binary.needed:
            provider = self._provider(library, closure)
            if isinstance(provider, Node) and provider.wheel and node.wheel and provider.wheel is not node.wheel:
                return provider
        return None

    def _unresolved(self, node: Node, scope: set[Node]) -> list[int]:
        """Return the indices of the symbols that no file in scope defines; the scopes' common files are cached."""
        if node not in self._open:
            mine = {node, *self._everywhere}
            everything = range(len(node.binary.wanted_keys) // 2)
            self._open[node] = tuple(i for i in everything if not self._providers.has(node, i, mine))
        return [index for index in self._open[node] if not self._providers.has(node, index, scope)]
