"""The facts of the locked releases: read once, from the wheelhouse or by ranges, and damaged wheels have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from factories import locked, make_wheel
from preflight_parts import NEWER
from tiny_index import TinyIndex, tiny_index

from builder.models.preflight.wheel_sources import read_sources

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.wheels import LockedWheel

TRANSFORMERS = {
    "transformers/models/auto/configuration_auto.py": b"CONFIG_MAPPING_NAMES = OrderedDict([('llama', 'L')])"
}


@pytest.fixture
def vllm(tmp_path: Path) -> Path:
    noise = {f"vllm/large_{number}.bin": bytes(range(256)) * 4000 for number in range(3)}
    return make_wheel(tmp_path, "vllm", "9.9.9", files={**noise, **NEWER}, stored=True)


@pytest.fixture
def server(vllm: Path) -> Iterator[TinyIndex]:
    with tiny_index() as index:
        index.add(vllm)
        yield index


def on(server: TinyIndex, wheel: Path) -> LockedWheel:
    return locked(wheel, f"http://{server.host}/files/{wheel.name}")


def test_a_wheel_in_a_folder(tmp_path: Path, vllm: Path, session: Session) -> None:
    library = make_wheel(tmp_path, "transformers", "5.0.0", files=TRANSFORMERS)
    sources = read_sources([locked(library), locked(vllm)], session)
    assert sources.vllm is not None
    assert (str(sources.vllm), sources.vllm.facts.tool_parsers) == ("vLLM 9.9.9", ("hermes",))
    assert sources.transformers is not None
    assert sources.transformers.model_types == ("llama",)


def test_only_the_sources_are_fetched_from_a_server_and_only_once(
    server: TinyIndex, vllm: Path, session: Session
) -> None:
    wheel = on(server, vllm)
    sources = read_sources([wheel], session)
    assert sources.vllm is not None
    assert sources.vllm.facts.architectures["LlamaForCausalLM"] == "text_generation"
    requests = len(server.asked)
    assert requests < 8, "the large files between the sources are left out"
    assert read_sources([wheel], session) == sources
    assert len(server.asked) == requests


def test_a_server_without_ranges(server: TinyIndex, vllm: Path, session: Session) -> None:
    server.ranges = False
    sources = read_sources([on(server, vllm)], session)
    assert sources.vllm is None
    assert sources.unread == f"{vllm.name} cannot be read by ranges"


def test_a_damaged_wheel_has_no_facts(tmp_path: Path, vllm: Path, session: Session) -> None:
    vllm.write_bytes(vllm.read_bytes()[:-40])
    assert read_sources([locked(vllm)], session).vllm is None


def test_a_cell_without_vllm(session: Session) -> None:
    assert read_sources([], session).vllm is None
