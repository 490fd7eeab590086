"""System layers: what identifies one, and the file that pins them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from factories import DIGEST, make_job, make_lock, make_locked_wheel, make_platform, make_spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layer_files import named_layers

from builder.errors import DocumentError
from builder.host.config import Config, RegistryMirror
from builder.host.paths import shipped
from builder.image.build.system_pins import SystemLayer, dockerfile_of, key_of, pin, pinned, read_systems
from builder.image.render import plan
from builder.model.locks import LockedBase

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.host.session import Session

LAYERS = plan._Content(named_layers(["environment-py3.11-1"], [], "runtime-0123456789ab"), ())
JOB, LOCK = make_job(), make_lock()


def row(key: str, **changes: Any) -> SystemLayer:
    facts = {"key": key, "image": "localhost:5000/team/jbuild-system", "digest": DIGEST, "note": "a note"}
    return SystemLayer(**(facts | changes))


def own_template(session: Session, text: str, name: str = "Dockerfile.j2") -> None:
    path = session.workspace.project / "dockerfiles" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_it_is_the_base_and_one_step(session: Session) -> None:
    text = dockerfile_of(JOB, LOCK, session)
    whole = plan._dockerfile(JOB, LOCK, LAYERS, session)
    assert [line.split()[0] for line in text.splitlines() if line and line[0] != "#"] == ["FROM", "RUN"]
    assert all(line in whole for line in text.splitlines())
    assert "demo/one" not in text


def test_what_is_no_part_of_it_does_not_change_its_key(session: Session) -> None:
    key = key_of(JOB, LOCK, session)
    other = replace(JOB, recipe=replace(JOB.recipe, name="other", description="x"))
    lock = make_lock(make_locked_wheel("torch"), models=(), cell="two", compiler="3.11.9")
    assert key_of(other, lock, session) == key
    own_template(session, '{% extends "builtin/Dockerfile.j2" %}{% block labels %}LABEL "a"="b"\n{% endblock %}')
    assert key_of(JOB, LOCK, session) == key


def test_what_is_part_of_it_changes_its_key(session: Session) -> None:
    base = replace(LOCK.base, digest="sha256:" + "1" * 64)
    keys = {
        key_of(JOB, LOCK, session),
        key_of(make_job(spec=make_spec(apt=("libnuma1",))), LOCK, session),
        key_of(JOB, make_lock(base=base), session),
        key_of(JOB, make_lock(platform=make_platform(python_packages=("python3.12",))), session),
        key_of(JOB, make_lock(platform=make_platform(architecture="amd64")), session),
    }
    script = session.workspace.project / "dockerfiles" / "system" / "install.sh"
    script.parent.mkdir(parents=True)
    shutil.copy(shipped("dockerfiles") / "system" / "install.sh", script)
    assert key_of(JOB, LOCK, session) in keys
    script.write_text(script.read_text() + "true\n")
    keys.add(key_of(JOB, LOCK, session))
    own_template(
        session, '{% extends "builtin/Dockerfile.j2" %}{% block system %}{{ super() }}RUN ["x"]\n{% endblock %}'
    )
    keys.add(key_of(JOB, LOCK, session))
    assert len(keys) == 7


def test_without_pins_every_build_has_its_own(session: Session) -> None:
    assert pinned(JOB, LOCK, session) is None
    assert "RUN " in plan._dockerfile(JOB, LOCK, LAYERS, session)


def test_a_pinned_layer_is_built_on(session: Session) -> None:
    pin(row("0" * 32), session.workspace)
    assert pinned(JOB, LOCK, session) is None
    mine = row(key_of(JOB, LOCK, session))
    pin(mine, session.workspace)
    assert pinned(JOB, LOCK, session) == mine
    text = plan._dockerfile(JOB, LOCK, LAYERS, session)
    assert f"FROM localhost:5000/team/jbuild-system@{DIGEST}\n" in text
    assert "RUN " not in text
    assert LOCK.base.name in text, "the label still names the base"
    away = replace(session, config=Config(registry_mirrors=(RegistryMirror(prefix="localhost:5000", mirror="h/x"),)))
    assert f"FROM h/x/team/jbuild-system@{DIGEST}\n" in plan._dockerfile(JOB, LOCK, LAYERS, away)


def test_a_pin_of_the_same_key_is_replaced(session: Session) -> None:
    first, second = row("a" * 32), row("b" * 32)
    for each in (second, first, replace(first, digest="sha256:" + "2" * 64)):
        pin(each, session.workspace)
    found = read_systems(session.workspace.systems)
    assert [(each.key[0], each.digest[7]) for each in found] == [("a", "2"), ("b", "0")]
    assert session.workspace.systems.read_text().startswith("# System layers that `jbuild system` built")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_note_may_hold_anything(session: Session, note: str) -> None:
    pin(row("a" * 32, note=note), session.workspace)
    assert read_systems(session.workspace.systems)[0].note == note


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('key = "' + "a" * 32, 'key = "../x', "systems[0].key"),
        ('digest = "sha256:', 'digest = "', "systems[0].digest"),
        ("localhost:5000/team", "localhost:5000/team x\\nRUN", "systems[0].image"),
        ("[[systems]]", "[[sistems]]", "sistems"),
        ('note = "', 'why = "', "systems[0].why"),
    ],
)
def test_a_file_of_pins_with_mistakes(session: Session, old: str, new: str, key: str) -> None:
    pin(row("a" * 32), session.workspace)
    path = session.workspace.systems
    path.write_text(path.read_text().replace(old, new))
    before = path.read_text()
    attempts: tuple[Callable[[], object], ...] = (
        lambda: pinned(JOB, LOCK, session),
        lambda: pin(row("b" * 32), session.workspace),
    )
    for attempt in attempts:
        with pytest.raises(DocumentError) as caught:
            attempt()
        assert key in [problem.key for problem in caught.value.problems]
    assert path.read_text() == before


def test_a_base_that_is_named_by_its_digest(session: Session) -> None:
    base = LockedBase(name="debian", used=f"docker.io/library/debian@{DIGEST}", digest=DIGEST)
    assert f"FROM docker.io/library/debian@{DIGEST}\n" in dockerfile_of(JOB, make_lock(base=base), session)


def test_pins_are_part_of_the_project(session: Session) -> None:
    assert session.workspace.systems == Path(session.workspace.project, "locks", "systems.toml")
