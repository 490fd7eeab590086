"""From what the command line names to what it holds: a lock file, a cell, an image in the cache or in a registry."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import LockError, UsageError
from builder.host import records
from builder.host.toml.documents import printable, suggest
from builder.image.oci.layout import blob, is_whole
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

_CELL = rf"(?P<recipe>{patterns.RECIPE_NAME})(?:/(?P<cell>[A-Za-z0-9_-]+))?"


def subject(name: str, session: Session, architecture: str) -> ComparedSide:
    """Return what a name stands for: a lock's path, RECIPE/CELL, a digest in the cache, or an image in a registry.

    Raises:
        UsageError: it is none of these.
        LockError: the lock is damaged, or the cell is not locked.
        BuildError: the cache does not hold the image.
        RegistryError: the registry does not answer, or does not hold it.
    """
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return _of_lock(name, lockfile.read_file(path), session)
    if path.suffix == ".toml":
        hint = "`jbuild diff RECIPE/CELL …` finds a cell's lock itself; locks lie in locks/RECIPE/"
        raise UsageError(f"there is no lock at `{printable(name)}`", hint=hint)
    if re.fullmatch(DIGEST_PATTERN, name):
        if not blob(session.workspace.images, name).is_file():
            hint = "`jbuild tags RECIPE` shows what is published: HOST/NAME@DIGEST names an image of a registry"
            raise UsageError(f"the cache holds no image {name}", hint=hint)
        return _with_lock(of_layout(name, name, session.workspace.images), session)
    if name.startswith("sha256:"):
        raise UsageError(
            f"`{printable(name)}` is no whole digest", hint="sha256: and 64 digits; registries know no short ones"
        )
    found = _cell(name, session)
    if found:
        return _of_cell(name, *found, session)
    if re.fullmatch(_CELL, name) and ("/" not in name or "." not in name.partition("/")[0]):
        # Docker Hub would take it for an image too; whoever means one writes a tag.
        known = [*recipe_paths(session.workspace.recipe_folders), *_locked(session)]
        hint = suggest(name.partition("/")[0], known, noun="recipes")
        raise UsageError(f"`{name}` is no lock, no recipe and no image with a tag", hint=hint)
    return _with_lock(of_registry(name, session.config, architecture), session)


def _locked(session: Session) -> list[str]:
    folder = session.workspace.lock("x", "x").parent.parent
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _cell(name: str, session: Session) -> tuple[str, str] | None:
    """Return recipe and cell of a name that is one: either has been made, or the recipe is known."""
    match = re.fullmatch(_CELL, name)
    if not match:
        return None
    recipe, cell = match["recipe"], match["cell"]
    made = _made(recipe, session)
    if cell is None and len(made) == 1:
        return recipe, made[0]
    if cell in made:
        return recipe, cell
    if not made and recipe not in recipe_paths(session.workspace.recipe_folders):
        return None
    if cell is None:
        if not made:
            raise LockError(f"recipe {recipe} is not locked", hint=f"run `jbuild lock {recipe}`")
        hint = f"name one: {', '.join(f'{recipe}/{each}' for each in made)}"
        raise UsageError(f"recipe {recipe} has {len(made)} cells that have been locked", hint=hint)
    hint = suggest(cell, made, noun="locked cells") if made else f"run `jbuild lock {recipe}`"
    raise LockError(f"cell {printable(name)} is not locked", hint=hint)


def _made(recipe: str, session: Session) -> list[str]:
    folder = session.workspace.lock(recipe, "x").parent
    return sorted(path.name.removeprefix("pylock.").removesuffix(".toml") for path in folder.glob("pylock.*.toml"))


def _of_lock(name: str, lock: Lock, session: Session) -> ComparedSide:
    return ComparedSide(name=name, kind="lock", **told_by(lock), **_built(name, lock, session))


def _of_cell(name: str, recipe: str, cell: str, session: Session) -> ComparedSide:
    lock = lockfile.read_file(session.workspace.lock(recipe, cell))
    told = told_by(lock) | _built(name, lock, session)
    told.setdefault("layers", _planned(session.workspace.cell(recipe, cell), lock))
    return ComparedSide(name=name, kind="cell", **told)


def _built(name: str, lock: Lock, session: Session) -> dict[str, Any]:
    """Return what is known of the image that was built here from a lock; nothing if there is none."""
    if not _are_names(lock.recipe, lock.cell):
        return {}
    image = CellRecords(session.workspace.cell(lock.recipe, lock.cell)).image()
    if image is None or not is_whole(session.workspace.images, image):
        return {}
    built = of_layout(name, image.digest, session.workspace.images)
    # A lock that is newer than the image, or older, says nothing about it.
    if built.lock != lockfile.content(lock):
        return {}
    return {"layers": built.layers, "blobs": built.blobs, "digest": built.digest}


def _are_names(recipe: str | None, cell: str | None) -> bool:
    """Tell whether what a file or an image says of itself may become part of a path."""
    return bool(re.fullmatch(patterns.RECIPE_NAME, recipe or "") and re.fullmatch(r"[A-Za-z0-9_-]+", cell or ""))


def _planned(folder: CellFolder, lock: Lock) -> tuple[Layer, ...] | None:
    plan = CellRecords(folder).plan()
    if plan is None or lockfile.content(lock) not in folder.dockerfile.read_text(encoding="utf-8", errors="replace"):
        return None
    return tuple(Layer(name=name) for name in plan.layers)


def _with_lock(image: Any, session: Session) -> ComparedSide:
    """Add what the lock tells that an image was made from, if that lock is in this project."""
    known = _lock_of(image.recipe, image.cell, image.lock, session)
    told = told_by(known) if known else image.labelled
    return ComparedSide(
        name=image.name, kind="image", layers=image.layers, blobs=image.blobs, digest=image.digest, **told
    )


def _lock_of(recipe: str | None, cell: str | None, content: str | None, session: Session) -> Lock | None:
    path = session.workspace.lock(str(recipe), str(cell)) if _are_names(recipe, cell) else None
    if path is None or not path.is_file():
        return None
    lock = lockfile.read_file(path)
    return lock if lockfile.content(lock) == content else None


def told_by(lock: Lock) -> dict[str, Any]:
    """Return what a lock tells of packages, models and base, as the fields of a subject."""
    base = lock.base
    return {
        "packages": tuple(
            ComparedPart(name=wheel.name, version=wheel.version, content=wheel.sha256, size=wheel.size)
            for wheel in lock.wheels
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
