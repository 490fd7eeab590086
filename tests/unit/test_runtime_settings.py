"""server.json, environment and arguments become the server's command line."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.image import runtime
from builder.image.runtime import scripts, served_model, served_name, server_json
from builder.image.runtime.settings import (
    Settings,
    SettingsError,
    option,
    port_number,
    read_server,
    running_arguments,
    settle,
)
from builder.model.recipes import Model, ServerSpec, Spec

TINY = Model(name="tiny", source="./tiny")
OTHER = Model(name="other", source="./other")
LISTEN = ("--host=0.0.0.0", "--port=8000")


def settled(server: ServerSpec | None = None, environment: dict[str, str] | None = None, *given: str) -> Settings:
    spec = Spec(models=(TINY,), server=server or ServerSpec())
    return settle(json.loads(server_json(spec)), environment or {}, given)


def test_the_recipe_alone() -> None:
    server = ServerSpec(
        max_model_len=2048, dtype="float32", quantization="awq", port=9000, arguments=("--enforce-eager",)
    )
    assert settled(server) == Settings(
        model="/models/tiny",
        arguments=(
            "--host=0.0.0.0",
            "--port=9000",
            "--served-model-name=tiny",
            "--max-model-len=2048",
            "--dtype=float32",
            "--quantization=awq",
            "--enforce-eager",
        ),
    )


def test_an_image_without_server_json_or_model() -> None:
    assert settle({}, {}, ()) == Settings(model=None, arguments=LISTEN)
    assert json.loads(server_json(Spec()))["model"] is None
    assert served_model(Spec()) is None
    assert served_name(Spec()) is None


def test_the_served_model_is_the_one_named_else_the_first() -> None:
    two = Spec(models=(TINY, OTHER))
    assert served_model(two) == TINY
    named = Spec(models=(TINY, OTHER), server=ServerSpec(model="other"))
    assert served_model(named) == OTHER
    assert served_name(named) == "other"
    assert served_name(Spec(models=(TINY,), server=ServerSpec(served_name="nice"))) == "nice"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("JBUILD_SERVED_NAME", "mine", "--served-model-name=mine"),
        ("JBUILD_HOST", "127.0.0.1", "--host=127.0.0.1"),
        ("JBUILD_PORT", "9001", "--port=9001"),
        ("JBUILD_MAX_MODEL_LEN", "512", "--max-model-len=512"),
        ("JBUILD_GPU_MEMORY_UTILIZATION", "0.6", "--gpu-memory-utilization=0.6"),
        ("JBUILD_QUANTIZATION", "gptq", "--quantization=gptq"),
        ("JBUILD_DTYPE", "bfloat16", "--dtype=bfloat16"),
        ("JBUILD_TENSOR_PARALLEL_SIZE", "2", "--tensor-parallel-size=2"),
    ],
)
def test_each_variable_replaces_what_the_recipe_says(variable: str, value: str, expected: str) -> None:
    server = ServerSpec(max_model_len=1, dtype="float32", quantization="awq", served_name="n")
    arguments = settled(server, {variable: value}).arguments
    name = expected.partition("=")[0]
    assert [argument for argument in arguments if argument.startswith(name + "=")] == [expected]


@pytest.mark.parametrize("variable", ["JBUILD_MODEL", "JBUILD_PORT", "JBUILD_DTYPE", "JBUILD_EXTRA_ARGS"])
def test_an_empty_variable_is_as_good_as_none(variable: str) -> None:
    server = ServerSpec(dtype="float32")
    assert settled(server, {variable: ""}) == settled(server)


def test_the_environment_holds_over_the_recipes_arguments_and_arguments_over_all() -> None:
    environment = {"JBUILD_DTYPE": "bfloat16", "JBUILD_EXTRA_ARGS": "--seed 1"}
    arguments = settled(ServerSpec(arguments=("--dtype=float16", "--seed=0")), environment, "--seed", "2").arguments
    assert option(arguments, "--dtype") == "bfloat16"
    assert arguments[-4:] == ("--seed", "1", "--seed", "2")
    assert option(arguments, "--seed") == "2"


def test_extra_arguments_are_split_as_a_shell_does() -> None:
    arguments = settled(None, {"JBUILD_EXTRA_ARGS": """--chat-template '/a b/c.jinja' --x="y z" '$(id)'"""}).arguments
    assert arguments[-4:] == ("--chat-template", "/a b/c.jinja", "--x=y z", "$(id)")


def test_extra_arguments_as_json_need_no_quotes() -> None:
    words = ["--hf-overrides", '{"a": "b c"}', "$(id)", ""]
    arguments = settled(None, {"JBUILD_EXTRA_ARGS": f" {json.dumps(words)}"}).arguments
    assert list(arguments[-4:]) == words


@pytest.mark.parametrize("value", ['["--seed", 1]', '["--x"', "[" * 100_000, '["a"] b'])
def test_extra_arguments_in_wrong_json(value: str) -> None:
    with pytest.raises(SettingsError, match="JBUILD_EXTRA_ARGS"):
        settled(None, {"JBUILD_EXTRA_ARGS": value})


def test_extra_arguments_with_an_open_quote() -> None:
    with pytest.raises(SettingsError, match="JBUILD_EXTRA_ARGS"):
        settled(None, {"JBUILD_EXTRA_ARGS": "--x 'y"})


@pytest.mark.parametrize("value", ["--api-key=stolen", "x; rm -rf /", "a\nb", "$(id)", "`id`", "ü"])
def test_a_hostile_value_stays_one_value(value: str) -> None:
    server = ServerSpec(dtype=value, quantization=value, served_name=value)
    arguments = settled(server, {"JBUILD_HOST": value, "JBUILD_GPU_MEMORY_UTILIZATION": value}).arguments
    assert {argument.partition("=")[2] for argument in arguments} == {value, "8000"}
    assert option(arguments, "--api-key") is None


@pytest.mark.parametrize("value", ["0", "65536", "-1", "8000 ", "tcp://10.0.0.1:8000", "²", "8e3"])
def test_what_is_no_port_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="JBUILD_PORT"):
        settled(None, {"JBUILD_PORT": value})


@pytest.mark.parametrize(
    ("given", "model", "rest"),
    [
        (("meta/llama", "--seed", "1"), "meta/llama", ("--seed", "1")),
        (("--seed", "1", "--model", "meta/llama"), "meta/llama", ("--seed", "1")),
        (("--model=/data/m", "--seed=1"), "/data/m", ("--seed=1",)),
        (("--seed", "1"), "/models/tiny", ("--served-model-name=tiny", "--seed", "1")),
    ],
)
def test_a_model_given_as_an_argument(given: tuple[str, ...], model: str, rest: tuple[str, ...]) -> None:
    settings = settled(None, None, *given)
    assert settings.model == model
    assert settings.arguments == (*LISTEN, *rest)


def test_a_model_named_by_environment_is_not_served_under_the_baked_ones_name() -> None:
    settings = settled(None, {"JBUILD_MODEL": "meta/llama"})
    assert settings.model == "meta/llama"
    assert option(settings.arguments, "--served-model-name") is None


def test_a_baked_model_can_be_named_shortly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.image.runtime.settings.MODELS", tmp_path)
    (tmp_path / "other").mkdir()
    assert settled(None, {"JBUILD_MODEL": "other"}).model == str(tmp_path / "other")
    assert settled(None, {"JBUILD_MODEL": "absent"}).model == "absent"
    assert settled(None, {"JBUILD_MODEL": ".."}).model != str(tmp_path)


def test_a_model_that_looks_like_an_option_is_refused() -> None:
    with pytest.raises(SettingsError, match="dash"):
        settled(None, {"JBUILD_MODEL": "--help"})


@given(st.text(), st.text(), st.lists(st.text()))
def test_any_text_is_passed_or_refused(host: str, extra: str, given: list[str]) -> None:
    try:
        settings = settled(None, {"JBUILD_HOST": host, "JBUILD_EXTRA_ARGS": extra}, *given)
    except SettingsError:
        return
    assert settings.arguments[0] == f"--host={host or '0.0.0.0'}"


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ((), None),
        (("--port", "1"), "1"),
        (("--port=1", "--port", "2"), "2"),
        (("--port",), None),
        (("--ports=1",), None),
    ],
)
def test_option(arguments: tuple[str, ...], value: str | None) -> None:
    assert option(arguments, "--port") == value


def test_settings_know_where_the_server_listens() -> None:
    settings = Settings(model=None, arguments=("--host=::1", "--port=5"))
    assert (settings.host, settings.port) == ("::1", 5)
    assert Settings(model=None, arguments=()).port == port_number("8000", "")
    with pytest.raises(SettingsError):
        _ = Settings(model=None, arguments=("--port=x",)).port


def test_read_server(tmp_path: Path) -> None:
    assert read_server(tmp_path / "absent.json") == {}
    (tmp_path / "server.json").write_text(server_json(Spec(models=(TINY,))))
    assert read_server(tmp_path / "server.json")["served_name"] == "tiny"


def test_running_arguments(tmp_path: Path) -> None:
    (tmp_path / "cmdline").write_bytes(b"/opt/venv/bin/vllm\0serve\0--port=9\0")
    assert option(running_arguments(tmp_path / "cmdline"), "--port") == "9"
    assert running_arguments(tmp_path / "absent") == []


def test_the_scripts_run_on_python_3_8_with_the_standard_library_only() -> None:
    allowed = {"__future__", "settings", "warm_start", *sys.stdlib_module_names}
    assert {script.name for script in scripts()} == {p.name for p in Path(runtime.__file__).parent.glob("*.py")} - {
        "__init__.py"
    }
    for script in scripts():
        tree = ast.parse(script.read_text(), feature_version=(3, 8))
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                node.body = []
        found = {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
        found |= {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        assert found <= allowed
