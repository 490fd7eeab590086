"""The verbs that lock, check and explain: exit codes, and what is shown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from factories import DIGEST, make_model, make_wheel
from tiny_index import Answer, TinyIndex, tiny_index

from builder.host.paths import cache_folder
from builder.lock import resolve
from builder.model.locks import LockedBase
from builder.remote.index.index_client import client_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("quick_uv")

RECIPE = """description = "A demonstration"
[matrix]
distribution = ["debian-12"]
[packages]
requires = ["jetty{version}"]
[[models]]
name = "tiny"
source = "hf://org/tiny@main"
[[smoke.questions]]
ask = "Anything?"
expect = "Yes"
[publish]
repository = "vllm"
tags = ["{{cell}}"]
"""


@pytest.fixture
def jet(tmp_path: Path) -> Iterator[TinyIndex]:
    """The index that jetty is tied to."""
    with tiny_index() as index:
        index.add(make_wheel(tmp_path / "jet", "jetty", "1.0"))
        yield index


@pytest.fixture
def project(tmp_path: Path, jet: TinyIndex, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a recipe of one cell, which is the current folder."""
    folder = tmp_path / "work"
    (folder / "recipes").mkdir(parents=True)
    wanting(folder)
    (folder / "jbuild.toml").write_text(f'[[indexes]]\nname = "jet"\nurl = "{jet.url}"\npackages = ["jetty"]\n')
    monkeypatch.chdir(folder)
    monkeypatch.setattr(
        resolve, "resolve_digest", lambda name, *_, **__: LockedBase(name=name, used=name, digest=DIGEST)
    )
    monkeypatch.setattr(resolve, "lock_one", lambda model, *_, **__: make_model(model.name))
    monkeypatch.setattr(resolve, "compiler_of", lambda *_: "3.11.7")
    (tmp_path / "uv.toml").write_text("")
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))
    monkeypatch.setenv("UV_DEFAULT_INDEX", jet.url)
    return folder


def wanting(folder: Path, version: str = "") -> None:
    (folder / "recipes" / "demo.toml").write_text(RECIPE.format(version=version))


@pytest.fixture
def jbuild(project: Path, command_line: Any) -> Any:
    """Run the command as in a process of its own: nothing is remembered of what indexes said."""

    def call(*arguments: str) -> tuple[int, str, str]:
        client_of.cache_clear()
        found: tuple[int, str, str] = command_line(*arguments)
        return found

    return call


def test_a_lock_and_its_check(jbuild: Any) -> None:
    assert jbuild("lock", "demo", "--check")[0] == 4
    assert jbuild("lock", "demo")[0] == 0
    code, out, err = jbuild("lock", "demo", "--check")
    assert (code, out, err) == (0, "debian12: current\n", "")
    code, out, _ = jbuild("lock", "demo", "--check", "--json")
    assert json.loads(out) == {
        "recipe": "demo",
        "cells": [{"cell": "debian12", "current": True, "error": None, "findings": []}],
    }


def test_a_check_of_a_stale_lock(jbuild: Any, project: Path) -> None:
    jbuild("lock", "demo")
    wanting(project, "<9")
    code, out, err = jbuild("lock", "demo", "--check")
    assert (code, out) == (4, "debian12: has problems\n")
    assert "the lock is stale: the recipe or its platform changed" in err


def test_a_check_of_a_file_that_is_gone(jbuild: Any, jet: TinyIndex) -> None:
    jbuild("lock", "demo")
    entry = jet.pages["jetty"].pop()
    code, out, _ = jbuild("lock", "demo", "--check")
    assert code == 6
    assert out.splitlines()[0] == "debian12: has problems"
    assert "jetty-1.0-py3-none-any.whl: the index jet no longer has it" in out
    # A file that is in the wheelhouse builds all the same.
    sha256 = entry["hashes"]["sha256"]
    kept = cache_folder() / "wheels" / sha256[:2] / sha256 / entry["filename"]
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(jet.files[entry["filename"]])
    code, out, _ = jbuild("lock", "demo", "--check", "--json")
    assert code == 0
    assert json.loads(out)["cells"][0]["findings"][0]["kept"] is True


def test_a_check_with_an_index_that_is_down(jbuild: Any, jet: TinyIndex) -> None:
    jbuild("lock", "demo")
    jet.faults["*"] = [Answer(status=400)]
    code, _, err = jbuild("lock", "demo", "--check")
    assert code == 5
    assert "the index jet does not answer for jetty" in err


@pytest.mark.parametrize("also", ["--force", "--upgrade"])
def test_a_check_changes_nothing(jbuild: Any, also: str) -> None:
    code, _, err = jbuild("lock", "demo", "--check", also)
    assert code == 2
    assert "has no effect with --check" in err


@pytest.mark.parametrize("name", ["a b", "x==1", "x!", ""])
def test_what_is_no_packages_name(jbuild: Any, name: str) -> None:
    code, _, err = jbuild("lock", "demo", f"--upgrade={name}")
    assert code == 2
    assert "is not the name of a package" in err


def test_an_upgrade_by_any_spelling(jbuild: Any, jet: TinyIndex, tmp_path: Path) -> None:
    jbuild("lock", "demo")
    jet.add(make_wheel(tmp_path / "newer", "jetty", "2.0"))
    code, _, err = jbuild("lock", "demo", "--upgrade", "JETTY")
    assert code == 0
    assert "jetty 1.0 → 2.0 because its upgrade was requested" in err


def test_an_upgrade_of_what_no_cell_has(jbuild: Any, project: Path) -> None:
    assert jbuild("lock", "demo")[0] == 0
    before = {path: path.read_bytes() for path in (project / "locks").rglob("*.toml")}
    code, _, err = jbuild("lock", "demo", "--upgrade", "jety")
    assert code == 2
    assert err.splitlines()[-2:] == [
        "error: --upgrade: no selected cell has a package jety",
        "  next: did you mean `jetty`?",
    ]
    assert "`jbuild show demo --json` lists them" in jbuild("lock", "demo", "--upgrade", "zzz")[2]
    assert {path: path.read_bytes() for path in (project / "locks").rglob("*.toml")} == before


def test_an_upgrade_before_there_is_a_lock_is_a_warning(jbuild: Any) -> None:
    code, _, err = jbuild("lock", "demo", "--upgrade", "nope")
    assert code == 0
    assert "there is no nope to upgrade" in err


def test_a_cell_without_wheels_is_shown_as_such_everywhere(jbuild: Any, project: Path) -> None:
    wanting(project, "==7")
    code, _, err = jbuild("lock", "demo")
    assert code == 4
    assert "`jbuild why demo --cell debian12` tells more" in err
    reason = "no wheels work together for debian-12"
    assert "1 (1 without wheels)" in jbuild("list")[1]
    assert reason in jbuild("matrix", "demo")[1]
    assert f"no wheels   {reason}" in jbuild("show", "demo")[1]
    assert json.loads(jbuild("matrix", "demo", "--json")[1])["cells"][0]["unresolved"].startswith(reason)
    code, out, _ = jbuild("why", "demo")
    assert code == 4
    assert "has wheels of other versions for this cell: 1.0" in out
    wanting(project)
    assert "without wheels" not in jbuild("list")[1]
    code, out, _ = jbuild("why", "demo", "--json")
    assert (code, json.loads(out)["cells"][0]["resolves"]) == (0, True)


def test_an_index_that_nobody_knows_any_more_spoils_no_list(jbuild: Any, project: Path) -> None:
    wanting(project, '==7"]\nindexes = ["jet')
    assert jbuild("lock", "demo")[0] == 4
    (project / "jbuild.toml").write_text("")
    code, out, _ = jbuild("list")
    assert code == 0
    assert "demo" in out
    assert jbuild("matrix", "demo")[0] == 0
    assert jbuild("show", "demo")[0] == 0
    code, _, err = jbuild("lock", "demo")
    assert code == 3
    assert "there is no package index `jet`" in err
