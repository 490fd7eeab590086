"""Vaults with real installers, web servers and registries: indexes that are gone, files that are gone or changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_wheel
from installers import clean, compile_with_uv, locked_urls, needs_pip
from jetson_index import JetsonIndex, running_jetson_index
from project import Done, assert_refused
from resolving import CELL, Resolving, push_base, words
from servers import free_port

from builder.lock.solve import uv

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from index_server import Index
    from servers import Registry

CU126 = "jetson-ai-lab-jp6-cu126"
TORCH = "torch-2.8.0-cp310-cp310-linux_aarch64.whl"
OTHER = "r36_4_0-cu128-py310"


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Serve a folder as plain web servers do."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def base(shared_registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    return push_base(shared_registry, tmp_path_factory.mktemp("base"))


@pytest.fixture
def jetson(jetson_sets: Path, tmp_path: Path) -> Iterator[JetsonIndex]:
    with running_jetson_index(shutil.copytree(jetson_sets, tmp_path / "sets")) as running:
        yield running


@pytest.fixture
def project(tmp_path: Path, jetson: JetsonIndex, public_index: Index, base: str) -> Resolving:
    for name, version in (("numpy", "1.26.4"), ("further", "1.0")):
        make_wheel(public_index.folder, name, version)
    public = f"http://{public_index.host}/simple"
    return Resolving(folder=tmp_path / "work", public=public, jetson=f"http://{jetson.host}/", base=base)


def written(project: Resolving, *arguments: str, **environment: str) -> Any:
    done = project.jbuild("vault", "jetson", "--output", "vault", *arguments, "--json", **environment)
    assert done.code == 0, done.stderr
    return done.json


def catalogue(project: Resolving) -> dict[str, dict[str, Any]]:
    document = json.loads((project.folder / "vault" / "vault.json").read_text())
    return {file["filename"]: file for file in document["files"]}


def close_the_indexes(project: Resolving, vault: str, *, fallback: bool = True) -> dict[str, str]:
    """Name the vault, let every index be gone, and return the environment of a machine with an empty cache."""
    dead = f"http://127.0.0.1:{free_port()}/"
    for rule in project.settings["index-mirrors"]:
        rule["mirror"] = dead
    project.settings["index-mirrors"].append({"vault": vault, "fallback": fallback})
    project.public = f"{dead}simple"
    return {"JBUILD_CACHE": str(project.folder / "empty-cache"), "UV_HTTP_RETRIES": "0"}


def file_states(folder: Path) -> dict[str, tuple[int, int, int]]:
    files = (path for path in (folder / "files").rglob("*") if path.is_file())
    return {str(path): ((stat := path.stat()).st_ino, stat.st_mtime_ns, stat.st_size) for path in files}


# --- an index for installers


def ends_well(*argv: str) -> None:
    done = installer(*argv)
    assert done.returncode == 0, done.stderr


def installer(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, text=True, capture_output=True, check=False, env=clean())


def pip_download(index: str, folder: Path, package: str) -> tuple[str, ...]:
    target = ("--only-binary", ":all:", "--platform", "linux_aarch64", "--python-version", "3.10")
    argv = (sys.executable, "-m", "pip", "--no-cache-dir", "download", "-q", "-d", str(folder))
    return (*argv, *target, "--index-url", index, package)


def uv_install(index: str, folder: Path, package: str) -> tuple[str, ...]:
    target = ("--python-version", "3.10", "--python-platform", "aarch64-manylinux_2_35", "--only-binary", ":all:")
    argv = (uv(), "pip", "install", "-q", "--python", sys.executable, "--target", str(folder), "--no-cache")
    return (*argv, *target, "--default-index", index, package)


@needs_pip
def test_uv_and_pip_install_from_a_folder_and_a_web_server(project: Resolving, tmp_path: Path) -> None:
    assert written(project)["indexes"] == ["default", CU126]
    vault, sha256 = project.folder / "vault", catalogue(project)[TORCH]["sha256"]
    with web_server(vault) as address:
        for name, root in (("web", address), ("folder", vault.as_uri())):
            index = f"{root}/simple/"
            flags = ("--default-index", index)
            urls = locked_urls(compile_with_uv(tmp_path / f"uv-{name}", "torchvision==0.23.0", *flags))
            assert urls["torch"][0].endswith(f"/files/{sha256}/{TORCH}")
            ends_well(*uv_install(index, tmp_path / f"target-{name}", "torchvision"))
            assert (tmp_path / f"target-{name}" / "torch").is_dir()
            ends_well(*pip_download(index, tmp_path / f"pip-{name}", "torchvision"))
            assert (tmp_path / f"pip-{name}" / TORCH).is_file()


@needs_pip
def test_installers_check_the_hashes_and_read_the_metadata_beside_wheels(project: Resolving, tmp_path: Path) -> None:
    written(project)
    vault = project.folder / "vault"
    torch = vault / "files" / catalogue(project)[TORCH]["sha256"] / TORCH
    torch.unlink()
    torch.write_bytes(b"something else")
    with web_server(vault) as address:
        # Solving takes the METADATA beside the wheel, which is as it was.
        flags = ("--default-index", f"{address}/simple/")
        assert "torch" in locked_urls(compile_with_uv(tmp_path / "uv", "torchvision==0.23.0", *flags))
        done = installer(*pip_download(f"{address}/simple/", tmp_path / "pip", "torch"))
    assert done.returncode == 1
    assert "DO NOT MATCH THE HASHES" in done.stderr


# --- written again


def test_a_second_run_adds_only_and_files_are_links_to_the_cache(project: Resolving) -> None:
    first = written(project)
    assert (first["added"], first["copied_size"]) == (first["files"], 0)
    wheel = catalogue(project)[TORCH]
    stored = project.folder / "vault" / "files" / wheel["sha256"] / TORCH
    assert stored.samefile(project.cache / "wheels" / wheel["sha256"][:2] / wheel["sha256"] / TORCH)
    before = file_states(project.folder / "vault")
    assert written(project)["added"] == 0
    project.recipe["packages"]["requires"].append("further")
    second = written(project)
    assert second["added"] == 1
    after = file_states(project.folder / "vault")
    assert {path: after[path] for path in before} == before
    (origin,) = wheel["origins"]
    assert (origin["index"], origin["lock"]) == (CU126, f"jetson/{CELL}")
    assert origin["url"] == project.locked()["torch"]["wheels"][0]["url"]


def test_indexes_may_have_different_files_of_one_name(project: Resolving) -> None:
    project.recipe["matrix"]["cuda"] = ["12.6", "12.8"]
    result = written(project)
    assert result["indexes"] == ["default", CU126, "jetson-ai-lab-jp6-cu128"]
    vault = project.folder / "vault"
    pages = [vault / "indexes" / name / "simple" / "torch" / "index.json" for name in result["indexes"][1:]]
    shas = [json.loads(page.read_text())["files"][0]["hashes"]["sha256"] for page in pages]
    locked = [project.locked(cell)["torch"]["wheels"][0]["hashes"]["sha256"] for cell in (CELL, OTHER)]
    assert shas == locked
    names = [file["filename"] for file in json.loads((vault / "simple/torch/index.json").read_text())["files"]]
    assert len(names) == len(set(names))


def test_what_an_interruption_left_is_completed(project: Resolving) -> None:
    written(project)
    vault = project.folder / "vault"
    whole = sorted(str(path) for path in vault.rglob("*"))
    torch = vault / "files" / catalogue(project)[TORCH]["sha256"] / TORCH
    torch.unlink()
    shutil.rmtree(vault / "simple")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [sys.executable, "-c", "from builder.host.files import temporary_name; print(temporary_name('index.html'))"]
    name = subprocess.run(names, text=True, capture_output=True, check=True).stdout.strip()
    (vault / "files" / name).write_text("half")
    assert written(project)["added"] == 1
    assert sorted(str(path) for path in vault.rglob("*")) == whole


# --- indexes that are gone


@pytest.mark.parametrize("storage", ["folder", "web", "registry"])
def test_a_lock_is_made_and_rendered_without_any_index(
    project: Resolving, shared_registry: Registry, storage: str, request: pytest.FixtureRequest
) -> None:
    name = f"{shared_registry.host}/vaults/{request.node.name.partition('[')[0].replace('_', '-')}:1"
    written(project, *(("--push", name) if storage == "registry" else ()))
    locked = {name: package["wheels"] for name, package in project.locked().items()}
    shutil.rmtree(project.folder / "locks")
    vault = project.folder / "vault"
    with web_server(vault) as address:
        places = {"folder": "vault", "web": address, "registry": f"oci://{name}"}
        environment = close_the_indexes(project, places[storage])
        done = project.lock(**environment)
        assert done.code == 0, done.stderr
        said = words(done)
        assert f"the index {CU126} did not answer" in said
        assert f"({len(catalogue(project))} files) stood in" in said
        assert "jbuild lock jetson --upgrade" in said
        assert {name: package["wheels"] for name, package in project.locked().items()} == locked
        rules = [rule["rule"] for rule in project.own()["rules"]]
        assert f"only files of a vault, for the index {CU126}" in rules
        assert "only files of a vault, for uv's default index" in rules
        done = project.jbuild("render", "jetson", "--locked", **environment)
        assert done.code == 0, done.stderr


def test_a_lock_made_before_is_built_without_any_index(project: Resolving) -> None:
    written(project)
    before = project.document()
    environment = close_the_indexes(project, "vault", fallback=False)
    done = project.jbuild("render", "jetson", "--locked", **environment)
    assert done.code == 0, done.stderr
    assert project.document() == before


def test_a_vault_instead_of_the_indexes_asks_none(project: Resolving, jetson: JetsonIndex) -> None:
    written(project)
    project.settings["index-mirrors"] = [{"vault": "vault"}]
    project.public = f"http://127.0.0.1:{free_port()}/simple"
    count = len(jetson.asked())
    done = project.lock("--force", JBUILD_CACHE=str(project.folder / "empty-cache"))
    assert done.code == 0, done.stderr
    assert "is used instead of the index" in words(done)
    assert len(jetson.asked()) == count


def test_versions_that_the_vault_lacks_are_explained(project: Resolving) -> None:
    written(project)
    environment = close_the_indexes(project, "vault")
    project.recipe["packages"]["requires"] = ["torch==2.9.0"]
    done = project.lock(**environment)
    assert_refused(
        done, 4, "no wheels work together", f"the index {CU126} did not answer", "only the files of the vault"
    )


def test_a_vault_instead_of_the_indexes_is_named_where_it_lacks_a_version_or_a_package(project: Resolving) -> None:
    written(project)
    project.settings["index-mirrors"] = [{"vault": "vault"}]
    project.public = f"http://127.0.0.1:{free_port()}/simple"
    environment = {"JBUILD_CACHE": str(project.folder / "empty-cache"), "UV_HTTP_RETRIES": "0"}
    said = rf"only the vault \S+/vault was asked, not uv's default index and the index {CU126}: .*`fallback = true`"
    for requires in ("torch==2.9.0", "vllm"):
        project.recipe["packages"]["requires"] = [requires]
        assert_refused(project.lock(**environment), 4, "no wheels work together", said)
    done = project.jbuild("why", "jetson", **environment)
    assert "the vault in place of it does not have vllm" in done.stdout


def test_a_package_that_the_vault_lacks_is_an_index_that_does_not_answer(project: Resolving) -> None:
    written(project)
    environment = close_the_indexes(project, "vault")
    project.recipe["packages"]["requires"] = ["vllm"]
    done = project.lock(**environment)
    assert_refused(done, 5, f"the index {CU126} does not answer for vllm", "the vault has no vllm of this index")


def test_a_vault_that_is_not_there_is_named(project: Resolving) -> None:
    environment = close_the_indexes(project, "no-vault")
    done = project.lock(**environment)
    assert_refused(done, 5, f"the index {CU126} does not answer", "no vault is in this folder")
    project.settings["index-mirrors"] = [{"vault": "no-vault"}]
    assert_refused(project.lock(**environment), 2, "no vault is in this folder", "jbuild vault jetson")


# --- files that are gone or changed


def test_a_wheel_that_vanished_comes_from_the_vault(project: Resolving, jetson: JetsonIndex) -> None:
    written(project)
    jetson.shelf.lose("jp6/cu126", "torch-2.8.0*")
    project.settings["index-mirrors"].append({"vault": "vault", "fallback": True})
    done = project.jbuild("render", "jetson", "--locked", JBUILD_CACHE=str(project.folder / "empty-cache"))
    assert done.code == 0, done.stderr


def test_a_wheel_that_changed_under_its_name_is_refused(project: Resolving, jetson: JetsonIndex) -> None:
    written(project)
    before, states = catalogue(project), file_states(project.folder / "vault")
    jetson.shelf.replace("jp6/cu126", TORCH)
    assert project.lock("--upgrade", "torch", JBUILD_CACHE=str(project.folder / "other-cache")).code == 0
    done = project.jbuild("vault", "jetson", "--output", "vault")
    new = project.locked()["torch"]["wheels"][0]["hashes"]["sha256"]
    assert_refused(done, 6, f"{TORCH} of the index {CU126} has two contents", before[TORCH]["sha256"], new)
    assert catalogue(project) == before
    assert file_states(project.folder / "vault") == states


def test_a_file_that_changed_is_kept_as_it_was_locked(project: Resolving, jetson: JetsonIndex) -> None:
    written(project)
    before = project.locked()["torch"]
    jetson.shelf.replace("jp6/cu126", TORCH)
    environment = {"JBUILD_CACHE": str(project.folder / "empty-cache")}
    assert_refused(project.lock("--upgrade", "numpy", **environment), 6, f"serves another {TORCH} now")
    project.settings["index-mirrors"].append({"vault": "vault", "fallback": True})
    done = project.lock("--upgrade", "numpy", **environment)
    assert done.code == 0, done.stderr
    assert f"{TORCH} from a vault, as it was locked" in words(done)
    assert project.locked()["torch"] == before
    checked = project.lock("--check", **environment)
    assert checked.code == 0, checked.stdout
    assert "a vault has the locked file" in checked.stdout


def test_a_damaged_copy_in_the_vault_is_passed_over_and_found(project: Resolving) -> None:
    written(project)
    wheel = catalogue(project)[TORCH]
    stored = project.folder / "vault" / "files" / wheel["sha256"] / TORCH
    content = stored.read_bytes()
    stored.unlink()
    stored.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (project.folder / "vault" / "simple" / "torch" / "index.html").unlink()
    (stored.parent / "extra.whl").write_bytes(b"")
    project.settings["index-mirrors"].append({"vault": "vault", "fallback": True})
    done = project.jbuild("render", "jetson", "--locked", JBUILD_CACHE=str(project.folder / "empty-cache"))
    assert done.code == 0, done.stderr
    assert f"{TORCH} in the vault does not have its sha256" in words(done)
    done = project.jbuild("vault", "--check", "vault", "--json")
    assert done.code == 6
    found = {finding["path"]: finding["says"] for finding in done.json["findings"]}
    assert found[f"files/{wheel['sha256']}/{TORCH}"].startswith("has sha256 ")
    assert found["simple/torch/index.html"] == "is missing or differs from the catalogue"
    assert found[f"files/{wheel['sha256']}/extra.whl"] == "is not in the catalogue"
    assert len(found) == 3
    (stored.parent / "extra.whl").unlink()
    stored.unlink()
    written(project)
    assert project.jbuild("vault", "--check", "vault").code == 0


# --- registries


def test_a_vault_goes_through_a_registry_and_grows_there(
    project: Resolving, shared_registry: Registry, tmp_path: Path
) -> None:
    name = f"{shared_registry.host}/vaults/copies"
    pushed = written(project, "--push", name)
    assert pushed["pushed"] == f"{name}:latest"
    again = written(project, "--push", name)
    assert again["digest"] == pushed["digest"]
    done: Done = project.jbuild("vault", "--pull", name, "--output", "copy", "--json")
    assert done.code == 0, done.stderr
    assert done.json["added"] == pushed["files"]
    assert project.jbuild("vault", "--check", "copy").code == 0
    copied, own = (project.folder / folder / "vault.json" for folder in ("copy", "vault"))
    assert copied.read_bytes() == own.read_bytes()
    # Another vault under the same name adds to it.
    project.recipe["packages"]["requires"] = ["further"]
    other = project.jbuild("vault", "jetson", "--output", "other", "--push", name, "--json")
    assert other.code == 0, other.stderr
    done = project.jbuild("vault", "--pull", name, "--output", "copy", "--json")
    assert (done.code, done.json["added"]) == (0, 1)
    assert project.jbuild("vault", "--check", "copy").code == 0
    missing = project.jbuild("vault", "--pull", f"{name}:nothing", "--output", "copy")
    assert_refused(missing, 11, "nothing")


def test_cells_that_fail_are_left_out(project: Resolving, jetson: JetsonIndex) -> None:
    project.recipe["matrix"]["cuda"] = ["12.6", "12.8"]
    jetson.shelf.lose("jp6/cu128", "torch-2.8.0*")
    done = project.jbuild("vault", "jetson", "--output", "vault", "--json")
    assert done.code == 4
    assert (done.json["failed"], done.json["indexes"]) == ([OTHER], ["default", CU126])
    assert "no wheels work together" in done.stderr
    done = project.jbuild("vault", "jetson", "--cell", OTHER, "--output", "other", "--json")
    assert (done.code, done.json["files"]) == (4, 0)
    assert not (project.folder / "other").exists()
    done = project.jbuild("vault", "jetson", "--cell", OTHER, "--output", "other", "--locked")
    assert_refused(done, 4, "there is no lock")


def test_other_folders_and_names_are_refused(project: Resolving) -> None:
    project.lock()
    assert_refused(
        project.jbuild("vault", "jetson", "--output", "recipes"), 2, "the folder is not a vault, and has files"
    )
    assert_refused(project.jbuild("vault", "--check", "recipes"), 2, "it is not a vault")
    assert_refused(project.jbuild("vault", "jetson"), 2, "no folder for the vault", placed=False)
    assert_refused(project.jbuild("vault", "--output", "vault"), 2, "nothing to put into the vault", placed=False)
    assert not (project.folder / "vault").exists()
    assert [path.name for path in (project.folder / "recipes").iterdir()] == ["jetson.toml"]
