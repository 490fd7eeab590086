"""The texts for people in a bundle: README.md, load.sh, and the evidence as plain files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.json_documents import decode_json
from builder.host.units import size_of
from builder.model.bundles import EVIDENCE_FOLDER
from builder.publish import statements
from builder.publish.bundle.members import BundleMember, text_member

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.model.verdicts import Verdict
    from builder.publish.evidence import Evidence

_SIGNED_SBOM = "signed-sbom"
_LAYOUT = "tar -cf - oci-layout index.json manifest.json blobs"
_PARTS = "cat parts/*"
_GPU = " --device nvidia.com/gpu=all"
_NEEDS = (
    "; it must have the image {since} already, and only containerd's store finds the layers of that image: "
    "load the bundle with jbuild, or use a whole bundle"
)
_OTHERWISE = "\nFor an engine without CDI devices, write --runtime nvidia instead of --device nvidia.com/gpu=all."


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleFacts:
    """What the texts of a bundle state.

    `size` is the image's in bytes, `verdict` its last one, passed or not, `missing` the number of blobs left out, and
    `evidence` are the digests of the manifests in the layout besides the image's.
    """

    name: str
    recipe: str
    cell: str
    digest: str
    platform: str
    repository: str
    size: int
    jbuild: str
    created: str
    port: int
    gpu: bool
    signed: bool
    with_jbuild: bool
    verdict: Verdict | None
    since: str | None
    missing: int
    evidence: tuple[str, ...]

    @property
    def tag(self) -> str:
        """The tag of the image's name."""
        return self.name.rpartition(":")[2]


def text_members(facts: BundleFacts, *, split: bool) -> tuple[BundleMember, BundleMember]:
    """Return README.md and load.sh: those in the folder, or those beside the parts."""
    return (
        text_member("README.md", _readme(facts, split=split)),
        text_member("load.sh", _script(facts, split=split), executable=True),
    )


def verdict_words(verdict: Verdict | None) -> str:
    """Return what the last verdict on an image proves, in words."""
    if verdict is None:
        return "none: the image has not been tested yet"
    if not verdict.passed:
        return f"none: the last smoke run failed at step {verdict.step}, level {verdict.level}"
    return f"passed at level {verdict.level}, {verdict.when}"


def evidence_members(evidence: Evidence) -> Iterator[BundleMember]:
    """Yield the contents of the evidence as JSON files that people can read."""
    for artifact in evidence.artifacts:
        if artifact.name == _SIGNED_SBOM:
            continue
        with artifact.blobs[-1].open(0) as file:
            content, _ = statements.opened(file.read(), artifact.name)
        text = json.dumps(decode_json(content), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        yield text_member(f"{EVIDENCE_FOLDER}/{artifact.name}.json", text)


def _readme(facts: BundleFacts, *, split: bool) -> str:
    import jinja2  # noqa: PLC0415  # slow to import; only bundles and renders need it

    template = Path(__file__).with_name("readme.md.j2").read_text(encoding="utf-8")
    # The text is Markdown, and its values are names that jbuild has checked.
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701
    return environment.from_string(template).render(
        {
            **{field: getattr(facts, field) for field in facts.__slots__},
            "split": split,
            "tag": facts.tag,
            "size": size_of(facts.size),
            "verdict": verdict_words(facts.verdict),
            "signature": "signed with cosign" if facts.signed else "none: no key is configured",
            "layout": "../unpacked" if split else ".",
        }
    )


def _script(facts: BundleFacts, *, split: bool) -> str:
    missing = _NEEDS.format(since=facts.since) if facts.missing else ""
    values: Mapping[str, str] = {
        "@NAME@": facts.name,
        "@STREAM@": _PARTS if split else _LAYOUT,
        "@MISSING@": missing,
        "@EVIDENCE@": " ".join(facts.evidence),
        "@RUN@": _run_options(facts),
        "@OTHERWISE@": _OTHERWISE if facts.gpu else "",
    }
    text = Path(__file__).with_name("load.sh").read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(key, value)
    return text


def _run_options(facts: BundleFacts) -> str:
    gpu = _GPU if facts.gpu else ""
    return f"{gpu} --publish 127.0.0.1:{facts.port}:{facts.port} --volume vllm-cache:/cache"
