"""The documents inside a built wheel: its bill of materials (PEP 770, CycloneDX 1.5) and its provenance (SLSA v1).

They are part of the wheel's bytes, so they contain only what the fingerprint of its inputs covers: no addresses of
indexes, which mirrors change, and the number of the build method instead of jbuild's version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.foundry.cyclonedx import bill, properties, purl, sha256_entry
from builder.foundry.in_toto import PROVENANCE, build_predicate, in_toto_statement
from builder.host.json_documents import decode_json
from builder.host.records import as_bytes
from builder.model.builds import BUILD_METHOD
from builder.remote.addresses import scrub

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from builder.foundry.cyclonedx import Component
    from builder.model.builds import BuildInput, BuildSource, LockedBuild

BUILD_TYPE = "urn:jbuild:wheel:v1"
# Paths in the wheel's `.dist-info`.
BILL, STATEMENT_FILE = "sboms/jbuild.cdx.json", "provenance.intoto.json"
METHOD = f"method {BUILD_METHOD}"


def wheel_bill(build: LockedBuild, version: str, measures: Mapping[str, str]) -> bytes:
    """Return the bill of a built wheel: its source with the patches, and what built it.

    `version` has the label; `measures` are facts about the wheel, by name. Tools and build requirements have the scope
    `excluded`, since they are not part of the wheel.
    """
    reference = purl("pypi", build.name, version=version)
    identity = {"type": "library", "name": build.name, "version": build.version}
    ancestor = {**identity, "purl": purl("pypi", build.name, version=build.version), **_origin(build.source)}
    patches = [{"type": "unofficial", "diff": {"url": patch.name}} for patch in build.patches]
    notes = "".join(f"; {patch.name} has sha256:{patch.sha256}" for patch in build.patches)
    subject = {
        **identity,
        "bom-ref": reference,
        "version": version,
        "purl": reference,
        "pedigree": {
            "ancestors": [ancestor],
            **({"patches": patches} if patches else {}),
            "notes": f"built by jbuild from source for {_target(build)}{notes}",
        },
        "properties": properties(fingerprint=build.fingerprint, compiler=f"gcc {build.compiler}", **measures),
    }
    tools = [*_inputs(build), *_tools(build)]
    dependencies = [{"ref": reference}, *({"ref": tool["bom-ref"]} for tool in tools)]
    return as_bytes(bill(build.fingerprint, subject, [], METHOD, components=tools, dependencies=dependencies))


def _origin(source: BuildSource) -> dict[str, Any]:
    """Return the hash of a source archive; a commit has an address, and a folder only the hash of its content."""
    if source.kind in ("sdist", "archive"):
        return {"hashes": [sha256_entry(source.sha256)]}
    stated = properties(commit=source.commit, content=f"sha256:{source.sha256}")
    vcs = [{"type": "vcs", "url": scrub(source.location)}] if source.kind == "git" else []
    return {**({"externalReferences": vcs} if vcs else {}), "properties": stated}


def _target(build: LockedBuild) -> str:
    target = build.target
    words = [f"CPython {target.python} on {target.architecture}", f"glibc {target.glibc}"]
    words += [f"CUDA {target.cuda}"] if target.cuda else []
    words += [f"SM {', '.join(target.gpus)}"] if target.gpus else []
    words += [f"torch {target.torch.version}"] if target.torch else []
    return ", ".join(words)


def _inputs(build: LockedBuild) -> Iterator[Component]:
    """Yield the inputs, whose code may be part of the wheel, by the variables that name their folders."""
    for entry in build.inputs or ():
        identity = {"type": "library", "bom-ref": f"input:{entry.variable}", "name": entry.variable}
        notes = "; ".join(f"{patch.name} has sha256:{patch.sha256}" for patch in entry.patches)
        patches = [{"type": "unofficial", "diff": {"url": patch.name}} for patch in entry.patches]
        yield {
            **identity,
            **_origin(entry.source),
            **({"pedigree": {"patches": patches, "notes": notes}} if patches else {}),
        }


def _tools(build: LockedBuild) -> Iterator[Component]:
    """Yield the build requirements, the files of the toolchain and the torch that the wheel was built against."""
    for wheel in (*build.requirements, *([build.target.torch] if build.target.torch else [])):
        reference = purl("pypi", wheel.name, version=wheel.version, file_name=wheel.filename)
        identity = {"type": "library", "bom-ref": reference, "name": wheel.name, "version": wheel.version}
        yield {**identity, "purl": reference, "scope": "excluded", "hashes": [sha256_entry(wheel.sha256)]}
    for tool in build.tools:
        reference = f"tool:{tool.filename}"
        identity = {"type": "application", "bom-ref": reference, "name": tool.filename, "scope": "excluded"}
        yield {**identity, "hashes": [sha256_entry(tool.sha256)], "properties": properties(role=tool.role)}


def provenance_statement(
    build: LockedBuild, files: Iterable[tuple[str, str]], measures: Mapping[str, str], flags: Mapping[str, str]
) -> bytes:
    """Return the provenance of a built wheel: a statement about its compiled files (names and sha256).

    It cannot be about the wheel itself, which contains it. `flags` are the settings of compilers that jbuild gave.
    """
    target, source = build.target, build.source
    external = {
        "name": build.name,
        "version": build.version,
        "source": {"kind": source.kind, **_address(source)},
        "patches": [patch.name for patch in build.patches],
        "environment": dict(build.environment),
        **({"inputs": {entry.variable: _stated_input(entry) for entry in build.inputs}} if build.inputs else {}),
    }
    internal = {
        "fingerprint": build.fingerprint,
        "target": {
            "architecture": target.architecture,
            "python": target.python,
            "glibc": target.glibc,
            "gpus": list(target.gpus),
            **({"cuda": target.cuda} if target.cuda else {}),
            **({"torch": target.torch.version} if target.torch else {}),
        },
        "machine": build.machine,
        "toolchain": build.toolchain,
        "compiler": f"gcc {build.compiler}",
        "interpreter": f"CPython {build.interpreter}",
        "flags": dict(flags),
        "measured": dict(measures),
    }
    predicate = build_predicate(BUILD_TYPE, external, internal, list(_materials(build)), METHOD)
    return in_toto_statement([(name, {"sha256": sha256}) for name, sha256 in files], PROVENANCE, predicate)


def _stated_input(entry: BuildInput) -> dict[str, Any]:
    source = {"kind": entry.source.kind, **_address(entry.source)}
    return {"source": source, "patches": [patch.name for patch in entry.patches]}


def _address(source: BuildSource) -> dict[str, str]:
    """Return the address of a repository and its commit; the recipe's project knows a folder."""
    return {"location": scrub(source.location), "commit": source.commit or ""} if source.kind == "git" else {}


def _materials(build: LockedBuild) -> Iterator[dict[str, Any]]:
    archive = {"uri": f"pkg:pypi/{build.name}@{build.version}"} if build.source.kind == "sdist" else {}
    yield {"name": build.name, **archive, **_content(build.source)}
    for entry in build.inputs or ():
        yield {"name": entry.variable, **_content(entry.source)}
    for patch in build.all_patches:
        yield {"name": patch.name, "digest": {"sha256": patch.sha256}}
    for wheel in (*build.requirements, *([build.target.torch] if build.target.torch else [])):
        uri = f"pkg:pypi/{wheel.name}@{wheel.version}"
        yield {"name": wheel.filename, "uri": uri, "digest": {"sha256": wheel.sha256}}
    for tool in build.tools:
        yield {"name": tool.filename, "digest": {"sha256": tool.sha256}, "annotations": {"role": tool.role}}


def _content(source: BuildSource) -> dict[str, Any]:
    address = {"uri": f"git+{scrub(source.location)}@{source.commit}"} if source.kind == "git" else {}
    git = {"gitCommit": source.commit} if source.commit else {}
    return {**address, "digest": {"sha256": source.sha256, **git}}


@dataclass(frozen=True, kw_only=True, slots=True)
class StatedBuild:
    """What a wheel's provenance states: the fingerprint of the inputs, and the sha256 of each compiled file."""

    fingerprint: str
    files: Mapping[str, str]


def stated_build(statement: bytes) -> StatedBuild | None:
    """Return what the provenance of a wheel states; None if something else than jbuild wrote it."""
    try:
        document = decode_json(statement)
        definition = document["predicate"]["buildDefinition"]
        fingerprint = definition["internalParameters"]["fingerprint"]
        files = {subject["name"]: subject["digest"]["sha256"] for subject in document["subject"]}
        texts = [definition["buildType"], fingerprint, *files, *files.values()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if texts[0] != BUILD_TYPE or not all(isinstance(text, str) for text in texts):
        return None
    return StatedBuild(fingerprint=fingerprint, files=files)
