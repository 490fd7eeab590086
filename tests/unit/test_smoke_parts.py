"""The pure parts of the smoke room: verdicts as records, launching, levels, exit codes, memory, the tar stream."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from engine_factory import make_engine
from servers import make_image

from builder.errors import EngineError, RecipeError, SmokeError, UsageError
from builder.host import records
from builder.host.engine.container import ContainerState, used_memory
from builder.host.engine.docker import Engine
from builder.host.engine.gpu_access import BY_RUNTIME
from builder.image.oci.engine_load import stream
from builder.image.oci.layout import absent_blobs, image_blobs
from builder.model.images import Descriptor, Image
from builder.model.recipes import Model, Question, ServerSpec, SmokeSpec, Spec
from builder.model.verdicts import Answer, SmokeFailedError, Verdict
from builder.smoke import launch as launching
from builder.smoke.errors import StepFailedError, ended, exit_meaning, faults, first_exception
from builder.smoke.launch import LevelFacts, facts, level
from builder.smoke.level_check import require_level
from builder.smoke.smoke_run import check_questions

ENGINE = make_engine(runtimes=("nvidia", "runc"), gpu=BY_RUNTIME)
WITHOUT_GPU = dataclasses.replace(ENGINE, runtimes=("runc",), gpu=None)
JETSON = dataclasses.replace(ENGINE, architecture="arm64", emulated=())
REMOTE = dataclasses.replace(ENGINE, endpoint="tcp://box.example:2375", docker_host="tcp://box.example:2375")
OPEN = Spec(smoke=SmokeSpec(api_key=False))
VERDICT = Verdict(
    level="emulated",
    digest="sha256:1",
    passed=False,
    when="2026-01-01T00:00:00+00:00",
    log=Path("/logs/smoke.log"),
    answers=(Answer(question="q", text="a\n\u2026", seconds=1.5, tokens=3, first_token_s=1, tokens_per_s=None),),
    ready_s=3,
    symptoms=("full",),
    step="stop",
    failure="ignored",
)


def image(platform: str = "linux/arm64", **labels: str) -> Image:
    blob = Descriptor(media_type="m", digest="sha256:0", size=1)
    pairs = tuple((name.replace("_", "."), value) for name, value in labels.items())
    return Image(platform=platform, manifest=blob, config=blob, layers=(), labels=pairs)


@pytest.mark.parametrize("verdict", [VERDICT, dataclasses.replace(VERDICT, answers=(), peak_memory_bytes=1, step=None)])
def test_a_verdict_survives_its_record(tmp_path: Path, verdict: Verdict) -> None:
    records.write(tmp_path / "smoke.json", "print", verdict)
    assert records.read(tmp_path / "smoke.json", "print", Verdict) == verdict


@pytest.mark.parametrize(
    "change", [{"level": "claimed"}, {"step": "lunch"}, {"passed": "yes"}, {"answers": [{}]}, {"x": 1}]
)
def test_a_verdict_that_cannot_be_one_is_none(tmp_path: Path, change: dict[str, object]) -> None:
    body = {"format": records.FORMAT, "fingerprint": "print", "record": {**records.to_json(VERDICT), **change}}
    (tmp_path / "smoke.json").write_text(json.dumps(body))
    assert records.read(tmp_path / "smoke.json", "print", Verdict) is None


def test_a_failure_carries_its_verdict() -> None:
    error = SmokeFailedError("no", verdict=VERDICT, where="w", hint="h", log="l")
    assert isinstance(error, SmokeError)
    assert error.as_json()["step"] == "stop"
    assert error.as_json()["level"] == "emulated"
    assert error.exit_code == 10


@pytest.mark.parametrize(
    ("cuda", "native", "nvidia", "expected"),
    [
        (False, False, False, "emulated"),
        (False, False, True, "emulated"),
        (False, True, False, "cpu"),
        (False, True, True, "cpu"),
        (True, False, False, "emulated-forward"),
        (True, False, True, "emulated-forward"),
        (True, True, False, "emulated-forward"),
        (True, True, True, "gpu"),
    ],
)
def test_the_level_follows_from_what_is_there(cuda: bool, native: bool, nvidia: bool, expected: str) -> None:
    assert level(LevelFacts(cuda=cuda, native=native, gpu=nvidia)) == expected


@pytest.mark.parametrize(
    ("platform", "cuda", "engine", "expected"),
    [
        ("linux/arm64", "", ENGINE, LevelFacts(cuda=False, native=False, gpu=True)),
        ("linux/arm64/v8", "12.6", JETSON, LevelFacts(cuda=True, native=True, gpu=True)),
        ("linux/amd64", "", REMOTE, LevelFacts(cuda=False, native=True, gpu=True)),
        (
            "linux/arm64",
            "12.6",
            dataclasses.replace(JETSON, gpu=None),
            LevelFacts(cuda=True, native=True, gpu=False),
        ),
    ],
)
def test_the_facts_are_the_engines_and_the_images(
    platform: str, cuda: str, engine: Engine, expected: LevelFacts
) -> None:
    assert facts(image(platform, io_jbuild_cuda=cuda), engine) == expected


@pytest.mark.parametrize(
    ("engine", "cuda", "wanted"),
    [(JETSON, "12.6", True), (JETSON, "", False), (ENGINE, "12.6", False)],
)
def test_the_gpu_is_given_to_cuda_images_where_it_is(engine: Engine, cuda: str, wanted: bool) -> None:
    started = launching.launch(image(io_jbuild_cuda=cuda), "r", Spec(), engine, None)
    assert (started.gpu is not None) is wanted


@pytest.mark.parametrize(
    ("platform", "cuda", "engine", "expected", "kind", "said"),
    [
        ("linux/amd64", "", ENGINE, "gpu", UsageError, "the image is a CPU build, whose highest level is cpu"),
        ("linux/arm64", "", ENGINE, "cpu", EngineError, r"\(amd64\) only emulates arm64; .* reaches emulated$"),
        ("linux/arm64", "12.6", ENGINE, "gpu", EngineError, "only emulates arm64; .* reaches emulated-forward$"),
        ("linux/amd64", "13.0", WITHOUT_GPU, "gpu", EngineError, r"no CDI device nvidia\.com/gpu=all, .* \(runc\)"),
        ("linux/amd64", "13.0", WITHOUT_GPU, "cpu", EngineError, "reaches emulated-forward$"),
    ],
)
def test_a_level_out_of_reach_is_refused_with_what_is_missing(
    platform: str, cuda: str, engine: Engine, expected: str, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        require_level(image(platform, io_jbuild_cuda=cuda), engine, expected)
    assert f"level {expected} is out of reach: " in str(caught.value)


def test_a_level_within_reach_is_not_refused() -> None:
    gpu = image("linux/amd64", io_jbuild_cuda="13.0")
    for expected in ("gpu", "cpu", "emulated-forward", None):
        require_level(gpu, ENGINE, expected)
    require_level(gpu, WITHOUT_GPU, "emulated-forward")


def test_an_engine_without_emulation_is_told_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_buildx_architectures", lambda _: set())
    with pytest.raises(EngineError, match="cannot run arm64"):
        launching.launch(image(), "r", Spec(), dataclasses.replace(ENGINE, emulated=()), None)


def test_emulation_leaves_out_what_it_is_slow_at_unless_the_recipe_says_otherwise() -> None:
    asked = Spec(smoke=SmokeSpec(environment=(("QEMU_CPU", "max"),), api_key=False))
    assert dict(launching.launch(image(), "r", OPEN, ENGINE, None).environment) == {"QEMU_CPU": "max,sve=off"}
    assert dict(launching.launch(image(), "r", asked, ENGINE, None).environment) == {"QEMU_CPU": "max"}
    assert launching.launch(image(), "r", OPEN, JETSON, None).environment == ()
    assert launching.launch(image("linux/amd64"), "r", OPEN, ENGINE, None).environment == ()


def test_a_local_engine_publishes_to_loopback() -> None:
    started = launching.launch(image(), "r", OPEN, ENGINE, 5)
    assert (started.address, started.port, started.memory_bytes) == ("127.0.0.1", 8000, 5)
    assert launching.key(OPEN, started) is None
    assert launching.address(ENGINE, 49153) == "http://127.0.0.1:49153"


def test_a_remote_engine_publishes_with_a_key_of_its_own() -> None:
    first, second = (launching.launch(image(), "r", OPEN, REMOTE, None) for _ in range(2))
    assert first.address == ""
    key = launching.key(Spec(), first)
    assert key
    assert key != launching.key(Spec(), second)
    assert launching.key(Spec(), launching.launch(image(), "r", Spec(), ENGINE, None)), "it must be asked for one"
    assert launching.address(REMOTE, 49153) == "http://box.example:49153"


def test_port_and_key_come_from_the_recipe_and_its_smoke_run() -> None:
    spec = Spec(
        server=ServerSpec(port=9000, environment=(("VLLM_API_KEY", "baked"), ("JBUILD_PORT", "9001"))),
        smoke=SmokeSpec(environment=(("VLLM_API_KEY", "asked"),)),
    )
    started = launching.launch(image(), "r", spec, ENGINE, None)
    assert started.port == 9001
    assert launching.key(spec, started) == "asked"
    assert launching.launch(image(), "r", Spec(server=ServerSpec(arguments=("--port", "7"))), ENGINE, None).port == 7


def test_a_key_in_a_file_gives_way_to_the_smoke_runs_own() -> None:
    spec = Spec(server=ServerSpec(environment=(("VLLM_API_KEY_FILE", "/run/secrets/key"),)))
    environment = dict(launching.launch(image(), "r", spec, ENGINE, None).environment)
    assert environment["VLLM_API_KEY"]
    assert environment["VLLM_API_KEY_FILE"] == "", "the entrypoint takes one of the two"


def test_a_port_that_is_none_is_the_recipes_mistake() -> None:
    spec = Spec(models=(Model(name="m", source="s"),), server=ServerSpec(environment=(("JBUILD_PORT", "http"),)))
    with pytest.raises(RecipeError, match="JBUILD_PORT"):
        launching.launch(image(), "r", spec, ENGINE, None)


@pytest.mark.parametrize("expect", ["", "(", "a*", "Paris|", "(?i)"])
def test_questions_that_prove_nothing(expect: str) -> None:
    with pytest.raises(RecipeError):
        check_questions(Spec(smoke=SmokeSpec(questions=(Question(ask="q", expect=expect),))))


def test_a_question_that_expects_nothing() -> None:
    with pytest.raises(RecipeError, match="has no expectation"):
        check_questions(Spec(smoke=SmokeSpec(questions=(Question(ask="q"),))))


def test_an_answer_to_the_letter_needs_no_pattern() -> None:
    check_questions(Spec(smoke=SmokeSpec(questions=(Question(prompt="2 + 2 =", text=" 4"),))))


def test_no_questions_at_all() -> None:
    with pytest.raises(RecipeError, match="has no questions"):
        check_questions(Spec())


@pytest.mark.parametrize(
    ("code", "meaning"),
    [(3, "exit code 3"), (137, "exit code 137 (SIGKILL)"), (139, "exit code 139 (SIGSEGV)"), (255, "exit code 255")],
)
def test_exit_codes(code: int, meaning: str) -> None:
    assert exit_meaning(code) == meaning


def test_every_fault_is_used_and_every_use_is_a_fault() -> None:
    code = "".join(path.read_text() for path in (Path(__file__).parents[2] / "builder" / "smoke").glob("*.py"))
    assert [name for name in faults() if f'"{name}"' not in code] == []
    for name, fault in faults().items():
        assert fault.helps, name
        assert fault.source, name
        assert StepFailedError("ready", name, "m").hint == "; or ".join(fault.helps)


def test_what_ended_for_want_of_memory_says_so_whatever_the_step() -> None:
    state = ContainerState(running=False, code=137, out_of_memory=True)
    error = ended("ready", "ended-early", "it ended", state)
    assert error.fault.id == "out-of-memory"
    assert "out of memory" in error.message
    error = ended("ready", "ended-early", "it ended", dataclasses.replace(state, out_of_memory=False, error="no space"))
    assert error.fault.id == "ended-early"
    assert error.message == "it ended: exit code 137 (SIGKILL) (no space)"


@pytest.mark.parametrize(
    ("sample", "used"),
    [
        ({"memory_stats": {"usage": 100, "stats": {"total_inactive_file": 30, "inactive_file": 1}}}, 70),
        ({"memory_stats": {"usage": 100, "stats": {"inactive_file": 40}}}, 60),
        ({"memory_stats": {"usage": 100}}, 100),
        ({"memory_stats": {}}, 0),
        ({}, 0),
    ],
)
def test_memory_in_use(sample: dict[str, object], used: int) -> None:
    assert used_memory(sample) == used


@pytest.fixture
def built(tmp_path: Path) -> Image:
    """An image of an OCI layout in which two layers are the same blob."""
    return make_image(tmp_path, contents=(b"l" * 1000, b"l" * 1000, b""))


def test_the_tar_stream_holds_what_engines_read(built: Image, tmp_path: Path) -> None:
    seen: list[float] = []
    data = b"".join(stream(built, tmp_path, "jbuild-smoke:1", seen.append))
    assert len(data) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
        files = {name: archive.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    assert len(names) == len(set(names)) == 3 + 4
    for name, content in files.items():
        if name.startswith("blobs/"):
            assert name == "blobs/sha256/" + hashlib.sha256(content).hexdigest()
    (manifest,) = json.loads(files["index.json"])["manifests"]
    assert manifest["digest"] == built.digest
    assert manifest["annotations"]["io.containerd.image.name"] == "docker.io/library/jbuild-smoke:1"
    (docker,) = json.loads(files["manifest.json"])
    assert docker["RepoTags"] == ["jbuild-smoke:1"]
    assert len(docker["Layers"]) == 3
    assert {docker["Config"], *docker["Layers"]} < set(names)
    assert sum(seen) == sum(blob.size for blob in image_blobs(built))


def test_blobs_that_are_not_whole(built: Image, tmp_path: Path) -> None:
    assert absent_blobs(tmp_path, built) == ()
    first, second = (tmp_path / "blobs" / blob.digest.replace(":", "/") for blob in (built.layers[0], built.config))
    first.write_bytes(b"short")
    second.unlink()
    assert set(absent_blobs(tmp_path, built)) == {built.layers[0], built.config}


def test_an_engine_without_a_bridge_gives_the_network_of_its_machine() -> None:
    launch = launching.launch(image(io_jbuild_cuda="12.6"), "demo", OPEN, JETSON, None, host_network=True)
    arguments = launch.arguments()
    assert arguments["network_mode"] == "host"
    assert "ports" not in arguments
    assert dict(launch.environment) == {"JBUILD_HOST": "127.0.0.1", "JBUILD_PORT": str(launch.port)}
    assert arguments["runtime"] == "nvidia"


def test_the_first_exception_of_several_processes_is_the_cause() -> None:
    lines = (
        "(APIServer pid=1) WARNING [system_utils.py:294] This can cause errors like `OSError: [Errno 24] Too many`",
        '(EngineCore pid=90) ERROR 11-29 12:17:11 [core.py:1136]   File "/opt/venv/vllm/utils/deep_gemm.py", line 122',
        "(EngineCore pid=90) ERROR 11-29 12:17:11 [core.py:1136] torch.cuda.SomeError: the cause",
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
    )
    assert first_exception(lines) == "torch.cuda.SomeError: the cause"
    assert first_exception(lines[:2]) is None
