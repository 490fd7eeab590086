"""The second run of a recipe that wants a warm image: the image with the files that the first run compiled.

The warm image has to compile nothing. If it does, or fails, the image of the first run counts as before.
"""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.host import records
from builder.host.files import disk_errors, temp_folder
from builder.host.units import count_of
from builder.image.oci.engine_load import EngineBlobs, loaded
from builder.image.oci.layout import read_config
from builder.image.oci.warm_image import make_warm_image
from builder.image.runtime import server_json
from builder.image.runtime.settings import settle
from builder.image.runtime.warm_start import choices
from builder.model.images import WarmImage
from builder.model.verdicts import SmokeFailedError, Verdict, WarmStart
from builder.smoke.launch import facts, level
from builder.smoke.smoke_run import smoke
from builder.smoke.start_caches import CompiledStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.host.engine.docker import Engine
    from builder.pipeline.cell import CellRun
    from builder.smoke.steps import Baseline

# In the folder of the warm image: its record, and its own verdict.
_RECORD, _VERDICT = "warm.json", "warm-verdict.json"


def needs_warm_image(run: CellRun, verdict: Verdict) -> bool:
    """Return whether a recipe wants a warm image, and the run of a verdict made none that is still there."""
    if not run.job.spec.image.warm or verdict.compilations is None:
        return False
    return verdict.warm is None or (
        verdict.warm.failure is None and read_warm(run.folder.warm, run.image.digest) is None
    )


def read_warm(folder: Path, base: str) -> tuple[WarmImage, Verdict] | None:
    """Return the warm image of the last smoke run of the image `base` (its digest), and its own verdict, if any."""
    found = any_warm(folder)
    return found if found and found[0].base == base else None


def any_warm(folder: Path) -> tuple[WarmImage, Verdict] | None:
    """Return the warm image in a folder, of any image, and its own verdict; None without any."""
    image = records.read(folder / _RECORD, None, WarmImage)
    verdict = records.read(folder / _VERDICT, None, Verdict)
    return (image, verdict) if image and verdict and verdict.digest == image.image.digest else None


@contextmanager
def compiled_store(run: CellRun) -> Iterator[CompiledStore]:
    """Give the place for the files that a smoke run's server compiles; they are kept only for a warm image.

    Raises:
        DiskError: the folder cannot be written.
    """
    if not run.job.spec.image.warm:
        yield CompiledStore()
        return
    with temp_folder(run.folder.path) as folder:
        yield CompiledStore(keep=folder)


def warm_start(run: CellRun, engine: Engine, compiled: CompiledStore, reference: Baseline) -> WarmStart:
    """Make the warm image of a run that passed, start it, and return how that went; it is kept if it compiled nothing.

    The run that passed counts in any case: after an error, there is only no warm image.
    """
    name, console = run.job.cell.id, run.session.console
    if not compiled.files:
        return WarmStart(failure="the start compiled nothing that the image lacks")
    if not all(file.cache.always for file in compiled.files) and _depends_on_smoke_settings(run):
        console.warn(
            f"{name}: `[smoke.environment]` changes what the server compiles: the warm image fits only starts with "
            "these variables; move them to `[server.environment]`"
        )
    try:
        result = _started_again(run, engine, compiled, reference)
    except JbuildError as error:
        result = WarmStart(failure=error.message)
    if result.failure:
        console.warn(f"{name}: there is no warm image: {result.failure}")
    return result


def _depends_on_smoke_settings(run: CellRun) -> bool:
    spec = run.job.spec
    plain = dict(spec.server.environment)
    tested = {**plain, **dict(spec.smoke.environment)}
    settings = json.loads(server_json(spec))
    one, other = (choices(settle(settings, environment, ()), environment) for environment in (plain, tested))
    return one != other


def _started_again(run: CellRun, engine: Engine, compiled: CompiledStore, reference: Baseline) -> WarmStart:
    kept, console = run.folder.warm, run.session.console
    with temp_folder(kept.parent, kept.name) as layout, disk_errors(kept):
        warm = _image(run, compiled, layout)
        files = count_of(len(compiled.files or ()), "compiled file")
        console.say(f"{run.job.cell.id}: starting the image again, with {files} in a layer")
        again = _second_run(run, warm, engine, layout, reference)
        result = _result(warm, again)
        shutil.rmtree(kept, ignore_errors=True)
        if result.failure is None:
            records.write(layout / _VERDICT, "", again)
            records.write(layout / _RECORD, "", warm)
            layout.chmod(0o755)
            layout.rename(kept)
    return result


def _image(run: CellRun, compiled: CompiledStore, layout: Path) -> WarmImage:
    if compiled.keep is None:
        raise LookupError("the compiled files were not kept")
    with run.session.console.task(f"{run.job.cell.id}: packing what the server compiled", unit="B") as task:
        return make_warm_image(
            run.image,
            read_config(run.session.workspace.images, run.image),
            compiled.conditions,
            compiled.keep,
            layout,
            run.session.config.layers,
            task.advance,
        )


def _second_run(run: CellRun, warm: WarmImage, engine: Engine, layout: Path, baseline: Baseline) -> Verdict:
    """Return the verdict on the warm image, passed or not; the engine has the layers below."""
    run.on_step("starting the warm image")
    console, log = run.session.console, run.folder.smoke_log(level(facts(run.image, engine)))
    blobs = EngineBlobs(present=frozenset(layer.digest for layer in run.image.layers))
    with loaded(warm.image, layout, engine, console, blobs=blobs) as name:
        try:
            return smoke(
                warm.image,
                name,
                run.job.spec,
                engine,
                console,
                log=log.with_name(f"{log.stem}-warm.log"),
                baseline=baseline,
                on_step=run.on_step,
            )
        except SmokeFailedError as error:
            return error.verdict


def _result(warm: WarmImage, verdict: Verdict) -> WarmStart:
    failure, compilations = verdict.failure, verdict.compilations
    if failure is None and compilations and (compilations.files or compilations.lines):
        failure = f"it still compiles at its start: {compilations}"
    return WarmStart(
        digest=warm.image.digest,
        size=warm.layer.size,
        ready_s=verdict.ready_s,
        compilations=compilations,
        failure=failure,
    )
