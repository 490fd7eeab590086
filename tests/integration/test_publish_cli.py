"""`jbuild promote`, `tags`, `verify` and `verdict` as their users start them: no engine, real registries."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from project import assert_refused
from proofs import Keys, key_pairs, keys, oras_discover
from proven_folder import Folder
from servers import Fault, Registry, free_port, registry, running_front, running_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


__all__ = ["key_pairs", "keys", "registry"]

_STANDS_S = 600.0


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Registry]:
    with running_registry(tmp_path / "second") as running:
        yield running


def test_the_whole_way_of_a_release(
    folder: Folder, registry: Registry, second: Registry, tmp_path: Path, keys: Keys
) -> None:
    """A build machine publishes a candidate, a board says that it runs, the release tag follows, a user checks it."""
    place = f"{registry.host}/edge"
    folder.settings(
        f'[publish]\nregistries = ["{place}"]\ncosign-key = "{keys.private}"\ntrusted-keys = ["{keys.public}"]\n'
    )
    done = folder.run("promote", "demo", "--json")
    assert done.code == 0, done.stderr
    assert registry.tags("edge/vllm") == {"rc": folder.image.digest}
    (publication,) = done.json["publications"]
    assert [each["name"] for each in publication["withheld"]] == ["0.15.1"]

    board = Folder(tmp_path / "board", "gpu", image=folder.image)
    board.settings(f'[publish]\ncosign-key = "{keys.private}"\n')
    verdict = tmp_path / "verdict.json"
    handed = board.run("verdict", "demo", "--output", str(verdict), "--json")
    assert handed.json["level"] == "gpu", handed.stderr

    promoted = folder.run("promote", "demo", "--verdict", str(verdict), "--to", place, "--to", second.host)
    assert promoted.code == 0, promoted.stderr
    assert f"tagged    {second.host}/vllm:0.15.1" in promoted.stdout
    assert (
        registry.tags("edge/vllm") == second.tags("vllm") == {"rc": folder.image.digest, "0.15.1": folder.image.digest}
    )

    shown = folder.run("tags", "demo", "--registry", place, "--registry", second.host, "--json")
    assert {(row["tag"], row["state"], row["level"]) for row in shown.json["tags"]} == {
        ("rc", "current", "gpu"),
        ("0.15.1", "current", "gpu"),
    }
    checked = folder.run("verify", f"{second.host}/vllm:0.15.1", "--level", "gpu", "--whole", "--json")
    assert checked.code == 0, checked.stderr
    assert {each["state"] for each in checked.json["findings"]} == {"ok"}
    assert checked.json["level"] == "gpu"


def test_verify_tells_what_does_not_hold(folder: Folder, registry: Registry) -> None:
    folder.write(attach=False)
    assert folder.run("promote", "demo", "--to", registry.host).code == 0
    done = folder.run("verify", f"{registry.host}/vllm:rc")
    assert_refused(done, 6, "verdict: there is none; sbom: there is none; provenance: there is none")
    assert "not checked" in done.stdout


def test_tags_of_a_registry_that_refuses(folder: Folder, registry: Registry) -> None:
    with running_front(registry, Fault(match="", kind="answer", status=403, times=None)) as front:
        done = folder.run("tags", "demo", "--registry", registry.host, "--registry", front.host)
    assert done.code == 11
    assert "not built on this machine" not in done.stdout
    assert "missing" in done.stdout
    assert f"{front.host}/vllm" in done.stderr
    assert "answers 403" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("promote", "demo"), 2, "no registry is configured"),
        (("promote", "127.0.0.1:1/vllm@sha256:" + "0" * 64), 2, "no registry to copy to"),
        (("promote", "127.0.0.1:1/vllm:tag", "--to", "127.0.0.1:1"), 2, "promote an image by its digest"),
        (("promote", "demo", "--to", "not a registry"), 2, "is not a registry"),
        (("promote", "demo", "--to", "127.0.0.1:1", "--verdict", "nothing.json"), 2, "cannot read the verdict"),
        (
            ("promote", "demo", "--to", "127.0.0.1:1", "--warm", "--verdict", "nothing"),
            2,
            "cannot read the verdict: no such file or folder",
        ),
        (
            ("promote", "demo", "--to", "team"),
            2,
            "'team' has no host: name HOST/team, or docker.io/team for Docker Hub",
        ),
        (("promote", "demo", "--to", "127.0.0.1:1", "--key", "nothing.pub"), 2, "no such key"),
        (("promote", "demo", "--to", "127.0.0.1:1", "--level", "gpus"), 2, "gpus"),
        (("tags", "dem", "--registry", "127.0.0.1:1"), 2, "dem"),
    ],
)
def test_what_cannot_be_is_refused_at_once(folder: Folder, arguments: tuple[str, ...], code: int, said: str) -> None:
    assert_refused(folder.run(*arguments), code, said, placed=False)


def test_a_key_that_cannot_sign_is_found_before_anything_is_made(
    folder: Folder, registry: Registry, keys: Keys
) -> None:
    folder.settings(f'[publish]\nregistries = ["{registry.host}"]\ncosign-key = "{keys.private}"\n')
    del folder.environment["COSIGN_PASSWORD"]
    assert_refused(folder.run("recipe", "demo", "--push"), 2, "COSIGN_PASSWORD is not set")
    assert registry.tags("vllm") == {}


@pytest.mark.parametrize(
    "moment",
    ["PUT .*manifests/sha256:", "PUT .*manifests/sha256-", "PUT .*manifests/rc", "PUT .*uploads"],
    ids=["manifest", "evidence", "tag", "blob"],
)
def test_killed_between_blob_and_tag_the_next_run_completes(
    folder: Folder, registry: Registry, tmp_path: Path, moment: str
) -> None:
    with running_front(registry, Fault(match=moment, kind="delay", seconds=_STANDS_S, times=None)) as front:
        running = folder.start("promote", "demo", "--to", front.host)
        running.until(lambda: front.asked(moment))
        running.kill()
        assert running.wait().code == -9
        assert registry.tags("vllm") == {}
        front.faults.clear()
        done = folder.run("promote", "demo", "--to", front.host, "--json")
        assert done.code == 0, done.stderr
    assert registry.tags("vllm") == {"rc": folder.image.digest}
    assert len(oras_discover(f"{registry.host}/vllm@{folder.image.digest}", tmp_path)) == 3
    assert [path for path in folder.root.rglob(".*") if path.is_file()] == []


def test_two_runs_that_put_the_same_tag(folder: Folder, registry: Registry, tmp_path: Path) -> None:
    """Whoever comes last has it, and both digests have earned it; nobody believes to hold what the other has."""
    other = Folder(tmp_path / "other")
    runs = [each.start("promote", "demo", "--to", registry.host, "--json") for each in (folder, other)]
    codes = [run.wait().code for run in runs]
    digests = [each.image.digest for each in (folder, other)]
    assert registry.tags("vllm")["rc"] in digests
    assert set(codes) <= {0, 11}
    assert 0 in codes
    for digest in digests:
        assert registry.request(f"/v2/vllm/manifests/{digest}")[0] == 200


def test_one_of_three_mirrors_is_down(folder: Folder, registry: Registry, second: Registry, tmp_path: Path) -> None:
    down = f"127.0.0.1:{free_port()}"
    all_three = [word for host in (registry.host, second.host, down) for word in ("--to", host)]
    with running_front(second, Fault(match="", kind="answer", status=403, times=None)) as front:
        refused = folder.run("promote", "demo", "--to", registry.host, "--to", front.host, "--json")
    assert refused.code == 11
    assert refused.json["publication"]["failures"][0]["repository"] == f"{front.host}/vllm"
    assert registry.tags("vllm") == second.tags("vllm") == {}
    folder.write(**{"on-failure": "complete-others"})
    assert_refused(folder.run("promote", "demo", *all_three), 11, f"Tags were put in {registry.host}/vllm \\(rc\\)")
    assert registry.tags("vllm") == second.tags("vllm") == {"rc": folder.image.digest}
    with running_registry(tmp_path / "third") as third:
        with_third = [word for host in (registry.host, second.host, third.host) for word in ("--to", host)]
        done = folder.run("promote", "demo", *with_third, "--json")
        assert done.code == 0
        sizes = [each["bytes_sent"] for each in done.json["publications"][0]["registries"]]
        assert sizes[:2] == [0, 0]
        assert third.tags("vllm") == {"rc": folder.image.digest}


def test_json_is_one_object_also_when_it_fails(folder: Folder, registry: Registry) -> None:
    done = folder.run("verify", f"{registry.host}/vllm:x", "--json")
    assert json.loads(done.stdout)["exit_code"] == done.code == 11
