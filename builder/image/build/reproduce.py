"""Builds a cell a second time, from its locked files on and without any cache, and compares the two images."""

from __future__ import annotations

import tarfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from builder.errors import BuildError
from builder.host.engine.docker import find_engine
from builder.host.file_locks import scratch
from builder.host.files import disk_errors, sha256_of_rest
from builder.host.paths import Workspace
from builder.image.build.cell_image import build_image
from builder.image.layers.layer_blobs import blobs_of
from builder.image.oci.layout import open_blob, read_config, unpacked
from builder.image.render.plan import render

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.images import Descriptor, Image
    from builder.pipeline.cell import CellRun


class NotReproducibleError(BuildError):
    """Two builds of one lock are not the same image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutDifference:
    """A difference of two images. `layer` is its instruction; `what` begins with the file, if one differs."""

    layer: str
    what: str

    @property
    def words(self) -> str:
        """The difference as a sentence."""
        return f"{self.layer}: {self.what}"


def verify(run: CellRun) -> str:
    """Unpack, compile, lay out and build again; return the digest that both builds have.

    Nothing is taken from the first but wheels, model files and interpreter archives, which their sha256 vouches for.

    Raises:
        NotReproducibleError: the images differ; it names the first layer and file that do.
        JbuildError: the second build failed.
    """
    engine = find_engine(run.session.workspace)
    with _temporary_session(run.session) as session:
        again = replace(run, session=session).with_records(render(run.job, run.lock, session))
        second = run.builders.build(
            run.job.cell.id, engine, lambda name: build_image(again, engine, builder=name, fresh=True)
        )
        if second.digest != run.image.digest:
            blobs_of(run).make([layer.digest for layer in run.image.layers])
        difference = first_difference(run.image, run.session.workspace.images, second, session.workspace.images)
    if difference:
        raise _differs(run, second, difference)
    return second.digest


def _differs(run: CellRun, second: Image, difference: LayoutDifference) -> NotReproducibleError:
    hint = "this is a bug in jbuild; please report it with what is said above"
    if difference.layer.startswith("RUN"):
        hint = "let this step of your template give the same bytes each time"
    if "/run/jbuild/install.sh" in difference.layer:
        hint = "the package mirror may have moved between the builds: `jbuild system` pins this step's layer"
    return NotReproducibleError(
        f"{run.job.name}: two builds are not the same image ({run.image.digest} and {second.digest}); "
        f"they differ first in {difference.words}",
        where=difference.layer,
        hint=hint,
    )


@contextmanager
def _temporary_session(session: Session) -> Iterator[Session]:
    """Give a session with a project and a cache of its own, which sees what was fetched and the user's templates."""
    workspace = session.workspace
    with disk_errors(workspace.cache), scratch(workspace.cache) as folder:
        project, cache = folder / "project", folder / "cache"
        project.mkdir()
        cache.mkdir()
        for fetched in (workspace.wheels, workspace.models, workspace.interpreters):
            fetched.mkdir(exist_ok=True)
            (cache / fetched.name).symlink_to(fetched.resolve())
        for templates in workspace.template_folders[:-1]:
            (project / "dockerfiles").symlink_to(templates)
        locks = workspace.project / "locks"
        if locks.is_dir():
            (project / "locks").symlink_to(locks.resolve())
        yield replace(session, workspace=Workspace(project=project, cache=cache))


def first_difference(
    first_image: Image, first_layout: Path, second_image: Image, second_layout: Path
) -> LayoutDifference | None:
    """Return the first difference of two images, lowest layer first, or None if their digests are equal.

    Raises:
        BuildError, OSError, ValueError, tarfile.TarError: a blob is missing or cannot be read.
    """
    if first_image.digest == second_image.digest:
        return None
    first, second = read_config(first_layout, first_image), read_config(second_layout, second_image)
    names = _layer_names(first)
    for index, (a, b) in enumerate(zip_longest(first_image.layers, second_image.layers)):
        if a is None or b is None:
            return LayoutDifference(layer=f"layer {index + 1}", what="only one of the images has it")
        if a.digest != b.digest:
            name = names[index] if index < len(names) else f"layer {index + 1}"
            return _in_layer(name, (a, first_layout), (b, second_layout))
    return _in_config(first, second)


def _layer_names(config: dict[str, Any]) -> list[str]:
    """Return the instruction of each layer from the image's history."""
    instructions = [step.get("created_by") or "" for step in config.get("history") or () if not step.get("empty_layer")]
    return [
        " ".join(text.removesuffix("# buildkit").split())[:120] or f"layer {i + 1}"
        for i, text in enumerate(instructions)
    ]


def _in_layer(
    name: str, first_layer: tuple[Descriptor, Path], second_layer: tuple[Descriptor, Path]
) -> LayoutDifference:
    with members(*first_layer) as first, members(*second_layer) as second:
        for a, b in zip_longest(first, second):
            if a == b:
                continue
            if a is None or b is None or a["name"] != b["name"]:
                only = min((member["name"] for member in (a, b) if member), default="")
                return LayoutDifference(layer=name, what=f"/{only}: only in one image, or in another order")
            differing = [f"{key} {a[key]} and {b[key]}" for key in a if a[key] != b[key]]
            return LayoutDifference(layer=name, what=f"/{a['name']}: {', '.join(differing)}")
    return LayoutDifference(layer=name, what="the same files, compressed differently")


@contextmanager
def members(layer: Descriptor, layout: Path) -> Iterator[Iterator[dict[str, Any]]]:
    """Yield the attributes of each file of a layer, in the layer's order; contents by their sha256."""
    with (
        open_blob(layout, layer.digest) as raw,
        unpacked(raw, layer.media_type) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        yield (_attributes(archive, member) for member in archive)


def _attributes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
    file = archive.extractfile(member) if member.isreg() else None
    return {
        "name": member.name,
        "type": member.type.decode(),
        "mode": oct(member.mode),
        "owner": f"{member.uid}:{member.gid}",
        "time": member.mtime,
        "size": member.size,
        "target": member.linkname,
        "sha256": sha256_of_rest(file) if file else "",
        "extended attributes": {k: v for k, v in member.pax_headers.items() if k.startswith("SCHILY.xattr.")},
    }


def _in_config(first: dict[str, Any], second: dict[str, Any]) -> LayoutDifference:
    for key in sorted({*first, *second}):
        if first.get(key) != second.get(key):
            inside = _keys(first.get(key), second.get(key))
            return LayoutDifference(layer="the configuration", what=f"{key}{inside} differs")
    return LayoutDifference(layer="the manifest", what="differs")


def _keys(first: object, second: object) -> str:
    if not isinstance(first, dict) or not isinstance(second, dict):
        return ""
    changed = [str(key) for key in sorted({*first, *second}) if first.get(key) != second.get(key)]
    return f".{changed[0]}"
