"""When the model's class is inspected beside a server, and what the verdict says about it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError

from builder.host.console import Console
from builder.model.recipes import Model, ServerSpec, SmokeSpec, Spec
from builder.smoke import inspection
from builder.smoke.inspection import NOTHING_KEPT
from builder.smoke.launch import Launch
from builder.smoke.probe import script
from builder.smoke.start_caches import CompiledStore
from builder.smoke.steps import SmokeRun

LAUNCH = Launch(reference="image", platform="linux/arm64", port=8000)


class Container:
    """A container of a machine with some processors, in which a program ends with a code, or runs on (None)."""

    def __init__(self, processors: int = 2, code: int | None = 0, *, ended: bool = False) -> None:
        self.count, self.code, self.ended = processors, code, ended
        self.begun: list[tuple[str, ...]] = []

    def processors(self) -> int:
        return self.count

    def begin(self, argv: tuple[str, ...]) -> str:
        if self.ended:
            raise APIError("409", explanation="container 1 is not running")
        self.begun.append(argv)
        return "program"

    def exit_code(self, program: str) -> int | None:
        assert program == "program"
        return self.code


def run(
    *,
    emulated: bool = True,
    models: tuple[Model, ...] = (Model(name="tiny", source="./tiny"),),
    in_image: tuple[str, ...] = (),
) -> SmokeRun:
    facts: dict[str, Any] = {"engine": SimpleNamespace(), "console": Console(), "level": "emulated"}
    compiled = CompiledStore(in_image=dict.fromkeys(in_image, ""))
    spec = Spec(models=models, server=ServerSpec(), smoke=SmokeSpec(questions=()))
    return SmokeRun(name="cell", spec=spec, launch=LAUNCH, emulated=emulated, compiled=compiled, **facts)


@pytest.mark.parametrize("code", [0, None], ids=["done", "forgotten"])
def test_an_emulated_start_is_helped_and_says_so(code: int | None) -> None:
    running, container = run(), Container(code=code)
    assert inspection.prepared(running).files == (script("model_info"),)
    program = inspection.begin(running, container)  # type: ignore[arg-type]
    assert container.begun == [("/opt/venv/bin/python", "/model_info.py", "/models/tiny")]
    inspection.end(running, container, program)  # type: ignore[arg-type]
    assert running.emulation == ["a second process inspected the model's class beside the start"]


@pytest.mark.parametrize(
    ("changes", "processors"),
    [({"emulated": False}, 2), ({"models": ()}, 2), ({"in_image": ("model",)}, 2), ({}, 1)],
    ids=["native", "none", "warm", "one"],
)
def test_a_start_that_would_gain_nothing_is_left_alone(changes: dict[str, Any], processors: int) -> None:
    running, container = run(**changes), Container(processors)
    assert inspection.begin(running, container) is None  # type: ignore[arg-type]
    inspection.end(running, container, None)  # type: ignore[arg-type]
    assert (container.begun, running.emulation) == ([], [])


def test_a_server_that_has_ended_already_is_left_to_the_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    running = run()
    assert inspection.begin(running, Container(ended=True)) is None  # type: ignore[arg-type]
    assert capsys.readouterr().err == "cell: model_info could not be started: container 1 is not running\n"


@pytest.mark.parametrize(
    "changes", [{"emulated": False}, {"models": ()}, {"in_image": ("model",)}], ids=["native", "none", "warm"]
)
def test_a_container_gets_no_probe_that_it_does_not_run(changes: dict[str, Any]) -> None:
    assert inspection.prepared(run(**changes)) == LAUNCH


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (NOTHING_KEPT, ""),
        (1, "cell: model_info exited with code 1: the server inspected the model's class\n"),
    ],
)
def test_an_inspection_that_did_not_help_is_not_in_the_verdict(
    code: int | None, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    running = run()
    inspection.end(running, Container(code=code), "program")  # type: ignore[arg-type]
    assert (running.emulation, capsys.readouterr().err) == ([], told)
