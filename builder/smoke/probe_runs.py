"""Runs probes inside an image: checks beside, or without, its server."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from builder.audit.rule_tables import tables
from builder.host import records
from builder.image.runtime import MODELS, served_model
from builder.model.images import ENVIRONMENT
from builder.model.verdicts import FailedModule, GpuComputation, Modules, Token
from builder.remote.openai import EXCERPT
from builder.smoke.ask import unmet
from builder.smoke.errors import StepFailedError, ended
from builder.smoke.openai_client import Reply, measured_answer
from builder.smoke.probe import MARK, script
from builder.smoke.steps import accept, patience, started

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from docker import DockerClient

    from builder.host.console import Task
    from builder.host.engine.container import WatchedContainer
    from builder.model.recipes import Waiver
    from builder.model.verdicts import Step
    from builder.smoke.steps import SmokeRun

_POLL_S = 0.5
# The audit's rules about modules that do not load; a waiver accepts that.
_LOADING = ("missing-library", "symbol-version", "undefined-symbol")
_SHOWN_MODULES = 3
# The step of each probe, and its title.
_PROBES: dict[str, tuple[Step, str]] = {
    "gpu": ("gpu", "computing on the GPU"),
    "extensions": ("modules", "loading every extension module"),
    "forward": ("forward", "running the model on the CPU"),
}


def check_gpu(run: SmokeRun, client: DockerClient, log: Path) -> None:
    """Check that torch computes the same numbers on the GPU as on the CPU.

    Raises:
        StepFailedError: the numbers differ, or the image is for other GPUs.
    """
    report = _probe(run, client, log, "gpu", "--sms", run.sms)
    run.gpu = GpuComputation(
        device=str(report.get("device", "")),
        sm=str(report.get("sm", "")),
        arch_list=tuple(report.get("arch_list", ())),
        errors=tuple((check["name"], check["error"]) for check in report["checks"]),
    )
    problems = "; ".join(report["problems"][:_SHOWN_MODULES])
    if not run.gpu.device:
        raise StepFailedError("gpu", "no-gpu", problems)
    if not report["checks"]:
        raise StepFailedError("gpu", "other-gpu", problems)
    if problems:
        raise StepFailedError("gpu", "wrong-gpu", problems)
    run.console.say(f"{run.name}: {run.gpu.device} (SM {run.gpu.sm}) gives the CPU's numbers")


def check_modules(run: SmokeRun, client: DockerClient, log: Path) -> None:
    """Check that every extension module of the image loads, as far as possible without a GPU's driver.

    Raises:
        StepFailedError: a module does not load.
    """
    libraries = (library for row in tables().injected for library in row.libraries)
    options = [word for library in libraries for word in ("--driver", library)]
    report = _probe(run, client, log, "extensions", *options)
    failed = [FailedModule(file=module["file"], lacks=module["error"]) for module in report["broken"]]
    run.modules = Modules(
        loaded=report["loaded"],
        need_driver=tuple(FailedModule(file=module["file"], lacks=module["library"]) for module in report["driver"]),
        optional=tuple(module for module in failed if _may_fail(module.file, run.spec.waivers)),
        broken=tuple(module for module in failed if not _may_fail(module.file, run.spec.waivers)),
    )
    lacking = ", ".join(sorted({module.lacks for module in run.modules.need_driver}))
    apart = f"; {len(run.modules.need_driver)} need the GPU's driver ({lacking})" if lacking else ""
    spare = f"; {len(run.modules.optional)} optional ones do not" if run.modules.optional else ""
    run.console.say(f"{run.name}: {run.modules.loaded} extension modules load{apart}{spare}")
    if run.modules.broken:
        failures = "; ".join(f"{module.file}: {module.lacks}" for module in run.modules.broken[:_SHOWN_MODULES])
        message = f"{len(run.modules.broken)} extension modules do not load, among them {failures}"
        raise StepFailedError("modules", "broken-module", message)


def forward(run: SmokeRun, client: DockerClient, log: Path) -> None:
    """Run the baked model with the image's own torch and transformers, on the CPU, and check its answers.

    Raises:
        StepFailedError: the model does not answer, or an answer is wrong.
    """
    model, questions = served_model(run.spec), run.spec.smoke.questions
    if note := patience(run):
        run.console.say(f"{run.name}: the model answers without a server; {note}")
    prompts = [
        {"messages": records.to_json(item.messages), "prompt": item.prompt, "max_tokens": item.max_tokens}
        for item in questions
    ]
    request = {"model": f"{MODELS}/{model.name}" if model else "", "questions": prompts}
    report = _probe(run, client, log, "forward", json.dumps(request))
    run.ready_s = round(report["load_s"], 1)
    for question, generated in zip(questions, report["answers"], strict=True):
        reply = _reply(question.title, generated)
        # Only a server guides the output, so the schema does not apply.
        problem = unmet(replace(question, schema=None), reply)
        if problem:
            run.answers.append(reply.answer)
            raise StepFailedError("forward", "wrong-answer", f"wrong answer to {question.title!r}; {problem}")
        accept(run, question, reply, "forward")


def _reply(title: str, generated: dict[str, Any]) -> Reply:
    tokens = tuple(
        Token(text=token["text"], logprob=token["logprob"], top=tuple((name, value) for name, value in token["top"]))
        for token in generated["tokens"]
    )
    seconds, first_s = generated["seconds"], generated["first_token_s"]
    times_s = () if first_s is None else (first_s, seconds)
    answer = measured_answer(title, generated["text"], len(tokens), seconds, times_s)
    return Reply(answer=answer, tokens=tokens, chunks=len(tokens))


def _probe(run: SmokeRun, client: DockerClient, log: Path, name: str, *arguments: str) -> dict[str, Any]:
    """Run a probe in its own container and return its report."""
    step, title = _PROBES[name]
    command = (f"{ENVIRONMENT}/bin/python", f"/{script(name).name}", *arguments)
    launch = replace(run.launch, command=command, files=(script(name),))
    with (
        run.step(title) as task,
        started(run, launch, client, log) as container,
    ):
        _wait(run, container, step, task)
        results = [line[len(MARK) :] for line in container.output().splitlines() if line.startswith(MARK)]
        state = container.state()
    if not results:
        message = f"the image's Python could not run the probe: {container.log.last_line[:EXCERPT]}"
        raise ended(step, "no-probe", message, state)
    return dict(json.loads(results[-1]))


def _wait(run: SmokeRun, container: WatchedContainer, step: Step, task: Task) -> None:
    smoke = run.spec.smoke
    within_s = smoke.ready_within_s + smoke.answer_within_s * len(smoke.questions)
    ends_at = time.monotonic() + within_s
    while container.state().running:
        if time.monotonic() > ends_at:
            raise StepFailedError(step, "slow-start", f"the probe did not end within {within_s:.0f} s")
        silent_s = container.log.silent_s
        task.note(container.log.last_line if silent_s < 2 * _POLL_S else f"busy for {silent_s:.0f} s")
        time.sleep(_POLL_S)


def _may_fail(file: str, waivers: Sequence[Waiver]) -> bool:
    """Return whether a module may fail to load, by the audit's table or by a waiver."""
    globs = [row.file for row in tables().optional]
    globs += [row.file for row in waivers if row.rule in _LOADING and row.file != "*"]
    return any(fnmatchcase(file, glob) for glob in globs)
