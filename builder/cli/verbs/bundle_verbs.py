"""`jbuild bundle`: images in folders that travel to machines without a registry."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click

from builder.cli.cell_selection import CellSelection, recipe_verb
from builder.cli.results import show
from builder.host import records
from builder.host.units import size_of
from builder.model.bundles import PARTS_FILE, Bundle, BundleParts
from builder.model.images import proven_name
from builder.model.verdicts import Verdict
from builder.pipeline.cell import CellRecords
from builder.publish.bundle.archive_parts import part_bytes
from builder.publish.bundle.bundle_contents import BundleOptions, last_verdict
from builder.publish.bundle.bundle_texts import verdict_words
from builder.publish.bundle.write_bundle import write_bundle


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleResult:
    """A bundle that was written.

    `name` is the image's in an engine that loads it, `level` that of a passed verdict, None without one. `size` is the
    bundle's in bytes, `missing` are the digests of the blobs that the receiver must have, `parts` is the number of
    parts, None if it is not split.
    """

    output: str
    recipe: str
    cell: str
    digest: str
    name: str
    level: str | None
    size: int
    since: str | None
    missing: tuple[str, ...]
    parts: int | None


@recipe_verb(
    "bundle",
    click.option(
        "--output",
        required=True,
        metavar="FOLDER",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder to write.",
    ),
    click.option(
        "--since",
        metavar="IMAGE|FOLDER|DIGEST",
        help="Omit the layers that the receiver has: of an image in a registry, an earlier bundle, or a digest.",
    ),
    click.option("--with-jbuild", is_flag=True, help="Add jbuild itself, for machines with Python 3.10 or later."),
    click.option("--split", metavar="SIZE", help="Write parts of this size, such as 60M or 1G."),
)
def bundle_image(
    selection: CellSelection, output: Path, since: str | None, split: str | None, with_jbuild: bool
) -> None:
    """Write the image that this machine built last for RECIPE into a folder, for machines without a registry.

    The folder has the image as an OCI layout, its SBOM, verdict, provenance and audit, the recipe with its questions,
    and a README with the commands for the other side. `jbuild load` and `docker load` read it.
    """
    part = part_bytes(split) if split else None
    options = BundleOptions(output=output, since=since, part_bytes=part, with_jbuild=with_jbuild)
    session, job = selection.session, selection.only_job("a bundle holds one image")
    bundle = write_bundle(job, session, options)
    verdict = last_verdict(CellRecords(session.workspace.cell(job.recipe.name, job.cell.id)))
    result = _result(bundle, output, verdict)
    show(result, _text(result, bundle, verdict), session.console)


def _result(bundle: Bundle, output: Path, verdict: Verdict | None) -> BundleResult:
    parts = _parts(output / PARTS_FILE)
    return BundleResult(
        output=str(output),
        recipe=bundle.recipe,
        cell=bundle.cell,
        digest=bundle.image.digest,
        name=proven_name(bundle.recipe, bundle.cell),
        level=verdict.level if verdict and verdict.passed else None,
        size=parts.size if parts else sum(file.size for file in bundle.files),
        since=bundle.since,
        missing=tuple(descriptor.digest for descriptor in bundle.missing),
        parts=len(parts.parts) if parts else None,
    )


def _parts(path: Path) -> BundleParts | None:
    if not path.is_file():
        return None
    parts: BundleParts = records.from_json(json.loads(path.read_bytes()), BundleParts)
    return parts


def _text(result: BundleResult, bundle: Bundle, verdict: Verdict | None) -> str:
    count, noun = (result.parts, "part") if result.parts else (len(bundle.files) + 1, "file")
    lines = [
        result.output,
        f"image    {result.digest}, {result.name}",
        f"verdict  {verdict_words(verdict)}",
        f"size     {size_of(result.size)} in {count} {noun}{'s' * (count > 1)}",
    ]
    if bundle.since:
        omitted = sum(descriptor.size for descriptor in bundle.missing)
        lines.append(f"omitted  {len(bundle.missing)} layers, {size_of(omitted)}, of {bundle.since}")
    return "\n".join(lines)
