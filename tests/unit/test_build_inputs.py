"""Inputs of builds: locked, unpacked with their patches, and named by variables and by the wheel's documents."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import pytest
from build_factory import make_build

from builder.errors import IntegrityError, LockError
from builder.foundry.build_environment import build_environment
from builder.foundry.build_inputs import lock_build_inputs, unpack_inputs
from builder.foundry.wheel_bill import provenance_statement, wheel_bill
from builder.host.config import Config
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.model.builds import BuildSpec, InputSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.model.builds import LockedBuild

PATCH = "--- a/lib.h\n+++ b/lib.h\n@@ -1 +1 @@\n-old\n+new\n"
FOLDER = InputSpec(variable="LIB_DIR", kind="folder", location="vendor/lib", patches=("lib.patch",))


@pytest.fixture
def session(tmp_path: Path) -> Session:
    project = tmp_path / "project"
    (project / "vendor/lib").mkdir(parents=True)
    (project / "vendor/lib/lib.h").write_text("old\n")
    (project / "lib.patch").write_text(PATCH)
    workspace = Workspace(project=project, cache=tmp_path / "cache")
    return Session(workspace=workspace, config=Config(), console=Console(quiet=True))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serve an archive with a top folder."""
    (tmp_path / "www").mkdir()
    with tarfile.open(tmp_path / "www/lib-1.0.tar.gz", "w:gz") as archive:
        (tmp_path / "lib.h").write_text("old\n")
        archive.add(tmp_path / "lib.h", "lib-1.0/lib.h")
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    ) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/lib-1.0.tar.gz"
        http.shutdown()
        thread.join()


def locked(session: Session, *inputs: InputSpec) -> LockedBuild:
    spec = BuildSpec(name="axpyx", version="0.1", inputs=inputs, folder=session.workspace.project)
    return make_build(inputs=lock_build_inputs(spec, session))


def test_a_folder_is_copied_and_patched(session: Session, tmp_path: Path) -> None:
    build = locked(session, FOLDER)
    unpack_inputs(build, tmp_path / "build", session)
    assert (tmp_path / "build/inputs/LIB_DIR/lib.h").read_text() == "new\n"
    assert (session.workspace.project / "vendor/lib/lib.h").read_text() == "old\n"
    assert build_environment(build, 1)["LIB_DIR"] == "/build/inputs/LIB_DIR"


def test_the_folder_of_an_interrupted_build_stays(session: Session, tmp_path: Path) -> None:
    build = locked(session, FOLDER)
    unpack_inputs(build, tmp_path / "build", session)
    (tmp_path / "build/inputs/LIB_DIR/made.o").touch()
    unpack_inputs(build, tmp_path / "build", session)
    assert (tmp_path / "build/inputs/LIB_DIR/made.o").exists()


def test_a_changed_folder_is_refused(session: Session, tmp_path: Path) -> None:
    build = locked(session, FOLDER)
    (session.workspace.project / "vendor/lib/lib.h").write_text("other\n")
    with pytest.raises(IntegrityError, match="the source has changed since it was locked"):
        unpack_inputs(build, tmp_path / "build", session)
    assert not (tmp_path / "build/inputs/LIB_DIR").exists()


def test_a_folder_must_exist(session: Session) -> None:
    with pytest.raises(LockError, match="the source of LIB_DIR, folder absent, does not exist"):
        locked(session, replace(FOLDER, location="absent"))


def test_a_link_out_of_the_project_is_refused(session: Session, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (session.workspace.project / "vendor/out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LockError, match="the source of LIB_DIR, folder vendor/out, is a link out of the project"):
        locked(session, replace(FOLDER, location="vendor/out"))


def test_a_commit_is_fetched(session: Session, tmp_path: Path) -> None:
    folder = session.workspace.project / "vendor/lib"
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for step in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *step], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    build = locked(session, replace(FOLDER, kind="git", location=folder.as_uri(), commit=commit))
    unpack_inputs(build, tmp_path / "build", session)
    assert (tmp_path / "build/inputs/LIB_DIR/lib.h").read_text() == "new\n"


def test_an_archive_is_fetched_and_its_size_is_locked(session: Session, server: str, tmp_path: Path) -> None:
    content = (tmp_path / "www/lib-1.0.tar.gz").read_bytes()
    archive = replace(FOLDER, kind="archive", location=server, sha256=hashlib.sha256(content).hexdigest())
    build = locked(session, archive)
    assert build.inputs
    assert build.inputs[0].source.size == len(content)
    unpack_inputs(build, tmp_path / "build", session)
    assert (tmp_path / "build/inputs/LIB_DIR/lib.h").read_text() == "new\n"


def test_an_archive_with_other_bytes_is_refused(session: Session, server: str) -> None:
    with pytest.raises(IntegrityError, match=r"lib-1\.0\.tar\.gz is not the file that was locked"):
        locked(session, replace(FOLDER, kind="archive", location=server, sha256="0" * 64))


def test_the_wheels_documents_name_the_inputs(session: Session) -> None:
    build = locked(session, FOLDER)
    assert build.inputs
    sha256 = build.inputs[0].source.sha256
    bill = json.loads(wheel_bill(build, "0.1+jbuild", {}))
    (component,) = [row for row in bill["components"] if row["name"] == "LIB_DIR"]
    assert {"name": "io.jbuild.content", "value": f"sha256:{sha256}"} in component["properties"]
    assert component["pedigree"]["patches"] == [{"type": "unofficial", "diff": {"url": "lib.patch"}}]
    definition = json.loads(provenance_statement(build, (), {}, {}))["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["inputs"] == {
        "LIB_DIR": {"source": {"kind": "folder"}, "patches": ["lib.patch"]}
    }
    materials = {row["name"]: row["digest"]["sha256"] for row in definition["resolvedDependencies"]}
    assert materials["LIB_DIR"] == sha256
    assert materials["lib.patch"] == hashlib.sha256(PATCH.encode()).hexdigest()
