"""A recipe whose model is in a registry, through the whole command line."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from builder.host.config import Config
from builder.remote.artifact import TITLE
from builder.remote.registry.registry_client import OCI_MANIFEST, connect
from builder.remote.registry.upload import BytesBlob

if TYPE_CHECKING:
    from project import Project


def push(project: Project, tag: str) -> tuple[str, str]:
    """Push the project's model as an artifact of files; return its source and the manifest's digest."""
    client = connect(project.registry, Config())
    repository = f"{project.name}/model"

    def put(content: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        path = project.folder / "blob"
        path.write_bytes(content)
        client.send_blob(repository, BytesBlob(path.read_bytes()))
        path.unlink()
        return {"mediaType": "application/octet-stream", "digest": digest, "size": len(content)}

    layers = [{**put(path.read_bytes()), "annotations": {TITLE: path.name}} for path in sorted(project.model.iterdir())]
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": put(b"{}"), "layers": layers}
    content = json.dumps(manifest).encode()
    client.put_manifest(repository, tag, content, OCI_MANIFEST)
    return f"oci://{project.registry}/{repository}:{tag}", f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_a_model_from_a_registry_is_baked_in_and_pinned(project: Project) -> None:
    source, digest = push(project, "v1")
    project.recipe["models"][0]["source"] = source
    project.write()
    done = project.jbuild("models", "lock", project.name, "--json")
    assert (done.code, done.json["models"][0]["revision"]) == (0, digest), done.stderr
    done = project.run("render", "--standalone", "--json")
    assert done.code == 0, done.stderr
    (layer,) = (project.cell / "layers").glob("model-*")
    baked = layer / "models" / "tiny"
    assert {p.name: p.read_bytes() for p in baked.iterdir()} == {
        p.name: p.read_bytes() for p in project.model.iterdir()
    }
    label = f'LABEL "io.jbuild.model-sources"="tiny={source.rpartition(":")[0]}@{digest}"'
    assert label in (project.cell / "Dockerfile").read_text()

    # The tag moves on; the recipe's model lock does not, until it is made again, and then the cell's lock is stale.
    (project.model / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}", "moved": true}')
    _, moved = push(project, "v1")
    assert project.run("lock", "--force", "--json").code == 0
    assert digest in project.lock.read_text()
    assert project.jbuild("models", "lock", project.name).code == 0
    done = project.run("lock", "--locked", "--json")
    assert (done.code, "the recipe's model lock has another tiny" in done.stderr) == (4, True)
    assert project.run("lock", "--json").code == 0
    assert moved in project.lock.read_text()
    done = project.jbuild("fit", project.name, "--json")
    assert done.json["cells"][0]["model"] == "tiny", done.stderr
