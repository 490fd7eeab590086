"""Compiles the modules of wheels: those that neither the cache nor a registry has, on all processors within memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from builder.audit import elf, fatbin, kernel_names, wheel_reader
from builder.audit.byte_source import File, MalformedError
from builder.audit.code_targets import target_name
from builder.errors import BuildError
from builder.foundry.wheel_zip import source_blocks
from builder.host import process
from builder.host.concurrency import TaskGroup
from builder.host.file_locks import scratch
from builder.host.files import disk_errors
from builder.host.memory import available_memory
from builder.image.precompile.cubin_entry import entry_bytes
from builder.image.precompile.cubin_store import key_of, store_cubin, stored_cubin
from builder.image.precompile.ptxas import options_of
from builder.image.slim.entry_choice import AddedEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from builder.audit.byte_source import ByteSource
    from builder.host.paths import Workspace
    from builder.host.session import Session
    from builder.image.precompile.ptxas import Ptxas
    from builder.model.precompiled import CompiledWheel, CubinKey, PtxModule

    # Brings a module from elsewhere into the cache; returns whether it did.
    FetchCubin = Callable[[CubinKey, bytes], bool]

# Drivers of older releases do not know zstd.
_FIRST_WITH_ZSTD = (12, 8)
# Measured with ptxas 13.0 on modules of 2 to 22 MB: 203 to 884 MB.
_MEMORY_BASE, _MEMORY_FACTOR = 250 << 20, 32


class WheelModule(NamedTuple):
    """A module in a wheel's file."""

    wheel: Path
    module: PtxModule


class ModuleText(NamedTuple):
    """The PTX of a module, and the options that it was compiled with."""

    ptx: bytes
    options: tuple[str, ...]


def compile_modules(
    modules: Sequence[WheelModule], ptxas: Ptxas, session: Session, fetch: FetchCubin = lambda _, __: False
) -> int:
    """Put the modules into the cache and return how many were compiled; the largest begin first.

    Finished ones stay in the cache if others fail or the run is cancelled.

    Raises:
        BuildError: a module cannot be compiled.
        MalformedError: a wheel cannot be read.
        DiskError: the cache cannot be written.
    """
    workspace = session.workspace
    ordered = sorted(modules, key=lambda row: -row.module.unpacked)
    largest = max((row.module.unpacked for row in ordered), default=0)
    title = f"compiling {len(ordered)} modules for the image's GPUs"
    total = sum(row.module.unpacked for row in ordered)
    with (
        scratch(workspace.cache) as folder,
        session.console.task(title, total) as task,
        TaskGroup(_parallel(largest), on_cancel=process.end_all) as group,
    ):
        libraries = _unpacked_libraries(ordered, folder)

        def provide(row: WheelModule) -> bool:
            path = libraries[row.wheel, row.module.library]
            compiled = _provide(File(path), row.module, ptxas, workspace, fetch)
            task.advance(row.module.unpacked)
            return compiled

        return sum(group.map(provide, ordered))


def _unpacked_libraries(modules: Iterable[WheelModule], folder: Path) -> dict[tuple[Path, str], Path]:
    """Write the libraries of modules into a folder: compilers read them in any order."""
    libraries: dict[tuple[Path, str], Path] = {}
    for wheel, library in dict.fromkeys((row.wheel, row.module.library) for row in modules):
        member = next((member for member in wheel_reader.listing(wheel).members if member.path == library), None)
        if member is None:
            raise MalformedError(f"it lacks {library}", where=wheel.name)
        path = folder / f"library-{len(libraries)}"
        source = wheel_reader.source(File(wheel), member)
        with disk_errors(path), path.open("wb") as file:
            file.writelines(source_blocks(source))
        libraries[wheel, library] = path
    return libraries


def _provide(source: ByteSource, module: PtxModule, ptxas: Ptxas, workspace: Workspace, fetch: FetchCubin) -> bool:
    """Put a module into the cache, unless it is there; return whether it was compiled."""
    text = module_text(source, module)
    if text is None:
        return False
    key = key_of(text.ptx, module.target, ptxas.version, text.options)
    if stored_cubin(key, text.ptx, workspace) or fetch(key, text.ptx):
        return False
    try:
        cubin = ptxas.compile(text.ptx, module.target, text.options)
    except BuildError as error:
        error.where = error.where or f"{module.library}, container {module.container}, {target_name(module.ptx)}"
        raise
    store_cubin(key, cubin, workspace)
    return True


def _parallel(largest: int) -> int:
    """Return how many compilers run at once: each needs memory for its module."""
    processors = len(os.sched_getaffinity(0)) or 1
    available = available_memory()
    return max(1, min(processors, available // (_MEMORY_BASE + _MEMORY_FACTOR * largest)) if available else processors)


def module_text(source: ByteSource, module: PtxModule) -> ModuleText | None:
    """Return the PTX of a module of a library; None if jbuild does not know the options of its compilation.

    Raises:
        MalformedError: the library's GPU code cannot be read.
    """
    for number, container in enumerate(fatbin.containers(source, elf.read_source(source))):
        if number == module.container:
            for entry in container.entries:
                if entry.code and (entry.code.target, entry.code.isa) == (module.ptx, module.isa):
                    # NVIDIA's compiler ends the text with a zero, which `ptxas` refuses.
                    ptx = fatbin.payload(source, entry).rstrip(b"\0")
                    options = options_of(fatbin.options_text(source, entry))
                    return None if options is None else ModuleText(ptx, options)
    raise MalformedError(f"{module.library} has no such module")


class CompiledEntries(NamedTuple):
    """The compiled modules of a library: entries by the number of their container, and their inputs."""

    entries: dict[int, tuple[AddedEntry, ...]]
    keys: tuple[CubinKey, ...]


def compiled_entries(
    source: ByteSource, library: str, compiled: CompiledWheel, workspace: Workspace
) -> CompiledEntries:
    """Return the compiled modules of a library, from the cache, as entries of its containers.

    Raises:
        BuildError: one is not there.
        MalformedError: the library's GPU code cannot be read.
    """
    entries: dict[int, tuple[AddedEntry, ...]] = {}
    keys: list[CubinKey] = []
    version = tuple(map(int, compiled.ptxas.split(".")[:2]))
    for module in compiled.modules:
        text = module_text(source, module) if module.library == library else None
        if text is None:
            continue
        key = key_of(text.ptx, module.target, compiled.ptxas, text.options)
        packed = stored_cubin(key, text.ptx, workspace)
        if packed is None:
            hint = "run the same command again: it compiles what is missing"
            raise BuildError(f"a compiled module of {module.library} is no longer in the cache", hint=hint)
        kernels = frozenset(kernel_names.names(packed.cubin, "sass"))
        data = entry_bytes(packed, compressed=version >= _FIRST_WITH_ZSTD)
        entry = AddedEntry(fatbin.Code(module.target, (0, 0)), kernels, data)
        entries[module.container] = (*entries.get(module.container, ()), entry)
        keys.append(key)
    return CompiledEntries(entries, tuple(keys))
