"""The components of a bill: CycloneDX objects for packages, distributions, models, and the image's base."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.foundry.cyclonedx import Component, properties, purl, sha256_entry
from builder.image.wheels.licences import licence, licences
from builder.jetson.boards import dotted_sm
from builder.publish.bill.debian_packages import spdx_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.model.builds import LockedBuild
    from builder.model.images import SlimmedWheel
    from builder.model.locks import LockedBase, LockedInterpreter
    from builder.model.model_files import LockedModel
    from builder.model.wheels import LockedWheel
    from builder.publish.bill.debian_packages import DebianPackage
    from builder.publish.bill.installed_packages import InstalledPackages, PythonDistribution

_HUB_SOURCE = re.compile(r"hf://([^/@\s]+)/([^/@\s]+)(@.*)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelChanges:
    """How the content of a wheel differs from an index's: what it lost, and the build that made it."""

    slimmed: SlimmedWheel | None = None
    build: LockedBuild | None = None


def wheel_component(wheel: LockedWheel, metadata: bytes | None, changes: WheelChanges | None = None) -> Component:
    """Return the component of a wheel.

    What is left of a slimmed wheel has no file with a hash: the hash is that of its ancestor.
    """
    slimmed, build = (changes.slimmed, changes.build) if changes else (None, None)
    reference = purl("pypi", wheel.name, version=wheel.version)
    identity = {"type": "library", "name": wheel.name, "version": wheel.version, "purl": reference}
    changed = {"slim_record": f"sha256:{slimmed.record}"} if slimmed else {}
    pedigree = {"pedigree": _source_pedigree(build)} if build else {}
    if slimmed:
        pedigree = {"pedigree": _pedigree({**identity, **pedigree}, slimmed)}
    return {
        **identity,
        "bom-ref": reference,
        **({} if slimmed else {"hashes": [sha256_entry(wheel.sha256)]}),
        **pedigree,
        "properties": properties(filename=wheel.filename, index=wheel.index, **changed),
        **_with_licences(licences(metadata)),
    }


def _pedigree(identity: Component, slimmed: SlimmedWheel) -> dict[str, Any]:
    """Return where the content of a slimmed wheel comes from: the wheel of the index, and what was done to it."""
    rules = slimmed.rules
    sms = ", ".join(map(dotted_sm, rules.sms))
    cubins = slimmed.cubins
    compiled = f"; ptxas {cubins[0].ptxas} compiled {len(cubins)} of its modules" if cubins else ""
    same_major = {True: "stays", False: "went", None: "stays beside PTX"}[rules.same_major]
    return {
        "ancestors": [{**identity, "hashes": [sha256_entry(slimmed.sha256)]}],
        "patches": [{"type": "unofficial"}],
        "notes": f"jbuild left out GPU code that does not run on SM {sms} (algorithm {slimmed.algorithm}; SASS of "
        f"lower minors of the same major {same_major}): {slimmed.removed} of {slimmed.before} bytes of libraries went"
        f"{compiled}",
    }


def _source_pedigree(build: LockedBuild) -> dict[str, Any]:
    """Return what a built wheel was made of: its source, and the patches of it."""
    source, qualifiers = build.source, dict[str, str]()
    if source.kind == "git":
        qualifiers = {"vcs_url": f"git+{source.location}@{source.commit}"}
    ancestor = {
        "type": "library",
        "name": build.name,
        "version": build.version,
        "purl": purl("pypi", build.name, version=build.version, **qualifiers),
        "hashes": [sha256_entry(source.sha256)],
    }
    names = ", ".join(f"{patch.name} (sha256 {patch.sha256})" for patch in build.patches)
    target = build.target
    gpus = f" for SM {', '.join(target.gpus)}" if target.gpus else ""
    notes = f"jbuild built it from {source.words}{gpus}, Python {target.python} and glibc {target.glibc}"
    return {
        "ancestors": [ancestor],
        **({"patches": [{"type": "unofficial"} for _ in build.patches]} if build.patches else {}),
        "notes": f"{notes}; patches: {names}" if names else notes,
    }


def distribution_component(distribution: PythonDistribution, reference: str) -> Component:
    """Return the component of a Python distribution that is no wheel of the lock."""
    return {
        "type": "library",
        "bom-ref": reference,
        "name": distribution.name,
        "version": distribution.version,
        "purl": purl("pypi", distribution.name, version=distribution.version),
        "properties": properties(path=distribution.path),
    }


def model_component(model: LockedModel) -> Component:
    """Return the component of a model, with its files."""
    reference = f"model:{model.name}"
    source = _HUB_SOURCE.fullmatch(model.source)
    url = ""
    if source and model.origin == "hub" and model.revision and not model.stand_in:
        url = purl("huggingface", source[1], source[2], version=model.revision)
    return {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": model.name,
        **({"version": model.revision} if model.revision else {}),
        **({"purl": url} if url else {}),
        **_with_licences(licence(model.licence) if model.licence else []),
        "properties": properties(source=model.source, revision=model.revision, stand_in=model.stand_in),
        "components": [
            {
                "type": "file",
                "bom-ref": f"{reference}/{file.path}",
                "name": file.path,
                "hashes": [sha256_entry(file.sha256)],
                "properties": properties(size=str(file.size)),
            }
            for file in model.files
        ],
    }


def base_component(base: LockedBase) -> Component:
    """Return the component of the base image."""
    return {
        "type": "container",
        "bom-ref": f"base:{base.digest}",
        "name": base.name,
        "version": base.digest,
        "hashes": [sha256_entry(base.digest.partition(":")[2])],
        "properties": properties(used=base.used, stand_in=base.stand_in),
    }


def interpreter_component(interpreter: LockedInterpreter) -> Component:
    """Return the component of the image's own interpreter."""
    return {
        "type": "platform",
        "bom-ref": f"interpreter:{interpreter.release}",
        "name": "python",
        "version": interpreter.version,
        "purl": purl("generic", "python", version=interpreter.version),
        "hashes": [sha256_entry(interpreter.sha256)],
        "properties": properties(release=interpreter.release),
    }


def system_component(contents: InstalledPackages) -> Component:
    """Return the component of the image's distribution, by which scanners choose advisories."""
    name = contents.system or "linux"
    return {
        "type": "operating-system",
        "bom-ref": f"os:{name}-{contents.release}",
        "name": name,
        **({"version": contents.release} if contents.release else {}),
    }


def debian_component(package: DebianPackage, contents: InstalledPackages) -> Component:
    """Return the component of a package of the distribution."""
    reference = _debian_purl(package, contents)
    source = source_of(package)
    return {
        "type": "library",
        "bom-ref": reference,
        "name": package.name,
        "version": package.version,
        "purl": reference,
        "properties": properties(source_package=source, layer=contents.layers.get(package)),
        **_with_licences(_debian_licences(contents.licences.get(package.name, ()))),
    }


def _debian_purl(package: DebianPackage, contents: InstalledPackages) -> str:
    distro = f"{contents.system}-{contents.release}" if contents.release else contents.system
    # Advisories name source packages: scanners read them from this qualifier, if it is not the package itself.
    upstream = package.source if package.source_version == package.version else source_of(package)
    return purl(
        "deb",
        contents.system or "debian",
        package.name,
        version=package.version,
        arch=package.architecture,
        distro=distro,
        upstream="" if upstream == package.name else upstream,
    )


def source_of(package: DebianPackage) -> str:
    """Return the source package with its version, `glibc@2.36-9`."""
    return f"{package.source}@{package.source_version}"


def _debian_licences(texts: Iterable[str]) -> list[dict[str, Any]]:
    named = dict.fromkeys(spdx_names(texts))
    found = {spdx or name: {"id": spdx} if spdx else {"name": name} for name, spdx in named}
    return [{"license": found[key]} for key in sorted(found)]


def _with_licences(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {"licenses": found} if found else {}
