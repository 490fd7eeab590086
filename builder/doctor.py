"""What a machine needs to make images, checked one by one, each with the command that mends it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from builder.engine import find_engine
from builder.errors import EngineError, JbuildError
from builder.process import find_program, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.engine import Engine
    from builder.session import Session

State = Literal["ok", "missing", "warning"]
# A CPU recipe takes about 8 GB of wheels, trees, layers and engine store; a CUDA stack five times as much.
_ROOM_GB = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at: its state, what was found, why it matters, and what mends it."""

    name: str
    state: State
    found: str
    why: str
    mend: str | None = None


def examine(session: Session) -> Iterator[Check]:
    """Yield every check, those first that others depend on."""
    yield _uv()
    yield from _engine(session)
    yield _registry_target(session)
    yield from _signing(session)
    yield from _mirrors(session)
    yield _room(session.workspace.cache)


def _uv() -> Check:
    from builder.resolve.solve import uv  # noqa: PLC0415

    why = "finds the wheels of a cell"
    try:
        version = run([uv(), "--version"], timeout_s=20).stdout.strip()
    except (JbuildError, FileNotFoundError) as error:
        return Check(name="uv", state="missing", found=str(error), why=why, mend="pip install --force-reinstall uv")
    return Check(name="uv", state="ok", found=version, why=why)


def _engine(session: Session) -> Iterator[Check]:
    why = "builds images and runs them for their questions"
    try:
        engine = find_engine(session.workspace)
    except EngineError as error:
        yield Check(name="engine", state="missing", found=error.message, why=why, mend=error.hint)
        return
    yield Check(name="engine", state="ok", found=f"Docker {engine.version} at {engine.endpoint}", why=why)
    yield _buildx(engine)
    yield _store(engine)
    yield _emulation(engine)
    yield _runtime(engine)


def _buildx(engine: Engine) -> Check:
    why = "`docker buildx build` makes the image"
    if find_program("docker") is None:
        return Check(
            name="buildx",
            state="missing",
            found="no docker command",
            why=why,
            mend="run `scripts/engine up`, or install Docker (Debian: docker.io)",
        )
    if not engine.has_buildx():
        mend = "apt-get install docker-buildx (docker-buildx-plugin from Docker's own packages)"
        return Check(name="buildx", state="missing", found="`docker buildx` does not work", why=why, mend=mend)
    return Check(name="buildx", state="ok", found="`docker buildx` works", why=why)


def _store(engine: Engine) -> Check:
    why = "images are built into an OCI layout, which the engine's own builder can do only with it"
    if engine.containerd_store:
        return Check(name="image store", state="ok", found="containerd", why=why)
    mend = 'set {"features": {"containerd-snapshotter": true}} in daemon.json, or use --builder with another driver'
    return Check(name="image store", state="warning", found="the engine's old store", why=why, mend=mend)


def _emulation(engine: Engine) -> Check:
    why = "a Jetson's packages are set up and its image is asked under emulation on this machine"
    if engine.architecture == "arm64":
        return Check(name="arm64", state="ok", found="native", why=why)
    if engine.can_run("arm64"):
        return Check(name="arm64", state="ok", found="emulated by QEMU", why=why)
    mend = "apt-get install qemu-user-static binfmt-support, or `scripts/engine up`"
    return Check(
        name="arm64", state="missing", found=f"an {engine.architecture} machine without emulation", why=why, mend=mend
    )


def _runtime(engine: Engine) -> Check:
    why = "without it no verdict can be better than `cpu` or `emulated`"
    if "nvidia" in engine.runtimes:
        return Check(name="GPU runtime", state="ok", found="nvidia", why=why)
    mend = "on a Jetson: apt-get install nvidia-container-toolkit, then `nvidia-ctk runtime configure`"
    return Check(name="GPU runtime", state="warning", found="none", why=why, mend=mend)


def _registry_target(session: Session) -> Check:
    why = "`--push` needs a registry; a recipe or --registry may name it instead"
    if not session.config.registries:
        mend = 'put `registries = ["HOST/PREFIX"]` under [publish] in jbuild.toml'
        return Check(name="registries", state="warning", found="none configured", why=why, mend=mend)
    return Check(name="registries", state="ok", found=", ".join(session.config.registries), why=why)


def _signing(session: Session) -> Iterator[Check]:
    if not session.config.cosign_key and not session.config.trusted_keys:
        return
    why = "signs what is published, and checks the signatures of others"
    found = find_program("cosign")
    if found is None:
        yield Check(name="cosign", state="missing", found="none", why=why, mend="apt-get install cosign")
    else:
        yield Check(name="cosign", state="ok", found=found, why=why)


def _mirrors(session: Session) -> Iterator[Check]:
    why = "an image made with a stand-in is not what its base or model promises"
    rules = [(r.prefix, r.mirror, r.stand_in) for r in session.config.registry_mirrors]
    rules += [(r.source, str(r.folder), r.stand_in) for r in session.config.model_mirrors]
    for name, place, stand_in in rules:
        if stand_in:
            found = f"{name} is taken from {place}: {stand_in}"
            yield Check(
                name="stand-in",
                state="warning",
                found=found,
                why=why,
                mend="delete the rule once the real one can be had",
            )


def _room(cache: Path) -> Check:
    folder = cache
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    why = f"wheels, layers and images of one cell take up to {_ROOM_GB} GB"
    if free < _ROOM_GB:
        mend = "free space, or set JBUILD_CACHE to a larger disk; `docker buildx prune` is safe"
        return Check(name="disk", state="warning", found=f"{free:.0f} GB free at {folder}", why=why, mend=mend)
    return Check(name="disk", state="ok", found=f"{free:.0f} GB free at {folder}", why=why)
