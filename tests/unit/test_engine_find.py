"""Finding the engine, against engines that are a few lines of HTTP on a socket."""

from __future__ import annotations

import http.server
import json
import os
import re
import socketserver
import threading
from hashlib import sha256
from typing import TYPE_CHECKING, ClassVar

import pytest
from engine_factory import make_engine

from builder.errors import EngineError, ProgramMissingError
from builder.host import process
from builder.host.engine.docker import data_folder, find_engine, proxies_of
from builder.host.engine.emulation import emulated_here
from builder.host.paths import Workspace
from builder.host.process import Completed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

VERSION = {"Version": "26.1.5", "Arch": "amd64"}
INFO = {"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]], "Runtimes": {"runc": {}, "nvidia": {}}}


class Handler(http.server.BaseHTTPRequestHandler):
    answers: ClassVar[dict[str, object]] = {}

    def do_GET(self) -> None:
        known = self.path in self.answers
        self.send_response(200 if known else 500)
        self.end_headers()
        self.wfile.write(json.dumps(self.answers.get(self.path)).encode())

    def address_string(self) -> str:
        return "socket"

    def log_message(self, *_: object) -> None:
        pass


class Listening(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    running: list[Listening] = []

    def start(name: str, version: object = VERSION, info: object = INFO) -> str:
        handler = type("Answering", (Handler,), {"answers": {"/version": version, "/info": info}})
        running.append(Listening(str(tmp_path / name), handler))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        return f"unix://{tmp_path / name}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setattr("builder.host.engine.contexts._DEFAULT_HOST", f"unix://{tmp_path}/absent.sock")
    return Workspace(project=tmp_path, cache=tmp_path / "cache")


def record(workspace: Workspace, host: object) -> None:
    workspace.engine_record.parent.mkdir(parents=True)
    workspace.engine_record.write_text(json.dumps({"docker_host": host, "registry": "127.0.0.1:5000"}))


def context(folder: Path, name: str, host: str | None) -> None:
    meta = folder / "docker" / "contexts" / "meta" / sha256(name.encode()).hexdigest()
    meta.mkdir(parents=True)
    meta.joinpath("meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": host}}}))
    (folder / "docker" / "config.json").write_text(json.dumps({"currentContext": name}))


def test_docker_host_comes_first(
    workspace: Workspace, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(workspace, serve("recorded.sock"))
    host = serve("own.sock")
    monkeypatch.setenv("DOCKER_HOST", host)
    engine = find_engine(workspace)
    assert (engine.source, engine.docker_host, engine.endpoint) == ("environment", host, host)
    assert engine.environment() == {"DOCKER_HOST": host}


def test_a_docker_host_that_does_not_answer_is_not_replaced(
    workspace: Workspace, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(workspace, serve("recorded.sock"))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    with pytest.raises(EngineError) as caught:
        find_engine(workspace)
    assert caught.value.where == "unix:///nowhere.sock"


def test_the_default_socket_comes_before_our_own(
    workspace: Workspace, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(workspace, serve("recorded.sock"))
    monkeypatch.setattr("builder.host.engine.contexts._DEFAULT_HOST", serve("default.sock"))
    engine = find_engine(workspace)
    assert engine.source == "default"
    assert engine.environment() == {}


@pytest.mark.parametrize("by_variable", [True, False])
def test_the_current_context_is_followed(
    workspace: Workspace, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch, by_variable: bool
) -> None:
    context(workspace.project, "board", serve("board.sock"))
    if by_variable:
        (workspace.project / "docker" / "config.json").unlink()
        monkeypatch.setenv("DOCKER_CONTEXT", "board")
    engine = find_engine(workspace)
    assert (engine.source, engine.context) == ("default", "board")
    assert engine.endpoint.endswith("/board.sock")


def test_a_context_that_names_nothing(workspace: Workspace) -> None:
    context(workspace.project, "board", None)
    with pytest.raises(EngineError, match="context `board` names no engine"):
        find_engine(workspace)


def test_our_own_engine_comes_last(workspace: Workspace, serve: Callable[..., str]) -> None:
    record(workspace, serve("recorded.sock"))
    engine = find_engine(workspace)
    assert engine.source == "scripts/engine"
    assert engine.environment() == {"DOCKER_HOST": engine.endpoint}
    assert (engine.version, engine.architecture, engine.containerd_store) == ("26.1.5", "amd64", True)
    assert engine.runtimes == ("nvidia", "runc")
    assert engine.is_local


def test_a_socket_of_docker_host_that_is_not_there(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(EngineError, match=r"no socket at /nowhere/docker\.sock") as caught:
        find_engine(workspace)
    assert (caught.value.hint or "").startswith("correct or unset DOCKER_HOST")


@pytest.mark.parametrize("host", [None, "", "nonsense", 5])
def test_no_engine_at_all(workspace: Workspace, host: object) -> None:
    record(workspace, host)
    with pytest.raises(EngineError) as caught:
        find_engine(workspace)
    assert "Docker is not running (no socket at " in caught.value.message
    assert "scripts/engine up" in (caught.value.hint or "")
    assert "jbuild doctor" in (caught.value.hint or "")
    assert caught.value.exit_code == 7


def test_our_own_engine_was_stopped(workspace: Workspace, tmp_path: Path) -> None:
    record(workspace, f"unix://{tmp_path}/gone.sock")
    with pytest.raises(EngineError) as caught:
        find_engine(workspace)
    assert "gone.sock" in (caught.value.where or "")


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_damaged_record_is_as_good_as_none(workspace: Workspace, text: str) -> None:
    workspace.engine_record.parent.mkdir(parents=True)
    workspace.engine_record.write_text(text)
    with pytest.raises(EngineError):
        find_engine(workspace)


def test_a_socket_that_may_not_be_used(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket.connect", refuse)
    with pytest.raises(EngineError) as caught:
        find_engine(workspace)
    assert "docker group" in (caught.value.hint or "")


@pytest.mark.parametrize(("version", "info"), [(None, INFO), (VERSION, None), ("text", INFO)])
def test_something_else_listens_there(
    workspace: Workspace, serve: Callable[..., str], version: object, info: object
) -> None:
    record(workspace, serve("odd.sock", version, info))
    with pytest.raises(EngineError):
        find_engine(workspace)


def test_an_old_store_and_an_arm_machine(workspace: Workspace, serve: Callable[..., str]) -> None:
    info = {"DriverStatus": [["Backing Filesystem", "extfs"]], "Runtimes": None}
    record(workspace, serve("arm.sock", {"Version": "24", "Arch": "arm64"}, info))
    engine = find_engine(workspace)
    assert (engine.architecture, engine.containerd_store, engine.runtimes) == ("arm64", False, ())


ENTRY = "enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: {flags}\noffset 0\n"


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("qemu-aarch64", ENTRY.format(flags="POCF"), ("arm64",)),
        ("qemu-x86_64", ENTRY.format(flags="F"), ()),
        ("qemu-aarch64", ENTRY.format(flags="OC"), ()),
        ("qemu-aarch64", "disabled\nflags: F\n", ()),
        ("qemu-riscv64", ENTRY.format(flags="F"), ()),
        ("python3.11", ENTRY.format(flags="F"), ()),
    ],
)
def test_emulation_that_works_in_containers(tmp_path: Path, name: str, text: str, found: tuple[str, ...]) -> None:
    (tmp_path / name).write_text(text)
    assert emulated_here("amd64", tmp_path) == found


def test_what_an_engine_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Platforms: linux/amd64, linux/arm64, linux/arm/v7\n"

    def answer(argv: list[str], *, env: dict[str, str], **_: object) -> Completed:
        assert env == {"DOCKER_HOST": "unix:///x"}
        return Completed(argv=tuple(argv), code=0, stdout=said, stderr="")

    def missing(*_: object, **__: object) -> Completed:
        raise ProgramMissingError("docker")

    monkeypatch.setattr(process, "run", missing)
    assert make_engine(emulated=(), docker_host="unix:///x").can_run("amd64")
    assert make_engine(emulated=("arm64",)).can_run("arm64")
    assert not make_engine(emulated=(), docker_host="unix:///x").can_run("arm64")
    with pytest.raises(EngineError, match="cannot run arm64 programs"):
        make_engine(emulated=(), docker_host="unix:///x").require("arm64")
    monkeypatch.setattr(process, "run", answer)
    assert make_engine(emulated=(), docker_host="unix:///x").can_run("arm64")
    make_engine(emulated=(), docker_host="unix:///x").require("arm64")


def test_a_client_of_an_engine_that_went_away() -> None:
    with pytest.raises(EngineError, match="not answer any more"):
        make_engine(endpoint=f"unix:///nowhere-{os.getpid()}.sock", source="scripts/engine").client()


def test_an_engine_elsewhere_is_not_local() -> None:
    assert not make_engine(endpoint="ssh://me@board").is_local


def test_what_an_engine_says_of_itself_when_asked_again(serve: Callable[..., str], tmp_path: Path) -> None:
    info = {"HttpsProxy": "http://proxy:3128", "HttpProxy": "", "DockerRootDir": str(tmp_path)}
    here = make_engine(endpoint=serve("a.sock", info=info))
    assert proxies_of(here) == {"HTTPS_PROXY": "http://proxy:3128"}
    assert data_folder(here) == tmp_path
    assert data_folder(make_engine(endpoint=serve("b.sock", info={"DockerRootDir": "/nowhere/at/all"}))) is None
    with pytest.raises(EngineError):
        proxies_of(make_engine(endpoint="unix:///nowhere.sock"))


def said(workspace: Workspace) -> tuple[str, str, str]:
    """Return message, place and hint of the refusal of an engine."""
    with pytest.raises(EngineError) as caught:
        find_engine(workspace)
    error = caught.value
    for words in (error.message, error.hint or ""):
        assert not re.search(r"paramiko|pywin32|pypiwin32|[Ii]nstall|HTTPConnectionPool|client_cert", words)
    return error.message, error.where or "", error.hint or ""


def test_a_path_as_docker_host(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "/run/docker.sock")
    with pytest.raises(EngineError, match="DOCKER_HOST names a path") as caught:
        find_engine(workspace)
    assert caught.value.hint == "write it as unix:///run/docker.sock"


@pytest.mark.parametrize("address", ["ssh://me@board:22", "npipe:////./pipe/docker_engine", "fd://3"])
def test_a_context_of_another_scheme_says_what_to_do(workspace: Workspace, address: str) -> None:
    context(workspace.project, "board", address)
    message, where, hint = said(workspace)
    assert message.startswith(f"docker context `board` names an engine over {address.partition(':')[0]}")
    assert where == address
    assert "`--builder board`" in hint
    assert "`docker context use default`" in hint


def test_a_docker_host_over_ssh_says_what_to_do(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://me@board")
    message, _, hint = said(workspace)
    assert message == "DOCKER_HOST names an engine over ssh, which jbuild itself cannot use"
    assert "unset DOCKER_HOST" in hint
    assert "docker context create NAME" in hint


def test_a_context_that_only_a_variable_names(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    context(workspace.project, "board", "tcp://127.0.0.1:1")
    (workspace.project / "docker" / "config.json").unlink()
    monkeypatch.setenv("DOCKER_CONTEXT", "board")
    message, where, hint = said(workspace)
    assert message == "the engine of docker context `board` does not answer: Connection refused"
    assert where == "tcp://127.0.0.1:1"
    assert "unset DOCKER_CONTEXT" in hint


def tls_files(folder: Path, name: str, *files: str) -> None:
    place = folder / "docker" / "contexts" / "tls" / sha256(name.encode()).hexdigest() / "docker"
    place.mkdir(parents=True)
    for file in files:
        (place / file).write_text("not a certificate")


@pytest.mark.parametrize("files", [("ca.pem", "cert.pem"), ("key.pem",)])
def test_a_context_with_half_of_its_certificates(workspace: Workspace, files: tuple[str, ...]) -> None:
    context(workspace.project, "board", "tcp://127.0.0.1:1")
    tls_files(workspace.project, "board", *files)
    message, _, hint = said(workspace)
    assert message == "the certificates of docker context `board` are incomplete or cannot be read"
    assert "docker context inspect board" in hint


@pytest.mark.parametrize("status", [200, 400])
def test_a_context_at_a_port(workspace: Workspace, status: int) -> None:
    class Tcp(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            answer = {"/version": {**VERSION, "ApiVersion": "1.45"}}.get(self.path.removeprefix("/v1.45"), INFO)
            # The engine's own words.
            refusal = b"Client sent an HTTP request to an HTTPS server."
            self.wfile.write(json.dumps(answer).encode() if status == http.HTTPStatus.OK else refusal)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tcp) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"tcp://127.0.0.1:{server.server_address[1]}"
        context(workspace.project, "board", address)
        if status == http.HTTPStatus.OK:
            assert find_engine(workspace).endpoint == address
        else:
            assert "requires TLS" in said(workspace)[2]
        server.shutdown()
