"""The entrypoint and the health check, run as an image runs them: by a bare Python, from a folder of their own."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder.image.runtime import scripts, server_json
from builder.image.runtime.entrypoint import command, server_command
from builder.image.runtime.settings import Settings, SettingsError
from builder.model.recipes import Model, ServerSpec, Spec

if TYPE_CHECKING:
    from collections.abc import Iterator

SPEC = Spec(models=(Model(name="tiny", source="./tiny"),))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as `/opt/jbuild` is in an image."""
    for script in scripts():
        shutil.copy(script, tmp_path)
    (tmp_path / "server.json").write_text(server_json(SPEC))
    return tmp_path


def start(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": os.environ["PATH"], **environment}
    argv = [sys.executable, "-SE", str(script), *arguments]
    return subprocess.run(argv, env=clean, capture_output=True, text=True, check=False, timeout=100)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder as `/opt/venv/bin` is in an image."""
    vllm = tmp_path / "bin" / "vllm"
    vllm.parent.mkdir()
    vllm.write_text("#!/bin/sh\n")
    vllm.chmod(0o755)
    return vllm.parent


def test_the_server_is_vllm_serve(programs: Path) -> None:
    argv = server_command(Settings(model="/models/tiny", arguments=("--port=1",)), programs)
    assert argv == [str(programs / "vllm"), "serve", "/models/tiny", "--port=1"]


def test_old_versions_have_a_module_instead(tmp_path: Path) -> None:
    argv = server_command(Settings(model="/models/tiny", arguments=("--port=1",)), tmp_path)
    module = "vllm.entrypoints.openai.api_server"
    assert argv == [str(tmp_path / "python"), "-m", module, "--model=/models/tiny", "--port=1"]


def test_without_a_model_there_is_only_help(programs: Path) -> None:
    with pytest.raises(SettingsError, match="JBUILD_MODEL"):
        server_command(Settings(model=None, arguments=("--port=1",)), programs)
    assert server_command(Settings(model=None, arguments=("--help",)), programs)[1:] == ["serve", "--help"]


def test_a_program_named_first_is_run_instead(folder: Path) -> None:
    done = start(folder / "entrypoint.py", "echo", "--port", "1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "--port 1\n", "")


def test_programs_of_the_environment_are_found(monkeypatch: pytest.MonkeyPatch, programs: Path) -> None:
    monkeypatch.setattr("builder.image.runtime.entrypoint.BIN", programs)
    environment = {"PATH": "/nowhere"}
    assert command(["vllm", "bench"], environment) == ["vllm", "bench"]
    assert environment["PATH"] == f"{programs}:/nowhere"


def test_a_folder_named_first_is_a_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("builder.image.runtime.entrypoint.BIN", tmp_path)
    assert f"--model={tmp_path}" in command([str(tmp_path)], {"PATH": "/bin"})


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JBUILD_PORT": "tcp://10.0.0.1:80"}, "JBUILD_PORT must be a port"),
        ({"JBUILD_EXTRA_ARGS": "'"}, "JBUILD_EXTRA_ARGS cannot be split"),
        ({"VLLM_API_KEY_FILE": "/no/such/file"}, "cannot read /no/such/file: No such file"),
    ],
)
def test_a_wrong_setting_ends_the_container_with_one_line(
    folder: Path, environment: dict[str, str], message: str
) -> None:
    done = start(folder / "entrypoint.py", **environment)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_key_file_becomes_vllms_own_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("builder.image.runtime.entrypoint.BIN", tmp_path)
    (tmp_path / "key").write_text("s3cret\n")
    environment = {"PATH": "/bin", "VLLM_API_KEY_FILE": str(tmp_path / "key")}
    argv = command(["--model", "x"], environment)
    assert environment["VLLM_API_KEY"] == "s3cret"
    assert "VLLM_API_KEY_FILE" not in environment
    assert not any("s3cret" in argument for argument in argv)


@pytest.mark.parametrize("content", ["", " \n", "two keys", "a\nb", "\udcff"])
def test_a_key_file_that_holds_no_key_never_leaves_the_server_open(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(SettingsError, match="VLLM_API_KEY_FILE"):
        command(["--model", "x"], {"PATH": "/bin", "VLLM_API_KEY_FILE": str(tmp_path / "key")})


def test_two_keys_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not both"):
        command(["--model", "x"], {"PATH": "/bin", "VLLM_API_KEY_FILE": str(tmp_path), "VLLM_API_KEY": "k"})


@pytest.mark.parametrize(
    ("environment", "warns"),
    [
        ({}, True),
        ({"JBUILD_HOST": "::"}, True),
        ({"JBUILD_HOST": "127.0.0.1"}, False),
        ({"VLLM_API_KEY": "k"}, False),
        ({"JBUILD_EXTRA_ARGS": "--api-key k"}, False),
    ],
)
def test_a_server_open_to_everybody_is_warned_of(
    capsys: pytest.CaptureFixture[str], environment: dict[str, str], warns: bool
) -> None:
    command(["--model", "x"], {"PATH": "/bin", **environment})
    assert ("without an API key" in capsys.readouterr().err) is warns


def test_a_key_among_the_arguments_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    command(["--model", "x", "--api-key", "k"], {"PATH": "/bin"})
    assert "--api-key can be read by whoever sees the processes" in capsys.readouterr().err


SERVER = """\
import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
def stop(*_):
    sys.stderr.write("stopping\\n")
    raise SystemExit(0)
signal.signal(signal.SIGTERM, stop)
(port,) = [word[7:] for word in sys.argv if word.startswith("--port=")]
server = http.server.HTTPServer(("127.0.0.1", int(port)), Handler)
print("up", flush=True)
server.serve_forever()
"""


@pytest.fixture
def environment(folder: Path) -> Path:
    """A folder as `/opt/venv` is in an image; its server is a stand-in."""
    programs = folder / "venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    (programs / "vllm").write_text(f"#!{programs / 'python'} -SE\n{SERVER}")
    (programs / "vllm").chmod(0o755)
    return programs.parent


def test_the_server_takes_the_entrypoints_place_and_gets_its_signals(folder: Path, environment: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "key").write_text("s3cret\n")
    settings = {"JBUILD_PORT": str(port), "VLLM_API_KEY_FILE": str(folder / "key"), "PATH": os.environ["PATH"]}
    argv = [str(environment / "bin" / "python"), "-SE", str(folder / "entrypoint.py"), "--seed=$(id)"]
    server = subprocess.Popen(argv, env=settings, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert server.stdout
        assert server.stdout.readline() == "up\n"
        seen = Path("/proc") / str(server.pid)
        # The same process, no shell before it, and the key where only its owner can read it.
        words = (seen / "cmdline").read_text().split("\0")
        assert words[2:4] == [str(environment / "bin" / "vllm"), "serve"]
        assert "--seed=$(id)" in words
        assert "s3cret" not in (seen / "cmdline").read_text()
        assert "VLLM_API_KEY=s3cret" in (seen / "environ").read_text().split("\0")
        assert list((seen / "task").iterdir()) == [seen / "task" / str(server.pid)]
        assert start(folder / "healthcheck.py", **settings).returncode == 0
        server.terminate()
        assert server.wait() == 0
        assert server.communicate()[1] == "stopping\n"
    finally:
        server.kill()
        server.communicate()


class Health(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (302, 1)])
def test_health(
    folder: Path, server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch, status: int, code: int
) -> None:
    monkeypatch.setattr(Health, "status", status)
    port = str(server.server_address[1])
    assert start(folder / "healthcheck.py", JBUILD_PORT=port).returncode == code
    proxied = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    assert start(folder / "healthcheck.py", JBUILD_EXTRA_ARGS=f"--port {port}", **proxied).returncode == code


def test_health_by_the_recipes_port(folder: Path, server: http.server.HTTPServer) -> None:
    port = server.server_address[1]
    (folder / "server.json").write_text(server_json(Spec(server=ServerSpec(arguments=(f"--port={port}",)))))
    assert json.loads((folder / "server.json").read_text())["port"] == 8000
    assert start(folder / "healthcheck.py").returncode == 0


@pytest.mark.parametrize(
    ("variable", "value"), [("JBUILD_PORT", "1"), ("JBUILD_PORT", "x"), ("JBUILD_HOST", "no.such.host.invalid")]
)
def test_a_server_that_is_not_there_is_not_healthy(folder: Path, variable: str, value: str) -> None:
    done = start(folder / "healthcheck.py", **{variable: value})
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
