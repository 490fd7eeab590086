"""What the dynamic loader would do with each file, by the rules of ld.so(8) and dlopen(3) with RTLD_NOW.

Every library and extension module of the wheels is taken as if Python loaded it by its path, after the packages of
`preloads.toml` that the environment has were imported.
"""

from __future__ import annotations

import posixpath
import re
from collections import deque
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from builder.audit.environment import Node, Providers, UnreadLibrary, is_given
from builder.audit.load_outcome import (
    Cause,
    Dependent,
    ExecutableStack,
    LoadOutcome,
    MissingLibrary,
    Outdated,
    UnresolvedSymbol,
)
from builder.audit.rule_tables import tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from builder.audit.environment import Environment

# What the loader replaces in search paths, and by what.
_LIB_FOLDERS = {"arm64": "lib/aarch64-linux-gnu", "amd64": "lib/x86_64-linux-gnu"}
_PLATFORMS = {"arm64": "aarch64", "amd64": "x86_64"}
# The names of C++'s own library.
_STANDARD = re.compile(r"_Z(T[A-Z]|GV)?(N?K?S[a-z]|N9__gnu_cxx|N10__cxxabiv1)")
_CXX = "libstdc++.so.6"
# What the distributions' interpreters load; that of python-build-standalone has these inside.
_PYTHONS = ("libz.so.1", "libexpat.so.1")
# From this C library on, dlopen refuses files that want an executable stack (its NEWS).
_STRICT_GLIBC = (2, 41)
_X86_64 = 62
_CEILINGS = {"GLIBC": "glibc", "GLIBCXX": "glibcxx"}


@dataclass(slots=True)
class Closure:
    """A file and all that is loaded with it, in the loader's order; what was loaded before is in `before`.

    `names` are those that the loader knows the files by: what they were asked for as, and what they call themselves.
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
    """Loads on paper."""

    def __init__(self, environment: Environment) -> None:
        """Load Python, and what its imports preload."""
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
        """Return what the loader would say of a file."""
        if wrong := self._wrong(node):
            return LoadOutcome(node=node, failures=(wrong,))
        closure = self._closure(node)
        # What an import has loaded is there: the loader gives it again, and looks no further.
        loaded = node in self._begun and node not in self._broken
        causes = () if loaded else self._failures(closure)
        if causes and (siblings := self._siblings(node)):
            own = self._closure(node, siblings)
            if not self._failures(own):
                closure, causes = own, ()
        failures = causes if loaded else (*self._dependent(closure), *causes)
        injected = tuple(sorted(name for name, each in closure.opaque.items() if each.injected))
        by_import = tuple(sorted(closure.by_import))
        return LoadOutcome(node=node, failures=failures, injected=injected, by_import=by_import)

    def _dependent(self, closure: Closure) -> tuple[Dependent, ...]:
        broken = next((node for node in closure.before if node in self._broken), None)
        if broken is None:
            return ()
        library = broken.binary.soname or broken.name
        return (Dependent(node=closure.nodes[0], library=library, causes=self._broken[broken]),)

    def _siblings(self, node: Node) -> dict[str, Node]:
        """Return the libraries beside a file in its wheel: packages load those themselves, before what needs them."""
        if node.folder not in self._by_folder:
            self._by_folder[node.folder] = [n for n in self._environment.nodes if n.folder == node.folder]
        beside = [n for n in self._by_folder[node.folder] if n.wheel is node.wheel and n is not node and self.fits(n)]
        return {name: n for n in beside for name in (n.name, n.binary.soname) if name and n.is_library}

    def _failures(self, closure: Closure) -> tuple[Cause, ...]:
        outdated = [each for node in closure.nodes for each in self._outdated(node, closure)]
        # A symbol of a version that is not there is not there either: that is said once.
        known = {(each.node, each.need.version) for each in outdated}
        stacks = [ExecutableStack(node=node) for node in closure.nodes if self._strict_stack and self._asks(node)]
        return (*closure.missing, *stacks, *outdated, *self._undefined(closure, known))

    def _asks(self, node: Node) -> bool:
        """Return whether a file asks for an executable stack; to say nothing means that on x86-64 alone."""
        wanted = node.binary.executable_stack
        return node.wheel is not None and (node.binary.header.machine == _X86_64 if wanted is None else wanted)

    def _refuses_stacks(self) -> bool:
        libc = self._environment.system.get("libc.so.6")
        names = libc.binary.version_defines if libc else (f"GLIBC_{self._environment.platform.glibc}",)
        numbers = [_numbers(name) for name in names if re.fullmatch(r"GLIBC_[0-9.]+", name)]
        return max(numbers, default=(0,)) >= _STRICT_GLIBC

    def _wrong(self, node: Node) -> MissingLibrary | None:
        return None if self.fits(node) else MissingLibrary(node=node, library=node.name)

    def fits(self, node: Node) -> bool:
        """Return whether a file is of this machine."""
        header = node.binary.header
        return header.bits == 64 and header.little and header.machine == self._environment.machine  # noqa: PLR2004

    def _begin(self) -> None:
        version = self._environment.platform.python
        python = next(filter(None, map(self._environment.find, _interpreters(version))), None)
        if python and self.fits(python):
            closure = self._closure(python)
            self._take(closure, everywhere=True)
        for name in ("libc.so.6", "libm.so.6", *(() if self._environment.platform.standalone else _PYTHONS)):
            found = self._environment.system.get(name)
            if found:
                closure = self._closure(found)
                closure.names.setdefault(name, found)
                self._take(closure, everywhere=True)
            elif opaque := self._environment.opaque.get(name):
                self._everywhere_opaque[name] = opaque
        for preload in tables().preloads:
            nodes = [node for pattern in preload.load for node in self._matching(pattern)]
            own = {wheel.name for wheel in self._environment.wheels}
            if preload.package in own:
                self._preload(nodes, preload.everywhere, preload.only_with)

    def _matching(self, pattern: str) -> list[Node]:
        return [node for node in self._environment.nodes if fnmatchcase(node.shown, pattern) and self.fits(node)]

    def _preload(self, nodes: list[Node], everywhere: tuple[str, ...], only_with: str | None) -> None:
        marks = [node for node in nodes if any(fnmatchcase(node.shown, pattern) for pattern in everywhere)]
        if only_with and not any(fnmatchcase(need, only_with) for node in marks for need in node.binary.needed):
            nodes = [node for node in nodes if not node.shown.startswith(("nvidia/", "cusparselt/"))]
        for node in nodes:
            closure = self._closure(node)
            # What fails is taken too, so that others are judged as they would be without that failure.
            failures = (*self._failures(closure), *(c for each in self._dependent(closure) for c in each.causes))
            if failures:
                self._broken.update(dict.fromkeys(closure.nodes, failures))
            self._take(closure, everywhere=node in marks)

    def _take(self, closure: Closure, *, everywhere: bool) -> None:
        self._begun.update(closure.nodes)
        for name, node in closure.names.items():
            self._loaded.setdefault(name, node)
        for node in closure.nodes:
            if everywhere:
                self._everywhere.setdefault(node)
        if everywhere:
            self._everywhere_opaque.update(closure.opaque)

    def _closure(self, root: Node, siblings: Mapping[str, Node] | None = None) -> Closure:
        """Load a file and what it needs, breadth first; what is found nowhere else may be among `siblings`."""
        # A file that is opened by its path is known by the name that it gives itself, not by its file's.
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
                found = self._search(library, chains[node])
                if found is None and siblings and library in siblings:
                    found = siblings[library]
                    closure.by_import.add(library)
                if found is None:
                    closure.missing.append(MissingLibrary(node=node, library=library))
                elif isinstance(found, UnreadLibrary):
                    closure.opaque[library] = found
                else:
                    names[library] = found
                    if found.binary.soname:
                        names.setdefault(found.binary.soname, found)
                    if found not in chains:
                        chains[found] = (*chains[node], found)
                        closure.nodes.append(found)
                        queue.append(found)
        return closure

    def _remember(
        self, before: Node, needing: Node, closure: Closure, seen: set[Node], chains: dict[Node, tuple[Node, ...]]
    ) -> None:
        """Take a library that was loaded before, with all that it brought, into scope."""
        if before.wheel and needing.wheel is not before.wheel:
            own = self._search(before.name, chains[needing])
            if own is None or isinstance(own, UnreadLibrary):
                closure.by_import.add(before.binary.soname or before.name)
        queue = deque([before])
        while queue:
            node = queue.popleft()
            if node in seen:
                continue
            seen.add(node)
            closure.before.append(node)
            for library in node.binary.needed:
                if library in self._loaded:
                    queue.append(self._loaded[library])
                elif opaque := self._environment.opaque.get(library):
                    closure.opaque.setdefault(library, opaque)

    def _search(self, library: str, chain: tuple[Node, ...]) -> Node | UnreadLibrary | None:
        """Find a library as the loader does for the last file of a chain of files that load each other."""
        if "/" in library:
            found = self._environment.find(library) if library.startswith("/") else None
            return found if found and self.fits(found) else None
        for folder in self._folders(chain):
            found = self._environment.find(f"{folder}/{library}")
            if found and self.fits(found):
                return found
        found = self._environment.system.get(library)
        if found and self.fits(found):
            return found
        return self._opaque(library)

    def _opaque(self, library: str) -> UnreadLibrary | None:
        opaque = self._environment.opaque
        # A library is asked for by its file's own name now and then: libgomp.so.1.0.0 is what libgomp.so.1 links to.
        for name in (library, re.sub(r"(\.so\.[0-9]+)[0-9.]*$", r"\1", library)):
            if name in opaque:
                return opaque[name]
        return next((each for each in opaque.values() if each.injected and each.brought.has(library)), None)

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
        """Return whether a version is newer than what the platform's row says that its libraries have."""
        family, _, number = version.partition("_")
        ceiling = getattr(self._environment.platform, _CEILINGS.get(family, ""), "")
        if version == "GLIBC_ABI_DT_RELR":
            number = "2.36"
        return bool(ceiling and number[:1].isdigit() and _numbers(number) > _numbers(ceiling))

    def _undefined(self, closure: Closure, known: set[tuple[Node, str]]) -> Iterator[UnresolvedSymbol]:
        scope = {*closure.everything, *self._everywhere}
        opaque = [*closure.opaque.values(), *self._everywhere_opaque.values()]
        # What is missing may define anything but C++: only that is told for sure to be nowhere.
        patterns = [each.brought.symbols for each in opaque] + [()] * bool(closure.missing)
        for node in closure.nodes:
            if not node.wheel:
                continue
            left = {index: node.binary.names[index] for index in self._unresolved(node, scope)}
            left = {i: name for i, name in left.items() if (node, name.partition("@")[2]) not in known}
            left = {i: name for i, name in left.items() if not is_given(name.partition("@")[0], patterns)}
            std = {i: name for i, name in left.items() if _STANDARD.match(name)}
            rest = {i: name for i, name in left.items() if i not in std}
            if std:
                library = self._provider(_CXX, closure)
                blamed = library if isinstance(library, Node) else None
                yield UnresolvedSymbol(node=node, names=tuple(std.values()), blamed=blamed)
            if rest:
                elsewhere, blamed = self._providers.of_all(node, rest), self._blamed(node, closure)
                yield UnresolvedSymbol(node=node, names=tuple(rest.values()), elsewhere=elsewhere, blamed=blamed)

    def _blamed(self, node: Node, closure: Closure) -> Node | None:
        for library in node.binary.needed:
            found = self._provider(library, closure)
            if isinstance(found, Node) and found.wheel and node.wheel and found.wheel is not node.wheel:
                return found
        return None

    def _unresolved(self, node: Node, scope: set[Node]) -> list[int]:
        """Return the indices of the symbols that no file in scope defines; what scopes have in common is kept."""
        if node not in self._open:
            mine = {node, *self._everywhere}
            everything = range(len(node.binary.wanted_keys) // 2)
            self._open[node] = tuple(i for i in everything if not self._providers.has(node, i, mine))
        return [index for index in self._open[node] if not self._providers.has(node, index, scope)]


def _interpreters(version: str) -> Iterable[str]:
    return (f"/usr/bin/python{version}", f"/usr/local/bin/python{version}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", version))
