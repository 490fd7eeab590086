"""The software bill of materials of an image, from its lock and its layers: CycloneDX 1.5."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name

from builder.foundry.cyclonedx import bill, purl, sha256_entry
from builder.foundry.wheel_bill import BILL
from builder.image.wheels.aliases import alias_versions
from builder.publish.bill.components import (
    base_component,
    debian_component,
    distribution_component,
    interpreter_component,
    model_component,
    system_component,
    wheel_component,
)
from builder.publish.bill.debian_packages import dependencies
from builder.publish.bill.embedded_bills import BillError, read_bill
from builder.publish.bill.installed_packages import InstalledPackages, PythonDistribution
from builder.publish.bill.python_graph import names_of, python_edges, requested_by
from builder.publish.bill.wheel_documents import wheel_documents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from builder.foundry.cyclonedx import Component
    from builder.host.paths import Workspace
    from builder.model.images import SlimmedWheel
    from builder.model.locks import Lock
    from builder.model.wheels import LockedWheel
    from builder.publish.bill.wheel_documents import WheelDocuments

MEDIA_TYPE = "application/vnd.cyclonedx+json"
LOCK_PROPERTY = "io.jbuild.lock"
_ROOT = "image"
_INTERPRETER_FOLDER = "opt/python/"
# Registries' clients read documents up to 32 MiB: no bill may get longer.
_MOST_EMBEDDED = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class BillSources:
    """What a bill is made from besides the lock.

    `contents` are the packages in the image's layers, None if they were not read. `installed` provides the texts of
    the layers with wheels, for wheels that the wheelhouse lacks. `requests` are the recipe's requirements. `slimmed`
    are the wheels that lost GPU code.
    """

    contents: InstalledPackages | None = None
    installed: Callable[[], Mapping[str, str]] = dict
    requests: tuple[str, ...] = ()
    slimmed: tuple[SlimmedWheel, ...] = ()


@dataclass(slots=True)
class _Draft:
    """A bill in the making: dependencies by reference, and what could not be read."""

    edges: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    flaws: list[str] = field(default_factory=list)
    embedded: int = 0


def sbom(
    lock: Lock,
    digest: str,
    checksum: str,
    workspace: Workspace,
    sources: BillSources | None = None,
    on_flaw: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Return the bill of an image: its base, packages, interpreter, wheels and models, and their dependencies.

    It holds no time, and its serial number comes from the digest: the same image has one bill. The bill is marked as
    incomplete if a part of the image could not be read: `on_flaw` gets a sentence about each such part.
    """
    draft, sources = _Draft(), sources or BillSources()
    components = [
        *_system(lock, sources.contents, draft),
        *_wheels(lock, workspace, sources, draft),
        *(model_component(model) for model in lock.models),
    ]
    requested = names_of(requested_by(sources.requests, lock.platform))
    direct = {purl("pypi", wheel.name, version=wheel.version) for wheel in lock.wheels if wheel.name in requested}
    _link_root([str(component["bom-ref"]) for component in components], direct, draft)
    for flaw in draft.flaws:
        on_flaw(flaw)
    subject = {
        "type": "container",
        "bom-ref": _ROOT,
        "name": f"{lock.recipe}/{lock.cell}",
        "version": digest,
        "hashes": [sha256_entry(digest.partition(":")[2])],
    }
    return bill(
        digest,
        subject,
        [{"name": LOCK_PROPERTY, "value": checksum}],
        components=components,
        dependencies=_dependencies(components, draft),
        compositions=[{"aggregate": "incomplete" if draft.flaws else "complete", "assemblies": [_ROOT]}],
    )


def _system(lock: Lock, contents: InstalledPackages | None, draft: _Draft) -> Iterator[Component]:
    """Yield the base, the distribution with its packages, and the image's own interpreter."""
    found = contents.python if contents else ()
    base = base_component(lock.base)
    yield _with_distributions(base, [d for d in found if not d.path.startswith(_INTERPRETER_FOLDER)], draft)
    if lock.interpreter:
        own = [d for d in found if d.path.startswith(_INTERPRETER_FOLDER)]
        yield _with_distributions(interpreter_component(lock.interpreter), own, draft)
    if contents is None:
        draft.flaws.append("the packages in the image's layers were not read")
        return
    draft.flaws += [f"/{path} is too large to be read" for path in contents.unread]
    if not contents.packages:
        draft.flaws.append("the image has no database of dpkg, so its distribution's packages are unknown")
    if contents.system or contents.packages:
        yield from _distribution(contents, draft)


def _distribution(contents: InstalledPackages, draft: _Draft) -> Iterator[Component]:
    system = system_component(contents)
    packages = {package: debian_component(package, contents) for package in contents.packages}
    draft.edges[system["bom-ref"]] |= {component["bom-ref"] for component in packages.values()}
    for package, needed in dependencies(packages).items():
        draft.edges[packages[package]["bom-ref"]] |= {packages[other]["bom-ref"] for other in needed}
    yield system
    yield from packages.values()


def _with_distributions(owner: Component, found: Iterable[PythonDistribution], draft: _Draft) -> Component:
    """Return a component with the Python distributions inside it."""
    inner = []
    for distribution in found:
        reference = f"{owner['bom-ref']}#{distribution.path}"
        inner.append(distribution_component(distribution, reference))
        draft.edges[owner["bom-ref"]].add(reference)
    return {**owner, "components": [*owner.get("components", ()), *inner]} if inner else owner


def _wheels(lock: Lock, workspace: Workspace, sources: BillSources, draft: _Draft) -> Iterator[Component]:
    """Yield the wheels, each with the components of its own bills, and link them."""
    documents = {wheel.name: wheel_documents(wheel, workspace, sources.installed) for wheel in lock.wheels}
    references = {wheel.name: purl("pypi", wheel.name, version=wheel.version) for wheel in lock.wheels}
    metadata = {name: found.metadata or b"" for name, found in documents.items()}
    requested = requested_by(sources.requests, lock.platform)
    for upper, lower in python_edges(metadata, requested, lock.platform):
        draft.edges[references[upper]].add(references[lower])
    slimmed = {wheel.sha256: wheel for wheel in sources.slimmed}
    for wheel in lock.wheels:
        yield _wheel(wheel, documents[wheel.name], slimmed.get(wheel.sha256), draft)


def _wheel(wheel: LockedWheel, documents: WheelDocuments, slimmed: SlimmedWheel | None, draft: _Draft) -> Component:
    draft.flaws += [f"{wheel.filename}: {flaw}" for flaw in documents.flaws]
    if documents.metadata is None:
        draft.flaws.append(f"{wheel.filename}: its METADATA could not be read, so its dependencies are unknown")
    component = wheel_component(wheel, documents.metadata, slimmed)
    aliases = [
        PythonDistribution(name=str(canonicalize_name(name)), version=version, path=f"{folder}/METADATA")
        for name, version, folder in alias_versions(wheel.name, wheel.version)
    ]
    component = _with_distributions(component, [*aliases, *documents.inside], draft)
    inner = [part for name, content in documents.bills for part in _embedded(wheel, component, name, content, draft)]
    return {**component, "components": [*component.get("components", ()), *inner]} if inner else component


def _embedded(wheel: LockedWheel, owner: Component, name: str, content: bytes, draft: _Draft) -> Sequence[Component]:
    """Return the components of a bill inside a wheel, and link them; a damaged bill is a flaw."""
    where = f"{wheel.filename}: its bill of materials {name}"
    try:
        embedded = read_bill(content, wheel.name)
    except BillError as error:
        draft.flaws.append(f"{where} is not listed: {error}")
        return ()
    if embedded.cut or draft.embedded + len(embedded.components) > _MOST_EMBEDDED:
        draft.flaws.append(f"{where} is not listed: it has too many components")
        return ()
    draft.embedded += len(embedded.components)
    if name.endswith(BILL) and embedded.pedigree:
        owner.setdefault("pedigree", embedded.pedigree)
    references = {"": owner["bom-ref"]} | {own: f"{owner['bom-ref']}#{name}#{own}" for own in embedded.components}
    for upper, lower in embedded.edges:
        draft.edges[references[upper]].add(references[lower])
    return [{"bom-ref": references[own], **component} for own, component in embedded.components.items()]


def _link_root(top: Sequence[str], direct: set[str], draft: _Draft) -> None:
    """Let the image depend on what the recipe requests, and on each component that nothing else leads to."""
    needed = {lower for upper, below in draft.edges.items() for lower in below if lower != upper}
    roots = draft.edges[_ROOT]
    roots |= direct | {reference for reference in top if reference not in needed}
    reached = _reached(roots, draft)
    for reference in top:
        if reference not in reached:
            # The first of packages that only need each other.
            roots.add(reference)
            reached |= _reached([reference], draft)


def _reached(begin: Iterable[str], draft: _Draft) -> set[str]:
    waiting, reached = list(begin), set()
    while waiting:
        reference = waiting.pop()
        if reference not in reached:
            reached.add(reference)
            waiting += draft.edges.get(reference, ())
    return reached


def _dependencies(components: Iterable[Component], draft: _Draft) -> list[dict[str, Any]]:
    """Return an entry for the image and for every component, as CycloneDX asks for."""
    references = [_ROOT, *_references(components)]
    edges = {reference: sorted(draft.edges.get(reference, ())) for reference in references}
    return [{"ref": ref, **({"dependsOn": edges[ref]} if edges[ref] else {})} for ref in references]


def _references(components: Iterable[Component]) -> Iterator[str]:
    for component in components:
        yield str(component["bom-ref"])
        yield from _references(component.get("components", ()))
