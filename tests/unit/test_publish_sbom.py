"""Bills of materials from locks: what they list, and the licences of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from factories import DIGEST, locked, make_lock, make_locked_wheel, make_model, make_wheel

from builder.host.files import write_bytes
from builder.host.records import as_bytes
from builder.publish.sbom import LOCK_PROPERTY, sbom

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.paths import Workspace


def metadata(*lines: str) -> bytes:
    return "\n".join(["Metadata-Version: 2.4", "Name: demo", "Version: 1.0", *lines, "", "Text."]).encode()


def test_everything_in_a_lock_is_listed_with_its_hash(workspace: Workspace) -> None:
    lock = make_lock(make_locked_wheel("torch", "2.10.0+cpu", index="pytorch"), models=(make_model(stand_in="small"),))
    bill = sbom(lock, DIGEST, "c" * 64, workspace)
    assert bill["metadata"]["component"]["version"] == DIGEST
    assert bill["metadata"]["properties"] == [{"name": LOCK_PROPERTY, "value": "c" * 64}]
    base, torch, model = bill["components"]
    assert (base["type"], base["version"]) == ("container", lock.base.digest)
    assert torch["purl"] == "pkg:pypi/torch@2.10.0%2Bcpu"
    assert torch["hashes"] == [{"alg": "SHA-256", "content": lock.wheels[0].sha256}]
    assert {"name": "io.jbuild.index", "value": "pytorch"} in torch["properties"]
    assert (model["type"], model["version"]) == ("machine-learning-model", "0" * 40)
    assert model["licenses"] == [{"expression": "Apache-2.0"}]
    assert [file["name"] for file in model["components"]] == ["config.json", "model.safetensors"]
    assert {"name": "io.jbuild.stand-in", "value": "small"} in model["properties"]
    references = [each["bom-ref"] for each in bill["components"]]
    assert bill["dependencies"][0] == {"ref": "image", "dependsOn": sorted(references)}
    files = [file["bom-ref"] for file in model["components"]]
    assert [entry["ref"] for entry in bill["dependencies"]] == ["image", *references, *files]
    # Files of a stand-in are not those of the hub's model.
    assert "purl" not in model
    (own,) = sbom(make_lock(models=(make_model(),)), DIGEST, "c", workspace)["components"][2:]
    assert own["purl"] == f"pkg:huggingface/org/tiny@{'0' * 40}"


def test_the_same_image_has_the_same_bill(workspace: Workspace) -> None:
    bills = {as_bytes(sbom(make_lock(), DIGEST, "c", workspace)) for _ in range(3)}
    assert len(bills) == 1
    other = sbom(make_lock(), DIGEST.replace("0", "1"), "c", workspace)
    assert json.loads(bills.pop())["serialNumber"] != other["serialNumber"]


def test_licences_come_from_the_wheel_or_from_what_was_kept_of_it(workspace: Workspace, tmp_path: Path) -> None:
    wheel = locked(make_wheel(tmp_path / "made"))
    assert "licenses" not in sbom(make_lock(wheel), DIGEST, "c", workspace)["components"][1]
    place = workspace.wheel(wheel.sha256, wheel.filename)
    place.parent.mkdir(parents=True)
    place.write_bytes((tmp_path / "made" / wheel.filename).read_bytes())
    assert "licenses" not in sbom(make_lock(wheel), DIGEST, "c", workspace)["components"][1]
    write_bytes(workspace.metadata(wheel.sha256), metadata("License-Expression: MIT"))
    assert sbom(make_lock(wheel), DIGEST, "c", workspace)["components"][1]["licenses"] == [{"expression": "MIT"}]
    workspace.metadata(wheel.sha256).unlink()
    place.write_bytes(b"damaged")
    assert "licenses" not in sbom(make_lock(wheel), DIGEST, "c", workspace)["components"][1]
