"""Registries as users write them: slashes at the end are taken, and other forms get advice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from builder.errors import DocumentError
from builder.host import config
from builder.host.config import REGISTRY_PATTERN
from builder.host.registry_names import advice

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ghcr.io/MyOrg", "upper case is not allowed: write ghcr.io/myorg"),
        ("https://ghcr.io/myorg/", "omit the scheme: write ghcr.io/myorg"),
        ("docker://ghcr.io/MyOrg", "omit the scheme, upper case is not allowed: write ghcr.io/myorg"),
        ("ghcr.io/org:latest", "omit the tag: write ghcr.io/org"),
        ("localhost:5000/org:v1", "omit the tag: write localhost:5000/org"),
        (f"ghcr.io/org@sha256:{'a' * 64}", "omit the digest: write ghcr.io/org"),
        ("me:secret@ghcr.io/org", "omit the login: write ghcr.io/org"),
        ("http://localhost:5000/v2/", "omit the scheme, omit the path of the API: write localhost:5000"),
        ("harbor.example.com//edge", "write harbor.example.com/edge"),
        (" ghcr.io/org", "write ghcr.io/org"),
        ("not a host", None),
        ("", None),
    ],
)
def test_advice(name: str, words: str | None) -> None:
    assert advice(name, REGISTRY_PATTERN) == words


def settings(tmp_path: Path, text: str) -> config.Config:
    (tmp_path / "jbuild.toml").write_text(text)
    return config.load([tmp_path / "jbuild.toml"])


def test_a_slash_at_the_end_is_taken(tmp_path: Path) -> None:
    text = (
        '[publish]\nregistries = ["harbor.example.com/edge/"]\ninsecure = ["harbor.example.com/"]\n'
        '[[registry-mirrors]]\nprefix = "nvcr.io/"\nmirror = "localhost:5000/nvcr/"\n'
        '[[registries]]\nhost = "harbor.example.com/"\n'
    )
    found = settings(tmp_path, text)
    assert found.registries == ("harbor.example.com/edge",)
    assert found.insecure_registries == ("harbor.example.com",)
    assert found.mirrored("nvcr.io/nvidia/l4t-base:r36")[0] == "localhost:5000/nvcr/nvidia/l4t-base:r36"
    assert found.registry_settings[0].host == "harbor.example.com"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('[publish]\nregistries = ["ghcr.io/MyOrg"]', "upper case is not allowed: write ghcr.io/myorg"),
        ('[publish]\ninsecure = ["http://host:5000"]', "omit the scheme: write host:5000"),
        ('[[registries]]\nhost = "https://a.example"', "omit the scheme: write a.example"),
        ('[[registry-mirrors]]\nprefix = "nvcr.io/"\nmirror = "http://b/c"', "omit the scheme: write b/c"),
    ],
)
def test_the_configuration_gives_the_advice(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(DocumentError) as caught:
        settings(tmp_path, text)
    assert [problem.hint for problem in caught.value.problems] == [hint]


def test_the_command_line_gives_the_advice(command_line: Callable[..., Any]) -> None:
    code, _, err = command_line("push", "vllm-cpu-0.15.1", "--registry", "ghcr.io/MyOrg")
    assert code == 2
    assert "upper case is not allowed: write ghcr.io/myorg" in err
