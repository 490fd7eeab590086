"""Credentials of registries, from the environment or from `docker login`."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import ProgramFailedError, ProgramMissingError, RegistryError
from builder.host import process
from builder.remote.registry.reference import DOCKER_HUB

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    CredentialSource = Callable[[], "Credentials | None"]

_HUB_KEY = "https://index.docker.io/v1/"
_HELPER_WITHIN_S = 60.0
# The user name that credential helpers return with an identity token.
_TOKEN_USER = "<token>"  # noqa: S105


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """User and password, or an identity token of an OAuth server; `repr` leaves out the secrets."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str | None = field(default=None, repr=False)

    @property
    def basic(self) -> str:
        """The value of a Basic `Authorization` header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def find(host: str, *, publish_hosts: Collection[str] = ()) -> Credentials | None:
    """Return the credentials for a registry host, or None for anonymous requests.

    First `JBUILD_REGISTRY_USER_<HOST>` and `JBUILD_REGISTRY_PASSWORD_<HOST>` (upper case, `_` for all but letters and
    digits). Then, for `publish_hosts` only, `JBUILD_REGISTRY_USER` and `JBUILD_REGISTRY_PASSWORD`: the registry of a
    base image must not get the password of the one that jbuild publishes to. Then Docker's `config.json`: credential
    helpers, the credential store, `auths`.

    Raises:
        RegistryError: `config.json` or a helper is broken.
    """
    mangled = re.sub(r"[^A-Z0-9]", "_", host.upper())
    suffixes = (f"_{mangled}", "") if host in publish_hosts else (f"_{mangled}",)
    for suffix in suffixes:
        user = os.environ.get(f"JBUILD_REGISTRY_USER{suffix}")
        password = os.environ.get(f"JBUILD_REGISTRY_PASSWORD{suffix}")
        if user and password:
            return Credentials(user=user, password=password)
    return _from_docker(host)


def config_file() -> Path:
    """Return the path of Docker's `config.json`."""
    folder = os.environ.get("DOCKER_CONFIG")
    return (Path(folder) if folder else Path("~/.docker").expanduser()) / "config.json"


def _from_docker(host: str) -> Credentials | None:
    path = config_file()
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _broken(path, "it cannot be read as JSON", host) from error
    if not isinstance(document, dict):
        raise _broken(path, "it is not a JSON object", host)
    helper = _named(_table(document, "credHelpers"), host) or document.get("credsStore")
    credentials = _ask_helper(str(helper), host, path) if helper else None
    if credentials:
        return credentials
    entry = _named(_table(document, "auths"), host)
    return _from_entry(entry, path, host) if isinstance(entry, dict) else None


def _table(document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _named(entries: dict[str, Any], host: str) -> Any:
    """Return the entry of a host; keys may carry a scheme and an API version."""
    for key, value in entries.items():
        bare = re.sub(r"^https?://|/(?:v[12]/?)?$", "", key)
        if bare == host or (host == DOCKER_HUB and bare in ("index.docker.io", "registry-1.docker.io")):
            return value
    return None


def _from_entry(entry: dict[str, Any], path: Path, host: str) -> Credentials | None:
    token = entry.get("identitytoken")
    if token:
        return Credentials(identity_token=str(token))
    if not entry.get("auth"):
        user, password = entry.get("username"), entry.get("password")
        return Credentials(user=str(user), password=str(password)) if user and password else None
    try:
        user, _, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise _broken(path, f"the entry of {host} is not base64", host) from error
    return Credentials(user=user, password=password.rstrip("\0"))


def _ask_helper(helper: str, host: str, path: Path) -> Credentials | None:
    program = f"docker-credential-{helper}"
    if not re.fullmatch(r"[A-Za-z0-9._-]+", helper):
        raise _broken(path, f"{helper!r} is not the name of a credential helper", host)
    try:
        key = _HUB_KEY if host == DOCKER_HUB else host
        answer = process.run([program, "get"], stdin=key, timeout_s=_HELPER_WITHIN_S, check=False)
    except ProgramMissingError as error:
        raise _broken(path, f"it names the credential helper `{program}`, which is not installed", host) from error
    except ProgramFailedError as error:
        raise _broken(path, f"the credential helper `{program}` does not answer", host) from error
    if answer.code != 0:
        output = f"{answer.stdout} {answer.stderr}".strip()
        if "not found" in output:
            return None
        raise RegistryError(f"`{program} get` failed", where=host, log=output, hint=f"run `docker login {host}`")
    return _from_answer(answer.stdout, program, path, host)


def _from_answer(text: str, program: str, path: Path, host: str) -> Credentials:
    try:
        body = json.loads(text)
        user, secret = str(body["Username"]), str(body["Secret"])
    except (ValueError, KeyError, TypeError):
        # The cause would contain the secret.
        raise _broken(path, f"the credential helper `{program}` returned no credentials", host) from None
    if user == _TOKEN_USER:
        return Credentials(identity_token=secret)
    return Credentials(user=user, password=secret)


def _broken(path: Path, flaw: str, host: str) -> RegistryError:
    return RegistryError(
        f"no credentials: {flaw}", where=str(path), hint=f"correct the file, or run `docker login {host}`"
    )
