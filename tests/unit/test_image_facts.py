"""What labels say of models."""

from __future__ import annotations

import pytest
from factories import make_job, make_lock, make_model

from builder.image.render.image_labels import labels

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("source", "origin", "revision", "label"),
    [
        ("hf://org/tiny@main", "hub", "0" * 40, f"tiny=hf://org/tiny@{'0' * 40}"),
        ("oci://r.example.com:5000/m/tiny:v1", "registry", DIGEST, f"tiny=oci://r.example.com:5000/m/tiny@{DIGEST}"),
        (f"oci://r.example.com/tiny@{DIGEST}", "registry", DIGEST, f"tiny=oci://r.example.com/tiny@{DIGEST}"),
        (f"oci://r.example.com/tiny:v1@{DIGEST}", "registry", DIGEST, f"tiny=oci://r.example.com/tiny@{DIGEST}"),
        ("hf://org/tiny@main", "folder", None, "tiny=hf://org/tiny@main"),
        ("/home/somebody/models/tiny", "folder", None, "tiny=folder"),
    ],
)
def test_where_a_model_is_from(source: str, origin: str, revision: str | None, label: str) -> None:
    model = make_model(source=source, origin=origin, revision=revision)
    assert dict(labels(make_job(), make_lock(models=(model,))))["io.jbuild.model-sources"] == label


def test_a_licence_is_told_where_it_is_known() -> None:
    models = (make_model("one", licence="MIT"), make_model("two", licence=None))
    found = dict(labels(make_job(), make_lock(models=models)))
    assert found["io.jbuild.model-licences"] == "one=MIT"
    assert found["io.jbuild.models"] == "one,two"
