"""The steps of a smoke run against a server; a failed step raises `StepFailedError`."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.host.engine.container import temporary_container
from builder.host.wording import printable
from builder.image.runtime import CONDITIONS, served_name
from builder.recipe.levels import usual_start_s
from builder.remote.openai import EXCERPT, ServerError
from builder.smoke import launch as launching
from builder.smoke.ask import WrongAnswerError, ask
from builder.smoke.errors import StepFailedError, ended
from builder.smoke.golden import Golden, compare, find, prompt_of
from builder.smoke.openai_client import ServerUnderTest
from builder.smoke.start_caches import CompiledStore, new_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from docker import DockerClient

    from builder.host.console import Console, Task
    from builder.host.engine.container import WatchedContainer
    from builder.host.engine.docker import Engine
    from builder.model.recipes import Question, Spec
    from builder.model.verdicts import Answer, GpuComputation, Level, Modules, Step
    from builder.smoke.launch import Launch
    from builder.smoke.openai_client import Reply

_POLL_S = 0.5
_STOP_POLL_S = 0.1
# A server that crashes on an answer does so at once; the engine notices its exit a moment later.
_SETTLE_S = 1.0
# A server without output for this share of its time hangs; with output it is slow.
_STILL = 0.5


@dataclass(slots=True, kw_only=True)
class Baseline:
    """The base for comparisons: golden tokens of `model` (a fingerprint), and the last run's seconds to ready.

    If `recorded` is a list, the answers are added to it.
    """

    golden: tuple[Golden, ...] = ()
    model: str = ""
    recorded: list[Golden] | None = None
    usual_start_s: float | None = None


@dataclass(slots=True, kw_only=True)
class SmokeRun:
    """One smoke run and its results so far; `name` is the cell's, for messages.

    `level` is the highest possible one; `emulated` means an emulated processor; the run is compared with `baseline`;
    `sms` are the image's GPU architectures. Each long step is named to `on_step` when it begins; `log` is the file of
    the last container's log; `emulation` is what serves emulation only. What the server compiles goes into
    `compiled`.
    """

    name: str
    spec: Spec
    launch: Launch
    engine: Engine
    console: Console
    level: Level
    emulated: bool = False
    baseline: Baseline = field(default_factory=Baseline)
    sms: str = ""
    on_step: Callable[[str], object] = field(default=lambda _: None)
    log: Path | None = None
    answers: list[Answer] = field(default_factory=list)
    ready_s: float | None = None
    stop_s: float | None = None
    peak_memory_bytes: int | None = None
    had_gpu: bool = False
    tail: str = ""
    modules: Modules | None = None
    gpu: GpuComputation | None = None
    emulation: list[str] = field(default_factory=list)
    compiled: CompiledStore = field(default_factory=CompiledStore)

    @contextmanager
    def step(self, title: str) -> Iterator[Task]:
        """Show a long step while the block runs."""
        self.on_step(title)
        with self.console.task(f"{self.name}: {title}", unit="") as task:
            yield task


@contextmanager
def started(run: SmokeRun, launch: Launch, client: DockerClient, log: Path) -> Iterator[WatchedContainer]:
    """Start a container for the block; at its end, note its peak memory, its GPU and its last log lines."""
    run.log = log
    with temporary_container(client, launch.arguments(), log, launch.files) as container:
        try:
            yield container
        except KeyboardInterrupt:
            run.console.note(f"{run.name}: interrupted; removing the container")
            raise
        finally:
            container.settle()
            peaks = [peak for peak in (run.peak_memory_bytes, container.log.peak_memory_bytes) if peak]
            run.peak_memory_bytes = max(peaks, default=None)
            run.had_gpu, run.tail = container.has_gpu(), container.log.tail()


def serve(run: SmokeRun, container: WatchedContainer) -> None:
    """Run all steps, from the server's start to its end.

    Raises:
        StepFailedError: a step failed.
    """
    with run.step("starting the server") as task:
        server = _wait_until_ready(run, container, task)
        _check_health_command(run, container)
        if run.compiled.keep:
            run.compiled.conditions = _conditions(container)
    if run.spec.smoke.api_key:
        with _answering("api key", "open-to-all", container):
            server.check_refusal()
    with _answering("models", "refused", container):
        names = [model.name for model in server.models()]
    name = _offered_model(run, names)
    for question in run.spec.smoke.questions:
        with run.step(question.title) as task:
            task.note("waiting for the answer")
            _ask(run, server, name, question, container)
    _check_still_there(server, container)
    with _answering("metrics", "bad-metrics", container):
        server.metrics()
    with run.step("stopping the server"):
        _stop(run, container)
    with run.step("reading what the server compiled"):
        _read_caches(run, container)


def _read_caches(run: SmokeRun, container: WatchedContainer) -> None:
    try:
        run.compiled.files = new_files(container, run.compiled.keep)
    except JbuildError as error:
        # The server has passed: only the count is missing.
        run.console.warn(f"{run.name}: {error.message}")


def _wait_until_ready(run: SmokeRun, container: WatchedContainer, task: Task) -> ServerUnderTest:
    began, within_s = time.monotonic(), run.spec.smoke.ready_within_s
    note = patience(run)
    if note:
        run.console.say(f"{run.name}: starting the server; {note}")
    server: ServerUnderTest | None = None
    while True:
        state = container.state()
        if not state.running:
            message = "the container ended before it was ready"
            raise ended("ready", "ended-early" if state.code else "ended-well-early", message, state)
        left_s = began + within_s - time.monotonic()
        if left_s <= 0:
            raise _never_ready(within_s, container)
        port = None if server else container.published(run.launch.port)
        if port:
            server = ServerUnderTest(url=launching.address(run.engine, port), key=launching.key(run.spec, run.launch))
        if server and server.is_healthy(min(5.0, left_s)):
            run.ready_s = round(time.monotonic() - began, 1)
            run.console.say(f"{run.name}: ready after {run.ready_s:.0f} s")
            return server
        beyond = note and time.monotonic() > began + _expected_s(run)
        task.note(_progress(container, f"jbuild gives up after {_minutes(within_s)}" if beyond else note))
        time.sleep(min(_POLL_S, left_s))


def patience(run: SmokeRun) -> str:
    """Return a note on the expected minutes of waiting; empty if it takes seconds."""
    expected_s = _expected_s(run)
    if run.baseline.usual_start_s:
        return f"last time it took {_minutes(expected_s)}"
    return f"under emulation this usually takes about {_minutes(expected_s)}" if expected_s else ""


def _expected_s(run: SmokeRun) -> float:
    return run.baseline.usual_start_s or (usual_start_s(run.level) if run.emulated else 0)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"  # noqa: PLR2004  # shorter times are in seconds


def _progress(container: WatchedContainer, note: str) -> str:
    """Return the log's last line while it is new, then the seconds without a new one."""
    if container.log.silent_s < 2 * _POLL_S:
        return container.log.last_line
    still = f"nothing new in its log for {container.log.silent_s:.0f} s"
    return f"{still}; {note}" if note else still


def _never_ready(within_s: float, container: WatchedContainer) -> StepFailedError:
    message, silent_s = f"the server was not ready within {within_s:.0f} s", container.log.silent_s
    if silent_s > within_s * _STILL:
        return StepFailedError("ready", "hung-start", f"{message}, and it logged nothing for {silent_s:.0f} s")
    return StepFailedError("ready", "slow-start", f"{message}, but it still logs: last line {silent_s:.0f} s ago")


def _check_health_command(run: SmokeRun, container: WatchedContainer) -> None:
    """Run the image's own health check once: if it fails, an engine never reports the image as healthy."""
    argv = container.health_command(run.launch.reference)
    if not argv:
        return
    code, stdout, stderr = container.execute(argv)
    if code != 0:
        output = (stdout + stderr).decode(errors="replace").strip()
        message = f"ready, but the image's HEALTHCHECK exited with code {code}: {output[-EXCERPT:]}"
        raise StepFailedError("health check", "unhealthy", message)


def _conditions(container: WatchedContainer) -> str:
    """Return the conditions of the server's start, as the image's own script prints them."""
    code, stdout, stderr = container.execute(CONDITIONS)
    if code != 0:
        output = (stdout + stderr).decode(errors="replace").strip()
        message = f"the conditions of the start cannot be read: {CONDITIONS[-1]} exited with code {code}"
        raise StepFailedError("ready", "unknown-conditions", f"{message}: {output[-EXCERPT:]}")
    return stdout.decode().strip()


def _offered_model(run: SmokeRun, names: list[str]) -> str:
    """Return the name of the model to ask; the server must serve it."""
    expected = served_name(run.spec)
    if not names or (expected and expected not in names):
        served = ", ".join(names) or "none"
        raise StepFailedError(
            "models", "wrong-model", f"the server does not serve the model {expected!r}; it serves: {served}"
        )
    return expected or names[0]


def _ask(run: SmokeRun, server: ServerUnderTest, name: str, question: Question, container: WatchedContainer) -> None:
    try:
        reply = ask(server, name, question, run.spec.smoke.answer_within_s, logprobs=wants_logprobs(run, question))
    except ServerError as error:
        fault = "hung-answer" if error.timed_out else "refused"
        raise _unanswered("question", fault, f"{question.title!r}: {error}", container) from error
    except WrongAnswerError as error:
        run.answers.append(error.answer)
        raise StepFailedError("question", "wrong-answer", f"wrong answer to {question.title!r}; {error}") from error
    accept(run, question, reply, "question")


def wants_logprobs(run: SmokeRun, question: Question) -> bool:
    """Return whether an answer needs log-probabilities, to record or compare it."""
    return run.baseline.recorded is not None or find(run.baseline.golden, question, run.baseline.model) is not None


def accept(run: SmokeRun, question: Question, reply: Reply, step: Step) -> None:
    """Store a right answer, and compare it with the golden one or record it.

    Raises:
        StepFailedError: the answer differs from the golden one.
    """
    golden = find(run.baseline.golden, question, run.baseline.model)
    agreement = compare(golden, reply.tokens, run.spec.smoke.golden_tolerance) if golden else None
    answer = replace(reply.answer, golden=agreement)
    run.answers.append(answer)
    if agreement and agreement.difference:
        message = f"the answer to {question.title!r} differs from the golden one: {agreement.difference}"
        raise StepFailedError(step, "not-golden", message)
    alike = f", {agreement.tokens} tokens as recorded" if agreement else ""
    # An answer may contain terminal escapes.
    excerpt = printable(" ".join(answer.text.split()))
    run.console.say(f"{run.name}: {question.title} -> {excerpt} ({_pace(answer)}{alike})")
    if run.baseline.recorded is not None and reply.tokens:
        source = f"level {run.level}, {datetime.now(timezone.utc).date()}, cell {run.name}"
        prompt, model = prompt_of(question), run.baseline.model
        recorded = Golden(prompt=prompt, model=model, title=question.title, source=source, tokens=reply.tokens)
        run.baseline.recorded.append(recorded)


def _check_still_there(server: ServerUnderTest, container: WatchedContainer) -> None:
    time.sleep(_SETTLE_S)
    state = container.state()
    if not state.running:
        raise ended("question", "crashed", "the container crashed after the answer", state)
    if not server.is_healthy(within_s=30):
        message = "the server answered, but /health no longer does"
        raise StepFailedError("question", "out-of-memory" if state.out_of_memory else "crashed", message)


def _stop(run: SmokeRun, container: WatchedContainer) -> None:
    began, within_s = time.monotonic(), run.spec.smoke.stop_within_s
    container.terminate()
    while (state := container.state()).running:
        if time.monotonic() - began > within_s:
            message = f"the server ignored SIGTERM: still running after {within_s:.0f} s"
            raise StepFailedError("stop", "ignores-sigterm", message)
        time.sleep(_STOP_POLL_S)
    run.stop_s = round(time.monotonic() - began, 1)
    if state.out_of_memory:
        raise ended("stop", "out-of-memory", "the container lost a process", state)
    if state.code == 128 + signal.SIGTERM:
        message = "SIGTERM killed the server (exit code 143) before it shut down"
        raise StepFailedError("stop", "unclean-end", message)
    if state.code != 0:
        raise ended("stop", "unclean-end", "the server did not exit cleanly on SIGTERM", state)


@contextmanager
def _answering(step: Step, fault: str, container: WatchedContainer) -> Iterator[None]:
    """Turn an error of the server into a failure of a step."""
    try:
        yield
    except ServerError as error:
        raise _unanswered(step, fault, str(error), container) from error


def _unanswered(step: Step, fault: str, message: str, container: WatchedContainer) -> StepFailedError:
    """Return the failure of a request; it distinguishes a bad answer from a crash or a killed process."""
    time.sleep(_SETTLE_S)
    state = container.state()
    if not state.running:
        return ended(step, "crashed", f"the container crashed during the request ({message})", state)
    if state.out_of_memory:
        fault, message = "out-of-memory", f"{message}: out of memory, the kernel killed one of its processes"
    return StepFailedError(step, fault, message)


def _pace(answer: Answer) -> str:
    rate = f", {answer.tokens_per_s:.1f} tokens/s" if answer.tokens_per_s else ""
    first = f", first token after {answer.first_token_s:.1f} s" if answer.first_token_s is not None else ""
    times = f"{answer.at_once} at once, " if answer.at_once > 1 else ""
    return f"{times}{answer.seconds:.1f} s{first}{rate}"
