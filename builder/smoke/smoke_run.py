"""Runs a built image as its users will, asks it the recipe's questions, and returns a verdict.

A failed step raises `StepFailedError`; the verdict records the step.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from docker.errors import APIError, DockerException
from requests import RequestException

from builder.errors import EngineError, RecipeError
from builder.host.engine.docker import has_bridge
from builder.host.engine.sdk_errors import reason_of
from builder.jetson.advisories import symptoms_in
from builder.model.verdicts import Compilations, SmokeFailedError, Verdict
from builder.recipe import value_checks
from builder.smoke import launch as launching
from builder.smoke.errors import StepFailedError, first_exception, read_log
from builder.smoke.launch import facts, level
from builder.smoke.probe_runs import check_gpu, check_modules, forward
from builder.smoke.start_caches import CompiledStore, compiled_files
from builder.smoke.steps import Baseline, SmokeRun, serve, started

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.host.console import Console
    from builder.host.engine.docker import Engine
    from builder.model.images import Image
    from builder.model.recipes import Spec
    from builder.smoke.errors import ScannedLog

_SMS_LABEL = "io.jbuild.sms"


def smoke(
    image: Image,
    reference: str,
    spec: Spec,
    engine: Engine,
    console: Console,
    *,
    log: Path,
    memory_bytes: int | None = None,
    baseline: Baseline | None = None,
    compiled: CompiledStore | None = None,
    on_step: Callable[[str], object] = lambda _: None,
) -> Verdict:
    """Start the image by its own entrypoint, ask it the recipe's questions, stop it, and return the verdict.

    `reference` is the engine's name of the image; `log` is the file for the container's log; `memory_bytes` limits the
    container's memory; the run is compared with `baseline`; what the server compiles goes into `compiled`; `on_step`
    gets the title of each long step when it begins. The container is always removed.

    Raises:
        SmokeFailedError: the image did not pass; the error carries the verdict.
        RecipeError: the recipe's questions prove nothing.
        EngineError: the engine cannot run the image's architecture, or stopped responding.
        DiskError: the log cannot be written.
    """
    check_questions(spec)
    labels, level_facts = dict(image.labels), facts(image, engine)
    launch = launching.launch(image, reference, spec, engine, memory_bytes, host_network=not has_bridge(engine))
    run = SmokeRun(
        name=labels.get("io.jbuild.cell", "smoke"),
        spec=spec,
        launch=launch,
        engine=engine,
        console=console,
        level=level(level_facts),
        emulated=not level_facts.native,
        baseline=baseline or Baseline(),
        sms=labels.get(_SMS_LABEL, ""),
        on_step=on_step,
        emulation=launching.emulation_settings(image, launch) if not level_facts.native else [],
        compiled=compiled or CompiledStore(),
    )
    if run.launch.gpu:
        console.say(f"{run.name}: the container gets the GPU by {run.launch.gpu.described}")
    failed = _run(run, log)
    # A failed probe has a log of its own.
    return _judge(run, image, run.log or log, failed)


def _run(run: SmokeRun, log: Path) -> StepFailedError | None:
    """Run all steps of the image's level; return the failure, or None."""
    try:
        with closing(run.engine.client()) as client:
            if run.level == "emulated-forward":
                check_modules(run, client, log.with_name(f"{log.stem}-modules.log"))
                forward(run, client, log)
                return None
            if run.level == "gpu":
                check_gpu(run, client, log.with_name(f"{log.stem}-probe.log"))
            with started(run, run.launch, client, log) as container:
                serve(run, container)
    except StepFailedError as failed:
        return failed
    except APIError as error:
        message = f"the engine could not start the container: {reason_of(error)}"
        return StepFailedError("start", "not-started", message)
    except (DockerException, RequestException) as error:
        raise EngineError(
            f"lost the connection to the engine during the smoke run: {error}", hint="run `jbuild doctor`"
        ) from error
    return None


def _judge(run: SmokeRun, image: Image, log: Path, failed: StepFailedError | None) -> Verdict:
    """Return the verdict of a passed run.

    Raises:
        SmokeFailedError: the run failed; the error carries the verdict, the usual remedies and the log's end.
    """
    read = read_log(log)
    matches = symptoms_in((*read.lines, *([failed.message] if failed else ())))
    verdict = Verdict(
        level=level(replace(facts(image, run.engine), gpu=run.had_gpu)),
        digest=image.digest,
        passed=failed is None,
        when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        log=log,
        answers=tuple(run.answers),
        ready_s=run.ready_s,
        stop_s=run.stop_s,
        peak_memory_bytes=run.peak_memory_bytes,
        image_bytes=image.size,
        modules=run.modules,
        gpu=run.gpu,
        emulation=tuple(run.emulation),
        compilations=_compilations(run, read),
        symptoms=tuple(symptom.says for symptom in matches),
        warnings=read.errors,
        step=failed.step if failed else None,
        failure=failed.message if failed else None,
    )
    if failed is None:
        for symptom in matches:
            run.console.warn(f"{run.name}: passed, but its log shows: {symptom.says} ({symptom.hint})")
        for line in read.errors:
            run.console.warn(f"{run.name}: passed, but its log has an error: {line}")
        return verdict
    cause = verdict.symptoms[0] if verdict.symptoms else None
    if failed.step == "ready":
        cause = cause or first_exception(read.lines)
    raise SmokeFailedError(
        f"smoke: {failed.message}" + (f": {cause}" if cause else ""),
        verdict=verdict,
        where=image.digest,
        hint=f"{matches[0].hint if matches else failed.hint}; the full log is in {log}",
        log=run.tail,
    )


def _compilations(run: SmokeRun, log: ScannedLog) -> Compilations | None:
    if run.compiled.files is None:
        return None
    return Compilations(files=compiled_files(run.compiled.files), lines=log.compilations)


def check_questions(spec: Spec) -> None:
    """Check that the questions can detect a wrong answer.

    Raises:
        RecipeError: there are no questions, or an empty answer would pass.
    """
    if not spec.smoke.questions:
        raise RecipeError("the recipe has no questions", hint="add `[[smoke.questions]]` with `ask` and `expect`")
    for question in spec.smoke.questions:
        hint = "expect a word that only a right answer contains"
        if not question.expects:
            raise RecipeError(f"the question {question.title!r} has no expectation", hint=hint)
        if question.expect is not None and (problem := value_checks.expectation(question.expect)):
            raise RecipeError(f"`expect` of {question.title!r}: {problem}", hint=hint)
