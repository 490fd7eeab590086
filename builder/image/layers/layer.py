"""The kinds of layers. A layer is a description: its name identifies its content, which is made when it is packed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from builder.errors import ModelError
from builder.host.files import temp_folder
from builder.host.tarball import (
    Content,
    LayerEntry,
    entries_below,
    file_of,
    folder_of,
    link_of,
    segments,
)
from builder.image.wheels.bytecode import CompiledFiles
from builder.image.wheels.standalone_python import unpacked_interpreter
from builder.image.wheels.wheel_entries import WheelPass, wheel_entries
from builder.image.wheels.wheel_plan import owners, plan_wheel
from builder.image.wheels.wheel_slimmer import WheelSlimmer
from builder.model.images import ENVIRONMENT
from builder.models import model_store
from builder.models.layer_hash import model_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from builder.host.session import Session
    from builder.image.wheels.bytecode import BytecodePool
    from builder.model.images import SlimmedWheel
    from builder.model.locks import Lock
    from builder.model.model_files import LockedModel
    from builder.model.precompiled import CompiledWheel
    from builder.model.slimming import SlimRules
    from builder.model.wheels import LockedWheel


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerWork:
    """What making a layer needs: the processes that compile, a folder for large files, and a counter of input bytes.

    `slimmed` gets what was taken out of wheels.
    """

    pool: BytecodePool | None
    scratch: Path
    advance: Callable[[float], object]
    slimmed: list[SlimmedWheel] = field(default_factory=list)


class LayerSource(Protocol):
    """A layer: its content is made when it is read."""

    @property
    def name(self) -> str:
        """The name, which identifies the content."""

    @property
    def size(self) -> int:
        """The bytes that its making reads, as the counter of `LayerWork` counts them."""

    @property
    def wheels(self) -> tuple[LockedWheel, ...]:
        """The wheels that it needs in the wheelhouse."""

    @property
    def is_stored(self) -> bool:
        """Whether its files are in the cache as they are."""

    def segments(self, work: LayerWork) -> Iterator[bytes | Content]:
        """Yield the layer's tar: literal bytes, and the contents of a model's files.

        Raises:
            IntegrityError, ModelError, BuildError: its content is missing or damaged.
            OSError: a file cannot be read, or a scratch file cannot be written.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelsLayer:
    """The files of wheels; of two with one path, the later wheel's.

    `slim` are the rules for what goes out of wheels, by their sha256, and `compiled` the modules to add.
    """

    name: str
    wheels: tuple[LockedWheel, ...]
    python: str
    session: Session
    slim: Mapping[str, SlimRules]
    compiled: Mapping[str, CompiledWheel]
    is_stored: bool = False

    @property
    def size(self) -> int:
        """The bytes of the wheels."""
        return sum(wheel.size or 0 for wheel in self.wheels)

    def segments(self, work: LayerWork) -> Iterator[bytes | Content]:
        """Yield the layer's tar."""
        yield from segments(self._entries(work))

    def _entries(self, work: LayerWork) -> Iterator[LayerEntry]:
        workspace = self.session.workspace
        plans = [plan_wheel(wheel, workspace.wheel(wheel.sha256, wheel.filename), self.python) for wheel in self.wheels]
        owned = owners(plans)
        # Across wheels: a small batch costs as much to begin as a large one.
        compiled = CompiledFiles(work.pool)
        for number, plan in enumerate(plans):
            slimmer = self._slimmer(plan.locked)
            one = WheelPass(
                compiled=compiled,
                owns=lambda path, number=number: owned.get(path) == number,  # type: ignore[misc]
                advance=work.advance,
                scratch=work.scratch,
                slimmer=slimmer,
            )
            yield from wheel_entries(plan, one)
            if slimmer and slimmer.slimmed:
                work.slimmed.append(slimmer.slimmed)
        yield from compiled.rest()

    def _slimmer(self, wheel: LockedWheel) -> WheelSlimmer | None:
        rules, compiled = self.slim.get(wheel.sha256), self.compiled.get(wheel.sha256)
        workspace = self.session.workspace
        return WheelSlimmer(wheel=wheel, rules=rules, compiled=compiled, workspace=workspace) if rules else None


@dataclass(frozen=True, kw_only=True, slots=True)
class InterpreterLayer:
    """An image's own interpreter."""

    name: str
    lock: Lock
    session: Session
    size: int = 0
    wheels: tuple[LockedWheel, ...] = ()
    is_stored: bool = False

    def segments(self, work: LayerWork) -> Iterator[bytes | Content]:
        """Yield the layer's tar."""
        with temp_folder(work.scratch) as folder:
            unpacked_interpreter(self.lock, folder, self.session)
            yield from segments(_compiled(entries_below(folder), work.pool))


@dataclass(frozen=True, kw_only=True, slots=True)
class FilesLayer:
    """A few small files."""

    name: str
    entries: tuple[LayerEntry, ...]
    size: int = 0
    wheels: tuple[LockedWheel, ...] = ()
    is_stored: bool = False

    def segments(self, work: LayerWork) -> Iterator[bytes | Content]:
        """Yield the layer's tar."""
        del work
        return segments(self.entries)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelLayer:
    """Files of a model, from the store `models`."""

    name: str
    model: LockedModel
    models: Path
    wheels: tuple[LockedWheel, ...] = ()
    is_stored: bool = True

    @property
    def size(self) -> int:
        """The bytes of the files."""
        return sum(file.size for file in self.model.files)

    def segments(self, work: LayerWork) -> Iterator[bytes | Content]:
        """Yield the layer's tar."""
        del work
        return segments(self.entries())

    def entries(self) -> Iterator[LayerEntry]:
        """Yield the files.

        Raises:
            ModelError: one is not in the store.
        """
        for file in sorted(self.model.files, key=lambda file: file.path):
            stored = model_store.blob(self.models, file.sha256)
            if not model_store.has(self.models, file):
                raise ModelError(
                    f"{file.path} of model {self.model.name} is not in the cache",
                    where=str(stored),
                    hint="run it again with `--from render`, which fetches what is missing",
                )
            yield model_entry(self.model.name, file.path, Content(str(stored), file.size, file.sha256))


def environment_entries(python: str, home: str) -> tuple[LayerEntry, ...]:
    """Return the empty virtual environment, in the layout of `python -m venv`.

    `home` is the folder of the interpreter's executable in the image.
    """
    root = ENVIRONMENT.lstrip("/")
    text = f"home = {home}\ninclude-system-site-packages = false\nversion = {python}\n"
    return (
        link_of(f"{root}/bin/python", f"{home}/python{python}"),
        *(link_of(f"{root}/bin/{name}", "python") for name in ("python3", f"python{python}")),
        folder_of(f"{root}/lib/python{python}/site-packages"),
        link_of(f"{root}/lib64", "lib"),
        file_of(f"{root}/pyvenv.cfg", text.encode()),
    )


def digests_of(entries: tuple[LayerEntry, ...]) -> dict[str, str]:
    """Return the sha256 of files by their paths."""
    return {
        entry.path: hashlib.sha256(b"".join(part for part in entry.content if isinstance(part, bytes))).hexdigest()
        for entry in entries
    }


def _compiled(entries: Iterator[LayerEntry], pool: BytecodePool | None) -> Iterator[LayerEntry]:
    """Yield entries of files on the disk, and the bytecode of sources."""
    compiled = CompiledFiles(pool)
    for entry in entries:
        yield entry
        for part in entry.content if compiled.wants(entry.path) else ():
            if isinstance(part, Content):
                with open(part.path, "rb") as file:  # noqa: PTH123  # there may be thousands
                    yield from compiled.add(entry.path, file.read())
    yield from compiled.rest()
