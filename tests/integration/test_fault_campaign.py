"""The checks of scripts/fault-campaign see what must not be: they are tried where it is so."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest
from project import assert_refused
from proven_folder import Folder
from servers import Registry, registry

from campaign.checks import registry_flaws
from campaign.front import Exchange, Fault, Front, Plan, running

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["registry"]


@pytest.fixture
def folder(tmp_path: Path, registry: Registry) -> Folder:
    made = Folder(tmp_path / "made")
    assert made.run("promote", "demo", "--to", registry.host).code == 0
    return made


def test_a_proven_image_that_is_complete(folder: Folder, registry: Registry) -> None:
    assert list(registry_flaws(registry, "vllm", {folder.image.digest})) == []


def test_a_tag_on_another_image(folder: Folder, registry: Registry) -> None:
    (flaw,) = registry_flaws(registry, "vllm", {"sha256:" + "0" * 64})
    assert flaw.startswith("tag rc is on sha256:")


def test_a_blob_that_is_gone_and_one_with_other_bytes(folder: Folder, registry: Registry) -> None:
    gone, spoilt = (layer.digest.removeprefix("sha256:") for layer in folder.image.layers[:2])
    blobs = registry.storage / "docker" / "registry" / "v2" / "blobs" / "sha256"
    os.truncate(blobs / gone[:2] / gone / "data", 0)
    content = (blobs / spoilt[:2] / spoilt / "data").read_bytes()
    (blobs / spoilt[:2] / spoilt / "data").write_bytes(bytes([content[0] ^ 1]) + content[1:])
    flaws = list(registry_flaws(registry, "vllm", {folder.image.digest}))
    assert len(flaws) == 2
    assert all("is missing or has other bytes" in flaw for flaw in flaws)


def test_a_front_forwards_and_fails_where_the_plan_says(folder: Folder, registry: Registry) -> None:
    def refuse(exchange: Exchange) -> None:
        exchange.hang_up(reset=True)

    with running(Front("registry", registry.host, tokens=True)) as front:
        again = folder.run("promote", "demo", "--to", f"{front.host}/again")
        assert again.code == 0, again.stderr
        fault = Fault(kind="reset", match="PUT .*manifests/rc", act=refuse)
        front.plan = Plan(fault=fault, repeat="always")
        refused = folder.run("promote", "demo", "--to", f"{front.host}/third")
        assert_refused(refused, 11, "the connection was cut")
        assert front.plan.at == "registry PUT /v2/third/vllm/manifests/rc"
    assert registry.tags("again/vllm") == {"rc": folder.image.digest}
    assert registry.tags("third/vllm") == {}
    assert hashlib.sha256(registry.request("/v2/again/vllm/manifests/rc")[2]).hexdigest() in folder.image.digest
