"""The parts of scripts/fault-campaign that decide which request fails, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from campaign.faults import FAULTS, IN_TWO
from campaign.front import Fault, Plan
from campaign.report import page, summary
from campaign.trial import Result, as_result
from campaign.ways import WAYS

if TYPE_CHECKING:
    from campaign.front import Repeat


def make_result(number: int, **changes: object) -> Result:
    facts = {
        "number": number,
        "kind": "401",
        "way": "push",
        "at": "registry GET /v2/",
        "repeat": "once",
        "hits": 1,
        "code": 11,
        "seconds": 1.5,
        "again": 0,
        "again_s": 1.0,
        "violations": (),
        **changes,
    }
    return as_result(facts)


def test_every_kind_and_way_has_a_name_of_its_own() -> None:
    assert len({fault.kind for fault in FAULTS}) == len(FAULTS) >= 26
    assert {fault.kind for fault in FAULTS} > IN_TWO
    assert len({way.name for way in WAYS}) == len(WAYS)


@pytest.mark.parametrize(("repeat", "hits"), [("once", 1), ("three times", 3), ("always", 5)])
def test_a_fault_begins_at_its_request_and_repeats_at_that_address(repeat: Repeat, hits: int) -> None:
    fault = Fault(kind="x", match="GET", act=lambda _: None)
    plan = Plan(fault=fault, nth=2, repeat=repeat)
    assert plan.take("hub GET /a") is None
    assert plan.take("hub HEAD /b") is None
    assert plan.take("hub GET /b?state=1") == (fault, 0)
    assert plan.take("hub GET /a") is None
    assert sum(plan.take("hub GET /b?state=2") is not None for _ in range(4)) == hits - 1
    assert (plan.hits, plan.at) == (hits, "hub GET /b")


def test_uploads_of_one_repository_have_one_address() -> None:
    plan = Plan(fault=Fault(kind="x", match="PUT", act=lambda _: None), repeat="always")
    for upload in ("0b0a1b2c-0000-4000-8000-0123456789ab", "1b0a1b2c-0000-4000-8000-0123456789ab"):
        assert plan.take(f"registry PUT /v2/a/blobs/uploads/{upload}?digest=x")


def test_the_page_counts_what_held() -> None:
    kill = make_result(2, kind="SIGKILL", at="build", code=-9, repeat="", violations=("left: container x",))
    results = [make_result(1), kill, make_result(3, kind="stall", hits=0, code=0)]
    assert summary(results).startswith("2 faults of 1 kinds (1 reached a request) and 1 kills: 1 trials")
    text = page(results, seed=5, faults=2, kills=1)
    assert "--faults 2 --kills 1 --seed 5" in text
    assert "| build | 1 | 0 |" in text
    assert "| 401 | 1 | 11 (1) | 2 | push |" in text
    assert "left: container x" in text
