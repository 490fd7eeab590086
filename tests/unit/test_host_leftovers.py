"""Temporary files and folders of killed processes: removed by the next one, and nothing else."""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from engine_factory import make_engine

from builder.host import files
from builder.host.engine.temporary import (
    DOCTOR,
    LABEL,
    SMOKE,
    find_engine_leftovers,
    owner_label,
    tags_left,
    temporary_tag,
)
from builder.host.file_locks import scratch
from builder.host.leftovers import clear, find_paths
from builder.host.owner import own_word, this_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.host.engine.docker import Engine
    from builder.host.paths import Workspace
    from builder.host.session import Session

# The folder of a write, below the project or the cache, and the moment of the kill.
WRITER = """
import os, pathlib, signal, sys
from builder.host.files import atomic_file, atomic_folder, temp_file, temp_folder, work_folder
from builder.host.file_locks import scratch
kind, path = sys.argv[1], pathlib.Path(sys.argv[2])
with {"file": lambda: atomic_file(path), "folder": lambda: atomic_folder(path), "blob": lambda: temp_file(path.parent),
      "work": lambda: work_folder("jbuild-lock"), "scratch": lambda: scratch(path)}[kind]() as temporary:
    (temporary / "content" if temporary.is_dir() else temporary).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def own_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("system")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def killed(kind: str, path: Path) -> None:
    """Kill a process in the middle of a write."""
    done = subprocess.run([sys.executable, "-c", WRITER, kind, str(path)], check=False)
    assert done.returncode == -9


def all_below(*folders: Path) -> list[str]:
    return sorted(str(path) for folder in folders for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("file", "project/build/demo/one/.published.json"),
        ("file", "project/build/demo/one/published.json"),
        ("file", "project/build/report.html"),
        ("file", "project/build/demo/one/system-layer/install.sh"),
        ("folder", "project/build/demo/one/layers/0123456789abcdef-weights"),
        ("file", "project/locks/demo/pylock.one.toml"),
        ("file", "project/locks/systems.toml"),
        ("file", "project/recipes/golden/demo.toml"),
        ("file", "project/jbuild.local.toml"),
        ("file", f"cache/metadata/aa/{'a' * 64}"),
        ("file", f"cache/verdicts/{'a' * 64}.json"),
        ("file", f"cache/verdicts/{'a' * 64}/cpu-{'b' * 64}.json"),
        ("file", f"cache/bundle-runs/{'a' * 64}/smoke-gpu.json"),
        ("folder", f"cache/interpreters/{'a' * 64}"),
        ("blob", "cache/images/blobs/sha256/x"),
        ("file", f"cache/models/known/aa/{'a' * 64}"),
        ("file", "cache/crash.log"),
        ("scratch", "cache"),
        ("work", ""),
    ],
)
def test_what_a_write_that_was_killed_left_goes(
    session: Session, tmp_path: Path, own_temporary_folder: Path, kind: str, path: str
) -> None:
    folders = (tmp_path, own_temporary_folder)
    before = all_below(*folders)
    killed(kind, tmp_path / path)
    assert all_below(*folders) != before
    assert len(clear(session, dry_run=True).paths) == 1
    assert all_below(*folders) != before
    assert clear(session).words == "1 temporary file or folder"
    assert all_below(*folders) == before
    assert clear(session).words == ""


def test_what_others_write_and_what_is_the_users_stays(session: Session, workspace: Workspace) -> None:
    cell = workspace.cell("demo", "one").path
    own = this_process()
    assert own is not None
    elsewhere = replace(own, machine="00000000", boot="00000000").word
    of_another = replace(own, user=own.user + 1, started=1).word
    names = [f".x.json.jbuild-{word}-abcdefgh" for word in (own_word(), elsewhere, of_another)]
    names += [".published.json.abcdefgh", ".hidden", "x.json", f".x.jbuild-{own_word()}"]
    for name in names:
        files.write_text(cell / name, "content")
    with files.atomic_file(cell / "smoke.json") as temporary, scratch(workspace.cache) as folder:
        assert list(find_paths(workspace)) == []
        assert clear(session).words == ""
        assert temporary.exists()
        assert folder.exists()
    assert {path.name for path in cell.iterdir()} == {*names, "smoke.json"}


def word_of_an_ended_process() -> str:
    own = this_process()
    assert own is not None
    return replace(own, started=1).word


def test_entries_and_other_programs_folders_are_not_searched(session: Session, workspace: Workspace) -> None:
    ended = word_of_an_ended_process()
    inside = [
        workspace.foundry / "aa" / f"{'a' * 64}-2" / "site-packages",
        workspace.cache / "uv" / "wheels",
        workspace.cache / "engine" / "data",
        workspace.cell("demo", "one").layers / "0-wheels" / "opt",
        workspace.project / "models" / "tiny",
    ]
    for folder in inside:
        folder.mkdir(parents=True)
        (folder / f".x.jbuild-{ended}-abcdefgh").touch()
    clear(session)
    assert all(list(folder.iterdir()) for folder in inside)


def test_a_link_is_removed_and_not_its_target(session: Session, workspace: Workspace, tmp_path: Path) -> None:
    ended = word_of_an_ended_process()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    cell = workspace.cell("demo", "one").path
    cell.mkdir(parents=True)
    (cell / f".x.jbuild-{ended}-abcdefgh").symlink_to(tmp_path / "precious")
    assert clear(session).words == "1 temporary file or folder"
    assert (tmp_path / "precious" / "file").exists()


def test_it_is_said_in_one_line(session: Session, workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.json", "b.json"):
        killed("file", workspace.cell("demo", "one").path / name)
    clear(session)
    assert capsys.readouterr().err == "removed what killed jbuild processes left: 2 temporary files or folders\n"
    clear(session)
    assert capsys.readouterr().err == ""


class EngineListing:
    """Answers for the engine's lists of containers and images on a socket."""

    def __init__(self, containers: list[dict[str, object]], images: list[dict[str, object]]) -> None:
        self.containers, self.images = containers, images
        self.requests: list[str] = []


@pytest.fixture
def listing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EngineListing, Engine]]:
    """An engine that has lists, behind a socket."""
    answers = EngineListing([], [])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.requests.append(unquote(self.path))
            body = json.dumps(answers.containers if "/containers/" in self.path else answers.images).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "socket"

        def log_message(self, *_: object) -> None:
            pass

    path = tmp_path_factory.mktemp("socket") / "docker.sock"
    with UnixServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield answers, make_engine(endpoint=f"unix://{path}")
        server.shutdown()


class UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def test_only_containers_and_tags_of_ended_processes_are_the_engines_leftovers(
    listing: tuple[EngineListing, Engine],
) -> None:
    answers, engine = listing
    own = this_process()
    assert own is not None
    words = {
        "live": own.word,
        "dead": replace(own, started=1).word,
        "other user": replace(own, started=1, user=own.user + 1).word,
        "other machine": replace(own, machine="00000000", boot="00000000").word,
        "older jbuild": f"host:{own.process}",
    }
    answers.containers += [{"Id": name, "Labels": {LABEL: word}} for name, word in words.items()]
    answers.containers += [{"Id": "no labels", "Labels": None}, {"Id": "not ours", "Labels": {"a": "b"}}]
    tags = {name: f"jbuild-smoke:0123456789ab-{word}-0123ab" for name, word in words.items()}
    answers.images += [{"Id": "1", "RepoTags": [*tags.values(), "jbuild/demo:1.0"]}, {"Id": "2", "RepoTags": None}]
    answers.images += [{"Id": "3", "RepoTags": [f"team/jbuild-smoke:0123456789ab-{words['dead']}-0123ab"]}]
    of_podman = f"docker.io/library/{tags['dead']}"
    answers.images += [{"Id": "4", "RepoTags": [of_podman]}]
    left = find_engine_leftovers(engine)
    assert left.containers == ("dead",)
    assert left.tags == (tags["dead"], of_podman)
    assert [request.partition("?")[0] for request in answers.requests] == ["/containers/json", "/images/json"]


def test_names_and_labels_of_this_process_are_not_left() -> None:
    assert owner_label() == {LABEL: own_word()}
    assert tags_left([{"RepoTags": [temporary_tag(SMOKE, "0123456789ab"), temporary_tag(DOCTOR, "arm64")]}]) == []
