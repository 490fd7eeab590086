"""The audit against a real registry, and as a stage of a run: what it stops, what a waiver lets through."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from elf_files import AMD64, layer, make_elf
from factories import make_wheel
from index_server import running_index
from project import CELL, assert_refused, make_wheels
from servers import Registry, registry

from builder.audit import base_image
from builder.audit.base_image import read_base
from builder.errors import IntegrityError, RegistryError
from builder.host.config import Config
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.remote.registry.registry_client import OCI_INDEX, OCI_MANIFEST, connect
from builder.remote.registry.upload import BytesBlob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from index_server import Index
    from project import Project

__all__ = ["registry"]

LAYER = "application/vnd.oci.image.layer.v1.tar"
GNU = "usr/lib/aarch64-linux-gnu"
LOWER = layer(
    (f"{GNU}/libx.so.1", make_elf(soname="libx.so.1", defined=["x"])),
    (f"{GNU}/libgone.so.1", make_elf(soname="libgone.so.1")),
    ("usr/lib/os-release", b'ID=debian\nVERSION_ID="12"\n'),
)
UPPER = layer((f"{GNU}/.wh.libgone.so.1", b""), (f"{GNU}/big.so", make_elf() + bytes(3 << 20)))


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    workspace = Workspace(project=tmp_path, cache=tmp_path / "cache")
    return Session(workspace=workspace, config=Config(), console=Console(quiet=True))


def push(host: str, folder: Path) -> str:
    """Push an image of two layers, differently compressed, in an index beside another platform; return its digest."""
    client = connect(host, Config())

    def blob(content: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        path = folder / digest[7:]
        path.write_bytes(content)
        client.send_blob("a/b", BytesBlob(path.read_bytes()))
        return {"digest": digest, "size": len(content)}

    config = blob(json.dumps({"architecture": "arm64", "config": {"Env": ["LD_LIBRARY_PATH=/opt/lib"]}}).encode())
    layers = [
        blob(gzip.compress(LOWER)) | {"mediaType": f"{LAYER}+gzip"},
        blob(zstandard.ZstdCompressor().compress(UPPER)) | {"mediaType": f"{LAYER}+zstd"},
    ]
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": layers}
    manifest["config"] = config | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    content = json.dumps(manifest).encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    client.put_manifest("a/b", digest, content, OCI_MANIFEST)
    entry = {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(content)}
    entries = [entry | {"platform": {"os": "linux", "architecture": "arm64"}}]
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    client.put_manifest("a/b", "1", index, OCI_INDEX)
    return f"sha256:{hashlib.sha256(index).hexdigest()}"


def test_a_base_image_is_read_from_its_registry_once(
    registry: Registry, tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = push(registry.host, tmp_path)
    found = read_base(f"{registry.host}/a/b:1", digest, "arm64", session)
    assert [binary.path for binary in found.binaries] == [f"/{GNU}/big.so", f"/{GNU}/libx.so.1"]
    assert (found.library_path, found.distribution) == (("/opt/lib",), ("debian-12",))
    monkeypatch.setattr(base_image, "connect_in", lambda *_, **__: pytest.fail("asked again"))
    assert read_base(f"{registry.host}/a/b:1", digest, "arm64", session) == found


def test_an_image_for_another_platform(registry: Registry, tmp_path: Path, session: Session) -> None:
    digest = push(registry.host, tmp_path)
    with pytest.raises(RegistryError, match="manifest is malformed"):
        read_base(f"{registry.host}/a/b:1", digest, "amd64", session)


def test_a_layer_whose_bytes_are_others(registry: Registry, tmp_path: Path, session: Session) -> None:
    digest = push(registry.host, tmp_path)
    for path in registry.storage.rglob("data"):
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            path.write_bytes(gzip.compress(layer(("usr/lib/libevil.so", make_elf()))))
    with pytest.raises(IntegrityError, match="other bytes"):
        read_base(f"{registry.host}/a/b:1", digest, "arm64", session)
    assert not list(session.workspace.facts.rglob("*-arm64-*"))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index with a wheel that needs a library of the distribution."""
    folder = tmp_path_factory.mktemp("index")
    make_wheels(folder)
    module = make_elf(machine=AMD64, needed=["libc.so.6", "libnuma.so.1"], defined=["PyInit__C"], stack=6)
    make_wheel(folder, "native", files={"native/_C.abi3.so": module}, tag="cp311-abi3-manylinux_2_28_x86_64")
    with running_index(folder) as running:
        yield running


@pytest.fixture
def native(make_project: Callable[..., Project], index: Index) -> Project:
    """A project whose recipe installs that wheel."""
    return make_project(index=index.host, packages={"requires": ["vllm=={vllm}", "native"]})


def test_what_would_not_load_stops_the_run_before_the_build(native: Project) -> None:
    done = native.run("recipe", "--until", "render", "--json")
    assert done.code == 14
    assert done.json["error"] == "AuditError"
    assert "native 1.0: native/_C.abi3.so needs libnuma.so.1, and nothing brings it" in done.json["message"]
    assert "add `libnuma1` to `apt`" in done.json["hint"]
    assert not (native.cell / "render.json").exists()
    (finding,) = native.record("audit")["findings"]
    assert (finding["rule"], finding["severity"]) == ("missing-library", "error")
    said = "missing-library: native 1.0: native/_C.abi3.so needs libnuma.so.1, and nothing brings it"
    planned = native.run("recipe", "--dry-run", "--json").json
    assert planned["dry_run"][CELL]["audit"] == "failed"
    assert planned["failed"] == {CELL: said}
    assert f"\n  audit failed in the last run: {said}\n" in native.run("recipe", "--dry-run").stdout
    shown = native.run("show").stdout
    assert "audit failed, render to do, build to do, smoke to do, push to do\n" in shown
    assert re.search(rf"\n  failed      at audit, [0-9-]+ [0-9:]+ UTC: {re.escape(said)}\n", shown)
    again = native.run("recipe", "--until", "audit")
    assert (again.code, f"{CELL}: lock: unchanged" in again.stderr) == (14, True)


def test_a_package_mends_it_and_a_second_run_does_nothing(native: Project) -> None:
    native.recipe["base"]["apt"] = ["libnuma1"]
    native.write()
    assert native.run("recipe", "--until", "audit", "--json").ran() == ["lock", "audit"]
    done = native.run("recipe", "--until", "audit", "--json")
    assert (done.ran(), done.cells[CELL]["audit"]) == ([], {"error": 0, "warning": 0, "info": 0, "waived": 0})


def test_a_waiver_lets_it_through_and_stays_visible(native: Project) -> None:
    native.recipe["audit"] = {"waive": [{"rule": "missing-library", "wheel": "native", "reason": "we bring libnuma"}]}
    native.write()
    done = native.run("audit", "--json", "--files")
    assert done.code == 0, done.stderr
    (finding,) = done.json["findings"]
    assert (finding["waived"], done.json["counts"]["waived"]) == ("we bring libnuma", 1)
    assert done.json["files"]["native/_C.abi3.so"].startswith("fails: libnuma.so.1")
    assert "waived   missing-library: native 1.0" in native.run("audit").stdout
    native.recipe["base"]["apt"] = ["libnuma1"]
    native.write()
    done = native.run("audit", "--json")
    assert (done.code, len(done.json["warnings"])) == (0, 1)
    native.recipe["audit"]["waive"][0]["rule"] = "missing-libary"
    native.write()
    assert native.run("audit", "--json").code == 3


def test_loose_wheels_on_a_real_base_image(native: Project, index: Index) -> None:
    wheel = str(index.folder / "native-1.0-cp311-abi3-manylinux_2_28_x86_64.whl")
    done = native.jbuild("audit", "--wheels", wheel, "--base", "docker.io/library/debian:bookworm-slim", "--json")
    assert (done.code, done.json["assumed"]) == (14, None)
    done = native.jbuild("audit", "--wheels", wheel, "--base", "127.0.0.1:1/none:1", "--apt", "libnuma1", "--json")
    assert (done.code, "refused" in done.json["assumed"]) == (0, True)


def test_a_base_image_of_another_distribution_than_the_cells(make_project: Callable[..., Project]) -> None:
    project = make_project(matrix={"vllm": ["1.0"], "distribution": ["debian-13"]})
    done = project.run("recipe", "--until", "render")
    assert_refused(done, 14, "the base image: /etc/os-release says debian-12, and the cell is for debian-13")


def test_a_server_that_would_refuse_its_questions_stops_the_run(make_project: Callable[..., Project]) -> None:
    project = make_project()
    (project.model / "tokenizer_config.json").write_text("{}")
    locked = project.run("lock")
    warning = "chat-template: model tiny: tokenizer_config.json has no chat template"
    assert (locked.code, warning in locked.stderr) == (0, True)
    again = project.run("lock")
    assert (again.code, warning in again.stderr) == (0, True), "a lock that is unchanged warns, too"
    done = project.run("recipe", "--until", "render", "--json")
    assert (done.code, done.json["error"]) == (14, "AuditError")
    assert "chat-template" in done.json["message"]
    (project.model / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert project.run("recipe", "--until", "audit").code == 0


def test_a_model_of_another_length_than_the_servers(make_project: Callable[..., Project]) -> None:
    project = make_project()
    config = json.loads((project.model / "config.json").read_text())
    (project.model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}))
    project.recipe["server"] = {**project.recipe.get("server", {}), "max-model-len": 1024}
    project.write()
    assert project.run("lock").code == 0
    fit = project.run("fit", "--json")
    (board,) = fit.json["cells"][0]["boards"]
    assert (fit.code, board["verdict"]) == (9, "refused")
    assert "config.json allows 512 tokens" in board["refusals"][0]
    refused = project.run("audit", "--json")
    (finding,) = [row for row in refused.json["findings"] if row["rule"] == "context-length"]
    assert (refused.code, finding["wheel"], finding["file"]) == (14, "model tiny", "config.json")
    project.recipe["audit"] = {"waive": [{"rule": "context-length", "reason": "we set the variable on the board"}]}
    project.write()
    assert project.run("audit").code == 0
    assert project.run("fit").code == 0
