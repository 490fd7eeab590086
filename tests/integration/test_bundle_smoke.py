"""A bundle's whole way: made here, carried into a closed network, loaded and tested there, and its verdict home."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import tomli_w
from closed_network import ClosedNetwork, closed_network, reason_against
from project import CELL, Running, assert_interrupted, assert_refused, clean_environment
from proofs import PASSWORD, Keys, key_pairs

from builder.model.images import proven_name
from builder.smoke import golden

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docker import DockerClient
    from project import Done, Project

__all__ = ["key_pairs"]


@pytest.fixture(scope="module")
def network() -> Iterator[ClosedNetwork]:
    """A closed network, as the factory floor has it."""
    if reason := reason_against():
        pytest.skip(reason)
    with closed_network() as made:
        yield made


@pytest.fixture(scope="module")
def client(network: ClosedNetwork) -> Iterator[DockerClient]:
    """The closed network's engine."""
    import docker  # noqa: PLC0415  # slow to import

    client = docker.DockerClient(base_url=network.engine.host, timeout=120)
    yield client
    client.close()


@dataclass(frozen=True, kw_only=True)
class FarSide:
    """A bundle that was carried into the closed network, with jbuild beside it: its own home and cache."""

    bundle: Path
    home: Path
    network: ClosedNetwork

    def start(self, verb: str, *arguments: str, **environment: str) -> Running:
        """Start jbuild inside the network."""
        argv = [*self.network.prefix, sys.executable, "-m", "builder", verb, *arguments]
        own = clean_environment(self.home, self.network.engine.host) | {"JBUILD_CACHE": str(self.home / "cache")}
        return Running(argv, self.home, own | environment)

    def smoke(self, *arguments: str, **environment: str) -> Done:
        """Run `jbuild smoke` on the bundle."""
        return self.start("smoke", "--bundle", str(self.bundle), *arguments, **environment).wait()

    def configure(self, **tables: Any) -> None:
        """Write the user's settings."""
        path = self.home / "config" / "jbuild" / "jbuild.toml"
        path.parent.mkdir(parents=True)
        path.write_text(tomli_w.dumps(tables))

    @property
    def verdicts(self) -> Path:
        """The folder to carry home."""
        return self.bundle / "verdict"

    def predicate(self, level: str = "cpu") -> dict[str, Any]:
        """Return the content of an unsigned verdict."""
        return dict(json.loads((self.verdicts / f"verdict-{level}.json").read_bytes())["predicate"])

    def carried_files(self) -> dict[str, bytes]:
        """Return the files of the bundle, without its verdicts."""
        return {path: content for path, content in files_of(self.bundle).items() if not path.startswith("verdict/")}


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder by their paths."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def far(finished: Project, tmp_path: Path, network: ClosedNetwork, client: DockerClient) -> Iterator[FarSide]:
    """The closed network before the bundle arrives."""
    home = tmp_path / "far"
    home.mkdir()
    yield FarSide(bundle=home / "carried", home=home, network=network)
    name = proven_name(finished.name, CELL)
    if client.images.list(name=name):
        client.images.remove(name, force=True)


def carry(near: Project, far: FarSide, *options: str) -> dict[str, bytes]:
    """Make the bundle of a project and carry it; return its files."""
    folder = far.home.with_name("made")
    done = near.run("bundle", "--output", str(folder), *options)
    assert done.code == 0, done.stderr
    shutil.copytree(folder, far.bundle)
    return files_of(folder)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("options", [(), ("--split", "1M")], ids=["whole", "split"])
def test_the_whole_way(
    finished: Project, far: FarSide, client: DockerClient, key_pairs: tuple[Keys, Keys], options: tuple[str, ...]
) -> None:
    own = key_pairs[0]
    made = carry(finished, far, *options)
    far.configure(publish={"cosign-key": str(own.private)})
    assert far.network.routes() == ""
    done = far.start("load", str(far.bundle), "--json").wait()
    assert done.code == 0, done.stderr
    (name,) = client.images.get(proven_name(finished.name, CELL)).tags

    done = far.smoke("--level", "cpu", "--json", COSIGN_PASSWORD=PASSWORD)
    assert done.code == 0, done.stderr
    result, digest = done.json, finished.record("build")["manifest"]["digest"]
    assert (result["recipe"], result["cell"], result["ran"]) == (finished.name, CELL, True)
    assert (result["image"], result["verdict"]["level"], result["verdict"]["digest"]) == (name, "cpu", digest)
    assert result["file"] == str(far.verdicts / "verdict-cpu.json")
    assert sorted(path.name for path in far.verdicts.iterdir()) == ["smoke-cpu.log", "verdict-cpu.json"]
    assert "stand-in ready" in (far.verdicts / "smoke-cpu.log").read_text()
    assert far.carried_files() == made
    assert client.containers.list(all=True) == []
    again = far.smoke("--json", COSIGN_PASSWORD=PASSWORD)
    assert (again.code, again.json["ran"]) == (0, False), again.stderr

    shutil.copytree(far.verdicts, finished.folder / "verdict")
    repository = f"{finished.registry}/{finished.name}-home/vllm"
    to = ("--to", repository.removesuffix("/vllm"), "--tag", "proven", "--level", "cpu")
    (finished.cell / "smoke.json").unlink()
    refused = finished.run("promote", "--verdict", "verdict", *to, "--key", str(key_pairs[1].public))
    assert_refused(refused, 6, "the verdict is not signed by a trusted key")
    done = finished.run("promote", "--verdict", "verdict", *to, "--key", str(own.public), "--json")
    assert done.code == 0, done.stderr
    assert done.json["publications"][0]["level"] == "cpu"
    done = finished.jbuild("verify", f"{repository}@{digest}", "--key", str(own.public), "--level", "cpu", "--json")
    states = {finding["name"]: finding["state"] for finding in done.json["findings"]}
    assert (states["verdict"], done.json["level"]) == ("ok", "cpu"), done.stdout
    assert finished.record("imported")["digest"] == digest
    # The image has not passed here, but its evidence came along: the bill of materials and the provenance too.
    whole = finished.jbuild("verify", f"{repository}@{digest}", "--json")
    assert whole.code == 0, whole.stderr
    assert whole.json["holds"]


def cut_off(far: FarSide, log: Path) -> Running:
    """Start a smoke run of a server that is never ready, and return it while it waits."""
    running = far.start("smoke", "--bundle", str(far.bundle))
    running.until(lambda: log.is_file() and "stand-in ready" in log.read_text())
    return running


@pytest.mark.timeout(600)
def test_a_run_that_was_cut_off_says_where_and_the_next_one_starts_from_the_loaded_image(
    finished: Project, far: FarSide, client: DockerClient
) -> None:
    finished.recipe["smoke"]["ready-within-s"] = 20
    finished.misbehave("never-ready")
    carry(finished, far)
    log, verdict = far.verdicts / "smoke-cpu.log", far.verdicts / "verdict-cpu.json"
    running = cut_off(far, log)
    running.interrupt()
    assert_interrupted(running.wait())
    loaded = client.images.get(proven_name(finished.name, CELL))
    assert client.containers.list(all=True) == []
    assert not verdict.exists()

    log.unlink()
    running = cut_off(far, log)
    running.kill()
    said = running.wait().stderr
    assert "the last smoke run on this machine did not end: the run was interrupted" in said
    assert "its last step was: starting the server" in said

    done = far.smoke()
    assert_refused(done, 10, "the server was not ready within 20 s, but it still logs", str(log))
    assert "jbuild was killed, or the machine stopped; its last step was: starting the server" in done.stderr
    assert far.predicate()["result"] == "FAILED"
    assert client.images.get(proven_name(finished.name, CELL)).id == loaded.id
    assert client.containers.list(all=True) == []
    home = finished.run("promote", "--verdict", str(far.verdicts), "--unsigned-verdict")
    assert_refused(home, 2, r"no verdict in the folder shows that .* passed; .* \(FAILED at level cpu")


@pytest.mark.timeout(600)
def test_answers_are_recorded_beside_the_verdict_and_a_level_out_of_reach_is_refused(
    finished: Project, far: FarSide, client: DockerClient
) -> None:
    made = carry(finished, far)
    record = far.bundle / "evidence" / "sbom.json"
    content = record.read_bytes()
    # Nothing is read before.
    record.unlink()
    refused = far.smoke("--level", "gpu")
    record.write_bytes(content)
    assert_refused(refused, 2, "level gpu is out of reach: the image is a CPU build, whose highest level is cpu")
    assert client.images.list(name=proven_name(finished.name, CELL)) == []
    assert not far.verdicts.exists()

    done = far.smoke("--record", "--json")
    assert done.code == 0, done.stderr
    assert done.json["golden"] == str(far.verdicts / "golden" / f"{finished.name}.toml")
    (entry,) = golden.read(far.verdicts / "golden" / f"{finished.name}.toml")
    assert [token.text for token in entry.tokens] == ["The capital of France ", "is ", "Paris."]
    assert far.carried_files() == made
    assert "the verdict is not signed" in done.stderr
    assert far.predicate()["result"] == "PASSED"


@pytest.mark.timeout(600)
def test_a_warm_image_comes_home_as_a_layer_and_a_signed_verdict(
    finished: Project, far: FarSide, client: DockerClient, key_pairs: tuple[Keys, Keys]
) -> None:
    own = key_pairs[0]
    finished.recipe["smoke"]["environment"] = {"STAND_IN_COMPILES": "once"}
    finished.recipe["image"] = {"warm": True}
    finished.write()
    made = carry(finished, far)
    far.configure(publish={"cosign-key": str(own.private)})
    done = far.smoke("--json", COSIGN_PASSWORD=PASSWORD)
    assert done.code == 0, done.stderr
    digest = done.json["verdict"]["warm"]["digest"]
    assert {"verdict-cpu.json", "verdict-cpu-warm.json", "warm"} <= {path.name for path in far.verdicts.iterdir()}
    assert far.carried_files() == made
    assert client.containers.list(all=True) == []

    home = finished.folder / "home"
    shutil.copytree(far.verdicts, home)
    to = ("--to", f"{finished.registry}/{finished.name}-warm", "--tag", "warm", "--level", "cpu")
    refused = finished.run("promote", "--warm", "--verdict", "home", *to, "--key", str(key_pairs[1].public))
    assert_refused(refused, 6, "the verdict is not signed by a trusted key")
    done = finished.run("promote", "--warm", "--verdict", "home", *to, "--key", str(own.public), "--json")
    assert done.code == 0, done.stderr
    (publication,) = done.json["publications"]
    assert (publication["digest"], publication["level"]) == (digest, "cpu")
    verified = finished.jbuild("verify", f"{publication['registries'][0]['repository']}@{digest}", "--json")
    assert verified.code == 0, verified.stderr
