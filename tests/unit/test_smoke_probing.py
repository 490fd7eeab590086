"""What is made of a probe's report: verdicts of a GPU, of extension modules, and of a model without its server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder.host.console import Console
from builder.model.recipes import Model, Question, SmokeSpec, Spec
from builder.model.verdicts import FailedModule, Modules, Token
from builder.smoke import golden, probe_runs
from builder.smoke.errors import StepFailedError
from builder.smoke.steps import Baseline, SmokeRun

LOG = Path("smoke.log")
PARIS = Question(ask="Capital of France?", expect="Paris", max_tokens=4)
SCHEMA = Question(prompt="Where?", schema='{"type": "object"}')
ANSWER = {
    "text": "It is Paris",
    "tokens": [
        {"text": "It is", "logprob": -0.2, "top": [["It is", -0.2], ["In", -1.9]]},
        {"text": " Paris", "logprob": -0.1, "top": [[" Paris", -0.1]]},
    ],
    "seconds": 3.0,
    "first_token_s": 1.0,
}


def run(*questions: Question, **changes: Any) -> SmokeRun:
    facts: dict[str, Any] = {
        "name": "cell",
        "spec": Spec(models=(Model(name="tiny", source="./tiny"),), smoke=SmokeSpec(questions=questions or (PARIS,))),
        "launch": None,
        "engine": None,
        "console": Console(),
        "level": "emulated-forward",
        "sms": "8.7,11.0",
    }
    return SmokeRun(**(facts | changes))


class Probes:
    """Stands in for the container: gives a report, and keeps what the probe was called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.report: dict[str, Any] = {}
        self.called: list[tuple[str, ...]] = []
        monkeypatch.setattr(probe_runs, "_probe", self)

    def __call__(self, _: SmokeRun, __: object, ___: Path, name: str, *arguments: str) -> dict[str, Any]:
        self.called.append((name, *arguments))
        return self.report


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> Probes:
    return Probes(monkeypatch)


def test_the_model_answers_without_a_server(probes: Probes) -> None:
    probes.report = {"load_s": 12.34, "answers": [ANSWER]}
    running = run()
    probe_runs.forward(running, None, LOG)  # type: ignore[arg-type]
    ((name, asked),) = probes.called
    assert name == "forward"
    assert json.loads(asked) == {
        "model": "/models/tiny",
        "questions": [{"messages": [{"role": "user", "content": "Capital of France?"}], "prompt": "", "max_tokens": 4}],
    }
    (answer,) = running.answers
    assert (answer.text, answer.tokens, answer.first_token_s, answer.tokens_per_s) == ("It is Paris", 2, 1.0, 0.5)
    assert running.ready_s == 12.3


def test_its_wrong_answer_is_kept(probes: Probes) -> None:
    probes.report = {"load_s": 1.0, "answers": [{**ANSWER, "text": "It is Rome"}]}
    running = run()
    with pytest.raises(StepFailedError, match="wrong answer to 'Capital of France\\?'; expected: Paris") as caught:
        probe_runs.forward(running, None, LOG)  # type: ignore[arg-type]
    assert (caught.value.step, caught.value.fault.id) == ("forward", "wrong-answer")
    assert [answer.text for answer in running.answers] == ["It is Rome"]


def test_without_a_server_nothing_is_guided(probes: Probes) -> None:
    probes.report = {"load_s": 1.0, "answers": [ANSWER]}
    running = run(SCHEMA)
    probe_runs.forward(running, None, LOG)  # type: ignore[arg-type]
    assert len(running.answers) == 1


def test_it_is_compared_with_the_golden_answer(probes: Probes) -> None:
    probes.report = {"load_s": 1.0, "answers": [ANSWER]}
    token = Token(text="It is", logprob=-2.0)
    known = golden.Golden(prompt=golden.prompt_of(PARIS), model="m", title="t", source="s", tokens=(token,))
    running = run(baseline=Baseline(golden=(known,), model="m"))
    with pytest.raises(StepFailedError, match=r"log-probability -0\.20, recorded -2\.00"):
        probe_runs.forward(running, None, LOG)  # type: ignore[arg-type]


def test_an_answer_without_any_token(probes: Probes) -> None:
    silent = {"text": "", "tokens": [], "seconds": 1.0, "first_token_s": None}
    probes.report = {"load_s": 1.0, "answers": [silent]}
    running = run()
    with pytest.raises(StepFailedError, match="got: ''"):
        probe_runs.forward(running, None, LOG)  # type: ignore[arg-type]
    assert running.answers[0].tokens_per_s is None


def test_modules_that_need_the_driver_are_told_and_no_failure(
    probes: Probes, capsys: pytest.CaptureFixture[str]
) -> None:
    needy = [{"file": f"vllm/_{letter}.abi3.so", "library": "libcuda.so.1"} for letter in "CM"]
    probes.report = {"loaded": 240, "driver": needy, "broken": []}
    running = run()
    probe_runs.check_modules(running, None, LOG)  # type: ignore[arg-type]
    missing = tuple(FailedModule(file=f"vllm/_{letter}.abi3.so", lacks="libcuda.so.1") for letter in "CM")
    assert running.modules == Modules(loaded=240, need_driver=missing)
    assert "240 extension modules load; 2 need the GPU's driver (libcuda.so.1)" in capsys.readouterr().err
    (called,) = probes.called
    assert called[:3] == ("extensions", "--driver", "libcuda.so.1")
    assert "libnvidia-ml.so.1" in called


def test_modules_that_are_broken_are_a_failure(probes: Probes) -> None:
    broken = [{"file": f"m{number}.so", "error": "undefined symbol: x"} for number in range(5)]
    probes.report = {"loaded": 1, "driver": [], "broken": broken}
    running = run()
    with pytest.raises(
        StepFailedError, match=r"5 extension modules do not load, among them m0\.so: undefined"
    ) as caught:
        probe_runs.check_modules(running, None, LOG)  # type: ignore[arg-type]
    assert "m3.so" not in caught.value.message
    assert running.modules is not None
    assert len(running.modules.broken) == 5


GPU = {
    "device": "Orin",
    "sm": "8.7",
    "arch_list": ["sm_87"],
    "checks": [{"name": "matmul float32", "error": 2e-7, "tolerance": 1e-5, "problem": None}],
    "problems": [],
}


def test_a_gpu_that_gives_the_cpus_numbers(probes: Probes) -> None:
    probes.report = GPU
    running = run(level="gpu")
    probe_runs.check_gpu(running, None, LOG)  # type: ignore[arg-type]
    assert probes.called == [("gpu", "--sms", "8.7,11.0")]
    assert running.gpu is not None
    assert (running.gpu.device, running.gpu.sm, running.gpu.errors) == ("Orin", "8.7", (("matmul float32", 2e-7),))


def test_a_gpu_that_does_not(probes: Probes) -> None:
    wrong = "matmul float32: the GPU's numbers differ from the CPU's by 1, allowed 0.002"
    checks = [{"name": "matmul float32", "error": 1.0, "tolerance": 2e-3, "problem": wrong}]
    probes.report = GPU | {"checks": checks, "problems": [wrong]}
    running = run(level="gpu")
    with pytest.raises(StepFailedError, match="differ from the CPU's") as caught:
        probe_runs.check_gpu(running, None, LOG)  # type: ignore[arg-type]
    assert (caught.value.step, caught.value.fault.id) == ("gpu", "wrong-gpu")
    assert running.gpu is not None, "what was seen is in the verdict all the same"


@pytest.mark.parametrize(
    ("report", "fault", "hint"),
    [
        ({"checks": [], "problems": ["torch sees no GPU: the driver counts no GPU"]}, "no-gpu", "nvidia-ctk cdi"),
        (
            GPU | {"checks": [], "problems": ["the GPU has SM 9.0, but the image is for 8.7"]},
            "other-gpu",
            "a slimmed image has code for its own GPUs only",
        ),
    ],
)
def test_no_gpu_and_another_gpu_than_the_images(probes: Probes, report: dict[str, Any], fault: str, hint: str) -> None:
    probes.report = report
    with pytest.raises(StepFailedError) as caught:
        probe_runs.check_gpu(run(level="gpu"), None, LOG)  # type: ignore[arg-type]
    assert (caught.value.fault.id, caught.value.message) == (fault, report["problems"][0])
    assert hint in caught.value.hint
