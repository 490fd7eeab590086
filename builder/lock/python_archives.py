"""Archives of python-build-standalone, which uv fetches, verified and unpacked."""

from __future__ import annotations

import json
import os
import re
import tarfile
from typing import TYPE_CHECKING
from urllib.parse import unquote

from builder.errors import IntegrityError, JbuildError, NetworkError, ProgramFailedError, ProgramTimeoutError
from builder.host.files import sha256_of, temp_folder
from builder.host.process import run
from builder.lock.solve import uv, uv_environment
from builder.lock.uv_target import machine
from builder.remote.vault.vaulted_files import fetch_from_vault, fetch_vaulted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.locks import LockedInterpreter
    from builder.model.platforms import Platform

HOME = "/opt/python"
# The installation prefix of the archives' builds, which their build records contain.
_BUILT_IN = b"/install"
_FETCH_S = 1800
_MIRROR = "set a mirror that this machine can reach: `mirror` under [python] in jbuild.toml"


def archive_name(interpreter: LockedInterpreter) -> str:
    """Return the file name of an interpreter's archive."""
    return unquote(interpreter.url.rpartition("/")[2])


def interpreter_archive(interpreter: LockedInterpreter, platform: Platform, session: Session) -> Path:
    """Return the archive of a locked interpreter, after fetching it if it is missing.

    Raises:
        NetworkError, IntegrityError: it cannot be fetched or verified.
    """
    name = archive_name(interpreter)
    target = session.workspace.interpreters / interpreter.sha256 / name
    if target.is_file() or fetch_from_vault(
        interpreter.sha256, name, session, lambda found: fetch_vaulted(found, target)
    ):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folders of archives, where later processes look for the remains of a killed one.
    with temp_folder(target.parent.parent, target.parent.name) as scratch:
        index = scratch / "downloads.json"
        index.write_text(json.dumps(_download_index(interpreter, platform)), encoding="utf-8")
        # uv also unpacks it, but with this folder's name written into it: only the archive is used.
        cache, unpacked = scratch / "cache", scratch / "unpacked"
        argv = ["--install-dir", str(unpacked), "--python-downloads-json-url", str(index), _key(interpreter, platform)]
        install_python(argv, session, artifact=name, cache=cache)
        (fetched,) = cache.glob("*.tar.gz")
        if sha256_of(fetched) != interpreter.sha256:
            raise IntegrityError(f"{name} does not match the locked sha256", where=interpreter.url, hint=_MIRROR)
        fetched.rename(target)
    return target


def _key(interpreter: LockedInterpreter, platform: Platform) -> str:
    return f"cpython-{interpreter.version}-linux-{machine(platform)}-gnu"


def _download_index(interpreter: LockedInterpreter, platform: Platform) -> dict[str, object]:
    """Return the archive as an entry of uv's download list, with the locked sha256."""
    major, minor, patch = (int(number) for number in interpreter.version.split("."))
    entry = {
        "name": "cpython",
        "arch": {"family": machine(platform), "variant": None},
        "os": "linux",
        "libc": "gnu",
        "major": major,
        "minor": minor,
        "patch": patch,
        "prerelease": "",
        "url": interpreter.url,
        "sha256": interpreter.sha256,
        "variant": None,
    }
    return {_key(interpreter, platform): entry}


def install_python(
    arguments: Sequence[str], session: Session, *, artifact: str, cache: Path | None = None, retries: int | None = None
) -> None:
    """Let uv install an interpreter; `arguments` are its own, and `cache` is the folder for the archive.

    With `retries`, uv tries a server that does not answer only so often again, unless the user has set how often.

    Raises:
        NetworkError, IntegrityError: it cannot be fetched or verified.
    """
    mirror = ["--mirror", session.config.python_mirror] if session.config.python_mirror else []
    argv = [uv(), "python", "install", "--no-config", "--no-bin", "--no-progress", *mirror, *arguments]
    env = uv_environment(session.config, session.workspace.cache) | {"UV_PYTHON_DOWNLOADS": "manual"}
    if cache:
        env["UV_PYTHON_CACHE_DIR"] = str(cache)
    if retries is not None:
        env["UV_HTTP_RETRIES"] = os.environ.get("UV_HTTP_RETRIES", str(retries))
    try:
        with session.console.task(f"fetching {artifact}", unit="steps") as task:
            run(argv, env=env, timeout_s=_FETCH_S, on_line=task.note)
    except ProgramFailedError as error:
        raise _explain(error, artifact, session.config.python_mirror) from error


def _explain(error: ProgramFailedError, artifact: str, mirror: str | None) -> JbuildError:
    source = mirror or "its authors' releases"
    if "Hash mismatch" in error.output:
        message = f"{artifact} does not match the locked sha256"
        return IntegrityError(
            message, where=source, hint="find out why the mirror serves a different file", log=error.output
        )
    match = re.search(r"status \w+ error \((\d+[^)]*)\)", error.output)
    if match:
        return NetworkError(f"{artifact} cannot be fetched: the server answers {match[1]}", where=source, hint=_MIRROR)
    if isinstance(error, ProgramTimeoutError) or re.search(r"Failed to download|Request failed", error.output):
        message = f"{artifact} cannot be fetched: its server does not answer"
        return NetworkError(message, where=source, hint=_MIRROR, log=error.output)
    hint = "the log names the cause; a newer uv may support it (`pip install --upgrade uv`)"
    return IntegrityError(f"uv cannot install {artifact}", where=source, hint=hint, log=error.output)


def unpack_archive(archive: Path, folder: Path, python: str) -> None:
    """Unpack an archive of a minor version (`3.12`) to `HOME` below a folder.

    Raises:
        IntegrityError: it is not an interpreter.
    """
    parent = folder / HOME.lstrip("/").rpartition("/")[0]
    try:
        with tarfile.open(archive) as members:
            members.extractall(parent, filter="data")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise _invalid(archive, str(error)) from error
    home = folder / HOME.lstrip("/")
    if [path.name for path in parent.iterdir()] != [home.name] or not (home / "bin" / f"python{python}").is_file():
        raise _invalid(archive, f"it has no {home.name}/bin/python{python}")
    for path in (home / "lib" / f"python{python}").glob("_sysconfigdata*.py"):
        path.write_bytes(path.read_bytes().replace(_BUILT_IN, HOME.encode()))


def _invalid(archive: Path, reason: str) -> IntegrityError:
    hint = "jbuild does not know the layout of the locked archive; run `jbuild lock --force`"
    return IntegrityError(f"{archive.name} is not an interpreter: {reason}", where=str(archive), hint=hint)
