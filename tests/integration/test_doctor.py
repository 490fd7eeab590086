"""The doctor with a real engine and real registries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from doctor_parts import make_case
from servers import PASSWORD, USER, Registry, locked_registry, registry

from builder.host.config import Config
from builder.host.console import Console
from builder.host.engine.docker import data_folder
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.project.doctor import emulation_check, network_check, proxy_check, tools_check

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from builder.host.engine.docker import Engine
    from builder.project.doctor.check_table import Check

__all__ = ["locked_registry", "registry"]


def session(folder: Path, *targets: str) -> Session:
    workspace = Workspace(project=folder, cache=folder / "cache")
    return Session(workspace=workspace, config=Config(registries=targets), console=Console(quiet=True))


def test_an_arm64_program_runs_in_the_engine_and_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    case = make_case(session(tmp_path), engine=engine)
    (found,) = emulation_check.check(case)
    assert found.state == "ok", found.found
    with emulation_check._image(engine) as image:
        client = engine.client()
        assert [each.attrs["Architecture"] for each in client.images.list(name=image)] == ["arm64"]
    assert client.images.list(name="jbuild-doctor") == []
    client.close()


def test_the_engine_tells_its_builder_and_its_folder(engine: Engine, tmp_path: Path) -> None:
    checks = list(tools_check.engine(make_case(session(tmp_path), engine=engine)))
    states = {check.name: check.state for check in checks}
    assert states["engine"] == states["buildx"] == states["builder"] == "ok"
    assert data_folder(engine)
    assert {check.name for check in proxy_check.check(make_case(session(tmp_path), engine=engine))} >= {"proxy"}


def push(folder: Path, *targets: str) -> list[Check]:
    return list(network_check.registries(make_case(session(folder, *targets))))


def uploads(registry: Registry) -> list[Path]:
    """Return the uploads that are open; of a cancelled one distribution keeps the state of its hash."""
    return list(registry.storage.rglob("_uploads/*/startedat"))


def test_an_upload_is_begun_and_nothing_of_it_stays(registry: Registry, tmp_path: Path) -> None:
    (found,) = push(tmp_path, f"{registry.host}/team")
    assert found.state == "ok"
    assert uploads(registry) == []
    assert registry.tags("team/vllm") == {}


def test_a_log_in_is_told_of(locked_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (found,) = push(tmp_path, f"{locked_registry.host}/team")
    assert found.state == "error"
    assert f"docker login {locked_registry.host}" in (found.mend or "")
    monkeypatch.setenv("JBUILD_REGISTRY_USER", USER)
    monkeypatch.setenv("JBUILD_REGISTRY_PASSWORD", PASSWORD)
    (found,) = push(tmp_path, f"{locked_registry.host}/team")
    assert found.state == "ok", found.found
    assert uploads(locked_registry) == []
