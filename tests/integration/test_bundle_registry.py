"""`jbuild load --registry`: the image of a bundle, its evidence and its tags in a registry of a closed network."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from json_results import check
from project import Done, Running, clean_environment
from proofs import Keys, key_pairs, keys, labels, make_verdict
from proven_folder import CELL, OWN, Folder
from servers import Registry, make_image, registry, running_registry

from builder.host import records
from builder.pipeline.cell import IMPORTED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.model.images import Image

__all__ = ["key_pairs", "keys", "registry"]


@pytest.fixture
def home(tmp_path: Path, keys: Keys) -> Folder:
    """The project that makes the bundles."""
    folder = Folder(tmp_path / "home")
    folder.settings(f'[publish]\ncosign-key = "{keys.private}"\n')
    return folder


@pytest.fixture
def far(tmp_path: Path) -> Path:
    """A machine that has only bundles and a registry."""
    (tmp_path / "far").mkdir()
    return tmp_path / "far"


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Registry]:
    with running_registry(tmp_path / "second") as running:
        yield running


def bundle(home: Folder, *options: str) -> Path:
    output = home.root.parent / f"bundle-{len(list(home.root.parent.iterdir()))}"
    done = home.run("bundle", "demo", "--output", str(output), *options)
    assert done.code == 0, done.stderr
    return output


def load(far: Path, folder: Path, *options: str) -> Done:
    environment = clean_environment(far / "user", None) | {"JBUILD_CACHE": str(far / "cache")}
    argv = [sys.executable, "-m", "builder", "load", str(folder), "--json", *options]
    done = Running(argv, far, environment).wait()
    assert "Traceback" not in done.stderr
    return done


def rebuilt(home: Folder, changed: bytes) -> Image:
    """Build an image that shares layers with the first one."""
    layers = [
        (home.workspace.images / "blobs" / "sha256" / layer.digest[7:]).read_bytes() for layer in home.image.layers
    ]
    return make_image(home.workspace.images, contents=(*layers[:2], changed), labels=labels(OWN))


@pytest.mark.parametrize("split", [(), ("--split", "1M")], ids=["whole", "split"])
def test_a_registry_gets_the_image_with_its_evidence(
    home: Folder, far: Path, registry: Registry, keys: Keys, split: tuple[str, ...]
) -> None:
    folder = bundle(home, *split)
    done = load(far, folder, "--registry", f"{registry.host}/edge", "--key", str(keys.public))
    assert done.code == 0, done.stderr
    check("load", done.stdout)
    publication = done.json["publication"]
    assert publication["level"] == "emulated"
    assert registry.tags("edge/vllm") == {"rc": home.image.digest}
    assert [tag["name"] for tag in publication["withheld"]] == ["0.15.1"]
    checked = home.run(
        "verify", f"{registry.host}/edge/vllm:rc", "--key", str(keys.public), "--level", "emulated", "--whole", "--json"
    )
    assert checked.code == 0, checked.stderr
    assert {row["state"] for row in checked.json["findings"]} == {"ok"}
    attached = {row["name"] for row in publication["registries"][0]["attached"]}
    assert {"sbom", "verdict", "provenance"} <= attached
    again = load(far, folder, "--registry", f"{registry.host}/edge", "--key", str(keys.public)).json
    assert again["publication"]["registries"][0]["bytes_sent"] == 0


def test_it_is_the_same_as_that_of_a_push(home: Folder, far: Path, registry: Registry, second: Registry) -> None:
    """A registry cannot tell whether the image came by network or in a bundle."""
    assert home.run("promote", "demo", "--to", registry.host).code == 0
    assert load(far, bundle(home), "--registry", second.host, "--unsigned-verdict").code == 0
    for evidence in (True, False):
        assert registry.tags("vllm", evidence=evidence) == second.tags("vllm", evidence=evidence)


def test_tags_need_a_verdict_of_a_trusted_key(home: Folder, far: Path, registry: Registry) -> None:
    folder = bundle(home)
    done = load(far, folder, "--registry", registry.host)
    assert done.code == 0
    assert done.json["publication"]["level"] is None
    withheld = {tag["name"]: tag["reason"] for tag in done.json["publication"]["withheld"]}
    assert withheld.keys() == {"rc", "0.15.1"}
    assert all("no trusted key has signed the image's verdict at level emulated" in why for why in withheld.values())
    assert registry.tags("vllm") == {}
    assert registry.request(f"/v2/vllm/manifests/{home.image.digest}")[0] == 200
    assert load(far, folder, "--registry", registry.host, "--unsigned-verdict").code == 0
    assert registry.tags("vllm") == {"rc": home.image.digest}


def test_missing_blobs_are_those_of_the_registry(home: Folder, far: Path, registry: Registry, tmp_path: Path) -> None:
    first, image = bundle(home), rebuilt(home, b"changed")
    newer = Folder(tmp_path / "next", image=image)
    shutil.copytree(home.workspace.images, newer.workspace.images)
    folder = bundle(newer, "--since", str(first))
    done = load(far, folder, "--registry", registry.host)
    assert done.code == 11
    assert "the registry lacks 2 of the 2 blobs that this bundle expects" in done.json["message"]
    assert f"(--since {home.image.digest})" in done.json["message"]
    assert all(layer.digest in done.json["message"] for layer in image.layers[:2])
    assert registry.request(f"/v2/vllm/manifests/{image.digest}")[0] == 404
    assert load(far, first, "--registry", registry.host).code == 0
    done = load(far, folder, "--registry", registry.host, "--unsigned-verdict")
    assert done.code == 0, done.stderr
    assert registry.tags("vllm") == {"rc": image.digest}
    sent = done.json["publication"]["registries"][0]["bytes_sent"]
    assert sent == image.layers[2].size + image.config.size


def test_a_damaged_bundle_does_not_reach_the_registry(home: Folder, far: Path, registry: Registry) -> None:
    folder = bundle(home)
    path = folder / "blobs" / "sha256" / home.image.layers[0].digest[7:]
    path.write_bytes(path.read_bytes()[:-1])
    done = load(far, folder, "--registry", registry.host)
    assert done.code == 6
    assert f"blobs/sha256/{path.name} is incomplete" in done.json["message"]
    assert registry.request("/v2/_catalog")[2].strip() == b'{"repositories":[]}'


def test_options_of_registries_need_one(home: Folder, far: Path) -> None:
    done = load(far, bundle(home), "--unsigned-verdict")
    assert done.code == 2
    assert "needs --registry" in done.stderr + done.stdout


def test_the_evidence_of_a_bundle_is_promoted_if_it_is_named(home: Folder, registry: Registry) -> None:
    folder = bundle(home)
    promote = ("promote", "demo", "--to", registry.host, "--json", "--verdict")
    done = home.run(*promote, str(folder))
    assert done.code == 2
    assert f"`--verdict {folder / 'evidence'}` names the folder that has verdict.json" in done.json["hint"]
    done = home.run(*promote, str(folder / "evidence"))
    assert (done.code, done.json["message"]) == (2, "the verdict is not signed")
    assert home.run(*promote, str(folder / "evidence"), "--unsigned-verdict").code == 0
    assert registry.tags("vllm") == {"rc": home.image.digest}


def test_tags_name_the_verdict_of_another_machine(home: Folder, registry: Registry) -> None:
    record = home.workspace.cell("demo", CELL).record(IMPORTED)
    records.write(record, home.image.digest, make_verdict(home.image, "gpu"))
    shown = home.run("tags", "demo", "--registry", registry.host, "--json").json
    notes = {row["tag"]: row["note"] for row in shown["tags"]}
    assert notes["rc"] == "not pushed yet"
    assert notes["0.15.1"] == "`jbuild promote --verdict` puts it, by the verdict of another machine at level gpu"
