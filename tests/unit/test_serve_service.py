"""From a cell to the service that runs it, and from there to compose's and the engine's words for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from engine_factory import make_engine
from factories import make_jetson, make_job, make_spec

from builder.device.compose_file import compose_file, document
from builder.device.service import (
    chosen_board,
    curl_hint,
    limit,
    new_key,
    readable_key,
    service_name,
    service_of,
    show_gpu,
)
from builder.device.service_container import arguments_of
from builder.device.service_records import Published, is_open, parse_published
from builder.errors import RecipeError, UsageError
from builder.host.console import Console
from builder.host.engine.gpu_access import GpuAccess
from builder.jetson.boards import board, boards
from builder.model.recipes import ServerSpec, SmokeSpec

if TYPE_CHECKING:
    from pathlib import Path

    from builder.device.service_records import Service

IMAGE = "registry.example.com/vllm@sha256:" + "a" * 64


def make_service(**changes: Any) -> Service:
    jetson = changes.pop("jetson", True)
    job = make_job(platform=make_jetson() if jetson else None)
    return replace(service_of(job, IMAGE, board("orin-nx-16"), published=None), **changes)


def server_in(service: Service) -> dict[str, Any]:
    whole = yaml.safe_load(compose_file(service, of="demo/one", file="compose.yaml", ask="curl x"))
    assert list(whole["services"]) == ["vllm"]
    return dict(whole["services"]["vllm"])


def test_the_commands_of_a_compose_file_reach_the_engine_of_jbuild() -> None:
    engine = make_engine(docker_host="unix:///e.sock", source="scripts/engine")
    assert (engine.docker, make_engine().docker) == ("DOCKER_HOST=unix:///e.sock docker", "docker")
    # The user's own shell sets it.
    assert make_engine(docker_host="tcp://e:2375", source="environment").docker == "docker"
    text = compose_file(make_service(), of="demo/one", file="c.yaml", ask="curl x", docker=engine.docker)
    assert "#   DOCKER_HOST=unix:///e.sock docker compose --file c.yaml up --detach --wait\n" in text
    assert "#   DOCKER_HOST=unix:///e.sock docker compose --file c.yaml down\n" in text


def test_a_cell_on_its_board() -> None:
    smoke = SmokeSpec(ready_within_s=1200.5, stop_within_s=30)
    job = make_job(spec=make_spec(server=ServerSpec(model="tiny", port=9000), smoke=smoke), platform=make_jetson())
    service = service_of(job, IMAGE, board("orin-nx-16"))
    assert (service.name, service.volume) == ("jbuild-demo-one", "jbuild-demo-one-cache")
    assert (service.port, service.published) == (9000, Published(address="127.0.0.1", port=9000))
    assert (service.nvidia, service.platform) == (True, "linux/arm64")
    assert (service.memory_bytes, service.cpus) == ((15656 - 1224) << 20, 7)
    assert (service.health.start_period_s, service.stop_within_s) == (1200, 30)


def test_without_a_board_nothing_is_limited() -> None:
    service = service_of(make_job(), IMAGE)
    assert (service.memory_bytes, service.cpus, service.nvidia) == (None, None, False)
    server = server_in(service)
    assert not {"mem_limit", "cpu_quota", "cpu_period", "runtime", "secrets", "environment", "command"} & set(server)
    assert not {"mem_limit", "cpu_quota", "runtime"} & set(arguments_of(service))


def test_a_compose_file_is_hardened() -> None:
    server = server_in(make_service(key_file="secrets/key", arguments=("--seed", "1")))
    assert server["image"] == IMAGE
    assert server["runtime"] == "nvidia"
    assert server["ports"] == ["127.0.0.1:8000:8000"]
    assert server["read_only"] is True
    assert server["tmpfs"] == ["/tmp:mode=1777,size=1g"]
    assert server["cap_drop"] == ["ALL"]
    assert server["security_opt"] == ["no-new-privileges:true"]
    assert (server["mem_limit"], server["cpu_quota"]) == ("14432m", 700_000)
    assert server["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert server["restart"] == "unless-stopped"
    assert server["stop_grace_period"] == "60s"
    assert server["healthcheck"]["start_period"] == "900s"
    assert server["healthcheck"]["test"][0] == "CMD"
    assert server["command"] == ["--seed", "1"]
    assert server["secrets"] == ["vllm-api-key"]
    assert server["environment"] == {"VLLM_API_KEY_FILE": "/run/secrets/vllm-api-key"}


def test_a_compose_file_for_an_engine_with_cdi(capsys: pytest.CaptureFixture[str]) -> None:
    service = replace(make_service(), gpu=GpuAccess(method="cdi", reason="the engine lists it"))
    server = server_in(service)
    assert server["devices"] == ["nvidia.com/gpu=all"]
    assert "runtime" not in server
    show_gpu(service, Console())
    said = f"{service.name}: the container gets the GPU by CDI device nvidia.com/gpu=all (the engine lists it)"
    assert said in capsys.readouterr().err
    show_gpu(replace(service, nvidia=False), Console())
    assert not capsys.readouterr().err


def test_compose_and_the_engine_are_told_the_same(tmp_path: Path) -> None:
    key = tmp_path / "key"
    service = make_service(key_file=key, environment=(("A", "b"),), arguments=("--seed=1",))
    server, arguments = document(service)["services"]["vllm"], arguments_of(service, restart=True)
    assert arguments["name"] == server["container_name"]
    assert arguments["image"] == server["image"]
    assert arguments["environment"] == server["environment"]
    assert arguments["command"] == server["command"]
    assert arguments["read_only"] == server["read_only"]
    assert [f"{path}:{options}" for path, options in arguments["tmpfs"].items()] == server["tmpfs"]
    assert arguments["cap_drop"] == server["cap_drop"]
    assert arguments["security_opt"] == server["security_opt"]
    assert f"{arguments['mem_limit'] >> 20}m" == server["mem_limit"]
    assert (arguments["cpu_quota"], arguments["cpu_period"]) == (server["cpu_quota"], server["cpu_period"])
    assert f"{arguments['shm_size'] >> 20}m" == server["shm_size"]
    assert arguments["log_config"].config == server["logging"]["options"]
    assert arguments["restart_policy"] == {"Name": server["restart"]}
    assert arguments["runtime"] == server["runtime"]
    assert arguments["volumes"][str(key)] == {"bind": "/run/secrets/vllm-api-key", "mode": "ro"}
    assert arguments["volumes"][service.volume]["bind"] == "/cache"
    assert "restart_policy" not in arguments_of(service)


def test_a_dollar_sign_is_no_variable_of_composes() -> None:
    service = make_service(arguments=("--x=${HOME}", "$$"), environment=(("A", "$B"),))
    server = server_in(service)
    assert server["command"] == ["--x=$${HOME}", "$$$$"]
    assert server["environment"] == {"A": "$$B"}


def test_an_ipv6_address_is_bracketed() -> None:
    service = make_service(published=parse_published("[::1]:8001"))
    assert server_in(service)["ports"] == ["[::1]:8001:8000"]
    assert "http://[::1]:8001/v1/models" in curl_hint(service, None)


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("8001", "127.0.0.1", 8001),
        ("localhost:1", "127.0.0.1", 1),
        ("0.0.0.0:65535", "0.0.0.0", 65535),
        ("[::]:80", "::", 80),
    ],
)
def test_where_it_is_published(text: str, address: str, port: int) -> None:
    assert parse_published(text) == Published(address=address, port=port)


@pytest.mark.parametrize("text", ["", "0", "65536", "a:1", "1.2.3.4:", "::1:8000", "8000:8000", "-1", "8000 ", "²"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a port"):
        parse_published(text)


def test_the_port_is_that_which_the_entrypoint_settles_on() -> None:
    job = make_job()
    assert service_of(job, IMAGE, arguments=("--port=9001",)).port == 9001
    assert service_of(job, IMAGE, environment=(("JBUILD_PORT", "9002"),)).port == 9002
    with pytest.raises(RecipeError, match="must be a port"):
        service_of(job, IMAGE, arguments=("--port=x",))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"published": Published(address="0.0.0.0", port=1)}, True),
        ({"published": Published(address="0.0.0.0", port=1), "key_file": "x"}, False),
        ({"published": Published(address="0.0.0.0", port=1), "environment": (("VLLM_API_KEY", "k"),)}, False),
        ({"published": Published(address="0.0.0.0", port=1), "environment": (("VLLM_API_KEY", ""),)}, True),
    ],
)
def test_whether_others_can_reach_it(changes: dict[str, Any], expected: bool) -> None:
    assert bool(is_open(make_service(**changes))) is expected


def test_names_that_an_engine_and_compose_allow() -> None:
    job = make_job()
    odd = replace(job, recipe=replace(job.recipe, name="vLLM-0.9.3 (x)"), cell=replace(job.cell, id="v0_9_3-r36_4_0"))
    assert service_name(odd) == "jbuild-vllm-0-9-3-x--v0_9_3-r36_4_0"


def test_the_board_is_the_one_named_else_this_one_else_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(platform=make_jetson())
    monkeypatch.setattr("builder.device.service.this_device", lambda: None)
    assert chosen_board(job, None) is None
    assert chosen_board(job, "orin-nano-8") == board("orin-nano-8")
    one = replace(job, recipe=replace(job.recipe, boards=("agx-orin-32",)))
    assert chosen_board(one, None) == board("agx-orin-32")
    assert chosen_board(replace(job, recipe=replace(job.recipe, boards=("agx-orin-32", "orin-nx-8"))), None) is None
    with pytest.raises(UsageError, match="do not run on agx-thor-128"):
        chosen_board(job, "agx-thor-128")
    # An image for the CPU runs on every board.
    assert chosen_board(make_job(), "agx-thor-128") == board("agx-thor-128")


def test_every_board_leaves_the_server_something() -> None:
    for row in boards():
        assert 0 < limit(row, gpu=True) < row.usable, row.name
        assert limit(row, gpu=False) % (1 << 20) == 0


def test_a_question_to_try() -> None:
    line = curl_hint(make_service(), "tiny's")
    assert line.startswith("curl -H 'Content-Type: application/json' -d '{\"model\": \"tiny'\"'\"'s\"")
    assert line.endswith("http://127.0.0.1:8000/v1/chat/completions")
    assert '"Authorization: Bearer $(cat secrets/key)"' in curl_hint(make_service(key_file="secrets/key"), "tiny")
    assert "$VLLM_API_KEY" in curl_hint(make_service(environment=(("VLLM_API_KEY", "s3cret"),)), "tiny")
    assert "s3cret" not in curl_hint(make_service(environment=(("VLLM_API_KEY", "s3cret"),)), "tiny")
    reached = make_service(published=Published(address="0.0.0.0", port=8001))
    assert curl_hint(reached, None, "board.example.com") == "curl http://board.example.com:8001/v1/models"
    assert curl_hint(make_service(), None, "board.example.com") == "curl http://127.0.0.1:8000/v1/models"


def test_keys_are_new_each_time() -> None:
    keys = {new_key() for _ in range(10)}
    assert len(keys) == 10
    assert all(len(key.strip()) > 40 and len(key.split()) == 1 for key in keys)


def test_a_key_that_the_container_cannot_read_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "key"
    with pytest.raises(UsageError, match="cannot read the key: No such file"):
        readable_key(str(key))
    key.write_text("k")
    key.chmod(0o600)
    with pytest.raises(UsageError, match="user 10001 of the container may not read") as caught:
        readable_key(str(key))
    assert "chmod 444" in str(caught.value.hint)
    key.chmod(0o644)
    assert readable_key(str(key)) == key
    with pytest.raises(UsageError, match="may not read"):
        readable_key(str(tmp_path))
