"""Opens a bundle: everything is verified before anybody gets it."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from builder.errors import IntegrityError, UsageError
from builder.host.files import disk_errors, temp_folder
from builder.image.oci import virtual_blob
from builder.model.bundles import (
    BUNDLE_FILE,
    EVIDENCE_FOLDER,
    PARTS_FILE,
    PARTS_FOLDER,
    PROJECT_FOLDER,
    UNFINISHED_FILE,
)
from builder.publish.bundle.bundle_records import LONGEST_RECORD, parse_bundle, parse_parts
from builder.publish.bundle.checksums import check_others, check_record, read_checksums
from builder.publish.bundle.file_checks import FileCheck, check_files, open_plain
from builder.publish.bundle.layout_checks import BLOBS, check_layout
from builder.publish.bundle.parts_archive import PartsArchive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from builder.host.session import Session
    from builder.model.bundles import Bundle, BundleFile
    from builder.publish.bundle.parts_archive import ArchiveMember

# Folders of a split bundle whose files are copied out of the parts.
_COPIED = (BLOBS, f"{EVIDENCE_FOLDER}/", f"{PROJECT_FOLDER}/")
# Larger blobs stay in the parts.
_LARGEST_COPY = 16 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenBundle:
    """A verified bundle.

    `folder` is the user's, `root` the OCI layout with the project's folder in it: the same folder, or a temporary one
    whose large blobs are slices of the parts.
    """

    folder: Path
    root: Path
    bundle: Bundle

    @property
    def project(self) -> Path:
        """The folder of the bundle's project."""
        return self.root / PROJECT_FOLDER


@contextmanager
def open_bundle(folder: Path, session: Session) -> Iterator[OpenBundle]:
    """Verify a bundle and give it; what it holds is valid within the block.

    Raises:
        UsageError: the folder is not a bundle, or a newer jbuild made it.
        IntegrityError: files or parts are missing, incomplete or damaged, or do not fit each other.
        DiskError: the cache has no space for the small files of a split bundle.
    """
    if _has(folder, BUNDLE_FILE):
        yield _open_whole(folder.resolve(), session)
    elif _has(folder, PARTS_FILE):
        with temp_folder(session.workspace.bundles, folder.name) as root:
            yield _open_parts(folder.resolve(), root, session)
    elif _has(folder, UNFINISHED_FILE):
        raise IntegrityError(
            "the bundle is incomplete: `jbuild bundle` did not write it to its end",
            where=str(folder),
            hint="run `jbuild bundle RECIPE --output FOLDER` again, then copy the folder",
        )
    elif _has(folder, PARTS_FOLDER):
        hint = "copy it again from the folder that `jbuild bundle RECIPE --output FOLDER` wrote"
        raise IntegrityError(f"{PARTS_FILE} of this bundle is missing", where=str(folder), hint=hint)
    else:
        lacks = f"not a bundle: it has neither a {BUNDLE_FILE} nor a {PARTS_FILE}"
        hint = "name the folder that `jbuild bundle RECIPE --output FOLDER` wrote"
        raise UsageError(lacks if folder.exists() else "there is no such folder", where=str(folder), hint=hint)


def _has(folder: Path, name: str) -> bool:
    try:
        (folder / name).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        hint = "check the folder's owner and that its disk can be read"
        raise UsageError(f"cannot read the folder: {error.strerror}", where=str(folder), hint=hint) from error
    return True


def _open_whole(folder: Path, session: Session) -> OpenBundle:
    content = _record(folder, BUNDLE_FILE)
    sums = read_checksums(folder)
    check_record(sums, BUNDLE_FILE, content, folder)
    bundle = parse_bundle(content, str(folder / BUNDLE_FILE))
    _refuse_unlisted(folder, bundle)
    checks = [FileCheck(name=file.path, file=file, open=partial(open_plain, folder, file)) for file in bundle.files]
    check_files(checks, "files", folder, session.console)
    check_others(sums, _sha256s(bundle.files), folder)
    check_layout(folder, bundle, folder)
    return OpenBundle(folder=folder, root=folder, bundle=bundle)


def _open_parts(folder: Path, root: Path, session: Session) -> OpenBundle:
    content = _record(folder, PARTS_FILE)
    sums = read_checksums(folder)
    check_record(sums, PARTS_FILE, content, folder)
    parts = parse_parts(content, str(folder / PARTS_FILE))
    count = len(parts.parts)
    checks = [
        FileCheck(name=f"part {Path(part.path).name} of {count}", file=part, open=partial(open_plain, folder, part))
        for part in parts.parts
    ]
    check_files(checks, "parts", folder, session.console)
    check_others(sums, _sha256s(parts.parts), folder)
    archive = PartsArchive(folder, parts)
    record = archive.record()
    if hashlib.sha256(record).hexdigest() != parts.bundle:
        raise IntegrityError(
            f"the {BUNDLE_FILE} in the parts is another one than {PARTS_FILE} names",
            where=str(folder),
            hint=f"copy {PARTS_FILE} again, from the bundle of these parts",
        )
    bundle = parse_bundle(record, f"{folder}: {BUNDLE_FILE}")
    members = archive.members(bundle)
    within = [
        FileCheck(name=file.path, file=file, open=partial(archive.open, members[file.path])) for file in bundle.files
    ]
    check_files(within, "files in the parts", folder, session.console)
    with disk_errors(root):
        _copy_small(archive, members, record, root)
    check_layout(root, bundle, folder)
    return OpenBundle(folder=folder, root=root, bundle=bundle)


def _record(folder: Path, name: str) -> bytes:
    path = folder / name
    try:
        state = path.lstat()
        if not stat.S_ISREG(state.st_mode):
            raise IntegrityError(f"{name} is not a regular file", where=str(folder), hint="copy the bundle again")
        if state.st_size > LONGEST_RECORD:
            flaw = f"{name} is too long ({state.st_size:,} bytes)"
            raise IntegrityError(flaw, where=str(folder), hint="copy the bundle again")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}", where=str(folder), hint="check its owner") from error


def _refuse_unlisted(folder: Path, bundle: Bundle) -> None:
    """Refuse files in the project that the bundle does not list: they would change recipes and settings."""
    listed = {file.path for file in bundle.files}
    folders = {str(above) for path in listed for above in PurePosixPath(path).parents}
    for base, names, files in os.walk(folder / PROJECT_FOLDER):
        for name in (*names, *files):
            path = Path(base, name)
            inside = path.relative_to(folder).as_posix()
            if inside not in (folders if name in names and not path.is_symlink() else listed):
                raise IntegrityError(f"{inside} does not belong to the bundle", where=str(folder), hint="remove it")


def _copy_small(archive: PartsArchive, members: Mapping[str, ArchiveMember], record: bytes, root: Path) -> None:
    (root / BUNDLE_FILE).write_bytes(record)
    for path, member in members.items():
        target = root / path
        if path.startswith(BLOBS) and member.size > _LARGEST_COPY:
            virtual_blob.write_record(root, f"sha256:{target.name}", archive.slices(member))
        elif "/" not in path or path.startswith(_COPIED):
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as stream, target.open("wb") as file:
                shutil.copyfileobj(stream, file)


def _sha256s(files: Iterable[BundleFile]) -> dict[str, str]:
    return {file.path: file.sha256 for file in files}
