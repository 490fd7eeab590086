"""Files of the image for the server's cache: an earlier start's, or vLLM's model infos. They spare this start work.

Runs inside images on Python 3.8 and later, with nothing but the standard library. By itself it prints the conditions of
the start of this container's server, as JSON: a cache of these conditions fits.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

if TYPE_CHECKING or __package__:
    from builder.image.runtime.settings import Settings, read_server, settle
else:
    # In an image, the scripts are in one folder, which is not a package.
    from settings import Settings, read_server, settle

# Beside the scripts: the files, with their paths below `CACHE`. Those of `ALWAYS` fit every start of the image. Only a
# warm image has those of `FILES`; they fit starts with the conditions of the one that made them.
FOLDER = "warm"
CONDITIONS = "conditions.json"
FILES = "cache"
ALWAYS = "always"
CACHE = Path("/cache")
# Attributes of the CUDA driver API (CUdevice_attribute).
_MAJOR, _MINOR = 75, 76
# Variables that choose what is compiled, by the names of their programs.
_COMPILING = re.compile(r"(?:VLLM|TORCH[A-Z]*|PYTORCH|TRITON|CUDA|FLASHINFER)_\w+")
# Words of those that name places, devices, secrets and logs, which compile nothing.
_OTHER = frozenset(
    ("KEY", "TOKEN", "SECRET", "PASSWORD", "LOG", "LOGGING", "HOST", "PORT", "ROOT", "STATS", "DIR", "PATH", "VISIBLE")
)
# Options that name the server and whom it talks to.
_FREE = frozenset(
    ("--host", "--port", "--served-model-name", "--api-key", "--hf-token", "--uvicorn-log-level", "--root-path")
)


def conditions(settings: Settings, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what decides, besides the image, what a start compiles: GPU, driver, model, options, variables.

    `sm` is the GPU's compute capability and `driver` the CUDA version of its driver, both None without a GPU.
    """
    return {
        **_gpu(),
        "model": settings.model,
        # vLLM 0.20 compiles anew for each value: `compile_factors` in vllm/envs.py.
        "key": bool(environment.get("VLLM_API_KEY")),
        **choices(settings, environment),
    }


def choices(settings: Settings, environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the options and the variables that choose what is compiled, with hashes of their values.

    The layer is published and the log is read by others: neither needs the values.
    """
    return {
        "options": {name: _hash(values) for name, values in sorted(_options(settings).items())},
        "variables": {
            name: _hash([environment[name]])
            for name in sorted(environment)
            if _COMPILING.fullmatch(name) and _OTHER.isdisjoint(name.split("_"))
        },
    }


def take(settings: Settings, environment: Mapping[str, str], scripts: Path, cache: Path = CACHE) -> str:
    """Copy the image's files for the cache into it, those that fit this start; return a line for the log.

    Files that are in the cache stay. An image without such files gives an empty line.
    """
    folder = scripts / FOLDER
    if not folder.is_dir():
        return ""
    try:
        copied, different = _copy_all(folder / ALWAYS, cache), []
        if (folder / FILES).is_dir():
            wanted = _read_conditions(folder / CONDITIONS)
            different = list(_differences(wanted, conditions(settings, environment)))
        if not different:
            copied += _copy_all(folder / FILES, cache)
    except (OSError, ValueError) as error:
        return f"the image's cached files cannot be used: {error}"
    taken = f"took {copied} cached file{'s' if copied > 1 else ''} from the image" if copied else ""
    if not different:
        return taken or "the cache has the image's files already"
    refused = f"do not fit and are not used: {'; '.join(different)}"
    return f"{taken}; the others {refused}" if taken else f"the image's cached files {refused}"


def main(process: Path = Path("/proc/1/environ")) -> None:
    """Print the conditions of the start of this container's server; `process` has the variables of its process.

    Another program in the container has others: an engine gives the variables of the GPU to the first one only.
    """
    pairs = (os.fsdecode(pair).partition("=") for pair in process.read_bytes().split(b"\0") if pair)
    environment = {name: value for name, _, value in pairs}
    settings = settle(read_server(), environment, ())
    sys.stdout.write(json.dumps(conditions(settings, environment), sort_keys=True) + "\n")


def _read_conditions(path: Path) -> dict[str, Any]:
    wanted = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(wanted, dict) or not all(isinstance(wanted.get(key), dict) for key in ("options", "variables")):
        raise ValueError(f"{path} has no conditions")  # as for other damage
    return wanted


def _gpu() -> dict[str, str | None]:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return {"sm": None, "driver": None}
    version, device, major, minor = (ctypes.c_int() for _ in range(4))
    codes = (
        driver.cuInit(0),
        driver.cuDriverGetVersion(ctypes.byref(version)),
        driver.cuDeviceGet(ctypes.byref(device), 0),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
    )
    if any(codes):
        return {"sm": None, "driver": None}
    # 13000 is CUDA 13.0.
    return {
        "sm": f"{major.value}.{minor.value}",
        "driver": f"{version.value // 1000}.{version.value % 1000 // 10}",
    }


def _options(settings: Settings) -> dict[str, list[str]]:
    """Return the values of each option; they follow it with `=` or as words of their own."""
    found: dict[str, list[str]] = {}
    values: list[str] = []
    for word in settings.arguments:
        if not word.startswith("-"):
            values.append(word)
            continue
        name, separator, value = word.partition("=")
        values = found.setdefault(name.replace("_", "-"), [])
        values += [value] if separator else []
    return {name: given for name, given in found.items() if name not in _FREE}


def _hash(values: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(values).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _differences(wanted: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    for key, name in (("sm", "SM"), ("driver", "CUDA of the driver"), ("model", "model")):
        if wanted.get(key) != here[key]:
            yield f"{name}: {wanted.get(key) or 'none'}, here {here[key] or 'none'}"
    if here["key"] and not wanted.get("key"):
        yield "VLLM_API_KEY is set, and vLLM compiles anew for each value of it"
    for key in ("options", "variables"):
        before, now = wanted[key], here[key]
        names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        if names:
            yield f"{key} that differ: {', '.join(names)}"


def _copy_all(folder: Path, cache: Path) -> int:
    """Copy the files of a folder into the cache, and return how many the cache lacked."""
    return sum(_copy(path, cache / path.relative_to(folder)) for path in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    for base, _, names in os.walk(str(folder)):
        for name in sorted(names):
            yield Path(base, name)


def _copy(source: Path, target: Path) -> bool:
    """Copy a file unless the target exists; other containers with the same cache see the whole file or none."""
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    # Each container's server is process 1, so that its number makes no name of its own.
    number, name = tempfile.mkstemp(prefix=".", dir=str(target.parent))
    os.close(number)
    beside = Path(name)
    try:
        shutil.copyfile(str(source), name)
        shutil.copymode(str(source), name)
        beside.replace(target)
    except OSError:
        beside.unlink()
        raise
    return True


if __name__ == "__main__":
    main()
