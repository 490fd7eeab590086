"""The warm image of a cell, to be promoted: the latest image with the layer that a smoke run here or elsewhere made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import IntegrityError, UsageError
from builder.host.files import copy_hashed, disk_errors, temp_file
from builder.image.oci.layout import blob, is_present, read_config
from builder.image.oci.pack import Packed
from builder.image.oci.warm_image import with_warm_layer
from builder.model.bundles import VERDICT_FOLDER
from builder.pipeline.cell import CellRecords
from builder.smoke.warm_run import any_warm, read_warm

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.paths import CellFolder
    from builder.host.session import Session
    from builder.model.images import Image, WarmImage
    from builder.model.locks import Job
    from builder.model.verdicts import Verdict

_WARM = "warm"


def warm_folder(verdict: Path | None, folder: CellFolder) -> Path:
    """Return the folder of a warm image: in the folder of verdicts of another machine, else the cell's own.

    Raises:
        UsageError: the folder of verdicts does not exist.
    """
    if verdict is None:
        return folder.warm
    if not verdict.exists():
        hint = "bring the folder `verdict` of the other machine's `jbuild smoke --bundle`, and name it with --verdict"
        raise UsageError("cannot read the verdict: no such file or folder", where=str(verdict), hint=hint)
    verdicts = verdict if verdict.is_dir() else verdict.parent
    return next((path for path in (verdicts / VERDICT_FOLDER / _WARM, verdicts / _WARM) if path.is_dir()), verdicts)


def has_warm_image(job: Job, verdict: Path | None, session: Session) -> bool:
    """Return whether a cell's latest image has a warm image, here or in a folder of verdicts.

    Raises:
        UsageError: the folder of verdicts does not exist.
    """
    folder = session.workspace.cell(job.recipe.name, job.cell.id)
    warm, image = warm_folder(verdict, folder), CellRecords(folder).image()
    return image is not None and read_warm(warm, image.digest) is not None


def warm_image_of(job: Job, image: Image, folder: Path, session: Session) -> tuple[Image, Verdict]:
    """Return the warm image of a cell's latest image, whole in the cache's layout, and the verdict of its own run.

    Raises:
        UsageError: there is none, or it belongs to another image.
        IntegrityError: its layer is damaged, or gives another image than the one that ran.
        BuildError: the latest image is not in the cache.
        DiskError: the layer cannot be copied.
    """
    found = any_warm(folder)
    if found is None:
        raise UsageError(
            "there is no warm image of this cell",
            where=str(folder),
            hint=f"with `warm = true` under [image], `jbuild smoke {job.recipe.name}` makes it, or says why not; "
            "--verdict names the folder of the verdicts of another machine's smoke run",
        )
    warm, verdict = found
    if warm.base != image.digest:
        raise UsageError(
            f"the warm image was made of {warm.base}, but this cell's latest image is {image.digest}",
            where=str(folder),
            hint=f"run `jbuild smoke {job.recipe.name} --cell {job.cell.id} --force` where the warm image was made",
        )
    layout = session.workspace.images
    _take_layer(warm, folder, layout)
    layer = Packed(blob=warm.layer, diff_id=warm.diff_id)
    made = with_warm_layer(image, read_config(layout, image), layer, layout)
    if made.digest != warm.image.digest:
        raise IntegrityError(
            f"the image with this layer is {made.digest}, but {warm.image.digest} ran",
            where=str(folder),
            hint=f"make the warm image again: `jbuild smoke {job.recipe.name} --cell {job.cell.id} --force`",
        )
    return made, verdict


def _take_layer(warm: WarmImage, folder: Path, layout: Path) -> None:
    """Copy the layer into the cache's layout, and verify it."""
    digest, source, target = warm.layer.digest, blob(folder, warm.layer.digest), blob(layout, warm.layer.digest)
    if is_present(layout, warm.layer):
        return
    flaw = "missing"
    if source.is_file():
        with source.open("rb") as file, disk_errors(layout), temp_file(target.parent) as temporary:
            if f"sha256:{copy_hashed(file, temporary)}" == digest:
                temporary.replace(target)
                return
        flaw = "damaged"
    raise IntegrityError(
        f"the warm image's layer {digest} is {flaw}",
        where=str(source),
        hint="bring the whole folder of verdicts from the machine of the smoke run",
    )
