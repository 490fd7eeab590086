from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from builder.errors import RegistryError
from builder.host.config import Config
from builder.remote.registry import base_lookup
from builder.remote.registry.auth import Credentials, docker_config, find_credentials
from builder.remote.registry.base_lookup import connect_to
from builder.remote.registry.reference import Reference

if TYPE_CHECKING:
    from pathlib import Path


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name in ("JBUILD_REGISTRY_USER", "JBUILD_REGISTRY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


def configure(tmp_path: Path, **document: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps(document))


def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, name: str = "test") -> None:
    program = tmp_path / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\nread server\n[ $1 = get ] || exit 9\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_without_configuration_there_are_none() -> None:
    assert find_credentials("r.io") is None


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("r.io:5000", "r.io:5000"),
        ("https://r.io/v2/", "r.io"),
        ("http://r.io/v1", "r.io"),
        ("https://r.io", "r.io"),
        ("https://index.docker.io/v1/", "docker.io"),
    ],
)
def test_auths(tmp_path: Path, key: str, host: str) -> None:
    configure(tmp_path, auths={"other.io": auth("x", "y"), key: auth("me", "pass:word")})
    assert find_credentials(host) == Credentials(user="me", password="pass:word")


def test_identity_token_wins(tmp_path: Path) -> None:
    configure(tmp_path, auths={"r.io": {**auth("me", ""), "identitytoken": "tok"}})
    assert find_credentials("r.io") == Credentials(identity_token="tok")


def test_an_entry_without_secret_is_none(tmp_path: Path) -> None:
    configure(tmp_path, auths={"r.io": {}})
    assert find_credentials("r.io") is None


def test_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(tmp_path, auths={"r.io:5000": auth("file", "file")})
    monkeypatch.setenv("JBUILD_REGISTRY_USER", "all")
    monkeypatch.setenv("JBUILD_REGISTRY_PASSWORD", "secret")
    assert find_credentials("r.io:5000", publish=True) == Credentials(user="all", password="secret")
    monkeypatch.setenv("JBUILD_REGISTRY_USER_R_IO_5000", "one")
    monkeypatch.setenv("JBUILD_REGISTRY_PASSWORD_R_IO_5000", "special")
    assert find_credentials("r.io:5000", publish=True) == Credentials(user="one", password="special")
    assert find_credentials("r.io:5000") == Credentials(user="one", password="special")


def test_the_general_password_is_not_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JBUILD_REGISTRY_USER", "all")
    monkeypatch.setenv("JBUILD_REGISTRY_PASSWORD", "secret")
    assert find_credentials("docker.io") is None
    monkeypatch.setattr(base_lookup, "connect", lambda *_, publish, **__: publish)
    config = Config(registries=("mine.io/team",))
    given: dict[str, object] = {
        host: connect_to(Reference(host=host, repository="a/b"), config) for host in ("docker.io", "mine.io")
    }
    assert given == {"docker.io": False, "mine.io": True}


def test_a_helper_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(tmp_path, credHelpers={"r.io": "test"}, auths={"r.io": auth("file", "file")})
    helper(
        tmp_path,
        monkeypatch,
        """echo "{\\"Username\\":\\"u\\",\\"Secret\\":\\"$server\\"}" """,
    )
    assert find_credentials("r.io") == Credentials(user="u", password="r.io")


def test_the_store_is_asked_with_the_hubs_old_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(tmp_path, credsStore="test")
    helper(tmp_path, monkeypatch, """echo "{\\"Username\\":\\"<token>\\",\\"Secret\\":\\"$server\\"}" """)
    assert find_credentials("docker.io") == Credentials(identity_token="https://index.docker.io/v1/")


def test_a_helper_without_an_entry_falls_back_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(tmp_path, credsStore="test", auths={"r.io": auth("file", "file")})
    helper(tmp_path, monkeypatch, "echo credentials not found in native keychain; exit 1")
    assert find_credentials("r.io") == Credentials(user="file", password="file")


def test_a_helper_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(tmp_path, credsStore="test")
    helper(tmp_path, monkeypatch, "echo the keychain is shut >&2; exit 1")
    with pytest.raises(RegistryError) as caught:
        find_credentials("r.io")
    assert caught.value.log == "the keychain is shut"
    assert "docker login r.io" in (caught.value.hint or "")


def test_a_helper_that_babbles_is_an_error_without_its_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(tmp_path, credsStore="test")
    helper(tmp_path, monkeypatch, 'echo \'{"Secret": "hush"\'')
    with pytest.raises(RegistryError) as caught:
        find_credentials("r.io")
    assert "hush" not in json.dumps(caught.value.as_json())
    assert caught.value.__cause__ is None


def test_a_missing_helper_is_named(tmp_path: Path) -> None:
    configure(tmp_path, credsStore="no-such-helper")
    with pytest.raises(RegistryError, match=r"docker-credential-no-such-helper.*not installed"):
        find_credentials("r.io")


@pytest.mark.parametrize("name", ["../evil", "a b", "-x/../y"])
def test_a_helpers_name_is_checked(tmp_path: Path, name: str) -> None:
    configure(tmp_path, credsStore=name)
    with pytest.raises(RegistryError, match="not the name of a credential helper"):
        find_credentials("r.io")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"auths": {"r.io": {"auth": "%%%"}}}', '{"auths": {"r.io": {"auth": "/w=="}}}']
)
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RegistryError) as caught:
        find_credentials("r.io")
    assert caught.value.where == str(tmp_path / "config.json")


def test_odd_tables_are_passed_over(tmp_path: Path) -> None:
    configure(tmp_path, auths=[], credHelpers=None)
    assert find_credentials("r.io") is None


def test_the_home_folder_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert docker_config() == tmp_path / ".docker" / "config.json"


def test_secrets_do_not_show() -> None:
    shown = repr(Credentials(user="me", password="hush", identity_token="quiet"))
    assert "me" in shown
    assert "hush" not in shown
    assert "quiet" not in shown
