"""What is in a built image, where its Dockerfile comes from, and that no value of a recipe can change what it does."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any, cast

import pytest
from image_files import merged
from project import CELL, Done, Project, assert_refused

from builder.image.oci.layout import blob, read_config, read_image
from builder.model.images import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docker import DockerClient


# What a shell, Docker, Jinja or a CSV reader would obey.
HOSTILE = (
    '" RUN touch /pwned #',
    "${PATH:-x} $HOME $(id) `id` \\",
    "{{ 7 * 7 }}{% raw %}",
    "<<EOF",
    "# syntax=docker/dockerfile:1",
    "' ; touch /pwned ; '",
    "a=b c=d,type=bind",
    "\\n RUN touch /pwned",
    "naïve ☃",
)


@pytest.fixture(scope="module")
def image(published: tuple[Project, Done]) -> str:
    """The engine's name of the published image."""
    project, _ = published
    return f"jbuild/{project.name}:{CELL}".lower()


@pytest.fixture(scope="module")
def files(published: tuple[Project, Done], image: str) -> dict[str, tarfile.TarInfo]:
    """The files of a container of the image, by their paths."""
    container = published[0].client.containers.create(image)
    try:
        content = b"".join(cast("Iterator[bytes]", container.export()))
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            return {f"/{member.name}": member for member in archive}
    finally:
        container.remove()


@pytest.fixture(scope="module")
def config(published: tuple[Project, Done], image: str) -> dict[str, Any]:
    """The image's configuration, as the engine shows it."""
    return dict(published[0].client.images.get(image).attrs["Config"])


def instructions(project: Project) -> list[str]:
    """Return the first word of every instruction of the Dockerfile."""
    return re.findall(r"^([A-Z]+) ", (project.cell / "Dockerfile").read_text(), re.MULTILINE)


def test_our_layers_have_one_time_and_belong_to_root(files: dict[str, tarfile.TarInfo]) -> None:
    ours = {path: member for path, member in files.items() if re.match(r"/(opt|models)(/|$)", path)}
    assert len(ours) > 20
    assert {path for path, member in ours.items() if member.mtime != EPOCH} == set()
    assert {path for path, member in ours.items() if (member.uid, member.gid) != (0, 0)} == set()
    modes = {member.mode for member in ours.values() if not member.issym()}
    assert modes == {0o644, 0o755}


def test_no_trace_of_the_build_is_in_the_image(files: dict[str, tarfile.TarInfo]) -> None:
    left = ("/run/jbuild", "/run/secrets", "/var/cache/apt/archives/.*deb", "/var/lib/apt/lists/.", "/var/log/apt/.")
    assert [path for path in files for pattern in left if re.match(pattern, path) and files[path].isfile()] == []
    assert [path for path in files if re.search(r"direct_url\.json$|/\.[^/]*\.\w{8}$", path)] == []


def test_the_model_is_where_the_server_looks(
    published: tuple[Project, Done], files: dict[str, tarfile.TarInfo]
) -> None:
    found = sorted(path for path, member in files.items() if path.startswith("/models/") and member.isfile())
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    assert found == [f"/models/tiny/{name}" for name in names]


def test_the_server_is_nobody_special(
    published: tuple[Project, Done], image: str, config: dict[str, Any], files: dict[str, tarfile.TarInfo]
) -> None:
    assert config["User"] == "10001:10001"
    assert (files["/cache"].uid, files["/home/vllm"].uid) == (10001, 10001)
    script = "id -u; id -un; touch /cache/a $HOME/b && echo may; touch /opt/venv/c 2>/dev/null || echo may not"
    said = run(published[0].client, image, "sh", "-c", script)
    assert said.split("\n") == ["10001", "vllm", "may", "may not"]


def test_health_check_signal_port_and_entrypoint(config: dict[str, Any]) -> None:
    by, python, *_, script = config["Healthcheck"]["Test"]
    assert (by, python, script) == ("CMD", "/opt/venv/bin/python", "/opt/jbuild/healthcheck.py")
    assert config["StopSignal"] == "SIGTERM"
    assert list(config["ExposedPorts"]) == ["8000/tcp"]
    assert config["Entrypoint"][0] == "/opt/venv/bin/python"


def test_labels_tell_what_it_is(published: tuple[Project, Done], config: dict[str, Any]) -> None:
    labels = config["Labels"]
    assert labels["io.jbuild.recipe"] == published[0].name
    assert labels["org.opencontainers.image.version"] == "1.0"
    assert labels["org.opencontainers.image.base.name"] == "docker.io/library/debian:bookworm-slim"
    assert labels["io.jbuild.model-licences"] == "tiny=Apache-2.0"
    assert labels["io.jbuild.model-sources"] == "tiny=folder"


def test_console_scripts_run_the_environments_python(
    published: tuple[Project, Done], image: str, files: dict[str, tarfile.TarInfo]
) -> None:
    client = published[0].client
    assert files["/opt/venv/bin/vllm"].mode == 0o755
    assert run(client, image, "head", "-n1", "/opt/venv/bin/vllm") == "#!/opt/venv/bin/python"
    where = "import sys, vllm, ballast; print(sys.prefix, vllm.__file__, vllm.__cached__)"
    prefix, source, cached = run(client, image, "python", "-c", where).split()
    assert (prefix, source) == ("/opt/venv", "/opt/venv/lib/python3.11/site-packages/vllm/__init__.py")
    assert cached in files


def run(client: DockerClient, image: str, *argv: str) -> str:
    output = client.containers.run(image, list(argv), remove=True)
    return bytes(output).decode().strip()


def test_plain_buildx_gives_an_image_with_the_same_files_and_settings(finished: Project, tmp_path: Path) -> None:
    assert finished.run("render", "--standalone", "--json").ran() == ["render"]
    command = (finished.cell / "Dockerfile").read_text().splitlines()[1].lstrip("# ")
    argv = shlex.split(command)
    assert argv[:3] == ["docker", "buildx", "build"]
    done = subprocess.run(argv, cwd=finished.cell, env=finished.environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    with tarfile.open(finished.cell / "image.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    digest = json.loads((finished.cell / "metadata.json").read_text())["containerimage.digest"]
    plain = read_image(tmp_path, digest, "linux/amd64")
    own, layout = (
        read_image(finished.cache / "images", finished.record("build")["manifest"]["digest"], ""),
        finished.cache / "images",
    )
    given = read_config(tmp_path, plain)["config"]
    # Of old Windows images; BuildKit writes it still.
    given.pop("ArgsEscaped", None)
    assert given == read_config(layout, own)["config"]
    assert merged(plain, tmp_path) == merged(own, layout)
    assert _as_the_page_loads_it(finished)["Labels"] == given["Labels"]
    assert finished.run("recipe", "--json").ran() == []


def _as_the_page_loads_it(project: Project) -> dict[str, Any]:
    """Load and name the image as docs/stages.md does; return its settings."""

    def docker(*arguments: str) -> str:
        argv = ("docker", *arguments)
        return subprocess.run(
            argv, cwd=project.cell, env=project.environment, capture_output=True, text=True, check=True
        ).stdout

    said, name = docker("load", "--input", "image.tar"), f"{project.name}-plain:1"
    docker("tag", said.split()[-1], name)
    try:
        settings: dict[str, Any] = json.loads(docker("image", "inspect", name))[0]["Config"]
    finally:
        docker("rmi", name)
    return settings


def test_packages_of_a_template_are_still_put_together_here(finished: Project) -> None:
    finished.override('{% block system %}{{ super() }}RUN ["touch", "/of-the-template"]\n{% endblock %}\n')
    done = finished.run("build", "--json")
    assert done.ran() == ["render", "build"]
    assert "/of-the-template" in (finished.cell / "Dockerfile.system").read_text()
    assert "COPY" not in (finished.cell / "build.log").read_text()
    before = finished.record("render")
    assert before["system"].endswith('RUN ["touch", "/of-the-template"]\n\n')


def test_a_template_of_the_project_comes_first(finished: Project) -> None:
    finished.override('{% block labels %}\n{{ super() }}LABEL "team"="edge {{ values.vllm }}"\n{% endblock %}\n')
    done = finished.run("build", "--json")
    assert done.ran() == ["render", "build"]
    assert "Dockerfile.j2 has instructions after jbuild's layers; BuildKit builds the whole image" in done.stderr
    assert (finished.cell / "Dockerfile").read_text().endswith('LABEL "team"="edge 1.0"\n')
    assert ["team", "edge 1.0"] in finished.record("build")["labels"]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% block labels %}{{ nothing }}{% endblock %}", "uses an undefined value: 'nothing' is undefined"),
        ("{% block labels %}", r"the template has a mistake: .*Dockerfile\.j2:2"),
        ("{% block labels %}{{ 'a b' | word }}{% endblock %}", "'a b' is not valid in a Dockerfile"),
        ("{% block labels %}{{ 1 // 0 }}{% endblock %}", "the template cannot be rendered"),
    ],
)
def test_a_mistake_in_a_template(finished: Project, template: str, said: str) -> None:
    before = (finished.cell / "Dockerfile").read_text()
    finished.override(template)
    done = finished.run("recipe")
    assert done.code == 3
    assert "Traceback" not in done.stderr
    assert re.search(said, done.stderr.replace("\n  where:", "")), done.stderr
    assert (finished.cell / "Dockerfile").read_text() == before
    (finished.folder / "dockerfiles" / "Dockerfile.j2").unlink()
    assert finished.run("recipe", "--json").ran() == []


def test_a_template_that_is_not_there(finished: Project) -> None:
    finished.recipe["template"] = "Other.j2"
    finished.write()
    said = r"\.toml:\d+: template: there is no template `Other\.j2` \(templates: Dockerfile\.j2;"
    assert_refused(finished.run("render"), 3, said)


def test_a_step_of_a_template_that_fails(finished: Project) -> None:
    finished.override('{% block runtime %}\nRUN ["/bin/sh", "-c", "echo the reason; exit 3"]\n{% endblock %}\n')
    done = finished.run("recipe", "--push")
    assert_refused(done, 8, "the build failed", r"\| .*the reason", r"build\.log")
    assert "the reason" in (finished.cell / "build.log").read_text()
    assert finished.temporary_names() == []
    finished.override("")
    assert finished.run("recipe", "--json").ran() == ["render"]


def test_hostile_values_stay_values(finished: Project) -> None:
    before = instructions(finished)
    labels = {f"test.l{n}": text for n, text in enumerate(HOSTILE)}
    environment = {f"TEST_{n}": text for n, text in enumerate(HOSTILE)}
    finished.recipe["labels"] = labels
    finished.recipe["server"] = {"environment": environment}
    finished.recipe["description"] = HOSTILE[0]
    finished.write()
    done = finished.run("build", "--json")
    assert done.code == 0, done.stderr
    added = ["ENV"] * len(environment) + ["LABEL"] * len(labels)
    assert sorted(instructions(finished)) == sorted(before + added)
    digest = finished.record("build")["config"]["digest"]
    attributes = json.loads(blob(finished.cache / "images", digest).read_bytes())["config"]
    assert labels.items() <= attributes["Labels"].items()
    assert attributes["Labels"]["org.opencontainers.image.description"] == HOSTILE[0]
    assert {f"{name}={text}" for name, text in environment.items()} <= set(attributes["Env"])


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": {"test.a": "x\nRUN touch /pwned"}},
        {"labels": {'a"b': "x"}},
        {"server": {"environment": {"A": "x\nRUN touch /pwned"}}},
        {"server": {"environment": {"A B": "x"}}},
        {"base": {"image": "debian:bookworm-slim\nRUN touch /pwned"}},
        {"base": {"image": "debian:bookworm-slim", "apt": ["python3; touch /pwned"]}},
        {"base": {"image": "debian:bookworm-slim", "apt": ["-o=Dir::Etc=/tmp"]}},
        {"template": "../../etc/passwd"},
        {"description": "x\nRUN touch /pwned"},
    ],
)
def test_values_that_could_be_instructions_are_refused(finished: Project, changes: dict[str, Any]) -> None:
    finished.recipe |= changes
    finished.write()
    assert_refused(finished.run("render"), 3, rf"{finished.name}\.toml:\d+: ")
