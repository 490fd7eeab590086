"""Builds a plan with `docker buildx build` into the OCI layout."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import BuildError, JbuildError, ProgramFailedError, ProgramSilentError
from builder.host.config import build_ca_bundle
from builder.host.file_locks import scratch
from builder.host.files import disk_errors, mark_used, write_text
from builder.host.process import run
from builder.image.oci.layout import blob, read_image, take_blobs
from builder.jetson.advisories import symptoms_in
from builder.model.images import EPOCH
from builder.pipeline.builder_causes import cause_of
from builder.pipeline.builders import buildx, hanging

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.host.config import LayerCompression
    from builder.host.engine.docker import Engine
    from builder.host.session import Session
    from builder.model.images import Image
    from builder.model.locks import Job

# The Dockerfile of a system image, in a build's folder.
SYSTEM_DOCKERFILE = "Dockerfile.system"
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "FTP_PROXY", "ALL_PROXY")
_STEP = re.compile(r"#\d+ (?:\d+\.\d+ )?(.+)")
_NO_PACKAGE = re.compile(r"Unable to locate package ([a-z0-9][a-z0-9+.-]*)")


def options(architecture: str) -> tuple[str, ...]:
    """Return the options that decide the image's digest."""
    return (
        f"--platform=linux/{architecture}",
        f"--build-arg=SOURCE_DATE_EPOCH={EPOCH}",
        # Provenance contains times, which would change the digest with every build.
        "--provenance=false",
    )


def layer_format(compression: LayerCompression) -> str:
    """Return the part of `--output` that decides the layers' bytes."""
    return f"compression={compression.kind},force-compression=true,oci-mediatypes=true"


def plain_command(architecture: str, compression: LayerCompression) -> tuple[str, ...]:
    """Return the command that builds the same image without jbuild, run in the plan's folder."""
    output = f"--output=type=oci,dest=image.tar,{layer_format(compression)}"
    return ("docker", "buildx", "build", *options(architecture), output, "--metadata-file=metadata.json", ".")


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """One build of a folder.

    `builder` is a buildx builder or a docker context instead of the engine's own. A `fresh` build does not use
    BuildKit's cache. `system`: an intermediate image from `SYSTEM_DOCKERFILE`, whose layers are not compressed.
    """

    folder: Path
    builder: str | None = None
    fresh: bool = False
    system: bool = False


def build(job: Job, request: BuildRequest, engine: Engine, session: Session) -> Image:
    """Build a folder and return the image; `build.log` in the folder is the builder's output.

    Raises:
        BuildError, EngineError, NetworkError, DiskError: by the cause in the log.
    """
    log, silent_s, layout = request.folder / "build.log", session.config.silent_s, session.workspace.images
    lines: list[str] = []
    # A separate export: two concurrent exports into one layout meet each other's half-written blobs.
    with disk_errors(session.workspace.cache), scratch(session.workspace.cache) as folder:
        metadata, exported = folder / "metadata.json", folder / "layout"
        argv = _argv(job, request, session, metadata, exported)
        location = f" on {request.builder}" if request.builder else ""
        try:
            with session.console.task(f"{job.cell.id}: building{location}", unit="steps") as task:
                note = _follow(lines, task.note)
                run(argv, env=engine.environment(), cwd=request.folder, on_line=note, silent_s=silent_s)
        except ProgramSilentError as error:
            raise hanging(job.name, silent_s, log, error.output) from error
        except ProgramFailedError as error:
            raise _explain(error, job, log) from error
        finally:
            write_text(log, "\n".join(lines) + "\n")
        digest = json.loads(metadata.read_text(encoding="utf-8"))["containerimage.digest"]
        take_blobs(exported, layout)
    mark_used(blob(layout, digest))
    return read_image(layout, digest, f"linux/{job.platform.architecture}")


def _argv(job: Job, request: BuildRequest, session: Session, metadata: Path, exported: Path) -> list[str]:
    argv = [*buildx("build", request.builder), *options(job.platform.architecture), "--progress=plain"]
    kind = "oci-mediatypes=true" if request.system else layer_format(session.config.layers)
    argv += [f"--metadata-file={metadata}", f"--output=type=oci,tar=false,{_field('dest', exported)},{kind}"]
    argv += [f"--file={SYSTEM_DOCKERFILE}"] if request.system else []
    argv += ["--no-cache"] if request.fresh else _caches(job, session)
    return [*argv, *_secrets(session), *_proxies(), "."]


def _caches(job: Job, session: Session) -> list[str]:
    """Return the options of the configured caches for a cell, without unusable ones."""
    argv = []
    for option, caches in (("--cache-from", session.config.cache_from), ("--cache-to", session.config.cache_to)):
        for cache in caches:
            if cache.lacks:
                session.console.warn(f"{option} type={cache.kind} is left out: {cache.lacks} is not set")
            else:
                argv += [option, cache.argument(job.recipe.name, job.cell.id)]
    return argv


def _secrets(session: Session) -> list[str]:
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    files = {"ca": build_ca_bundle(session.config), "netrc": netrc if netrc.is_file() else None}
    return [word for name, path in files.items() if path for word in ("--secret", f"id={name},{_field('src', path)}")]


def _proxies() -> list[str]:
    names = [spelt for name in _PROXIES for spelt in (name, name.lower()) if os.environ.get(spelt)]
    return [f"--build-arg={name}" for name in names]


def _field(name: str, path: Path) -> str:
    """Return one field of an option, which buildx parses as CSV: a path may contain a comma."""
    text = f"{name}={path}"
    return '"' + text.replace('"', '""') + '"' if re.search(r'[,"]', text) else text


def _follow(lines: list[str], note: Callable[[str], None]) -> Callable[[str], None]:
    def follow(line: str) -> None:
        lines.append(line)
        step = _STEP.match(line)
        if step:
            note(step.group(1))

    return follow


def _explain(error: ProgramFailedError, job: Job, log: Path) -> JbuildError:
    kind, message, hint = _cause(error.output, job, log)
    return kind(f"{job.name}: {message}", where=str(log), hint=hint, log=error.output)


def _cause(output: str, job: Job, log: Path) -> tuple[type[JbuildError], str, str]:
    """Return the type of a failed build's error, its message and its hint."""
    distribution, missing = job.platform.distribution, _NO_PACKAGE.search(output)
    if missing and missing[1] in job.platform.python_packages:
        message = f"the base image {job.base} has no package {missing[1]}: it is not {distribution}"
        return BuildError, message, "use the same distribution for `[base] image` and the cell in the recipe"
    if missing:
        return BuildError, f"{distribution} has no package {missing[1]}", "correct `apt` under [base] in the recipe"
    if cause := cause_of(output):
        return cause.kind, cause.message, cause.hint
    for symptom in symptoms_in(output.splitlines()):
        return BuildError, f"the build failed: {symptom.says}", symptom.hint
    return BuildError, "the build failed", f"the full log in {log} names the failed step"
