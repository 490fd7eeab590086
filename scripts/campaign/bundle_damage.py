"""The kinds of damage of a bundle. Each function damages a bundle's folder, and returns what the refusal must name."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from builder.host import records
from builder.model.bundles import BUNDLE_FILE, PARTS_FILE, PARTS_FOLDER, PROJECT_FOLDER, RECORD_ANNOTATION, Bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from random import Random

Form = Literal["whole", "split"]
_SUMS = "SHA256SUMS"
# Records cannot be checked but against each other: the refusal names one of them.
_RECORD_NAMES = "bundle.json|parts.json|SHA256SUMS|record|newer jbuild"


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """A bundle to damage, another one to take files from, and the source of choices."""

    folder: Path
    other: Path
    choose: Random


@dataclass(frozen=True, kw_only=True)
class DamageKind:
    """A kind of damage of whole or split bundles; `harm` returns a pattern of what the refusal names."""

    name: str
    form: Form
    harm: Callable[[Damaged], str]


def _file(bundle: Damaged, *, records_too: bool = False) -> Path:
    """Choose a file of a bundle; half of the time one that is part of the image."""
    files = sorted(path for path in bundle.folder.rglob("*") if path.is_file())
    if not records_too:
        files = [path for path in files if path.name not in (BUNDLE_FILE, PARTS_FILE, _SUMS)]
    large = [path for path in files if path.parent.name in ("sha256", PARTS_FOLDER)]
    return bundle.choose.choice(large if bundle.choose.random() < 0.5 else files)  # noqa: PLR2004


def _part(bundle: Damaged) -> Path:
    return bundle.choose.choice(sorted((bundle.folder / PARTS_FOLDER).iterdir()))


def _name(bundle: Damaged, path: Path) -> str:
    inside = path.relative_to(bundle.folder).as_posix()
    if inside in (BUNDLE_FILE, PARTS_FILE, _SUMS):
        return _RECORD_NAMES
    return f"part {path.name} of|{inside}|{_SUMS}" if path.parent.name == PARTS_FOLDER else f"{inside}|{_SUMS}"


def _flip(bundle: Damaged) -> str:
    path = _file(bundle, records_too=True)
    content = bytearray(path.read_bytes())
    content[bundle.choose.randrange(len(content))] ^= 1 << bundle.choose.randrange(8)
    path.write_bytes(content)
    return _name(bundle, path)


def _shorten(bundle: Damaged) -> str:
    path = _file(bundle, records_too=True)
    content = path.read_bytes()
    path.write_bytes(content[: bundle.choose.randrange(len(content))])
    return _name(bundle, path)


def _empty(bundle: Damaged) -> str:
    path = _file(bundle)
    path.write_bytes(b"")
    return _name(bundle, path)


def _lengthen(bundle: Damaged) -> str:
    path = _file(bundle)
    with path.open("ab") as file:
        file.write(bundle.choose.randbytes(bundle.choose.randrange(1, 2000)))
    return _name(bundle, path)


def _remove(bundle: Damaged) -> str:
    path = _file(bundle)
    path.unlink()
    return _name(bundle, path)


def _zeros(bundle: Damaged) -> str:
    """A disk that lost a block."""
    path = _file(bundle)
    content = bytearray(path.read_bytes())
    begin = bundle.choose.randrange(len(content))
    content[begin : begin + 4096] = bytes(b ^ 255 for b in content[begin : begin + 4096])
    path.write_bytes(content)
    return _name(bundle, path)


def _link(bundle: Damaged) -> str:
    path = _file(bundle)
    target = bundle.folder.parent / "outside"
    shutil.move(path, target)
    path.symlink_to(target)
    return _name(bundle, path)


def _pipe(bundle: Damaged) -> str:
    path = _file(bundle)
    path.unlink()
    os.mkfifo(path)
    return _name(bundle, path)


def _folder(bundle: Damaged) -> str:
    path = _file(bundle)
    path.unlink()
    path.mkdir()
    return _name(bundle, path)


def _exchange(bundle: Damaged) -> str:
    one, two = bundle.choose.sample(sorted((bundle.folder / "blobs" / "sha256").iterdir()), 2)
    _swap(one, two)
    return one.name


def _exchange_parts(bundle: Damaged) -> str:
    one, two = bundle.choose.sample(sorted((bundle.folder / PARTS_FOLDER).iterdir()), 2)
    _swap(one, two)
    return f"part {min(one.name, two.name)} of"


def _swap(one: Path, two: Path) -> None:
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def _repeat_part(bundle: Damaged) -> str:
    one, two = bundle.choose.sample(sorted((bundle.folder / PARTS_FOLDER).iterdir()), 2)
    one.write_bytes(two.read_bytes())
    return f"part {one.name} of"


def _foreign_part(bundle: Damaged) -> str:
    parts = {path.name: path.read_bytes() for path in sorted((bundle.other / PARTS_FOLDER).iterdir())}
    own = {path.name: path.read_bytes() for path in (bundle.folder / PARTS_FOLDER).iterdir()}
    name = bundle.choose.choice([name for name, content in parts.items() if own.get(name, content) != content])
    (bundle.folder / PARTS_FOLDER / name).write_bytes(parts[name])
    return f"part {name} of"


def _several_parts(bundle: Damaged) -> str:
    paths = sorted((bundle.folder / PARTS_FOLDER).iterdir())
    chosen = bundle.choose.sample(paths, 2)
    for path in chosen:
        path.unlink()
    return f"2 of {len(paths)} parts are wrong: part {min(path.name for path in chosen)} of"


def _no_parts(bundle: Damaged) -> str:
    shutil.rmtree(bundle.folder / PARTS_FOLDER)
    return "parts are wrong: part 0001 of"


def _other_record(bundle: Damaged) -> str:
    name = BUNDLE_FILE if (bundle.folder / BUNDLE_FILE).exists() else PARTS_FILE
    shutil.copy(bundle.other / name, bundle.folder / name)
    if bundle.choose.random() < 0.5:  # noqa: PLR2004
        _trust(bundle.folder, name)
    return f"{_RECORD_NAMES}|is missing|is damaged|are wrong"


def _changed(bundle: Damaged, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the record, and the list of checksums as somebody would who wants the change to pass."""
    name = BUNDLE_FILE if (bundle.folder / BUNDLE_FILE).exists() else PARTS_FILE
    record = json.loads((bundle.folder / name).read_bytes())
    change(record)
    (bundle.folder / name).write_text(json.dumps(record))
    _trust(bundle.folder, name)


def _trust(folder: Path, *names: str) -> None:
    """Write the sha256 of files into the list of checksums."""
    rows: dict[str, str] = {}
    for row in (folder / _SUMS).read_text().splitlines():
        value, _, name = row.partition("  ")
        rows[name] = value
    rows |= {name: _sha256((folder / name).read_bytes()) for name in names if name in rows}
    (folder / _SUMS).write_text("".join(f"{value}  {name}\n" for name, value in rows.items()))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _row(bundle: Damaged, record: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = bundle.choose.choice(record["files" if "files" in record else "parts"])
    return row


def _wrong_size(bundle: Damaged) -> str:
    _changed(bundle, lambda record: _row(bundle, record).update(size=bundle.choose.randrange(1 << 40)))
    return "too long|incomplete|sizes do not add up"


def _wrong_sum(bundle: Damaged) -> str:
    _changed(bundle, lambda record: _row(bundle, record).update(sha256=_sha256(bundle.choose.randbytes(8))))
    return "is damaged"


def _twice(bundle: Damaged) -> str:
    _changed(bundle, lambda record: record["files"].append(record["files"][0]))
    return "twice"


def _outside(bundle: Damaged) -> str:
    path = bundle.choose.choice(["../outside", "/etc/passwd", "blobs/../../x", "project//x", "a\\b", "./x"])
    _changed(bundle, lambda record: _row(bundle, record).update(path=path))
    return "is not a path inside the bundle|is not in the folder"


def _newer(bundle: Damaged) -> str:
    _changed(bundle, lambda record: record.update(format=2, new="field"))
    return "newer jbuild"


def _bomb(bundle: Damaged) -> str:
    name = BUNDLE_FILE if (bundle.folder / BUNDLE_FILE).exists() else PARTS_FILE
    (bundle.folder / name).write_bytes(b'{"format": ' + b"[" * 1_000_000)
    _trust(bundle.folder, name)
    return "record is damaged"


def _changed_field(bundle: Damaged) -> str:
    field, value = bundle.choose.choice(
        [("cell", "another"), ("recipe", "another"), ("repository", "a/b"), ("jbuild", "9")]
    )
    _changed(bundle, lambda record: record.update({field: value}))
    return "another content than when the bundle was made"


def _lost_part(bundle: Damaged) -> str:
    def drop(record: dict[str, Any]) -> None:
        record["size"] -= record["parts"].pop()["size"]

    _changed(bundle, drop)
    return "the archive in the parts"


def _reordered(bundle: Damaged) -> str:
    _changed(bundle, lambda record: record["parts"].reverse())
    return "the archive in the parts"


def _other_image(bundle: Damaged) -> str:
    """Somebody put another image into the layout, with all checksums right."""
    for path in (bundle.other / "blobs" / "sha256").iterdir():
        shutil.copy(path, bundle.folder / "blobs" / "sha256" / path.name)
    for name in ("index.json", "manifest.json"):
        shutil.copy(bundle.other / name, bundle.folder / name)
    _seal(bundle.folder)
    return f"index.json|manifest.json|{BUNDLE_FILE}"


def _seal(folder: Path, **changes: Any) -> None:
    """Write a record and checksums that agree with all files of a folder."""
    record = records.from_json(json.loads((folder / BUNDLE_FILE).read_bytes()), Bundle)
    record = dataclasses.replace(record, **changes)
    index = json.loads((folder / "index.json").read_bytes())
    index["annotations"] = {RECORD_ANNOTATION: records.fingerprint(dataclasses.replace(record, files=()))}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / _SUMS).unlink(missing_ok=True)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != BUNDLE_FILE)
    files = [_described(folder, path) for path in paths]
    body = {**records.to_json(record), "files": files}
    (folder / BUNDLE_FILE).write_text(json.dumps(body))
    (folder / _SUMS).write_text("".join(f"{file['sha256']}  {file['path']}\n" for file in files))


def _described(folder: Path, path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"path": path.relative_to(folder).as_posix(), "size": len(content), "sha256": _sha256(content)}


def _other_layers(bundle: Damaged) -> str:
    """Somebody exchanged the image in the record only."""
    other = records.from_json(json.loads((bundle.other / BUNDLE_FILE).read_bytes()), Bundle).image
    own = records.from_json(json.loads((bundle.folder / BUNDLE_FILE).read_bytes()), Bundle).image
    _seal(bundle.folder, image=dataclasses.replace(own, layers=other.layers))
    return "the image's blob|another one than bundle.json describes"


def _unlisted(bundle: Damaged) -> str:
    name = bundle.choose.choice(["jbuild.toml", "recipes/other.toml", "dockerfiles/standard.Dockerfile.j2"])
    path = bundle.folder / PROJECT_FOLDER / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x = 1\n")
    return f"{PROJECT_FOLDER}/.* does not belong to the bundle"


def _foreign_folder(bundle: Damaged) -> str:
    for name in (BUNDLE_FILE, PARTS_FILE):
        (bundle.folder / name).unlink(missing_ok=True)
    return f"{PARTS_FILE} of this bundle is missing" if (bundle.folder / PARTS_FOLDER).is_dir() else "not a bundle"


def _archive(bundle: Damaged, change: Callable[[dict[str, bytes], list[bytes]], object]) -> None:
    """Write an archive with other files, and parts and checksums that agree with it."""
    joined = b"".join(path.read_bytes() for path in sorted((bundle.folder / PARTS_FOLDER).iterdir()))
    with tarfile.open(fileobj=io.BytesIO(joined)) as archive:
        opened = {member.name: archive.extractfile(member) for member in archive}
        files = {name: file.read() for name, file in opened.items() if file}
    more: list[bytes] = []
    change(files, more)
    content = b"".join(_member(name, data) for name, data in files.items()) + b"".join(more) + bytes(1024)
    _write_parts(bundle.folder, content, _sha256(files.get(BUNDLE_FILE, b"")))


def _member(name: str, content: bytes, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(content)
    return info.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)


def _write_parts(folder: Path, content: bytes, record: str) -> None:
    parts = json.loads((folder / PARTS_FILE).read_bytes())
    size = max(part["size"] for part in parts["parts"])
    shutil.rmtree(folder / PARTS_FOLDER)
    (folder / PARTS_FOLDER).mkdir()
    for number, offset in enumerate(range(0, len(content), size), start=1):
        (folder / PARTS_FOLDER / f"{number:04}").write_bytes(content[offset : offset + size])
    rows = [_described(folder, path) for path in sorted((folder / PARTS_FOLDER).iterdir())]
    body = {**parts, "bundle": record, "size": len(content), "parts": rows}
    (folder / PARTS_FILE).write_text(json.dumps(body))
    (folder / _SUMS).write_text("".join(f"{row['sha256']}  {row['path']}\n" for row in rows))


def _stray_member(bundle: Damaged) -> str:
    name, kind, target = bundle.choose.choice(
        [
            ("../outside", tarfile.REGTYPE, ""),
            ("/etc/outside", tarfile.REGTYPE, ""),
            ("link", tarfile.SYMTYPE, "/etc"),
            ("hard", tarfile.LNKTYPE, "bundle.json"),
            ("pipe", tarfile.FIFOTYPE, ""),
            ("null", tarfile.CHRTYPE, ""),
            ("folder", tarfile.DIRTYPE, ""),
            ("bundle.json", tarfile.REGTYPE, ""),
            ("README.md", tarfile.REGTYPE, ""),
        ]
    )
    _archive(bundle, lambda _, more: more.append(_member(name, b"", kind, target)))
    return f"the archive in the parts has .*{name}"


def _long_header(bundle: Damaged) -> str:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    _archive(bundle, lambda _, more: more.append(info.tobuf(tarfile.GNU_FORMAT)))
    return "the archive in the parts cannot be read"


def _lost_member(bundle: Damaged) -> str:
    def drop(files: dict[str, bytes], _: list[bytes]) -> None:
        files.pop(bundle.choose.choice([name for name in files if name != BUNDLE_FILE]))

    _archive(bundle, drop)
    return "the archive in the parts lacks"


def _changed_member(bundle: Damaged) -> str:
    names: list[str] = []

    def change(files: dict[str, bytes], _: list[bytes]) -> None:
        name = bundle.choose.choice([name for name, content in files.items() if content and name != BUNDLE_FILE])
        content = bytearray(files[name])
        content[bundle.choose.randrange(len(content))] ^= 1
        files[name] = bytes(content)
        names.append(name)

    _archive(bundle, change)
    return f"{names[0]} is damaged"


def _noise(bundle: Damaged) -> str:
    content = bundle.choose.randbytes(200_000)
    _write_parts(bundle.folder, content, _sha256(content))
    return "the archive in the parts"


_EITHER: Mapping[str, Callable[[Damaged], str]] = {
    "bit flip": _flip,
    "cut off": _shorten,
    "empty": _empty,
    "longer": _lengthen,
    "missing": _remove,
    "other block of 4096 bytes": _zeros,
    "link": _link,
    "named pipe": _pipe,
    "folder in place of a file": _folder,
    "record of another bundle": _other_record,
    "wrong size in the record": _wrong_size,
    "wrong sha256 in the record": _wrong_sum,
    "path outside in the record": _outside,
    "record of a newer jbuild": _newer,
    "record 1 000 000 levels deep": _bomb,
    "no record": _foreign_folder,
}
_WHOLE: Mapping[str, Callable[[Damaged], str]] = {
    "blobs exchanged": _exchange,
    "file twice in the record": _twice,
    "other field in the record": _changed_field,
    "other image, checksums right": _other_image,
    "other layers in the record, checksums right": _other_layers,
    "file that is not listed in the project": _unlisted,
}
_SPLIT: Mapping[str, Callable[[Damaged], str]] = {
    "parts exchanged": _exchange_parts,
    "part twice": _repeat_part,
    "part of another bundle": _foreign_part,
    "two parts missing": _several_parts,
    "all parts missing": _no_parts,
    "last part not in the record": _lost_part,
    "parts in another order": _reordered,
    "stray entry, checksums right": _stray_member,
    "header of a terabyte, checksums right": _long_header,
    "file missing in the archive, checksums right": _lost_member,
    "file changed in the archive, checksums right": _changed_member,
    "noise, checksums right": _noise,
}
DAMAGES: tuple[DamageKind, ...] = (
    *(DamageKind(name=name, form="whole", harm=harm) for name, harm in (*_EITHER.items(), *_WHOLE.items())),
    *(DamageKind(name=name, form="split", harm=harm) for name, harm in (*_EITHER.items(), *_SPLIT.items())),
)
