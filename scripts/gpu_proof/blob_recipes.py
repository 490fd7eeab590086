"""Takes images to a machine without a network that has most of their files: as recipes and literal bytes.

`encode` writes the recipes of the images' blobs, and `pack` cuts them into parts that fit a transfer. On the other
machine, `find` looks for the files that the recipes need, and `decode` makes the same blobs again.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import shutil
import sys
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from builder.errors import JbuildError
from builder.host.files import sha256_of
from builder.host.paths import Workspace
from builder.image.oci import layout
from gpu_proof.decode_blobs import Kitchen, MissingFilesError, decode
from gpu_proof.encode_blobs import encode
from gpu_proof.far_files import find_files, recorded_files
from gpu_proof.literals import expand
from gpu_proof.recipe_file import LITERALS, RECIPES, read_recipes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_PARTS = "parts.json"
_READ = 1 << 20
_MEGABYTE = 1 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step; the exit code is 1 on an error."""
    options = _parser().parse_args(arguments)
    try:
        {"encode": _encode, "pack": _pack, "find": _find, "decode": _decode}[options.step](options)
    except (JbuildError, MissingFilesError, OSError, ValueError) as error:
        print(f"blob_recipes: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("encode", help="write the recipes of images")
    step.add_argument("layout", type=Path, help="the OCI layout with the images' blobs")
    step.add_argument("output", type=Path)
    step.add_argument(
        "--image", action="append", default=[], help="digest of a manifest (default: those of index.json)"
    )
    step.add_argument("--platform", default="linux/amd64")
    step.add_argument("--inventory", type=Path, help="lines of sha256, size and path on the other machine; or gzipped")
    step.add_argument(
        "--have", type=Path, action="append", default=[], help="folder whose files the other machine gets"
    )
    step.add_argument(
        "--installed", type=Path, action="append", default=[], help="wheel whose files the other machine has"
    )
    step.add_argument("--level", type=int, default=12, help="zstd's level for literals (default: 12)")
    step.add_argument("--without", action="append", default=[], help="digest of an image that the other machine has")
    step.add_argument("--unchecked", action="store_true", help="do not pack each blob again to compare it")
    step = steps.add_parser("pack", help="cut the recipes into parts")
    step.add_argument("encoded", type=Path)
    step.add_argument("output", type=Path)
    step.add_argument("--also", type=Path, action="append", default=[], help="another file to take along")
    step.add_argument("--mib", type=int, default=60, help="the largest part (default: 60)")
    step = steps.add_parser("find", help="look on the other machine for the files that the recipes need")
    step.add_argument("encoded", type=Path, help="the folder of the recipes")
    step.add_argument("output", type=Path, help="gets an inventory of the files")
    step.add_argument("folder", type=Path, nargs="+", help="where to look")
    step = steps.add_parser("decode", help="make the blobs again")
    step.add_argument("parts", type=Path, help="the folder of the parts, or of the recipes")
    step.add_argument("layout", type=Path)
    step.add_argument("--inventory", type=Path, help="the same lines as for encode")
    step.add_argument("--have", type=Path, action="append", default=[], help="folder with more files")
    step.add_argument("--blob", action="append", default=[], help="digest of a blob; only these are made")
    return parser


def _encode(options: argparse.Namespace) -> None:
    images = options.image or [
        row["digest"] for row in json.loads((options.layout / "index.json").read_text())["manifests"]
    ]
    inventory = set(_inventory(options.inventory)) | set(_files_by_sha256(options.have))
    inventory |= {sha256 for wheel in options.installed for sha256 in recorded_files(wheel)}
    others = [layout.read_image(options.layout, digest, options.platform) for digest in options.without]
    encode(
        [layout.read_image(options.layout, digest, options.platform) for digest in images],
        options.layout,
        inventory,
        options.output,
        Workspace.current(),
        level=options.level,
        check=not options.unchecked,
        present={blob.digest for image in others for blob in layout.image_blobs(image)},
        say=_say,
    )
    size = sum(path.stat().st_size for path in options.output.rglob("*") if path.is_file())
    _say(f"{options.output}: {size / 1e6:.1f} MB")


def _pack(options: argparse.Namespace) -> None:
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=options.output) as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            archive.add(options.encoded / RECIPES, RECIPES)
            archive.add(options.encoded / LITERALS, LITERALS)
            for path in options.also:
                archive.add(path, f"also/{path.name}")
        file.seek(0)
        parts = list(_cut(file, options.output, options.mib * _MEGABYTE))
    (options.output / _PARTS).write_text(json.dumps(parts, indent=1), encoding="utf-8")
    _say(f"{len(parts)} parts, {sum(part['size'] for part in parts) / 1e6:.1f} MB")


def _cut(file: IO[bytes], folder: Path, size: int) -> Iterator[dict[str, Any]]:
    number = 1
    while data := file.read(size):
        name = f"{number:04d}"
        (folder / name).write_bytes(data)
        yield {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        number += 1


def _find(options: argparse.Namespace) -> None:
    needed = read_recipes(options.encoded).files()
    found = find_files(needed, options.folder)
    lines = (f"{source.sha256} {source.size} {found[source.sha256]}\n" for source in needed if source.sha256 in found)
    options.output.write_bytes("".join(lines).encode("utf-8", "surrogateescape"))
    missing = [source for source in needed if source.sha256 not in found]
    _say(f"{len(found)} of {len(needed)} files are here, {sum(source.size for source in missing) / 1e6:.1f} MB are not")
    for source in missing:
        _say(f"missing {source.sha256} {source.size}")
    if missing:
        raise MissingFilesError(f"{len(missing)} files are missing; decode needs a folder with them (--have)")


def _decode(options: argparse.Namespace) -> None:
    options.layout.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.layout) as scratch:
        folder = _joined(options.parts, Path(scratch)) if (options.parts / _PARTS).exists() else options.parts
        recipes = read_recipes(folder)
        if options.blob:
            chosen = tuple(recipe for recipe in recipes.blobs if recipe.blob.digest in options.blob)
            recipes = replace(recipes, blobs=chosen)
        expand(folder / LITERALS, Path(scratch) / "literal-bytes")
        _say(f"{(Path(scratch) / 'literal-bytes').stat().st_size / 1e6:.1f} MB of literals")
        files = _inventory(options.inventory) | _files_by_sha256(options.have)
        decode(recipes, Kitchen(recipes, Path(scratch) / "literal-bytes", files), options.layout, _say)
    _say(f"{options.layout}: {len(recipes.blobs)} blobs, all as their digests say")


def _joined(folder: Path, scratch: Path) -> Path:
    """Check all parts and unpack them; the files taken along come beside the parts."""
    parts = json.loads((folder / _PARTS).read_text(encoding="utf-8"))
    archive = scratch / "parts.tar"
    with archive.open("wb") as file:
        for part in parts:
            data = (folder / part["name"]).read_bytes()
            if hashlib.sha256(data).hexdigest() != part["sha256"]:
                raise ValueError(f"{folder / part['name']} is damaged: send it again")
            file.write(data)
    with tarfile.open(archive) as tar:
        tar.extractall(scratch, filter="data")
    archive.unlink()
    if (scratch / "also").exists():
        shutil.copytree(scratch / "also", folder / "also", dirs_exist_ok=True)
    return scratch


def _inventory(path: Path | None) -> dict[str, Path]:
    """Return the files of an inventory by their sha256."""
    if path is None:
        return {}
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", "surrogateescape")
    rows = (line.split(" ", 2) for line in text.splitlines())
    return {sha256: Path(name) for sha256, _, name in rows}


def _files_by_sha256(folders: Iterable[Path]) -> dict[str, Path]:
    return {sha256_of(path): path for folder in folders for path in folder.rglob("*") if path.is_file()}


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
