"""Bundles as they are written: an OCI layout with evidence, a project, and a record that covers every byte."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from bundled_cell import CREATED, LOCK, TESTED, image_of, make_cell, make_layers

from builder.errors import IntegrityError, JbuildError, UsageError
from builder.host import records, tarball
from builder.image.oci import layout as oci
from builder.image.oci import virtual_blob
from builder.model.bundles import RECORD_ANNOTATION, Bundle
from builder.model.images import Descriptor
from builder.pipeline.history import LastPublication
from builder.publish.bundle.bundle_contents import BundleOptions
from builder.publish.bundle.write_bundle import write_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.locks import Job


def write(job: Job, session: Session, folder: Path, **options: Any) -> Bundle:
    return write_bundle(job, session, BundleOptions(output=folder, **options))


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def index_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "index.json").read_text()))


def test_the_record_covers_every_file(session: Session, tmp_path: Path) -> None:
    bundle = write(make_cell(session), session, tmp_path / "b")
    content = content_of(tmp_path / "b")
    record = records.from_json(json.loads(content.pop("bundle.json")), Bundle)
    assert record == bundle
    assert {file.path: (file.size, file.sha256) for file in bundle.files} == {
        path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in content.items()
    }
    sums = dict(row.split("  ")[::-1] for row in content.pop("SHA256SUMS").decode().splitlines())
    assert sums.keys() == content.keys()
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "b", check=False)
    assert done.returncode == 0


def test_the_layout_has_the_image_and_its_evidence(session: Session, tmp_path: Path) -> None:
    job = make_cell(session, proven=True)
    image = image_of(session, job)
    write(job, session, tmp_path / "b")
    first, *others = index_of(tmp_path / "b")["manifests"]
    assert first["digest"] == image.digest
    assert first["annotations"]["io.containerd.image.name"] == "docker.io/jbuild/demo:one"
    assert first["annotations"]["org.opencontainers.image.ref.name"] == "one"
    assert len(others) == 3
    for entry in others:
        assert "io.containerd.image.name" not in entry["annotations"]
        manifest = json.loads(oci.blob(tmp_path / "b", entry["digest"]).read_bytes())
        assert manifest["subject"]["digest"] == image.digest
    assert oci.is_whole(tmp_path / "b", image)
    for path in (tmp_path / "b" / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    (docker,) = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert docker["RepoTags"] == ["jbuild/demo:one"]
    assert [tmp_path / "b" / path for path in docker["Layers"]] == [
        oci.blob(tmp_path / "b", layer.digest) for layer in image.layers
    ]


def test_the_evidence_is_there_as_plain_files_too(session: Session, tmp_path: Path) -> None:
    write(make_cell(session, proven=True), session, tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "b" / "evidence").iterdir())
    assert names == ["provenance.json", "sbom.json", "verdict.json"]
    verdict = json.loads((tmp_path / "b" / "evidence" / "verdict.json").read_text())
    assert verdict["predicate"]["level"] == "cpu"


def test_an_image_needs_no_verdict(session: Session, tmp_path: Path) -> None:
    bundle = write(make_cell(session), session, tmp_path / "b")
    assert bundle.created == CREATED
    assert not (tmp_path / "b" / "evidence" / "verdict.json").exists()
    assert not list((tmp_path / "b" / "project").rglob("smoke.json"))
    assert "the image has not been tested yet" in (tmp_path / "b" / "README.md").read_text()


def test_a_failed_verdict_is_no_verdict(session: Session, tmp_path: Path) -> None:
    job = make_cell(session, proven=True)
    path = session.workspace.cell("demo", "one").record("smoke")
    body = json.loads(path.read_text())
    body["record"] |= {"passed": False, "step": "ready", "failure": "no answer"}
    path.write_text(json.dumps(body))
    assert write(job, session, tmp_path / "b").created == CREATED
    assert not list((tmp_path / "b").rglob("smoke.json"))
    assert "the last smoke run failed at step ready, level cpu" in (tmp_path / "b" / "README.md").read_text()


def test_the_project_names_nothing_of_this_machine(session: Session, tmp_path: Path) -> None:
    bundle = write(make_cell(session, proven=True), session, tmp_path / "b")
    assert bundle.created == TESTED
    project = tmp_path / "b" / "project"
    assert sorted(path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()) == [
        "build/demo/one/build.json",
        "build/demo/one/render.json",
        "build/demo/one/smoke.json",
        "locks/demo/pylock.one.toml",
        "recipes/demo.toml",
        "recipes/golden/demo.toml",
    ]
    for data in content_of(tmp_path / "b").values():
        assert b"/home/somebody" not in data


def test_templates_of_the_project_are_in_it(session: Session, tmp_path: Path) -> None:
    job = make_cell(session)
    folder = session.workspace.project / "dockerfiles"
    folder.mkdir()
    (folder / "Dockerfile.j2").write_text("FROM x")
    (folder / "part.j2").write_text("RUN y")
    write(job, session, tmp_path / "b")
    assert {path.name for path in (tmp_path / "b" / "project" / "dockerfiles").iterdir()} == {
        "Dockerfile.j2",
        "part.j2",
    }


def test_the_same_image_gives_the_same_bytes(session: Session, tmp_path: Path) -> None:
    job = make_cell(session, proven=True)
    write(job, session, tmp_path / "b")
    write(job, session, tmp_path / "deep" / "er")
    assert content_of(tmp_path / "b") == content_of(tmp_path / "deep" / "er")


def test_the_index_covers_the_record(session: Session, tmp_path: Path) -> None:
    bundle = write(make_cell(session), session, tmp_path / "b")
    fields = {field: getattr(bundle, field) for field in bundle.__slots__} | {"files": ()}
    assert index_of(tmp_path / "b")["annotations"] == {RECORD_ANNOTATION: records.fingerprint(Bundle(**fields))}


def test_virtual_blobs_are_read_from_their_files(session: Session, tmp_path: Path) -> None:
    layout = session.workspace.images
    (tmp_path / "weights").write_bytes(weights := os.urandom(3 << 20))
    segments: list[bytes | tarball.Content] = [
        b"head",
        tarball.Content(str(tmp_path / "weights"), len(weights)),
        b"tail",
    ]
    content = b"head" + weights + b"tail"
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    virtual_blob.write(layout, digest, segments)
    layer = Descriptor(media_type="application/vnd.oci.image.layer.v1.tar", digest=digest, size=len(content))
    write(make_cell(session, (layer, *make_layers(session, 10, 20))), session, tmp_path / "b")
    assert oci.blob(tmp_path / "b", digest).read_bytes() == content


def test_a_damaged_blob_is_refused(session: Session, tmp_path: Path) -> None:
    job = make_cell(session)
    layer = image_of(session, job).layers[0]
    path = oci.blob(session.workspace.images, layer.digest)
    path.write_bytes(bytes(layer.size))
    with pytest.raises(IntegrityError, match="does not match its digest"):
        write(job, session, tmp_path / "b")
    assert not (tmp_path / "b" / "bundle.json").exists()


def test_a_pruned_image_is_refused(session: Session, tmp_path: Path) -> None:
    job = make_cell(session)
    shutil.rmtree(session.workspace.images)
    with pytest.raises(IntegrityError, match="is missing") as caught:
        write(job, session, tmp_path / "b")
    assert "jbuild build" in (caught.value.hint or "")
    assert not (tmp_path / "b").exists()


def test_a_cell_that_was_not_built(session: Session, tmp_path: Path) -> None:
    job = make_cell(session)
    shutil.rmtree(session.workspace.cell("demo", "one").path)
    with pytest.raises(UsageError, match="has not been built") as caught:
        write(job, session, tmp_path / "b")
    assert "jbuild build demo --cell one" in (caught.value.hint or "")


def test_a_folder_with_other_files_is_refused_before_the_image_is_read(session: Session, tmp_path: Path) -> None:
    job = make_cell(session)
    shutil.rmtree(session.workspace.images)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"other files already: notes\.txt"):
        write(job, session, tmp_path / "home")


# Earlier images


def test_a_bundle_does_not_replace_the_one_that_it_needs(session: Session, tmp_path: Path) -> None:
    job = make_cell(session)
    write(job, session, tmp_path / "b")
    before = content_of(tmp_path / "b")
    with pytest.raises(UsageError, match="--since names the folder of --output"):
        write(job, session, tmp_path / "b", since=str(tmp_path / "b"))
    assert content_of(tmp_path / "b") == before


SHARED, CHANGED = (400_000, 900_000), 1_200_000


@pytest.mark.parametrize("kind", ["digest", "bundle", "split bundle", "published"])
def test_blobs_of_an_earlier_image_are_left_out(session: Session, tmp_path: Path, kind: str) -> None:
    shared = make_layers(session, *SHARED)
    job = make_cell(session, (*shared, *make_layers(session, 5)))
    before = image_of(session, job)
    since = before.digest
    if "bundle" in kind:
        since = str(tmp_path / "before")
        write(job, session, tmp_path / "before", part_bytes=1_000_000 if "split" in kind else None)
    job = make_cell(session, (*shared, *make_layers(session, CHANGED)))
    if kind == "published":
        oci.blob(session.workspace.images, before.digest).unlink()
        last = LastPublication(lock=LOCK, image=before)
        records.write(session.workspace.cell("demo", "one").record("published"), "x", last)
    bundle = write(job, session, tmp_path / "b", since=since)
    assert bundle.since == before.digest
    assert {layer.digest for layer in bundle.missing} == {layer.digest for layer in shared}
    image = image_of(session, job)
    assert set(oci.absent_blobs(tmp_path / "b", image)) == set(shared)
    whole = sum(map(len, content_of(tmp_path / "b").values()))
    assert whole <= 1.05 * CHANGED
    assert f"the image `{before.digest}`" in (tmp_path / "b" / "README.md").read_text()


UNKNOWN = {
    "sha256:" + "0" * 64: "no image of this cell has this digest",
    "folder": "the folder is not a bundle",
    "Not An Image": "neither an image nor a bundle",
}


@pytest.mark.parametrize("since", UNKNOWN)
def test_unknown_earlier_images(session: Session, tmp_path: Path, since: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(JbuildError, match=UNKNOWN[since]) as caught:
        write(make_cell(session), session, tmp_path / "b", since=since)
    assert caught.value.hint
    assert not (tmp_path / "b").exists()


# The folder


def test_an_older_bundle_of_the_cell_is_replaced_and_verdicts_stay(session: Session, tmp_path: Path) -> None:
    write(make_cell(session), session, tmp_path / "b")
    (tmp_path / "b" / "verdict").mkdir()
    (tmp_path / "b" / "verdict" / "verdict-gpu.json").write_text("mine")
    job = make_cell(session)
    write(job, session, tmp_path / "b")
    write(job, session, tmp_path / "fresh")
    content = content_of(tmp_path / "b")
    assert content.pop("verdict/verdict-gpu.json") == b"mine"
    assert content == content_of(tmp_path / "fresh")


def test_a_split_bundle_takes_the_place_of_a_whole_one(session: Session, tmp_path: Path) -> None:
    job = make_cell(session)
    write(job, session, tmp_path / "b")
    write(job, session, tmp_path / "b", part_bytes=1_000_000)
    assert content_of(tmp_path / "b").keys() == {"README.md", "SHA256SUMS", "load.sh", "parts.json", "parts/0001"}
    write(job, session, tmp_path / "b")
    assert not (tmp_path / "b" / "parts").exists()
    assert (tmp_path / "b" / "bundle.json").exists()


def test_the_readme_names_the_files_beside_it_and_unpacks_the_others(session: Session, tmp_path: Path) -> None:
    job = make_cell(session)
    for size in (None, 1_000_000):
        folder = tmp_path / "media" / "b"
        write(job, session, folder, part_bytes=size)
        beside, archived, inside = (
            (folder / "README.md").read_text().partition("## Contents")[2].partition("In the archive, ")
        )
        assert bool(archived) is bool(size)
        for name in re.findall(r"`([a-z.]+)/?`", beside):
            assert (folder / name).exists(), name
        if size:
            assert {"evidence", "project", "index.json"} <= set(re.findall(r"`([a-z.]+)/?`", inside))
            (command,) = re.findall(r"^    (mkdir .*)$", beside, re.MULTILINE)
            subprocess.run(command, shell=True, cwd=folder, check=True)
            assert (tmp_path / "media" / "unpacked" / "evidence" / "sbom.json").is_file()


def test_other_folders_are_left_alone(session: Session, tmp_path: Path) -> None:
    write(make_cell(session, cell="other"), session, tmp_path / "b")
    job = make_cell(session)
    with pytest.raises(UsageError, match="bundle of another cell: demo/other"):
        write(job, session, tmp_path / "b")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"other files already: notes\.txt"):
        write(job, session, tmp_path / "home")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="not a folder"):
        write(job, session, tmp_path / "file")
    write(job, session, tmp_path / "mine")
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"other files already: notes\.txt"):
        write(job, session, tmp_path / "mine")
    assert (tmp_path / "mine" / "bundle.json").exists()


def test_an_interrupted_bundle_is_marked_and_resumed(session: Session, tmp_path: Path) -> None:
    job = make_cell(session, make_layers(session, 50_000, 1_000, 200_000))
    last = max(image_of(session, job).layers, key=lambda layer: layer.size)
    path = oci.blob(session.workspace.images, last.digest)
    good = path.read_bytes()
    path.write_bytes(bytes(len(good)))
    with pytest.raises(IntegrityError):
        write(job, session, tmp_path / "b")
    assert json.loads((tmp_path / "b" / "unfinished.json").read_text()) == {"recipe": "demo", "cell": "one"}
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "b" / "blobs").rglob("*") if path.is_file()}
    assert len(written) > 2
    path.write_bytes(good)
    write(job, session, tmp_path / "b")
    assert not (tmp_path / "b" / "unfinished.json").exists()
    assert {path: path.stat().st_mtime_ns for path in written} == written
