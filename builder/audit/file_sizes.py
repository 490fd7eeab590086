"""The files of a cell's wheels with their sizes, from the directories of the wheels' archives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.audit.slim_choice import excluded_by, excluded_globs
from builder.audit.wheel_reader import installed
from builder.errors import IntegrityError
from builder.host.concurrency import TaskGroup
from builder.remote.index.remote_wheel import FLAWS
from builder.remote.locked_archives import read_archive

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Sequence

    from builder.host.session import Session
    from builder.model.locks import Job
    from builder.model.wheels import LockedWheel

_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class SizedFile:
    """A file of a wheel, relative to site-packages, with its bytes in the image and in the wheel.

    `excluded` is the glob of `exclude-files` that keeps it out of the image; None if it stays.
    """

    wheel: str
    path: str
    size: int
    packed: int
    excluded: str | None


def sized_files(job: Job, wheels: Sequence[LockedWheel], session: Session) -> list[SizedFile]:
    """Return the files of wheels, those with the most bytes in their wheel first; no wheel is downloaded for that.

    Raises:
        NetworkError: a server does not answer, or does not support ranges.
        IntegrityError: a wheel is damaged.
    """
    with session.console.task("reading the lists of files", len(wheels), unit="wheels") as task:

        def read(wheel: LockedWheel) -> list[SizedFile]:
            found = _files_of(job, wheel, session)
            task.advance(1)
            return found

        with TaskGroup(_AT_ONCE) as group:
            files = [file for found in group.map(read, wheels) for file in found]
    return sorted(files, key=lambda file: (-file.packed, file.wheel, file.path))


def _files_of(job: Job, wheel: LockedWheel, session: Session) -> list[SizedFile]:
    globs = excluded_globs(job.spec.image, wheel.name)

    def read(archive: zipfile.ZipFile) -> list[SizedFile]:
        entries = ((installed(entry.filename), entry) for entry in archive.infolist() if not entry.is_dir())
        return [
            SizedFile(
                wheel=wheel.name,
                path=path,
                size=entry.file_size,
                packed=entry.compress_size,
                # Metadata stays in any case.
                excluded=None if path.partition("/")[0].endswith(".dist-info") else excluded_by(path, globs),
            )
            for path, entry in entries
        ]

    try:
        return read_archive(wheel, read, session)
    except FLAWS as error:
        hint = "run `jbuild audit`: it names the flaws of a wheel, or fetches a damaged copy again"
        raise IntegrityError(
            f"the list of its files cannot be read: {error}", where=wheel.filename, hint=hint
        ) from error
