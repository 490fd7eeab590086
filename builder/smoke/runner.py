"""Runs a built image as its users will, asks it the recipe's questions, and judges.

Every step either goes well or raises `StepFailedError`; the verdict records which.
"""

from __future__ import annotations

import re
import signal
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from docker.errors import APIError, DockerException
from requests import RequestException

from builder.errors import EngineError, RecipeError
from builder.image.runtime import served_name
from builder.jetson import symptoms
from builder.smoke import launch as launching
from builder.smoke.client import Server, ServerError
from builder.smoke.container import Launch, Running, State, running
from builder.smoke.model import Answer, SmokeFailedError, Step, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.console import Console, Task
    from builder.engine import Engine
    from builder.image.model import Image
    from builder.recipe.model import Question, Spec

_POLL_S = 0.5
_STOP_POLL_S = 0.1
# A server that dies of an answer does it at once; its exit takes the engine a moment to see.
_SETTLE_S = 1.0
_SHOWN = 300


class StepFailedError(Exception):
    """A step of the smoke run failed."""

    def __init__(self, step: Step, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.step = step
        self.message = message
        self.hint = hint


@dataclass(slots=True, kw_only=True)
class _Run:
    """One smoke run and what it has found out so far; `name` is its cell's, for people to tell runs apart."""

    name: str
    spec: Spec
    launch: Launch
    engine: Engine
    console: Console
    began: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    ready_s: float | None = None
    stop_s: float | None = None


def smoke(
    image: Image,
    reference: str,
    spec: Spec,
    engine: Engine,
    console: Console,
    *,
    log: Path,
    memory_bytes: int | None = None,
) -> Verdict:
    """Start the image by its own entrypoint, ask it the recipe's questions, end it, and return what was seen.

    `reference` is a name by which the engine can run the image; `log` is where the container's log is kept;
    `memory_bytes` limits the container's memory. The container is always removed.

    Raises:
        SmokeFailedError: the image did not prove itself; the error carries the verdict.
        RecipeError: the recipe's questions cannot tell anything.
        EngineError: the engine cannot run the image's architecture, or went away.
        DiskError: the log cannot be written.
    """
    check_questions(spec)
    launch = launching.launch(image, reference, spec, engine, memory_bytes)
    name = dict(image.labels).get("io.jbuild.cell", "smoke")
    run = _Run(name=name, spec=spec, launch=launch, engine=engine, console=console)
    failed: StepFailedError | None = None
    client = engine.client()
    try:
        with running(client, launch, log) as container:
            try:
                _steps(run, container)
            except StepFailedError as failure:
                failed = failure
            container.settle()
    except APIError as error:
        failed = StepFailedError("start", f"the engine does not start the container: {error.explanation or error}")
        return _judge(run, image, log, None, failed)
    except (DockerException, RequestException) as error:
        raise EngineError(f"the engine went away during the smoke run: {error}", hint="run `jbuild doctor`") from error
    finally:
        client.close()
    return _judge(run, image, log, container, failed)


def check_questions(spec: Spec) -> None:
    """Make sure that the answers can prove something.

    Raises:
        RecipeError: there is no question, or an answer that says nothing would pass.
    """
    if not spec.smoke.questions:
        raise RecipeError("the recipe asks its image nothing", hint="add `[[smoke.questions]]` with `ask` and `expect`")
    for question in spec.smoke.questions:
        try:
            empty = re.search(question.expect, "")
        except re.error as error:
            raise RecipeError(f"`expect` of {question.ask!r} is no regular expression: {error}") from error
        if empty:
            hint = "expect a word that only a right answer holds"
            raise RecipeError(f"every answer to {question.ask!r} would pass, even an empty one", hint=hint)


def _steps(run: _Run, container: Running) -> None:
    run.began = time.monotonic()
    with run.console.task(f"{run.name}: starting the server", unit="") as task:
        server = _wait_until_ready(run, container, task)
        run.ready_s = round(time.monotonic() - run.began, 1)
        run.console.say(f"{run.name}: ready after {run.ready_s:.0f} s")
        _check_health_command(run, container)
    name = _check_models(run, server, container)
    for question in run.spec.smoke.questions:
        with run.console.task(f"{run.name}: {question.ask}", unit="") as task:
            task.note("waiting for the answer")
            run.answers.append(_ask(run, server, name, question, container))
    _check_still_there(server, container)
    with run.console.task(f"{run.name}: stopping the server", unit=""):
        _stop(run, container)


def _wait_until_ready(run: _Run, container: Running, task: Task) -> Server:
    within_s = run.spec.smoke.ready_within_s
    server: Server | None = None
    while True:
        state = container.state()
        if not state.running:
            raise StepFailedError("ready", _ended("the container ended before it was ready", state), _hint(state))
        left_s = run.began + within_s - time.monotonic()
        if left_s <= 0:
            raise StepFailedError("ready", f"the server was not ready within {within_s:.0f} s", _SLOW)
        port = None if server else container.published(run.launch.port)
        if port:
            server = Server(launching.address(run.engine, port), launching.key(run.spec, run.launch))
        if server and server.is_healthy(min(5.0, left_s)):
            return server
        task.note(container.last_line)
        time.sleep(min(_POLL_S, left_s))


def _check_health_command(run: _Run, container: Running) -> None:
    """Run the image's own health check once: an engine that trusts it would otherwise never call the image healthy."""
    argv = container.health_command(run.launch.reference)
    if not argv:
        return
    code, output = container.call(argv)
    if code != 0:
        said = output[-_SHOWN:]
        raise StepFailedError("health check", f"ready, but the image's HEALTHCHECK ends with code {code}: {said}")


def _check_models(run: _Run, server: Server, container: Running) -> str:
    try:
        names = server.models()
    except ServerError as error:
        raise _unanswered("models", str(error), container) from error
    wanted = served_name(run.spec)
    if not names or (wanted and wanted not in names):
        served = ", ".join(names) or "none"
        hint = "check `[server]` served-name and model in the recipe"
        raise StepFailedError("models", f"the server does not serve the model {wanted!r}, but: {served}", hint)
    return wanted or names[0]


def _ask(run: _Run, server: Server, name: str, question: Question, container: Running) -> Answer:
    try:
        answer = server.ask(name, question, run.spec.smoke.answer_within_s)
    except ServerError as error:
        raise _unanswered("question", f"{question.ask!r}: {error}", container) from error
    if not re.search(question.expect, answer.text):
        run.answers.append(answer)
        expected, got = f"expected: {question.expect}", f"got: {answer.text[:_SHOWN]!r}"
        hint = "a wrong answer at temperature 0 means broken kernels, weights or chat template, or a wrong expectation"
        raise StepFailedError("question", f"wrong answer to {question.ask!r}; {expected}; {got}", hint)
    run.console.say(f"{run.name}: {question.ask} -> {answer.text.strip()[:_SHOWN]} ({_pace(answer)})")
    return answer


def _check_still_there(server: Server, container: Running) -> None:
    time.sleep(_SETTLE_S)
    state = container.state()
    if not state.running:
        raise StepFailedError("question", _ended("the container crashed after the answer", state), _hint(state))
    if not server.is_healthy(timeout_s=30):
        raise StepFailedError("question", "the server answered, but /health does not answer any more")


def _stop(run: _Run, container: Running) -> None:
    began, within_s = time.monotonic(), run.spec.smoke.stop_within_s
    container.terminate()
    while (state := container.state()).running:
        if time.monotonic() - began > within_s:
            hint = "PID 1 must handle SIGTERM: start the server with exec, not from a shell"
            raise StepFailedError("stop", f"SIGTERM is ignored: still running {within_s:.0f} s after it", hint)
        time.sleep(_STOP_POLL_S)
    run.stop_s = round(time.monotonic() - began, 1)
    if state.out_of_memory:
        raise StepFailedError("stop", _ended("the container lost a process", state), _hint(state))
    if state.code == 128 + signal.SIGTERM:
        raise StepFailedError("stop", "SIGTERM killed the server (exit code 143): it did not shut down", _UNCLEAN)
    if state.code != 0:
        raise StepFailedError("stop", _ended("SIGTERM did not end the server cleanly", state), _UNCLEAN)


def _unanswered(step: Step, message: str, container: Running) -> StepFailedError:
    """Tell a server that answers badly from one that died while answering."""
    time.sleep(_SETTLE_S)
    state = container.state()
    if state.running:
        return StepFailedError(step, message)
    return StepFailedError(step, _ended(f"the container crashed while it was asked ({message})", state), _hint(state))


_SLOW = "if its log shows that it was still getting on, raise `[smoke]` ready-within in the recipe"
_UNCLEAN = "PID 1 must be the server itself, and end with 0 after SIGTERM"
_MEMORY = (
    "give it more memory, or let it need less: a smaller `max-model-len`, a quantised model, "
    "less KV cache (VLLM_CPU_KVCACHE_SPACE, JBUILD_GPU_MEMORY_UTILIZATION)"
)


def _ended(what: str, state: State) -> str:
    if state.out_of_memory:
        return f"{what}: out of memory, the kernel killed it (exit code {state.code})"
    return f"{what}: {exit_meaning(state.code)}{f' ({state.error})' if state.error else ''}"


def exit_meaning(code: int) -> str:
    """Return an exit code with the signal that it stands for."""
    try:
        return f"exit code {code} ({signal.Signals(code - 128).name})" if code > 128 else f"exit code {code}"  # noqa: PLR2004
    except ValueError:
        return f"exit code {code}"


def _hint(state: State) -> str | None:
    return _MEMORY if state.out_of_memory else None


def _pace(answer: Answer) -> str:
    rate = f", {answer.tokens_per_s:.1f} tokens/s" if answer.tokens_per_s else ""
    first = f", first token after {answer.first_token_s:.1f} s" if answer.first_token_s is not None else ""
    return f"{answer.seconds:.1f} s{first}{rate}"


def _judge(run: _Run, image: Image, log: Path, container: Running | None, failed: StepFailedError | None) -> Verdict:
    lines = [*(container.lines if container else ()), *([failed.message] if failed else ())]
    seen = symptoms.find(lines)
    verdict = Verdict(
        level=launching.level(image, run.engine, container.runtime() if container else ""),
        digest=image.digest,
        passed=failed is None,
        when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        log=log,
        answers=tuple(run.answers),
        ready_s=run.ready_s,
        stop_s=run.stop_s,
        peak_memory_bytes=container.peak_memory_bytes if container else None,
        symptoms=tuple(symptom.says for symptom in seen),
        step=failed.step if failed else None,
        failure=failed.message if failed else None,
    )
    if failed is None:
        for symptom in seen:
            run.console.warn(f"the image passed, but its log says: {symptom.says} ({symptom.hint})")
        return verdict
    advice = list(_advice(failed, seen, log))
    raise SmokeFailedError(
        ": ".join([f"smoke: {failed.message}", *verdict.symptoms[:1]]),
        verdict=verdict,
        where=run.launch.reference,
        hint="; ".join(advice),
        log=container.tail() if container else "",
    )


def _advice(failed: StepFailedError, seen: tuple[symptoms.Symptom, ...], log: Path) -> Iterator[str]:
    if seen:
        yield seen[0].hint
    elif failed.hint:
        yield failed.hint
    yield f"the whole log is {log}"
