"""The image's entrypoint: becomes the server, or the program that the container was asked to run.

Runs inside images on Python 3.8 and later, with nothing but the standard library. The server replaces this process,
so that it is PID 1 and gets the engine's signals itself.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

if TYPE_CHECKING or __package__:
    from builder.image.runtime.settings import HERE, LOOPBACK, Settings, SettingsError, option, read_server, settle
else:
    # In an image, the scripts are in one folder, which is not a package.
    from settings import HERE, LOOPBACK, Settings, SettingsError, option, read_server, settle

# The interpreter that runs this is that of the environment with the server.
BIN = Path(sys.executable).parent
_WRONG_SETTING = 2


def main(arguments: Sequence[str]) -> None:
    """Replace this process by the server, or by the program named first."""
    environment = dict(os.environ)
    try:
        argv = command(arguments, environment)
    except SettingsError as error:
        _say(f"error: {error}")
        raise SystemExit(_WRONG_SETTING) from None
    sys.stderr.flush()
    os.execvpe(argv[0], argv, environment)  # noqa: S606


def command(arguments: Sequence[str], environment: MutableMapping[str, str]) -> list[str]:
    """Return what to run; `environment` is changed to what it runs in.

    Raises:
        SettingsError: a setting makes no sense.
    """
    environment["PATH"] = _with_ours(environment.get("PATH", os.defpath))
    if arguments and _is_program(arguments[0], environment["PATH"]):
        return list(arguments)
    settings = settle(read_server(), environment, arguments)
    _set_key(environment)
    _warn_of_keys(settings, environment)
    _take_cached_files(settings, environment)
    return server_command(settings)


def server_command(settings: Settings, programs: Path = BIN) -> list[str]:
    """Return the server's command line; images of old vLLM versions lack the `vllm` program.

    Raises:
        SettingsError: there is no model.
    """
    if not (settings.model or "--help" in settings.arguments or "-h" in settings.arguments):
        raise SettingsError("no model: none is baked into this image; set JBUILD_MODEL or name one as first argument")
    vllm = programs / "vllm"
    if os.access(vllm, os.X_OK):
        return [str(vllm), "serve", *([settings.model] if settings.model else []), *settings.arguments]
    module = [str(programs / "python"), "-m", "vllm.entrypoints.openai.api_server"]
    return [*module, *([f"--model={settings.model}"] if settings.model else []), *settings.arguments]


def _with_ours(path: str) -> str:
    return path if str(BIN) in path.split(os.pathsep) else os.pathsep.join((str(BIN), path))


def _is_program(name: str, path: str) -> bool:
    return not name.startswith("-") and shutil.which(name, path=path) is not None


def _set_key(environment: MutableMapping[str, str]) -> None:
    """Hand a key from a mounted file over in vLLM's own variable: arguments can be read by every process."""
    name = environment.pop("VLLM_API_KEY_FILE", "")
    if not name:
        return
    if environment.get("VLLM_API_KEY"):
        raise SettingsError("set VLLM_API_KEY or VLLM_API_KEY_FILE, not both")
    try:
        key = Path(name).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SettingsError(f"VLLM_API_KEY_FILE: cannot read {name}: {reason} (this is user {os.getuid()})") from None
    if not key or len(key.split()) != 1:
        raise SettingsError(f"VLLM_API_KEY_FILE: {name} must hold one key and nothing else")
    environment["VLLM_API_KEY"] = key


def _warn_of_keys(settings: Settings, environment: MutableMapping[str, str]) -> None:
    named = option(settings.arguments, "--api-key")
    if named:
        _say("warning: --api-key can be read by whoever sees the processes: use VLLM_API_KEY or VLLM_API_KEY_FILE")
    has_key = environment.get("VLLM_API_KEY") or named
    if settings.host not in LOOPBACK and not has_key:
        _say(
            f"warning: listening at {settings.host or 'every address'} without an API key: whoever reaches port "
            f"{settings.port} can use the model; set VLLM_API_KEY or VLLM_API_KEY_FILE, or publish to 127.0.0.1 only"
        )


def _take_cached_files(settings: Settings, environment: MutableMapping[str, str]) -> None:
    if not (HERE / "warm").is_dir():
        return
    # Only an image with such files needs the module: under emulation, each costs time.
    if TYPE_CHECKING or __package__:
        from builder.image.runtime import warm_start  # noqa: PLC0415  # see above
    else:
        import warm_start  # noqa: PLC0415  # see above
    if line := warm_start.take(settings, environment, HERE):
        _say(line)


def _say(text: str) -> None:
    sys.stderr.write(f"jbuild: {text}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
