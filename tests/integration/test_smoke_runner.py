"""The smoke runner against real containers that behave and misbehave."""

from __future__ import annotations

import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder.errors import RecipeError
from builder.host import records
from builder.host.console import Console
from builder.host.engine.temporary import LABEL
from builder.model.images import Descriptor, Image
from builder.model.recipes import Message, Model, PublishSpec, Question, ServerSpec, SmokeSpec, Spec
from builder.model.verdicts import SmokeFailedError, Verdict
from builder.smoke.smoke_run import smoke

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker import DockerClient

    from builder.host.engine.docker import Engine

STAND_IN = Path(__file__).with_name("smoke_stand_in.py")
BASE = "stand-in/debian-amd64:bookworm-slim"
CA = "/etc/ssl/certs/ca-certificates.crt"
PYTHON_IMAGE = f"""\
# syntax-free: no image can be pulled for a front end
FROM {{base}}
RUN --mount=type=secret,id=ca,target={CA} apt-get update -qq \\
 && apt-get install -y -qq --no-install-recommends python3-minimal libpython3-stdlib
"""
SERVER_IMAGE = """\
FROM jbuild-test/python:1
COPY server.py /server.py
# The interpreter where images of ours have it, with two extension modules: one of them wants the GPU's driver.
RUN site=$(python3 -c "import sysconfig; print(sysconfig.get_path('purelib'))") && mkdir -p "$site" /opt/venv/bin \\
 && ln -s /usr/bin/python3 /opt/venv/bin/python \\
 && cp /usr/lib/python3*/lib-dynload/_hashlib.*.so "$site" && cd "$site" && for file in _hashlib.*; do \\
    sed 's/libcrypto.so.3/libcuda.so.1\\x00\\x00/' "$file" > "gpu_${file#_}"; done
ENTRYPOINT ["/usr/bin/python3", "/server.py"]
HEALTHCHECK CMD ["/usr/bin/python3", "-c", "import os, sys; sys.exit(os.environ.get('STAND_IN_FAULT') == 'unhealthy')"]
"""


@pytest.fixture(scope="session")
def client(engine: Engine) -> Iterator[DockerClient]:
    client = engine.client()
    yield client
    client.close()


def buildx(engine: Engine, folder: Path, tag: str, *more: str) -> None:
    argv = ["docker", "buildx", "build", "--platform=linux/amd64", "--provenance=false", "--load", f"--tag={tag}"]
    subprocess.run(
        [*argv, *more, str(folder)], check=True, env={**os.environ, **engine.environment()}, capture_output=True
    )


@pytest.fixture(scope="session")
def stand_in(engine: Engine, client: DockerClient, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build the stand-in's image once for each version of its file."""
    if engine.architecture != "amd64":
        pytest.skip("the stand-in's base image is amd64")
    text = STAND_IN.read_text()
    tag = "jbuild-test/openai-stand-in:" + hashlib.sha256((text + SERVER_IMAGE).encode()).hexdigest()[:12]
    if client.images.list(name=tag):
        return tag
    folder = tmp_path_factory.mktemp("stand-in")
    if not client.images.list(name="jbuild-test/python:1"):
        names = (name for image in client.api.images() for name in image["RepoTags"] or ())
        bases = [name for name in names if name.endswith(BASE)]
        if not bases:
            pytest.skip("no amd64 base image: run `scripts/engine base --arch amd64`")
        (folder / "Dockerfile").write_text(PYTHON_IMAGE.format(base=bases[0]))
        buildx(engine, folder, "jbuild-test/python:1", f"--secret=id=ca,src={CA}")
    (folder / "Dockerfile").write_text(SERVER_IMAGE)
    (folder / "server.py").write_text(text)
    buildx(engine, folder, tag)
    return tag


@pytest.fixture
def image(client: DockerClient, stand_in: str) -> Image:
    digest = str(client.images.get(stand_in).id)
    blob = Descriptor(media_type="application/vnd.oci.image.manifest.v1+json", digest=digest, size=1)
    return Image(platform="linux/amd64", manifest=blob, config=blob, layers=(), labels=())


@pytest.fixture(autouse=True)
def nothing_left(client: DockerClient, stand_in: str) -> Iterator[None]:
    yield
    assert containers(client, stand_in) == []


def containers(client: DockerClient, image: str) -> list[str]:
    found = client.containers.list(all=True, filters={"label": LABEL, "ancestor": image}, ignore_removed=True)
    return [str(container.name) for container in found]


def spec(
    fault: str = "",
    *,
    ready: float = 20,
    answer: float = 10,
    stop: float = 20,
    questions: tuple[Question, ...] = (Question(ask="What is the capital of France?", expect="Paris"),),
    **environment: str,
) -> Spec:
    return Spec(
        models=(Model(name="tiny", source="./tiny"),),
        server=ServerSpec(model="tiny"),
        smoke=SmokeSpec(
            questions=questions,
            ready_within_s=ready,
            answer_within_s=answer,
            stop_within_s=stop,
            environment=(("STAND_IN_FAULT", fault), *environment.items()),
        ),
        publish=PublishSpec(repository="test"),
    )


PARIS = "The capital of France is Paris."
EVERY_KIND = (
    Question(ask="And whole?", text=PARIS, also_whole=True),
    Question(prompt="Once upon a time", tokens=("The capital of France ", "is "), min_tokens=3),
    Question(
        chat=(Message(role="system", content="Answer in JSON."), Message(role="user", content="Where?")),
        schema='{"type": "object", "properties": {"city": {"const": "Paris"}}, "required": ["city"]}',
    ),
    Question(ask="At once?", expect="Paris", at_once=4),
)


class Runner:
    def __init__(self, image: Image, reference: str, engine: Engine, log: Path) -> None:
        self.image, self.reference, self.engine, self.log = image, reference, engine, log

    def __call__(self, wanted: Spec, memory_bytes: int | None = None) -> Verdict:
        quiet = Console(quiet=True)
        return smoke(self.image, self.reference, wanted, self.engine, quiet, log=self.log, memory_bytes=memory_bytes)

    def failure(self, wanted: Spec, memory_bytes: int | None = None) -> SmokeFailedError:
        with pytest.raises(SmokeFailedError) as caught:
            self(wanted, memory_bytes)
        assert caught.value.exit_code == 10
        assert not caught.value.verdict.passed
        # The extension modules are loaded in a container of their own.
        log = self.log.with_name("smoke-modules.log") if caught.value.verdict.step == "modules" else self.log
        assert f"the full log is in {log}" in (caught.value.hint or "")
        assert log.is_file()
        return caught.value


@pytest.fixture
def run(image: Image, stand_in: str, engine: Engine, tmp_path: Path) -> Runner:
    return Runner(image, stand_in, engine, tmp_path / "logs" / "smoke.log")


def test_a_good_image_passes_and_is_measured(run: Runner, image: Image, tmp_path: Path) -> None:
    verdict = run(spec())
    assert verdict.passed
    assert verdict.level == "cpu"
    assert verdict.digest == image.digest
    (answer,) = verdict.answers
    assert answer.text == "The capital of France is Paris."
    assert answer.tokens == 3
    assert answer.first_token_s is not None
    # The stand-in's pauses are the least that can be measured; a busy machine adds to them.
    assert 0.04 < answer.first_token_s < answer.seconds
    assert answer.tokens_per_s is not None
    assert answer.tokens_per_s > 0
    assert verdict.ready_s is not None
    assert verdict.stop_s is not None
    assert verdict.peak_memory_bytes is None or 1e6 < verdict.peak_memory_bytes < 1e9
    assert verdict.symptoms == ()
    assert verdict.emulation == ()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", verdict.when)
    assert "temperature 0 stream True" in run.log.read_text()
    records.write(tmp_path / "smoke.json", "f", verdict)
    assert records.read(tmp_path / "smoke.json", "f", Verdict) == verdict


def test_proxies_and_netrc_are_not_used(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert run(spec()).passed


def test_port_and_key_of_the_recipe_are_used(run: Runner) -> None:
    assert run(spec(JBUILD_PORT="9123", VLLM_API_KEY="secret")).passed


@pytest.mark.parametrize(
    ("fault", "step", "message"),
    [
        ("exits", "ready", r"ended before it was ready: exit code 3: .*needs libnuma"),
        ("ends-well", "ready", r"ended before it was ready: exit code 0$"),
        ("open-to-all", "api key", r"without a key, /v1/models answers with status 200, not 401"),
        ("bad-metrics", "metrics", r"/metrics returned no Prometheus samples: 'no samples here'"),
        ("unhealthy", "health check", r"HEALTHCHECK exited with code 1"),
        ("wrong-name", "models", r"does not serve the model 'tiny'; it serves: other"),
        ("refuses", "question", r"status 500: .*EngineCore encountered an issue"),
        ("garbage", "question", r"wrong answer to .*; expected: Paris; got: 'x9\$ zzz'"),
        ("cuts-stream", "question", r"stream ended before it was complete"),
        ("crashes-while-answering", "question", r"crashed during the request .*exit code 139 \(SIGSEGV\)"),
        ("crashes-after-answer", "question", r"crashed after the answer: exit code 7"),
        ("ignores-term", "stop", r"the server ignored SIGTERM: still running after 2 s"),
        ("unclean-stop", "stop", r"the server did not exit cleanly on SIGTERM: exit code 5"),
        ("killed-by-term", "stop", r"SIGTERM killed the server \(exit code 143\)"),
    ],
)
def test_each_fault_has_its_own_message(run: Runner, fault: str, step: str, message: str) -> None:
    error = run.failure(spec(fault, stop=2 if fault == "ignores-term" else 20))
    assert error.verdict.step == step
    assert re.search(message, error.message)
    assert error.log is not None
    assert "stand-in starting" in error.log
    assert "\x1b" not in error.log


def test_all_kinds_of_questions_and_expectations(run: Runner) -> None:
    verdict = run(spec(questions=EVERY_KIND))
    assert [answer.text for answer in verdict.answers] == [PARIS, PARIS, '{"city": "Paris"}', PARIS]
    assert verdict.answers[3].at_once == 4
    assert verdict.answers[3].tokens == 12
    said = run.log.read_text()
    assert said.count("stream False") == 1, "the answer that is wanted whole too"
    assert said.count("'At once?'") == 4


def test_a_cuda_image_without_a_gpu_is_probed(run: Runner, image: Image) -> None:
    run.image = replace(image, labels=(("io.jbuild.cuda", "12.6"),))
    error = run.failure(spec())
    verdict = error.verdict
    assert verdict.level == "emulated-forward", "without a GPU a CUDA image's server does not start"
    assert verdict.modules is not None
    assert verdict.modules.loaded >= 1
    (driver,) = verdict.modules.need_driver
    assert driver.lacks == "libcuda.so.1"
    assert driver.file.startswith("gpu_hashlib.")
    assert verdict.modules.broken == ()
    assert verdict.step == "forward"
    assert re.search(
        r"could not run the probe: ModuleNotFoundError: No module named 'torch'.*exit code 1", error.message
    )
    records.write(run.log.with_name("smoke.json"), "f", verdict)
    assert records.read(run.log.with_name("smoke.json"), "f", Verdict) == verdict


def test_a_broken_extension_module_is_named(run: Runner, image: Image, client: DockerClient) -> None:
    container = client.containers.create(run.reference)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("wheel/_C.abi3.so")
        archive.addfile(entry)
    container.put_archive("/usr/local/lib/python3.11/dist-packages", packed.getvalue())
    broken = container.commit(repository="jbuild-test/broken", tag="2")
    container.remove()
    run.image, run.reference = replace(image, labels=(("io.jbuild.cuda", "12.6"),)), "jbuild-test/broken:2"
    try:
        error = run.failure(spec())
    finally:
        client.images.remove(str(broken.id), force=True)
    assert error.verdict.step == "modules"
    assert re.search(r"1 extension modules do not load, among them wheel/_C.abi3.so: .*file too short", error.message)
    assert "jbuild audit" in (error.hint or "")


def test_what_streams_otherwise_than_it_answers(run: Runner) -> None:
    error = run.failure(spec("streams-otherwise", questions=EVERY_KIND[:1]))
    assert "expected the same text without streaming" in error.message


def test_errors_in_the_log_of_a_run_that_passes_are_told(run: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = run(spec("error-in-log"))
    assert verdict.passed
    assert verdict.warnings == ("(EngineCore pid=7) ERROR 11-24 10:00:00 [core.py:12] a block was freed twice",)
    assert "passed, but its log has an error: (EngineCore" in capsys.readouterr().err


def test_a_process_lost_for_want_of_memory(run: Runner) -> None:
    error = run.failure(spec("loses-child"), memory_bytes=64 << 20)
    assert error.verdict.step == "question"
    assert "the kernel killed one of its processes" in error.message
    assert "more memory" in (error.hint or "")


def test_a_start_that_stands_still_and_one_that_is_slow(run: Runner) -> None:
    still = run.failure(spec("hangs-at-start", ready=8))
    assert re.search(r"not ready within 8 s, and it logged nothing for \d s", still.message)
    slow = run.failure(spec("never-ready", ready=8))
    assert re.search(r"not ready within 8 s, but it still logs: last line \d s ago", slow.message)
    assert "ready-within-s" in (slow.hint or "")
    assert "ready-within-s" not in (still.hint or "")


def test_a_known_symptom_gives_the_hint(run: Runner) -> None:
    error = run.failure(spec("exits"))
    assert "add libnuma1" in (error.hint or "")
    assert error.verdict.symptoms == ("vLLM's extension for the CPU needs libnuma, which no wheel contains",)


def test_a_wrong_answer_is_kept_in_the_verdict(run: Runner) -> None:
    error = run.failure(spec("garbage"))
    assert [answer.text for answer in error.verdict.answers] == ["x9$ zzz"]


def test_a_model_that_hangs(run: Runner) -> None:
    error = run.failure(spec("hangs", answer=5))
    assert error.verdict.step == "question"
    assert "the answer was incomplete after 5 s" in error.message
    assert "answer-within-s" in (error.hint or "")


def test_a_slow_answer_that_exceeds_its_time_although_it_moves(run: Runner) -> None:
    error = run.failure(spec("endless", answer=5))
    assert "no complete answer within 5 s" in error.message


def test_out_of_memory_while_answering(run: Runner) -> None:
    error = run.failure(spec("out-of-memory", answer=20), memory_bytes=64 << 20)
    assert error.verdict.step == "question"
    assert "out of memory" in error.message
    assert "more memory" in (error.hint or "")


def test_out_of_memory_at_start(run: Runner) -> None:
    error = run.failure(spec("out-of-memory-at-start"), memory_bytes=64 << 20)
    assert error.verdict.step == "ready"
    assert "out of memory" in error.message


def test_an_entrypoint_that_does_not_exist(run: Runner, client: DockerClient) -> None:
    container = client.containers.create(run.reference, entrypoint=["/no/such/program"])
    broken = container.commit(repository="jbuild-test/broken", tag="1", changes='ENTRYPOINT ["/no/such/program"]')
    container.remove()
    run.reference = "jbuild-test/broken:1"
    try:
        error = run.failure(spec())
    finally:
        client.images.remove(str(broken.id), force=True)
    assert error.verdict.step == "start"
    assert "/no/such/program" in error.message


def test_an_image_that_is_not_there(run: Runner) -> None:
    run.reference = "jbuild-test/absent:1"
    assert "absent" in run.failure(spec()).message


@pytest.mark.parametrize("expect", ["", "Paris|", "(", ".*"])
def test_a_question_that_proves_nothing_is_refused(run: Runner, expect: str) -> None:
    with pytest.raises(RecipeError):
        run(spec(questions=(Question(ask="?", expect=expect),)))


def test_a_recipe_without_questions_is_refused(run: Runner) -> None:
    with pytest.raises(RecipeError):
        run(spec(questions=()))


INTERRUPTED = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {here!r}]
from builder.host.engine.docker import find_engine
from builder.host.paths import Workspace
from test_smoke_runner import *
# As builder.cli does.
signal.signal(signal.SIGTERM, signal.default_int_handler)
engine = find_engine(Workspace.current())
blob = Descriptor(media_type="m", digest="sha256:0", size=1)
image = Image(platform="linux/amd64", manifest=blob, config=blob, layers=(), labels=())
smoke(image, {reference!r}, spec("never-ready", ready=60), engine, Console(), log=Path({log!r}))
"""


# A killed process leaves its container to the next jbuild, which may be that of another test.
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.alone)]
)
def test_interrupted_runs_leave_no_container(run: Runner, client: DockerClient, number: signal.Signals) -> None:
    here = Path(__file__).parent
    text = INTERRUPTED.format(root=str(here.parents[1]), here=str(here), reference=run.reference, log=str(run.log))
    with subprocess.Popen([sys.executable, "-c", text], stderr=subprocess.PIPE, cwd=here.parents[1]) as child:
        while not (run.log.exists() and b"ready" in run.log.read_bytes()):
            assert child.poll() is None, child.stderr and child.stderr.read()
            time.sleep(0.1)
        child.send_signal(number)
        assert child.wait(20) != 0
    if number == signal.SIGKILL:
        assert containers(client, run.reference), "nobody could remove it"
        assert run(spec()).passed, "the next run removes it"
