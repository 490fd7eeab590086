"""How a container is watched to its end, and what is said of one that cannot be had; no engine is asked."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import requests
from docker.errors import APIError, ImageNotFound
from engine_factory import SERVICE, Fake, make_engine, running_container
from factories import make_jetson, make_job

from builder.device import service_container as containers
from builder.device.local_server import follow
from builder.device.service import service_of, service_of_image
from builder.device.service_records import Published
from builder.errors import EngineError, SmokeError, UsageError
from builder.host.console import Console
from builder.host.engine.gpu_access import BY_RUNTIME
from builder.image.runtime.entrypoint import command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.session import Session

QUIET = Console(quiet=True)


def refusal(status: int, text: str) -> APIError:
    response = requests.Response()
    response.status_code = status
    return APIError(text, response=response, explanation=text)


class Client:
    """An engine's client that gives one container, or refuses."""

    def __init__(self, container: Fake | None = None, error: Exception | None = None, events: Any = ()) -> None:
        self.containers = self.images = self.api = self
        self.container, self.error, self.events = container, error, events
        self.pulled: list[str] = []

    def create(self, **_: Any) -> Any:
        if self.error:
            raise self.error
        return self.container

    def list(self, **_: Any) -> tuple[()]:
        return ()

    def get(self, name: str) -> None:
        raise ImageNotFound(name)

    def pull(self, name: str, **_: Any) -> Iterator[dict[str, str]]:
        self.pulled.append(name)
        if self.error:
            raise self.error
        return iter(self.events)


def make_client(container: Fake | None = None, **answers: Any) -> Any:
    return Client(container, **answers)


def test_a_clean_end() -> None:
    assert containers.end_of(running_container(Fake()), SERVICE) == 0


@pytest.mark.parametrize(
    ("code", "killed", "said", "hint"),
    [
        (3, False, "ended with exit code 3", "jbuild smoke"),
        (137, False, "ended with exit code 137", "jbuild fit"),
        (137, True, "exceeded its memory limit", "jbuild fit"),
    ],
)
def test_an_end_that_is_none(code: int, killed: bool, said: str, hint: str) -> None:
    fake = Fake(code=code, killed=killed, log=(b"one\n", b"\x1b[31mtwo\n"))
    with pytest.raises(SmokeError, match=said) as caught:
        containers.end_of(running_container(fake), SERVICE)
    assert hint in str(caught.value.hint)
    assert caught.value.log == "one\ntwo"


def test_a_container_is_stopped_and_removed_whatever_happens() -> None:
    container = Fake()
    with pytest.raises(KeyboardInterrupt), containers.started(make_client(container), SERVICE):
        raise KeyboardInterrupt
    assert container.calls == ["start", "stop 60", "remove"]


def test_one_that_is_gone_already_is_as_good() -> None:
    container = Fake()
    with containers.started(make_client(container), SERVICE):
        container.gone = True
    assert container.calls == ["start", "stop 60", "remove"]


def test_one_that_does_not_start_is_removed() -> None:
    container = Fake()
    container.refuses = refusal(500, "port is already allocated")
    with pytest.raises(EngineError, match="port is already allocated") as caught:
        containers.start(make_client(container), SERVICE)
    assert "--publish" in str(caught.value.hint)
    assert container.calls == ["start", "remove"]


def test_a_name_that_is_taken() -> None:
    with pytest.raises(EngineError, match="in use") as caught:
        containers.start(make_client(error=refusal(409, "the name is in use")), SERVICE)
    assert caught.value.hint == f"stop it: `docker rm --force {SERVICE.name}`"
    with pytest.raises(EngineError, match="no such runtime") as caught:
        containers.start(make_client(error=refusal(500, "no such runtime")), SERVICE)
    assert "jbuild doctor" in str(caught.value.hint)


def test_an_image_is_pulled_where_the_engine_lacks_it() -> None:
    client = make_client(events=[{"status": "Pulling"}, {"status": "Pull complete"}])
    containers.provide(client, "r/x@sha256:1", "linux/arm64", QUIET, hint="")
    assert client.pulled == ["r/x@sha256:1"]
    with pytest.raises(EngineError, match="cannot pull the image: unauthorized"):
        containers.provide(make_client(events=[{"error": "unauthorized"}]), "r/x", None, QUIET, hint="")
    with pytest.raises(EngineError, match="cannot pull the image: nothing there"):
        containers.provide(make_client(error=refusal(404, "nothing there")), "r/x", None, QUIET, hint="h")


def test_where_it_is_published() -> None:
    container = Fake()
    assert running_container(container).published(8000) is None
    container.ports["8000/tcp"] = [{"HostIp": "127.0.0.1", "HostPort": "49153"}]
    assert running_container(container).published(8000) == 49153


def test_the_gpu_needs_a_way_to_it() -> None:
    gpu = service_of(make_job(platform=make_jetson()), "image")
    containers.check_engine(SERVICE, make_engine())
    with pytest.raises(EngineError, match="no `nvidia` runtime") as caught:
        containers.check_engine(gpu, make_engine())
    assert "nvidia-ctk runtime configure" in str(caught.value.hint)
    containers.check_engine(gpu, make_engine(gpu=BY_RUNTIME))


def facts(**config: Any) -> dict[str, Any]:
    own = {"ExposedPorts": {"9000/tcp": {}}, "Entrypoint": ["x"], "Healthcheck": {"StartPeriod": 60 * 10**9}}
    return {"Architecture": "arm64", "Os": "linux", "Config": {**own, **config}}


def test_an_image_says_itself_how_it_runs() -> None:
    anywhere = Published(address="127.0.0.1", port=None)
    labels = {"io.jbuild.cuda": "12.6"}
    service = service_of_image("r.example:5000/team/vLLM:0.9_x@sha256:1", facts(Labels=labels), anywhere, "arm64")
    assert (service.name, service.port, service.nvidia) == ("jbuild-vllm-0-9_x", 9000, True)
    assert (service.platform, service.health.start_period_s) == ("linux/arm64", 60)
    plain = service_of_image("x", facts(Labels=None, Healthcheck=None), anywhere, "amd64")
    assert (plain.nvidia, plain.health.start_period_s) == (False, 900)
    # What makes emulation bearable is given where there is one.
    assert (service.environment, dict(plain.environment)) == ((), {"QEMU_CPU": "max,sve=off"})


TWO_PORTS: dict[str, Any] = {"1/tcp": {}, "2/tcp": {}}


@pytest.mark.parametrize("config", [{"ExposedPorts": None}, {"ExposedPorts": TWO_PORTS}, {"Entrypoint": None}])
def test_an_image_of_no_server(config: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="not an image of a server"):
        service_of_image("x", facts(**config), Published(address="127.0.0.1", port=None), "arm64")


class Interrupted:
    """A container whose log is interrupted by Ctrl-C, and which then ends with a code."""

    def __init__(self, code: int) -> None:
        self.code, self.calls = code, list[str]()

    def log_lines(self) -> Iterator[str]:
        yield "loading"
        raise KeyboardInterrupt

    def stop(self, within_s: int) -> None:
        self.calls.append(f"stop {within_s}")

    def wait(self) -> int:
        self.calls.append("wait")
        return self.code


class Ended:
    """A container whose log ends with it."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines

    def log_lines(self) -> Iterator[str]:
        yield from self.lines

    def wait(self) -> int:
        return 0


def test_the_images_own_warning_of_a_missing_key_is_not_repeated(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    command(["--model", "x"], {"PATH": "/bin"})
    (warning,) = capsys.readouterr().err.splitlines()
    assert "without an API key" in warning
    container, remote = Ended("jbuild: starting", warning, "loading"), SimpleNamespace(is_local=False)
    loud = replace(session, console=Console())
    follow(cast("Any", container), SERVICE, cast("Any", None), cast("Any", remote), loud)
    assert capsys.readouterr().err.splitlines() == ["jbuild: starting", "loading"]


@pytest.mark.parametrize(("code", "warned"), [(0, False), (137, True), (1, False)])
def test_ctrl_c_is_the_normal_end_of_a_run(
    session: Session, capsys: pytest.CaptureFixture[str], code: int, warned: bool
) -> None:
    container, remote = Interrupted(code), SimpleNamespace(is_local=False)
    loud = replace(session, console=Console())
    followed = follow(cast("Any", container), SERVICE, cast("Any", None), cast("Any", remote), loud)
    assert (followed.interrupted, followed.exit_code) == (True, code)
    assert container.calls == [f"stop {SERVICE.stop_within_s}", "wait"]
    assert ("did not stop within" in capsys.readouterr().err) == warned
