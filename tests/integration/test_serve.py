"""Images at work on the real engine: compose files brought up, `jbuild run` watched and stopped."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from project import CELL, Project, assert_refused
from servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from docker.models.containers import Container


def name_of(project: Project) -> str:
    return f"jbuild-{project.name}-{CELL}"


@pytest.fixture
def served(finished: Project) -> Iterator[Project]:
    """A project whose image is published; what runs of it in the end is removed."""
    yield finished
    for container in finished.client.containers.list(all=True, filters={"name": f"^{name_of(finished)}$"}):
        container.remove(force=True)
    for volume in finished.client.volumes.list(filters={"name": f"{name_of(finished)}-cache"}):
        volume.remove(force=True)


def compose(project: Project, file: Path, *arguments: str) -> str:
    argv = ["docker", "compose", "--file", file.name, *arguments]
    if subprocess.run([*argv[:2], "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    environment = {**os.environ, "DOCKER_HOST": project.environment["DOCKER_HOST"]}
    done = subprocess.run(
        argv, cwd=file.parent, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(port: int, path: str, key: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
    response = connection.getresponse()
    return response.status, response.read().decode()


def until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    ends_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.1)


def container_of(project: Project) -> Container:
    return project.client.containers.get(name_of(project))


def read(container: Container, path: str) -> str:
    """Return the text of a file as a process inside sees it."""
    text = container.exec_run(["cat", path]).output
    assert isinstance(text, bytes)
    return text.decode()


def assert_hardened(container: Container, port: int) -> None:
    """Check what the engine says of a container, not what was asked of it."""
    host, config = container.attrs["HostConfig"], container.attrs["Config"]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["PortBindings"] == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}
    assert host["ShmSize"] == 1 << 30
    assert not host["Privileged"]
    assert config["User"] == "10001:10001"
    mounts = {mount["Destination"]: mount for mount in container.attrs["Mounts"]}
    assert mounts["/cache"]["Type"] == "volume"
    status = read(container, "/proc/1/status")
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    command = read(container, "/proc/1/cmdline").split("\0")
    assert command[1].endswith("/vllm")
    for path, writable in (("/cache/x", True), ("/tmp/x", True), ("/opt/x", False), ("/home/vllm/x", False)):
        code = container.exec_run(["/opt/venv/bin/python", "-SEc", f"open({path!r}, 'w')"]).exit_code
        assert (code == 0) is writable, path


def test_a_compose_file_is_brought_up(served: Project) -> None:
    port, file = free_port(), served.folder / "deploy" / "compose.yaml"
    done = served.run("compose", "--board", "orin-nano-8", "--publish", str(port), "--output", str(file), "--json")
    assert done.code == 0, done.stderr
    publication = served.record("push")
    place = f"{publication['registries'][0]['repository']}@{publication['digest']}"
    assert (done.json["image"]["reference"], done.json["board"]) == (place, "orin-nano-8")
    key = file.parent / "secrets" / "vllm-api-key"
    assert (key.parent.stat().st_mode & 0o777, key.stat().st_mode & 0o777) == (0o700, 0o644)
    config = json.loads(compose(served, file, "config", "--format", "json"))
    assert config["services"]["vllm"]["image"] == place
    try:
        # Without --wait: the engine looks at the server's health every 30 s only.
        compose(served, file, "up", "--detach")
        container = container_of(served)
        check = container.attrs["Config"]["Healthcheck"]["Test"]
        assert check[0] == "CMD"
        until(lambda: container.exec_run(check[1:]).exit_code == 0)
        assert_hardened(container, port)
        host = container.attrs["HostConfig"]
        # Of six cores one stays the system's; the quota holds on machines with fewer too.
        assert (host["Memory"], host["CpuQuota"], host["CpuPeriod"]) == ((7620 - 1224) << 20, 500_000, 100_000)
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        secret = key.read_text().strip()
        assert ask(port, "/v1/models")[0] == 401
        status, text = ask(port, "/v1/models", secret)
        assert (status, json.loads(text)["data"][0]["id"]) == (200, "tiny")
        assert secret not in json.dumps(container.attrs)
        assert secret not in file.read_text() + read(container, "/proc/1/cmdline")
    finally:
        compose(served, file, "down", "--volumes")
    again = served.run("compose", "--publish", str(port), "--output", str(file))
    assert again.code == 0, again.stderr
    assert "the API key is kept" in again.stderr
    assert key.read_text().strip() == secret


def test_a_run_is_followed_and_ends_with_ctrl_c(served: Project, tmp_path: Path) -> None:
    key, port = tmp_path / "key", free_port()
    key.write_text("s3cret\n")
    running = served.start(
        "run", served.name, "--publish", str(port), "--key-file", str(key), "--json", "--", "--seed=1"
    )
    running.until(lambda: any("ready after" in line for line in running.err))
    assert ask(port, "/v1/models")[0] == 401
    assert ask(port, "/v1/models", "s3cret")[0] == 200
    container = container_of(served)
    assert_hardened(container, port)
    assert "--seed=1" in read(container, "/proc/1/cmdline").split("\0")
    second = served.run("run", "--publish", str(free_port()))
    assert_refused(second, 7, "is already in use", "docker rm --force")
    running.interrupt()
    done = running.wait(30)
    assert done.code == 0, done.stderr
    assert (done.json["exit_code"], done.json["interrupted"]) == (0, True)
    assert done.json["ready_s"] > 0
    assert any("stand-in ready" in line for line in running.err)
    assert not served.client.containers.list(all=True, filters={"name": f"^{name_of(served)}$"})


def test_a_run_in_the_background(served: Project) -> None:
    port = free_port()
    done = served.run("run", "--detach", "--publish", str(port), "--json", VLLM_API_KEY="s3cret")
    assert done.code == 0, done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    container = container_of(served)
    assert container.attrs["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert done.json["url"] == f"http://127.0.0.1:{port}"
    assert 'Authorization: Bearer $VLLM_API_KEY"' in done.json["ask"]


@pytest.mark.parametrize(
    ("image", "code", "said"),
    [("jbuild/nothing-of-that-name:1", 7, "cannot pull the image"), ("127.0.0.1:1/x/y:1", 7, "cannot pull the image")],
)
def test_an_image_that_is_not_to_be_had(served: Project, image: str, code: int, said: str) -> None:
    assert_refused(served.run("run", "--image", image), code, said)


def test_a_server_that_ends_by_itself(served: Project) -> None:
    wrong = served.run("run", "--publish", str(free_port()), "--", "--port=x")
    assert_refused(wrong, 3, "must be a port", placed=False)
    program = ("--", "python", "-c", "print('no kernel image is available'); raise SystemExit(3)")
    ended = served.run("run", "--publish", str(free_port()), *program)
    assert_refused(ended, 10, "the server ended with exit code 3", r"\| no kernel image is available")


def test_an_image_is_measured(served: Project) -> None:
    """The stand-in has no tokenizer that it could name, and no benchmark: jbuild's client measures it."""
    figures = served.folder / "bench.json"
    load = ("--concurrency", "1,3", "--prompts", "6", "--output-tokens", "3")
    done = served.run("bench", *load, "--output", str(figures), "--json")
    assert done.code == 0, done.stderr
    assert json.loads(figures.read_text()) == done.json
    assert (done.json["level"], done.json["client"], done.json["model"]) == ("cpu", "jbuild", "tiny")
    assert done.json["remarks"] == ["jbuild's client: the server does not name the folder of its tokenizer"]
    one, three = done.json["steps"]
    assert (one["answered"], one["output_tokens"], three["answered"]) == (6, 18, 6)
    assert 0 < one["between_tokens_ms"]["p50"] <= one["between_tokens_ms"]["p99"]
    assert one["tokens_per_s"] > 0 < three["tokens_per_s"]
    assert not served.client.containers.list(all=True, filters={"name": name_of(served)})
    image = f"jbuild/{served.name}:{CELL}".lower()
    refused = served.jbuild("bench", image, "--concurrency", "1", "--prompts", "1", "--client", "vllm")
    assert_refused(refused, 10, "`vllm bench serve` ended with exit code 1", r"\| .*Address already in use")
