"""Small builders of what the tests work on: records with sensible values, and real wheel files."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.host.config import Config
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.model.images import Descriptor, Image, ImageSettings, Plan
from builder.model.locks import Job, Lock, Locked, LockedBase
from builder.model.model_files import LockedModel, ModelFile
from builder.model.platforms import Platform
from builder.model.recipes import Axis, Cell, Matrix, Model, PublishSpec, Recipe, ServerSpec, Spec, TagRule
from builder.model.wheels import LockedWheel
from builder.pipeline.cell import start
from builder.pipeline.order import RunOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.pipeline.cell import CellRun

DIGEST = "sha256:" + "0123456789abcdef" * 4


def make_platform(**changes: Any) -> Platform:
    """Return Debian 12 on arm64."""
    facts: dict[str, Any] = {
        "name": "debian-12",
        "architecture": "arm64",
        "distribution": "debian-12",
        "release": "bookworm",
        "python": "3.11",
        "glibc": "2.36",
        "glibcxx": "3.4.30",
        "base": "docker.io/library/debian:bookworm-slim",
        "python_packages": ("python3",),
    }
    return Platform(**(facts | changes))


def make_jetson(**changes: Any) -> Platform:
    """Return a Jetson with JetPack 6.2."""
    facts: dict[str, Any] = {
        "name": "l4t-36.4.0",
        "distribution": "ubuntu-22.04",
        "release": "22.04",
        "python": "3.10",
        "glibc": "2.35",
        "l4t": "36.4.0",
        "jetpack": "6.1",
        "cuda": "12.6",
        "sms": ("8.7",),
    }
    return make_platform(**(facts | changes))


def make_locked_wheel(name: str = "demo", version: str = "1.0", **changes: Any) -> LockedWheel:
    """Return a wheel that exists on paper only."""
    filename = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    facts: dict[str, Any] = {
        "name": name,
        "version": version,
        "filename": filename,
        "url": f"https://index.example/{filename}",
        "sha256": hashlib.sha256(filename.encode()).hexdigest(),
        "size": 1000,
    }
    return LockedWheel(**(facts | changes))


def make_model(name: str = "tiny", **changes: Any) -> LockedModel:
    """Return a model of two files."""
    facts: dict[str, Any] = {
        "source": f"hf://org/{name}@main",
        "origin": "hub",
        "revision": "0" * 40,
        "licence": "Apache-2.0",
        "files": (
            ModelFile(path="config.json", sha256="a" * 64, size=10),
            ModelFile(path="model.safetensors", sha256="b" * 64, size=1000),
        ),
    }
    return LockedModel(name=name, **(facts | changes))


def make_lock(*wheels: LockedWheel, **changes: Any) -> Lock:
    """Return a lock of these wheels, sorted as locks are."""
    facts: dict[str, Any] = {
        "recipe": "demo",
        "cell": "one",
        "inputs": "f" * 64,
        "platform": make_platform(),
        "base": LockedBase(name="debian:bookworm-slim", used="docker.io/library/debian:bookworm-slim", digest=DIGEST),
        "wheels": tuple(sorted(wheels or (make_locked_wheel(),), key=lambda w: w.name)),
        "models": (make_model(),),
    }
    return Lock(**(facts | changes))


def make_settings(**changes: Any) -> ImageSettings:
    """Return what an image's configuration says."""
    facts: dict[str, Any] = {
        "environment": (("PATH", "/opt/venv/bin:/usr/bin"),),
        "labels": (("io.jbuild.recipe", "demo"),),
        "workdir": "/home/vllm",
        "user": "10001:10001",
        "port": 8000,
        "healthcheck": ("/opt/venv/bin/python", "/opt/jbuild/healthcheck.py"),
        "start_period_s": 600,
        "entrypoint": ("/opt/venv/bin/python", "/opt/jbuild/entrypoint.py"),
    }
    return ImageSettings(**(facts | changes))


def make_plan(**changes: Any) -> Plan:
    """Return a plan without layers."""
    facts: dict[str, Any] = {
        "platform": "linux/arm64",
        "layers": (),
        "content": "c" * 64,
        "command": ("docker", "buildx", "build", "."),
        "settings": make_settings(),
    }
    return Plan(**(facts | changes))


def make_image(**changes: Any) -> Image:
    """An image of two layers."""
    manifest = Descriptor(media_type="application/vnd.oci.image.manifest.v1+json", digest=DIGEST, size=1)
    fields: dict[str, Any] = {
        "platform": "linux/arm64",
        "manifest": manifest,
        "config": replace(manifest, media_type="application/vnd.oci.image.config.v1+json"),
        "layers": (manifest, manifest),
        "labels": (),
    }
    return Image(**{**fields, **changes})


def make_spec(**changes: Any) -> Spec:
    """Return what a small cell asks for."""
    facts: dict[str, Any] = {
        "apt": ("libgomp1",),
        "requires": ("demo==1.0",),
        "models": (Model(name="tiny", source="hf://org/tiny@main"),),
        "server": ServerSpec(model="tiny", environment=(("VLLM_CPU_KVCACHE_SPACE", "1"),)),
        "publish": PublishSpec(repository="vllm", tags=(TagRule(name="1.0-cpu"),)),
    }
    return Spec(**(facts | changes))


def make_job(
    *, spec: Spec | None = None, platform: Platform | None = None, path: Path | None = None, cell: str = "one"
) -> Job:
    """Return one cell of a recipe with one axis."""
    spec = spec or make_spec()
    recipe = Recipe(
        name="demo",
        path=path or Path("recipes/demo.toml"),
        description="A demonstration",
        architecture="arm64",
        matrix=Matrix(axes=(Axis(name="distribution", values=("debian-12",)),)),
        spec=spec,
    )
    found = Cell(id=cell, recipe="demo", values=(("distribution", "debian-12"),))
    return Job(recipe=recipe, cell=found, spec=spec, platform=platform or make_platform())


def make_session(models: Path, **settings: Any) -> Session:
    """Return a session of an empty project; `models` is a cache's folder of that name."""
    workspace = Workspace(project=models.parent, cache=models.parent)
    return Session(workspace=workspace, config=Config(**settings), console=Console(quiet=True))


def make_run(session: Session, *records: object, job: Job | None = None, **options: Any) -> CellRun:
    """Return the run of a cell in which stages have made these records; a lock stands for its record."""
    made = (Locked(lock=record) if isinstance(record, Lock) else record for record in records)
    return start(job or make_job(), session, RunOptions(**options)).with_records(*made)


def make_wheel(
    folder: Path,
    name: str = "demo",
    version: str = "1.0",
    tag: str = "py3-none-any",
    files: Mapping[str, str | bytes] | None = None,
    *,
    scripts: Mapping[str, str] | None = None,
    requires: tuple[str, ...] = (),
    executable: tuple[str, ...] = (),
    wheel_version: str = "1.0",
    said: tuple[str, str] | None = None,
    headers: tuple[str, ...] = (),
    stored: bool = False,
) -> Path:
    """Write a wheel with a correct RECORD and return its path.

    `files` lie beside the metadata, `scripts` are console entry points, `executable` names files that have the bit.
    METADATA speaks of the name and version in `said`, and has `headers` (`Requires-Python: >=3.9`) too. Only what is
    `stored` has the same bytes with every zlib.
    """
    plain = name.replace("-", "_")
    info = f"{plain}-{version}.dist-info"
    said_name, said_version = said or (name, version)
    metadata = [
        f"Metadata-Version: 2.1\nName: {said_name}\nVersion: {said_version}\n",
        *(f"{header}\n" for header in headers),
        *(f"Requires-Dist: {r}\n" for r in requires),
    ]
    contents: dict[str, str | bytes] = {
        **(files if files is not None else {f"{plain}/__init__.py": f"VERSION = {version!r}\n"}),
        f"{info}/METADATA": "".join(metadata),
        f"{info}/WHEEL": f"Wheel-Version: {wheel_version}\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    if scripts:
        lines = (f"{script} = {target}\n" for script, target in scripts.items())
        contents[f"{info}/entry_points.txt"] = "[console_scripts]\n" + "".join(lines)
    contents[f"{info}/RECORD"] = _record(contents, f"{info}/RECORD")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{plain}-{version}-{tag}.whl"
    compression = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, content in contents.items():
            entry = zipfile.ZipInfo(member, date_time=(2024, 1, 2, 3, 4, 6))
            entry.external_attr = (0o100755 if member in executable else 0o100644) << 16
            entry.compress_type = compression
            archive.writestr(entry, content)
    return path


def locked(path: Path, url: str | None = None) -> LockedWheel:
    """Return a wheel file as a lock holds it; it comes from its own path unless `url` says otherwise."""
    content = path.read_bytes()
    name, version, *_ = path.name.split("-")
    return LockedWheel(
        name=name.replace("_", "-"),
        version=version,
        filename=path.name,
        url=url or str(path),
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
    )


def _record(contents: Mapping[str, str | bytes], own: str) -> str:
    lines = []
    for member, content in contents.items():
        raw = content.encode() if isinstance(content, str) else content
        digest = base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).rstrip(b"=").decode()
        lines.append(f"{member},sha256={digest},{len(raw)}\n")
    return "".join([*lines, f"{own},,\n"])
