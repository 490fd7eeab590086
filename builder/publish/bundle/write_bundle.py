"""Writes a bundle: an image, its evidence and a small project in a folder, whole or in parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import UsageError
from builder.host import records
from builder.host.file_locks import in_use
from builder.host.files import disk_errors
from builder.model.bundles import BUNDLE_FILE, BUNDLE_FORMAT, PARTS_FILE, SUMS_FILE, BundleParts
from builder.publish.bundle.archive_parts import part_paths, write_archive_parts
from builder.publish.bundle.bundle_contents import BundleContents, bundle_contents
from builder.publish.bundle.bundle_folder import check_folder, finish, prepare, write_unless_same
from builder.publish.bundle.bundle_texts import text_members
from builder.publish.bundle.members import BundleMember, archive, archive_size, checksums, text_member

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from builder.host.session import Session
    from builder.model.bundles import Bundle
    from builder.model.locks import Job
    from builder.publish.bundle.bundle_contents import BundleOptions


def write_bundle(job: Job, session: Session, options: BundleOptions) -> Bundle:
    """Write the bundle of a cell's latest image into a folder, and return its record.

    The same image and records give the same bytes. A second run keeps the files that are right.

    Raises:
        UsageError: the cell has not been built, the folder holds something else, or `since` is unknown.
        IntegrityError: a blob is missing or damaged.
        RegistryError: a registry does not answer.
        DiskError: the disk is full, or the folder cannot be written.
    """
    if options.since and Path(options.since).resolve() == options.output.resolve():
        hint = "name another folder with --output: the receiver needs that bundle, and this one replaces it"
        raise UsageError("--since names the folder of --output", where=str(options.output), hint=hint)
    # Gathering the contents can take minutes: layers may have to be packed again.
    with disk_errors(options.output):
        check_folder(options.output, job.recipe.name, job.cell.id)
    with in_use(session.workspace):
        contents = bundle_contents(job, session, options)
        if options.part_bytes:
            _write_parts(contents, session, options.output, options.part_bytes)
        else:
            _write_files(contents, session, options.output)
    return contents.bundle


def _write_files(contents: BundleContents, session: Session, folder: Path) -> None:
    bundle, members = contents.bundle, contents.members
    total = sum(member.blob.size for member in members)
    prepare(folder, bundle, [member.path for member in members], total)
    with session.console.task("writing the bundle", float(total), unit="B") as task:
        for member in members:
            _write_member(folder, member, task.advance)
    finish(folder, BUNDLE_FILE, record_bytes(bundle))


def _write_parts(contents: BundleContents, session: Session, folder: Path, size: int) -> None:
    bundle = contents.bundle
    record = text_member(BUNDLE_FILE, record_bytes(bundle))
    members = (record, *contents.members)
    total = archive_size(members)
    paths = part_paths(total, size)
    beside = text_members(contents.facts, split=True)
    small = [SUMS_FILE, *(member.path for member in beside)]
    prepare(folder, bundle, [*paths, *small], total)
    with session.console.task("writing the bundle", float(total), unit="B") as task:

        def write(path: str, length: int, blocks: Iterator[bytes]) -> None:
            write_unless_same(folder / path, length, _counted(blocks, task.advance))

        files = tuple(write_archive_parts(archive(members), paths, total, size, write))
    parts = BundleParts(format=BUNDLE_FORMAT, bundle=record.entry.sha256, size=total, parts=files)
    last = text_member(PARTS_FILE, record_bytes(parts))
    sums = text_member(SUMS_FILE, checksums([last.entry, *(member.entry for member in beside), *files]))
    for member in (*beside, sums):
        _write_member(folder, member, lambda _: None)
    finish(folder, PARTS_FILE, record_bytes(parts))


def _write_member(folder: Path, member: BundleMember, on_bytes: Callable[[float], object]) -> None:
    write_unless_same(folder / member.path, member.blob.size, _counted(member.blocks(), on_bytes), mode=member.mode)


def _counted(blocks: Iterable[bytes], on_bytes: Callable[[float], object]) -> Iterator[bytes]:
    for block in blocks:
        on_bytes(len(block))
        yield block


def record_bytes(record: Bundle | BundleParts) -> bytes:
    """Return the content of `bundle.json` or `parts.json`."""
    return json.dumps(records.to_json(record), indent=1, sort_keys=True).encode() + b"\n"
