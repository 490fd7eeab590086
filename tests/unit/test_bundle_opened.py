"""Opening bundles: whole and split ones give the same image; each flaw is named before anything is used."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tarfile
from typing import TYPE_CHECKING

import pytest
from bundle_factory import PROJECT, seal, sha256, split, split_archive, tar_of, write_bundle, write_image

from builder.errors import IntegrityError, JbuildError, UsageError
from builder.host import records
from builder.image.oci import virtual_blob
from builder.image.oci.layout import image_blobs, open_blob
from builder.model.bundles import Bundle
from builder.publish.bundle import opened
from builder.publish.bundle.bundle_reading import unverified_image
from builder.publish.bundle.opened import open_bundle
from builder.publish.image_source import from_layout

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session

PART = 20_000


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A bundle in one folder."""
    folder = tmp_path / "whole"
    write_bundle(folder, write_image(folder))
    return folder


@pytest.fixture
def parts(tmp_path: Path, whole: Path) -> Path:
    """The same bundle in parts."""
    folder = tmp_path / "parts"
    split(whole, folder, PART)
    return folder


def bundle_of(folder: Path) -> Bundle:
    bundle: Bundle = records.from_json(json.loads((folder / "bundle.json").read_bytes()), Bundle)
    return bundle


@pytest.mark.parametrize("kind", ["whole", "parts"])
def test_the_image_is_known_before_the_files_are_read(kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    image = bundle_of(request.getfixturevalue("whole")).image
    for path in (folder / "evidence" / "sbom.json", *sorted((folder / "parts").glob("*"))[1:]):
        path.unlink(missing_ok=True)
    assert unverified_image(folder) == image
    first = folder / ("bundle.json" if kind == "whole" else "parts/0001")
    first.write_bytes(first.read_bytes().replace(b"linux/amd64", b"other/amd64"))
    assert unverified_image(folder) is None
    assert unverified_image(folder / "absent") is None


def refused(folder: Path, session: Session, pattern: str, kind: type[JbuildError] = IntegrityError) -> JbuildError:
    with pytest.raises(kind, match=pattern) as raised, open_bundle(folder, session):
        pytest.fail("it was opened")
    assert list(session.workspace.bundles.glob("*")) == []
    return raised.value


@pytest.mark.parametrize("kind", ["whole", "parts"])
def test_a_bundle_is_a_layout_with_a_project(kind: str, request: pytest.FixtureRequest, session: Session) -> None:
    folder = request.getfixturevalue(kind)
    whole = request.getfixturevalue("whole")
    with open_bundle(folder, session) as bundle:
        assert bundle.folder == folder
        image = bundle.bundle.image
        for blob in image_blobs(image):
            with open_blob(bundle.root, blob.digest) as content, open_blob(whole, blob.digest) as expected:
                assert content.read() == expected.read()
        assert from_layout(image, bundle.root).digest == image.digest
        for path in PROJECT:
            assert (bundle.root / path).read_bytes() == PROJECT[path]
    assert list(session.workspace.bundles.glob("*")) == []


def test_large_blobs_stay_in_the_parts(parts: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "_LARGEST_COPY", 2000)
    with open_bundle(parts, session) as bundle:
        layers = bundle.bundle.image.layers
        large = [layer for layer in layers if layer.size > 2000]
        assert large
        for layer in large:
            assert not (bundle.root / "blobs" / "sha256" / layer.digest[7:]).exists()
            assert virtual_blob.read(bundle.root, layer.digest) is not None
            with open_blob(bundle.root, layer.digest) as file:
                assert f"sha256:{sha256(file.read())}" == layer.digest
                file.seek(layer.size - 10)
                assert len(file.read()) == 10


def test_a_folder_may_be_a_link_and_have_files_of_others(whole: Path, session: Session, tmp_path: Path) -> None:
    (whole / ".DS_Store").write_text("x")
    (whole / "verdict").mkdir()
    (whole / "verdict" / "verdict.json").write_text("{}")
    (tmp_path / "link").symlink_to(whole)
    with open_bundle(tmp_path / "link", session) as bundle:
        assert bundle.folder == whole


def flip(path: Path, at: int = 10) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_wrong_parts_are_named_together(parts: Path, session: Session) -> None:
    folder = parts / "parts"
    count = len(list(folder.iterdir()))
    (folder / "0001").unlink()
    flip(folder / "0002")
    (folder / "0003").write_bytes((folder / "0003").read_bytes()[:100])
    error = refused(parts, session, f"^3 of {count} parts are wrong: ")
    assert f"part 0001 of {count} is missing" in error.message
    assert re.search(
        rf"part 0002 of {count} is damaged \(sha256 [0-9a-f]{{12}}…, expected [0-9a-f]{{12}}…\)", error.message
    )
    assert f"part 0003 of {count} is incomplete (100 of 20,000 bytes)" in error.message
    assert error.exit_code == 6
    assert error.where == str(parts)


def test_exchanged_parts_are_named(parts: Path, session: Session) -> None:
    one, two = parts / "parts" / "0001", parts / "parts" / "0002"
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    error = refused(parts, session, "part 0001 of . has the content of part 0002 of .")
    assert "part 0002" in error.message.partition(";")[2]


@pytest.mark.parametrize("path", ["README.md", "load.sh", "index.json", "manifest.json", "project/recipes/tiny.toml"])
def test_a_damaged_file_is_named(whole: Path, session: Session, path: str) -> None:
    flip(whole / path, 5)
    refused(whole, session, f"^{re.escape(path)} is damaged")


def test_a_damaged_blob_is_named(whole: Path, session: Session) -> None:
    layer = bundle_of(whole).image.layers[1].digest[7:]
    flip(whole / "blobs" / "sha256" / layer)
    refused(whole, session, f"^blobs/sha256/{layer} is damaged")


@pytest.mark.parametrize("kind", ["whole", "parts"])
@pytest.mark.parametrize("name", ["bundle.json", "parts.json", "SHA256SUMS"])
def test_every_bit_of_the_records_counts(
    kind: str, name: str, request: pytest.FixtureRequest, session: Session
) -> None:
    path = request.getfixturevalue(kind) / name
    if not path.exists():
        pytest.skip("not in this form")
    content = path.read_bytes()
    for at in range(0, len(content), 31):
        flip(path, at)
        refused(path.parent, session, ".", JbuildError)
        path.write_bytes(content)


def test_files_beside_the_parts_count(parts: Path, session: Session) -> None:
    flip(parts / "README.md", 2)
    refused(parts, session, "README.md is damaged, or SHA256SUMS is")
    (parts / "README.md").unlink()
    refused(parts, session, "README.md is missing, which SHA256SUMS lists")
    (parts / "SHA256SUMS").unlink()
    with open_bundle(parts, session):
        pass


def test_the_parts_of_another_bundle_are_refused(parts: Path, session: Session, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_bundle(other, write_image(other, [{"a": b"b"}]))
    split(other, tmp_path / "foreign", PART)
    (parts / "parts.json").write_bytes((tmp_path / "foreign" / "parts.json").read_bytes())
    refused(parts, session, "parts.json is damaged, or SHA256SUMS is")
    (parts / "SHA256SUMS").unlink()
    refused(parts, session, "^2 of 2 parts are wrong: part 0001 of 2 is damaged")


def test_the_record_in_the_parts_is_that_of_the_bundle(parts: Path, session: Session) -> None:
    path = parts / "parts.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "bundle": "0" * 64}))
    (parts / "SHA256SUMS").unlink()
    refused(parts, session, "the bundle.json in the parts is another one than parts.json names")


@pytest.mark.parametrize(
    ("content", "pattern", "kind"),
    [
        (b"{}", "it is not a bundle.json", IntegrityError),
        (b"[" * 100_000, "it is not a bundle.json", IntegrityError),
        (b'{"format": ' + b"[" * 100_000, "it is not a bundle.json", IntegrityError),
        (b"\xff", "it is not a bundle.json", IntegrityError),
        (b'{"format": 2, "new": 1}', r"newer jbuild made this bundle \(its format is 2", UsageError),
        (b'{"format": 1, "new": 1}', "it is not a bundle.json", IntegrityError),
        (b'{"format": 0}', "0 is not a format of bundles", IntegrityError),
        (b'{"format": true}', "True is not a format of bundles", IntegrityError),
        (b'{"format": ' + b"1" * 5000 + b"}", "it is not a bundle.json", IntegrityError),
    ],
)
def test_a_record_that_is_none(
    whole: Path, session: Session, content: bytes, pattern: str, kind: type[JbuildError]
) -> None:
    (whole / "SHA256SUMS").unlink()
    (whole / "bundle.json").write_bytes(content)
    refused(whole, session, pattern, kind)


def change(folder: Path, **fields: object) -> None:
    """Change fields of `bundle.json`; a list of checksums would betray that."""
    path = folder / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **fields}))
    (folder / "SHA256SUMS").unlink(missing_ok=True)


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/passwd", "a//b", "./a", "a/../b", "", "a\nb", "a\\b", "bundle.json", "verdict/x.json", "a\u202eb"],
)
def test_paths_outside_are_refused(whole: Path, session: Session, path: str) -> None:
    files = json.loads((whole / "bundle.json").read_bytes())["files"]
    change(whole, files=[*files, {"path": path, "size": 0, "sha256": sha256(b"")}])
    refused(whole, session, "the bundle's record is damaged: ")


def test_records_are_checked(whole: Path, session: Session) -> None:
    record = json.loads((whole / "bundle.json").read_bytes())
    files, image = record["files"], record["image"]
    blob = {"media_type": "x", "digest": "sha256:x", "size": 1}
    flaws: dict[str, dict[str, object]] = {
        "twice": {"files": [*files, files[0]]},
        "is a file and a folder": {"files": [*files, {**files[0], "path": "README.md/x"}]},
        "size or the sha256": {"files": [{**files[0], "size": -1}]},
        "not a name of a recipe": {"recipe": "../x"},
        "not a name of a cell": {"cell": "x:y"},
        "not a repository": {"repository": "A/b"},
        "not a platform": {"image": {**image, "platform": "windows/amd64"}},
        "not a digest": {"since": "latest"},
        "is not a blob": {"missing": [blob]},
        "with two sizes": {"missing": [{**image["config"], "size": 7}]},
    }
    for pattern, fields in flaws.items():
        change(whole, **{**record, **fields})
        refused(whole, session, pattern)


def test_the_index_covers_the_record(whole: Path, session: Session) -> None:
    change(whole, cell="cell-2")
    refused(whole, session, "bundle.json has another content than when the bundle was made")


def test_links_and_other_kinds_of_files_are_refused(whole: Path, session: Session, tmp_path: Path) -> None:
    content = (whole / "README.md").rename(tmp_path / "elsewhere")
    (whole / "README.md").symlink_to(content)
    refused(whole, session, "README.md is a link")
    (whole / "README.md").unlink()
    os.mkfifo(whole / "README.md")
    refused(whole, session, "README.md is not a regular file")
    (whole / "README.md").unlink()
    content.rename(whole / "README.md")
    (whole / "evidence").rename(tmp_path / "evidence")
    (whole / "evidence").symlink_to(tmp_path / "evidence")
    refused(whole, session, "evidence/sbom.json is in evidence, a link")


@pytest.mark.parametrize("name", ["bundle.json", "parts.json"])
def test_a_record_of_another_kind_is_refused(tmp_path: Path, session: Session, name: str) -> None:
    (tmp_path / "odd").mkdir()
    os.mkfifo(tmp_path / "odd" / name)
    refused(tmp_path / "odd", session, f"{name} is not a regular file")


def test_other_folders_are_no_bundles(tmp_path: Path, session: Session) -> None:
    refused(tmp_path, session, "not a bundle: it has neither a bundle.json nor a parts.json", UsageError)
    refused(tmp_path / "absent", session, "there is no such folder", UsageError)


def test_parts_without_their_list(parts: Path, session: Session) -> None:
    (parts / "parts.json").unlink()
    refused(parts, session, "parts.json of this bundle is missing")


def test_an_unfinished_bundle_is_incomplete(whole: Path, session: Session) -> None:
    (whole / "bundle.json").rename(whole / "unfinished.json")
    refused(whole, session, "the bundle is incomplete")


def test_the_project_has_no_other_files(whole: Path, session: Session) -> None:
    (whole / "project" / "jbuild.local.toml").write_text("")
    refused(whole, session, "project/jbuild.local.toml does not belong to the bundle")


def test_the_image_is_that_of_the_record(whole: Path, session: Session) -> None:
    other = write_image(whole, [{"a": b"b"}])
    bundle = bundle_of(whole)
    seal(whole, dataclasses.replace(bundle, image=dataclasses.replace(other, layers=bundle.image.layers)))
    refused(whole, session, "is another one than bundle.json describes")
    seal(whole, dataclasses.replace(bundle, image=other))
    refused(whole, session, "index.json does not list the image")
    (whole / "index.json").write_text(
        json.dumps({"manifests": [{"digest": other.digest, "size": other.manifest.size}]})
    )
    seal(whole, dataclasses.replace(bundle, image=other))
    refused(whole, session, "manifest.json describes another image")


def test_a_blob_is_in_the_bundle_or_missing(tmp_path: Path, session: Session) -> None:
    folder = tmp_path / "since"
    image = write_image(folder)
    bundle = write_bundle(folder, image, missing=[image.layers[0].digest], since=f"sha256:{'1' * 64}")
    with open_bundle(folder, session) as opening:
        assert [blob.digest for blob in opening.bundle.missing] == [image.layers[0].digest]
    seal(folder, dataclasses.replace(bundle, missing=()))
    refused(folder, session, f"the image's blob {image.layers[0].digest} .* is not in it")


def test_blobs_have_the_names_of_their_contents(whole: Path, session: Session) -> None:
    (whole / "blobs" / "sha256" / ("0" * 64)).write_bytes(b"x")
    seal(whole, bundle_of(whole))
    refused(whole, session, f"the blob blobs/sha256/{'0' * 64} has the content of")


def test_documents_are_json(whole: Path, session: Session) -> None:
    for path, content, pattern in (
        ("index.json", b"[" * 100_000, "index.json is not JSON"),
        ("index.json", b"[]", "index.json is not a JSON object"),
        ("index.json", b'{"manifests": 5}', "is not an index"),
        ("manifest.json", b"{}", "does not describe one image"),
        ("oci-layout", b'{"imageLayoutVersion": "2"}', "another version"),
    ):
        before = (whole / path).read_bytes()
        (whole / path).write_bytes(content)
        seal(whole, bundle_of(whole))
        refused(whole, session, pattern)
        (whole / path).write_bytes(before)


def entries(whole: Path) -> dict[str, bytes]:
    paths = ["bundle.json", *(file.path for file in bundle_of(whole).files)]
    return {path: (whole / path).read_bytes() for path in paths}


def archived(whole: Path, target: Path, *extra: tarfile.TarInfo, content: dict[str, bytes] | None = None) -> Path:
    """Split an archive of a bundle with more entries at its end."""
    archive = tar_of(content or entries(whole)).rstrip(b"\0")
    archive += bytes(-len(archive) % 512) + b"".join(entry.tobuf(tarfile.PAX_FORMAT) for entry in extra) + bytes(1024)
    split_archive(archive, sha256((whole / "bundle.json").read_bytes()), target, PART)
    return target


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


@pytest.mark.parametrize(
    ("extra", "pattern"),
    [
        (entry("../x"), "has '../x', which bundle.json does not list"),
        (entry("/etc/x"), "has '/etc/x', which"),
        (entry("bundle.json"), "has 'bundle.json' twice"),
        (entry("README.md"), "has 'README.md' (twice|in another size)"),
        (entry("link", tarfile.SYMTYPE, "/etc"), "has 'link', which is not a regular file"),
        (entry("README.md", tarfile.LNKTYPE, "x"), "has 'README.md', which is not a regular file"),
        (entry("pipe", tarfile.FIFOTYPE), "which is not a regular file"),
        (entry("null", tarfile.CHRTYPE), "which is not a regular file"),
        (entry("sparse", tarfile.GNUTYPE_SPARSE), "(which is not a regular file|cannot be read)"),
        (entry("other", tarfile.DIRTYPE), "has the folder 'other'"),
        (entry("big", size=1 << 40), "ends within 'big'"),
        (entry("longname", tarfile.GNUTYPE_LONGNAME, size=1 << 40), "cannot be read"),
    ],
)
def test_archives_have_only_the_files_of_the_record(
    whole: Path, tmp_path: Path, session: Session, extra: tarfile.TarInfo, pattern: str
) -> None:
    refused(archived(whole, tmp_path / "packed", extra), session, pattern)


def test_archives_have_all_files_of_the_record(whole: Path, tmp_path: Path, session: Session) -> None:
    content = entries(whole)
    del content["README.md"]
    refused(archived(whole, tmp_path / "packed", content=content), session, "lacks 'README.md'")
    swapped = {**entries(whole), "README.md": b"# A Bundle\n"}
    refused(archived(whole, tmp_path / "swapped", content=swapped), session, "^README.md is damaged")
    behind = {name: entries(whole)[name] for name in reversed(entries(whole))}
    refused(archived(whole, tmp_path / "behind", content=behind), session, "does not begin with bundle.json")
    split_archive(b"x" * 100_000, "0" * 64, tmp_path / "noise", PART)
    refused(tmp_path / "noise", session, "cannot be read")
