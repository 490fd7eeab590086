"""The build command, and what the logs of builds that failed mean; `docker` is a script here."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engine_factory import make_engine
from factories import make_job

from builder.errors import (
    BuildError,
    DiskError,
    EngineError,
    JbuildError,
    NetworkError,
    ProgramFailedError,
    ProgramMissingError,
    RegistryError,
)
from builder.host.buildkit_caches import BuildCache
from builder.host.config import Config, LayerCompression
from builder.host.session import Session
from builder.image.build import buildx
from builder.image.build.buildx import BuildRequest, build, options, plain_command
from builder.pipeline.builders import HangingBuilderError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.host.config import Compression
    from builder.model.images import Image


@pytest.fixture(autouse=True)
def _no_system_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.host.config._SYSTEM_CA_FILES", ())


def request(session: Session, **changes: Any) -> BuildRequest:
    return BuildRequest(folder=session.workspace.cell("demo", "one").path, **changes)


def argv(session: Session, **changes: Any) -> list[str]:
    return buildx._argv(make_job(), request(session, **changes), session, Path("/tmp/m.json"), Path("/tmp/layout"))


def values(arguments: Sequence[str], option: str) -> list[str]:
    """Return the values of an option that may be repeated, in either spelling."""
    joined = [each.partition("=")[2] for each in arguments if each.startswith(f"{option}=")]
    return joined + [b for a, b in pairwise(arguments) if a == option]


def fields(value: str) -> dict[str, str]:
    """Read the fields of an option as buildx does."""
    (row,) = csv.reader([value])
    return dict(each.partition("=")[::2] for each in row)


def test_options_that_decide_the_digest_are_those_of_the_plain_command() -> None:
    command = plain_command("arm64", LayerCompression())
    assert command[:3] == ("docker", "buildx", "build")
    assert set(options("arm64")) <= set(command)
    assert command[-1] == "."


def test_the_command(session: Session) -> None:
    found = argv(session)
    assert found[:3] == ["docker", "buildx", "build"]
    assert found[-1] == "."
    assert set(options("arm64")) <= set(found)
    (oci,) = map(fields, values(found, "--output"))
    assert (oci["type"], oci["tar"], oci["dest"]) == ("oci", "false", "/tmp/layout")
    for key in ("compression", "force-compression", "oci-mediatypes"):
        assert f"{key}={oci[key]}" in values(plain_command("arm64", LayerCompression()), "--output")[0]
    assert values(argv(session, builder="remote"), "--builder") == ["remote"]


def test_a_part_of_a_plan_has_a_dockerfile_of_its_own_and_is_packed_later(session: Session) -> None:
    found = argv(session, system=True)
    assert values(found, "--file") == ["Dockerfile.system"]
    (oci,) = map(fields, values(found, "--output"))
    assert "force-compression" not in oci


def test_a_docker_context_is_no_builder(session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meta = tmp_path / "contexts" / "meta" / hashlib.sha256(b"jetson").hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text("{}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert argv(session, builder="jetson")[:5] == ["docker", "--context", "jetson", "buildx", "build"]
    assert argv(session, builder="other")[:5] == ["docker", "buildx", "build", "--builder", "other"]


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_compression_is_the_configured_one_everywhere(session: Session, compression: Compression) -> None:
    own = replace(session, config=Config(compression=compression))
    for output in values(argv(own), "--output"):
        assert fields(output)["compression"] == compression
    assert f"compression={compression}," in values(plain_command("arm64", LayerCompression(compression)), "--output")[0]


def test_a_fresh_build_uses_no_cache_at_all(session: Session) -> None:
    rule = BuildCache(attributes=(("type", "registry"), ("ref", "host/cache:{cell}")))
    own = replace(session, config=Config(cache_from=(rule,), cache_to=(rule,)))
    found = argv(own)
    assert values(found, "--cache-from") == values(found, "--cache-to") == ["type=registry,ref=host/cache:one"]
    assert "--no-cache" not in found
    fresh = argv(own, fresh=True)
    assert "--no-cache" in fresh
    assert not values(fresh, "--cache-from") + values(fresh, "--cache-to")


def test_a_cache_that_cannot_work_here_is_left_out_aloud(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = replace(session, config=Config(cache_from=(BuildCache(attributes=(("type", "gha"),)),)))
    monkeypatch.delenv("ACTIONS_RUNTIME_TOKEN", raising=False)
    assert values(argv(own), "--cache-from") == []
    assert "warning: --cache-from type=gha is left out: ACTIONS_RUNTIME_TOKEN is not set" in capsys.readouterr().err
    monkeypatch.setenv("ACTIONS_RUNTIME_TOKEN", "secret")
    found = argv(own)
    assert values(found, "--cache-from") == ["type=gha"]
    assert "secret" not in " ".join(found)


def test_no_secrets_without_files(session: Session) -> None:
    assert "--secret" not in argv(session)


def test_certificates_and_log_ins_are_secrets(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc, ca = tmp_path / "net,rc", tmp_path / 'ca "x".pem'
    netrc.write_text("machine x login me password secret-word")
    ca.write_text("x")
    monkeypatch.setenv("NETRC", str(netrc))
    own = Session(workspace=session.workspace, config=Config(ca_bundle=ca), console=session.console)
    found = argv(own)
    assert [fields(value) for value in values(found, "--secret")] == [
        {"id": "ca", "src": str(ca)},
        {"id": "netrc", "src": str(netrc)},
    ]
    assert "secret-word" not in " ".join(found)


def test_a_cache_with_a_comma_in_its_path(session: Session, tmp_path: Path) -> None:
    exported = tmp_path / "a,b" / "layout"
    found = buildx._argv(make_job(), request(session), session, Path("/tmp/m.json"), exported)
    assert fields(values(found, "--output")[0])["dest"] == str(exported)


def test_proxies_are_named_and_their_values_not_shown(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy:3128")
    monkeypatch.setenv("no_proxy", "localhost")
    found = argv(session)
    assert [value for value in values(found, "--build-arg") if "EPOCH" not in value] == ["HTTPS_PROXY", "no_proxy"]
    assert "secret" not in " ".join(found)


@pytest.mark.parametrize(
    ("log", "kind", "named"),
    [
        ("E: Write error - write (28: No space left on device)", DiskError, "disk"),
        ("failed to copy: no space left on device", DiskError, "disk"),
        ("exec /bin/sh: exec format error", EngineError, "architecture"),
        ("ERROR: no match for platform in manifest: not found", EngineError, "architecture"),
        ("ERROR: OCI exporter is not supported for the docker driver", EngineError, "OCI"),
        ("ERROR: OCI exporter feature is currently not supported for docker driver.", EngineError, "OCI"),
        (
            "ERROR: Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?",
            EngineError,
            "engine",
        ),
        (
            "ERROR: failed to connect to the docker API at unix:///x; check if the path is correct",
            EngineError,
            "engine",
        ),
        ('ERROR: no builder "remote" found', EngineError, "no such builder"),
        ("W: Failed to fetch x  Certificate verification failed: NOT trusted.", NetworkError, "certificate"),
        (
            "tls: failed to verify certificate: x509: certificate signed by unknown authority",
            NetworkError,
            "certificate",
        ),
        ("W: Failed to fetch http://deb/x  Temporary failure resolving 'deb'", NetworkError, "reached"),
        ("E: Failed to fetch http://deb/x  404  Not Found", NetworkError, "reached"),
        ("dial tcp 127.0.0.1:5000: connect: connection refused", NetworkError, "reached"),
        ("x: failed to resolve source metadata for localhost:5000/a@sha256:0: not found", RegistryError, "base image"),
        ("x: failed to resolve source metadata for x: pull access denied, denied", RegistryError, "base image"),
        ("E: Unable to locate package libnope", BuildError, "has no package libnope"),
        ('process "/bin/sh install.sh" did not complete successfully: exit code: 7', BuildError, "the build failed"),
        ("", BuildError, "the build failed"),
    ],
)
def test_what_a_log_means(log: str, kind: type[JbuildError], named: str) -> None:
    error = buildx._explain(
        ProgramFailedError(("docker",), 1, f"#5 0.1 before\n{log}\n"), make_job(), Path("build.log")
    )
    assert type(error) is kind
    assert isinstance(error, JbuildError)
    assert error.message.startswith("demo/one: ")
    assert named in error.message
    assert error.where == "build.log"
    assert error.hint
    assert log in (error.log or "")


def fake_docker(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "docker").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def built(session: Session) -> Image:
    job = make_job()
    session.workspace.cell("demo", "one").path.mkdir(parents=True, exist_ok=True)
    return build(job, request(session), make_engine(docker_host="tcp://x:1"), session)


def log_of(session: Session) -> str:
    return (session.workspace.cell("demo", "one").path / "build.log").read_text()


def put(layout: Path, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    (layout / "blobs" / "sha256" / digest).write_bytes(content)
    return f"sha256:{digest}"


def test_a_build_gives_the_image_of_the_layout(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = put(tmp_path / "builder", b"{}")
    manifest = {"config": {"mediaType": "c", "digest": config, "size": 2}, "layers": []}
    digest = put(tmp_path / "builder", json.dumps(manifest).encode())
    fake_docker(
        tmp_path / "bin",
        monkeypatch,
        f"""
        for each in "$@"; do case $each in
            --metadata-file=*) out=${{each#*=}};;
            --output=*) dest=${{each#*dest=}}; mkdir "${{dest%%,*}}"; cp -r {tmp_path}/builder/blobs "${{dest%%,*}}";;
        esac; done
        echo '{{"containerimage.digest": "{digest}"}}' > "$out"
        echo "#5 [2/3] RUN x" >&2; echo "$DOCKER_HOST $PWD" >&2""",
    )
    assert built(session).digest == digest
    assert [path.name for path in session.workspace.cache.iterdir()] == ["images"], "nothing else is left"
    assert log_of(session) == f"#5 [2/3] RUN x\ntcp://x:1 {session.workspace.cell('demo', 'one').path}\n"


def test_a_build_that_fails_keeps_its_whole_log(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_docker(tmp_path / "bin", monkeypatch, "seq 1000 >&2; echo 'E: Unable to locate package libnope' >&2; exit 1")
    with pytest.raises(BuildError, match="has no package libnope"):
        built(session)
    assert len(log_of(session).splitlines()) == 1001


def test_docker_is_missing(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert shutil.which("docker") is None
    with pytest.raises(ProgramMissingError, match="`docker` is not installed"):
        built(session)


def test_steps_are_shown_without_their_numbers() -> None:
    lines: list[str] = []
    notes: list[str] = []
    follow = buildx._follow(lines, notes.append)
    for line in ("#5 [2/3] RUN x", "#5 12.34 Get:1 http://deb", "plain", "", "#6 DONE 0.1s"):
        follow(line)
    assert notes == ["[2/3] RUN x", "Get:1 http://deb", "DONE 0.1s"]
    assert len(lines) == 5


def test_a_base_of_another_distribution_is_named() -> None:
    job = make_job()
    (package, *_) = job.platform.python_packages
    log = f"#5 0.1 E: Unable to locate package {package}\n"
    error = buildx._explain(ProgramFailedError(("docker",), 1, log), job, Path("build.log"))
    assert isinstance(error, BuildError)
    assert f"has no package {package}: it is not {job.platform.distribution}" in error.message
    assert "[base] image" in str(error.hint)


def test_a_builder_that_hangs(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_docker(tmp_path / "bin", monkeypatch, "echo '#5 [2/7] RUN something' >&2; exec sleep 60")
    impatient = replace(session, config=Config(silent_s=0.5))
    with pytest.raises(HangingBuilderError, match="no output from the builder for 0 s"):
        built(impatient)
    assert log_of(session) == "#5 [2/7] RUN something\n"
