"""Build caches that go elsewhere and come back, and the compression of layers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from project import CELL, Project, assert_refused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from second_engine import SecondEngine


@pytest.fixture(scope="module")
def plain(make_project: Callable[..., Project]) -> Project:
    """A project that is built with a step of its own."""
    project = make_project()
    assert project.run("build").code == 0
    return project


@pytest.fixture
def mine(plain: Project, tmp_path: Path) -> Project:
    """A copy of it, with which a test may do what it wants."""
    return plain.copy(tmp_path / "work")


def configure(project: Project, text: str) -> None:
    path = project.folder / "jbuild.toml"
    path.write_text(f"{path.read_text()}\n{text}\n")


@pytest.mark.parametrize("kind", ["registry", "local"])
def test_a_cache_spares_another_engine_the_step(mine: Project, other_engine: SecondEngine, kind: str) -> None:
    """The second engine has no network for steps: it can have this one from the cache only."""
    other_engine.forget()
    other_engine.context(kind, mine.environment)
    rule = {"registry": f"ref={mine.registry}/{mine.name}/cache:{{cell}}", "local": "dest=caches/{cell}"}[kind]
    configure(mine, f'[build]\ncache-to = ["type={kind},{rule},mode=max"]')
    done = mine.run("build", "--force")
    assert done.code == 0, done.stderr
    digest = mine.record("build")["manifest"]["digest"]
    path = mine.folder / "jbuild.toml"
    path.write_text(
        path.read_text().replace("cache-to", "cache-from").replace("dest=", "src=").replace(",mode=max", "")
    )
    done = mine.run("build", "--force", "--builder", kind)
    assert done.code == 0, done.stderr
    assert mine.record("build")["manifest"]["digest"] == digest
    assert (mine.folder / "caches" / CELL / "index.json").is_file() == (kind == "local")


def test_a_cache_that_is_not_there_yet_is_no_failure(mine: Project) -> None:
    configure(mine, f'[build]\ncache-from = ["type=registry,ref={mine.registry}/nothing/here"]')
    assert mine.run("build", "--force").code == 0


def test_a_cache_that_cannot_be_written(mine: Project) -> None:
    configure(mine, '[build]\ncache-to = ["type=registry,ref=127.0.0.1:9/no/cache"]')
    assert_refused(mine.run("build", "--force"), 5, "could not be reached", r"build\.log")


def test_a_cache_with_mistakes(mine: Project) -> None:
    configure(mine, '[build]\ncache-to = ["type=registry"]\ncache-from = ["type=s3,bucket=x"]')
    done = mine.run("build")
    assert_refused(done, 3, r"build\.cache-to\[0\]: a cache of type registry needs `ref=`")
    assert "`s3` is not a type of cache" in done.stderr


def test_a_cache_of_github_outside_github(mine: Project) -> None:
    configure(mine, '[build]\ncache-to = ["type=gha,mode=max"]')
    done = mine.run("build", "--force")
    assert done.code == 0
    assert "warning: --cache-to type=gha is left out: ACTIONS_RUNTIME_TOKEN is not set" in done.stderr


def test_compression_is_zstd_unless_it_is_to_be_gzip(mine: Project) -> None:
    def kinds() -> set[str]:
        # The base's layer is as its registry has it.
        return {layer["media_type"].rpartition("+")[2] for layer in mine.record("build")["layers"][1:]}

    assert kinds() == {"zstd"}
    before = mine.record("build")["manifest"]["digest"]
    configure(mine, '[publish]\ncompression = "gzip"')
    done = mine.run("smoke", "--json")
    assert done.code == 0, done.stderr
    assert done.ran() == ["render", "build", "smoke"]
    assert kinds() == {"gzip"}
    assert mine.record("build")["manifest"]["digest"] != before
    assert "compression=gzip," in json.dumps(mine.record("render")["command"])
    assert mine.run("smoke", "--json").ran() == []
