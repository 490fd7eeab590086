"""Environment variables that nothing reads: which ones are warned of, and with which proposal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder.cli.variables import IMAGE_VARIABLES, unknown_variables
from builder.image.runtime import settings

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("JBUILD_PUBLISH_REGISTRY", "did you mean JBUILD_PUBLISH_REGISTRIES?"),
        ("JBUILD_BUILDERS", "did you mean JBUILD_BUILD_BUILDERS?"),
        ("JBUILD_REGISTRY_PASSWD", "did you mean JBUILD_REGISTRY_PASSWORD?"),
        ("JBUILD_MAX_MODEL_LENGTH", "did you mean JBUILD_MAX_MODEL_LEN?"),
        ("JBUILD_XQZ", "docs/configuration.md lists the variables"),
    ],
)
def test_an_unknown_variable_is_warned_of(name: str, hint: str) -> None:
    (warning,) = unknown_variables([name, "PATH", "JBUILDER"])
    assert warning.startswith(f"the environment variable {name} has no effect")
    assert warning.endswith(hint)


@pytest.mark.parametrize(
    "name",
    [
        *("JBUILD_CACHE", "JBUILD_REGISTRY_USER", "JBUILD_REGISTRY_PASSWORD_R_EXAMPLE_COM_5000", "JBUILD_PORT"),
        *("JBUILD_PUBLISH_REGISTRIES", "JBUILD_BUILD_SILENT_S", "JBUILD_NETWORK_CA_BUNDLE", "_JBUILD_COMPLETE"),
    ],
)
def test_known_variables_are_not(name: str) -> None:
    assert list(unknown_variables([name])) == []


def test_the_images_own_variables_are_those_that_its_settings_read() -> None:
    text = Path(settings.__file__).read_text()
    assert set(re.findall(r"JBUILD_[A-Z_]*[A-Z]", text)) == set(IMAGE_VARIABLES)


def test_a_command_warns_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JBUILD_REGISTRIES", "r.example.com")
    code, _, err = command_line("show", "vllm-cpu-0.15.1")
    assert code == 0
    assert "warning: the environment variable JBUILD_REGISTRIES has no effect" in err
