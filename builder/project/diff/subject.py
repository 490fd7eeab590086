"""Reads one side of a difference by its name: a lock file, a cell, an image in the cache or in a registry."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import LockError, UsageError
from builder.host import records
from builder.host.wording import printable, suggest
from builder.image.oci.layout import blob, is_present
from builder.image.render.image_labels import slim_sizes
from builder.lock import lockfile
from builder.model import patterns
from builder.pipeline.cell import CellRecords
from builder.project.diff.difference import ComparedPart, ComparedSide, Layer
from builder.project.diff.image_contents import of_layout, of_registry
from builder.recipe.find import recipe_paths
from builder.remote.registry.reference import DIGEST_PATTERN

if TYPE_CHECKING:
    from builder.host.paths import CellFolder
    from builder.host.session import Session
    from builder.model.locks import Lock
    from builder.project.diff.image_contents import ImageContents

_CELL = rf"(?P<recipe>{patterns.RECIPE_NAME})(?:/(?P<cell>[A-Za-z0-9_-]+))?"


def subject(name: str, session: Session, architecture: str) -> ComparedSide:
    """Return the side with a name: a lock's path, RECIPE/CELL, a digest in the cache, or an image in a registry.

    Raises:
        UsageError: it is none of these.
        LockError: the lock is damaged, or the cell is not locked.
        BuildError: the cache does not have the image.
        RegistryError: the registry does not answer, or does not have the image.
    """
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        lock = lockfile.read_file(path)
        return ComparedSide(name=name, kind="lock", **fields_of(lock), **_built(lock, session))
    if path.suffix == ".toml":
        hint = "`jbuild diff RECIPE/CELL …` finds a cell's lock itself; locks are in locks/RECIPE/"
        raise UsageError(f"there is no lock at `{printable(name)}`", hint=hint)
    if re.fullmatch(DIGEST_PATTERN, name):
        if not blob(session.workspace.images, name).is_file():
            hint = "`jbuild tags RECIPE` shows what is published: HOST/NAME@DIGEST names an image of a registry"
            raise UsageError(f"the cache holds no image {name}", hint=hint)
        return _of_image(name, of_layout(name, session.workspace.images), session)
    if name.startswith("sha256:"):
        raise UsageError(f"`{printable(name)}` is not a full digest", hint="a digest is sha256: and 64 digits")
    recipe_and_cell = _cell(name, session)
    if recipe_and_cell:
        return _of_cell(name, *recipe_and_cell, session)
    if re.fullmatch(_CELL, name) and ("/" not in name or "." not in name.partition("/")[0]):
        # It could be an image of Docker Hub too; for one, a tag is required.
        recipes = [*recipe_paths(session.workspace.recipe_folders), *_locked_recipes(session)]
        hint = suggest(name.partition("/")[0], recipes, noun="recipes")
        raise UsageError(f"`{name}` is neither a lock, nor a recipe, nor an image with a tag", hint=hint)
    return _of_image(name, of_registry(name, session, architecture), session)


def _locked_recipes(session: Session) -> list[str]:
    folder = session.workspace.lock("x", "x").parent.parent
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _cell(name: str, session: Session) -> tuple[str, str] | None:
    """Return recipe and cell of a cell's name, or None if there is no such lock or recipe."""
    match = re.fullmatch(_CELL, name)
    if not match:
        return None
    recipe, cell = match["recipe"], match["cell"]
    locked = _locked_cells(recipe, session)
    if cell is None and len(locked) == 1:
        return recipe, locked[0]
    if cell in locked:
        return recipe, cell
    if not locked and recipe not in recipe_paths(session.workspace.recipe_folders):
        return None
    if cell is None:
        if not locked:
            raise LockError(f"recipe {recipe} is not locked", hint=f"run `jbuild lock {recipe}`")
        hint = f"name one: {', '.join(f'{recipe}/{locked_cell}' for locked_cell in locked)}"
        raise UsageError(f"recipe {recipe} has {len(locked)} locked cells", hint=hint)
    hint = suggest(cell, locked, noun="locked cells") if locked else f"run `jbuild lock {recipe}`"
    raise LockError(f"cell {printable(name)} is not locked", hint=hint)


def _locked_cells(recipe: str, session: Session) -> list[str]:
    folder = session.workspace.lock(recipe, "x").parent
    return sorted(path.name.removeprefix("pylock.").removesuffix(".toml") for path in folder.glob("pylock.*.toml"))


def _of_cell(name: str, recipe: str, cell: str, session: Session) -> ComparedSide:
    lock = lockfile.read_file(session.workspace.lock(recipe, cell))
    fields = fields_of(lock) | (_built(lock, session) or _planned(session.workspace.cell(recipe, cell), lock))
    return ComparedSide(name=name, kind="cell", **fields)


def _built(lock: Lock, session: Session) -> dict[str, Any]:
    """Return the fields of the image that was built from a lock on this machine; empty without one."""
    if not _are_names(lock.recipe, lock.cell):
        return {}
    image = CellRecords(session.workspace.cell(lock.recipe, lock.cell)).image()
    layout = session.workspace.images
    if image is None or not all(is_present(layout, part) for part in (image.manifest, image.config)):
        return {}
    built = of_layout(image.digest, layout)
    # The image may be of another lock of this cell.
    return built.fields if built.labels.get("io.jbuild.lock") == lockfile.content(lock) else {}


def _are_names(recipe: str, cell: str) -> bool:
    """Return whether names from a file or an image are safe parts of a path."""
    return bool(re.fullmatch(_CELL, f"{recipe}/{cell}"))


def _planned(folder: CellFolder, lock: Lock) -> dict[str, Any]:
    """Return the fields of the plan that was rendered from a lock; empty without one."""
    plan = CellRecords(folder).plan()
    if plan is None or lockfile.content(lock) not in folder.dockerfile.read_text(encoding="utf-8", errors="replace"):
        return {}
    layers = tuple(Layer(name=name) for name in plan.layers)
    return {"layers": layers, "slimmed": slim_sizes(dict(plan.settings.labels))}


def _of_image(name: str, contents: ImageContents, session: Session) -> ComparedSide:
    """Return an image with the fields of its lock, if that lock is in this project."""
    recipe, cell = (contents.labels.get(f"io.jbuild.{key}", "") for key in ("recipe", "cell"))
    path = session.workspace.lock(recipe, cell) if _are_names(recipe, cell) else None
    lock = lockfile.read_file(path) if path and path.is_file() else None
    is_own = lock and lockfile.content(lock) == contents.labels.get("io.jbuild.lock")
    fields = fields_of(lock) if lock and is_own else contents.labelled
    return ComparedSide(name=name, kind="image", **contents.fields, **fields)


def fields_of(lock: Lock) -> dict[str, Any]:
    """Return packages, models and base of a lock, as fields of a `ComparedSide`."""
    base = lock.base
    return {
        "packages": tuple(
            ComparedPart(name=wheel.name, version=wheel.version, content=wheel.sha256, size=wheel.size)
            for wheel in lock.as_written.wheels
        )
        + tuple(
            ComparedPart(name=build.name, version=build.version, content=build.fingerprint)
            for build in lock.builds or ()
        ),
        "models": tuple(
            ComparedPart(
                name=model.name,
                version=model.revision or f"{model.size / 1e6:.0f} MB",
                content=records.fingerprint(model.files),
                size=model.size,
            )
            for model in lock.models
        ),
        "base": ComparedPart(name=base.name, version=f"{base.name}@{base.digest[:19]}", content=base.digest),
    }
