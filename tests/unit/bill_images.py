"""Small images for tests of bills of materials, and an independent reading of what is in them."""

from __future__ import annotations

import importlib.metadata
import io
import tarfile
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from layer_files import make, wheels_layer
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from builder.host.records import as_bytes
from builder.image.oci.layout import put, put_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from builder.host.session import Session
    from builder.model.images import Image
    from builder.model.wheels import LockedWheel

_STRICT = JsonStrictValidator(SchemaVersion.V1_5)
TAR = "application/vnd.oci.image.layer.v1.tar"
RELEASE = b'PRETTY_NAME="Debian"\nID=debian\nVERSION_ID="12"\n'
STATUS = """Package: libc6
Status: install ok installed
Architecture: arm64
Source: glibc
Version: 2.36-9+deb12u14
Depends: libgcc-s1, libcrypt1 (>= 1:4.4.10-10~)
Description: GNU C Library
 Package: not-a-package

Package: libgcc-s1
Status: install ok installed
Architecture: arm64
Source: gcc-12 (12.2.0-14)
Version: 12.2.0-14+b1
Depends: gcc-12-base (= 12.2.0-14), libc6 (>= 2.35)

Package: gcc-12-base
Status: install ok installed
Architecture: arm64
Source: gcc-12
Version: 12.2.0-14

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1.0

Package: perl-base
Status: install ok installed
Architecture: arm64
Source: perl
Version: 1:5.36.0-7
Pre-Depends: libc6 (>= 2.35)
Provides: libfile-temp-perl, perlapi-5.36.0 (= 1)
"""
MORE = """
Package: libstdc++6
Status: install ok installed
Architecture: arm64
Source: gcc-12
Version: 12.2.0-14
Depends: gcc-12-base, libc6, nothing | perlapi-5.36.0
"""
COPYRIGHT = b"""Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: GPL-2+ or Artistic

License: Expat
 Permission is hereby granted.
"""


def status_layers() -> tuple[tuple[tuple[str, bytes | str], ...], ...]:
    """Return the files of a base layer and of a system layer above it."""
    base = (
        ("etc/os-release", "-> ../usr/lib/os-release"),
        ("usr/lib/os-release", RELEASE),
        ("var/lib/dpkg/status", STATUS.encode()),
        ("var/lib/dpkg/status.d/tzdata", b"Package: tzdata\nVersion: 2024a-0+deb12u1\nArchitecture: all\n"),
        ("var/lib/dpkg/status.d/tzdata.md5sums", b"Package: wrong\nVersion: 1\n"),
        ("var/lib/dpkg/status.d/removed", b"Package: removed\nVersion: 1\nArchitecture: all\n"),
        ("usr/share/doc/gcc-12-base/copyright", COPYRIGHT),
        ("usr/share/doc/libc6/copyright", b"The licence is in /usr/share/common-licenses/LGPL-2.1.\n"),
        ("usr/share/doc/libstdc++6", "-> gcc-12-base"),
        (
            "usr/lib/python3/dist-packages/six-1.16.0.egg-info/PKG-INFO",
            b"Metadata-Version: 1.2\nName: six\nVersion: 1.16.0\n\nText.\n",
        ),
        ("usr/lib/python3/dist-packages/old.egg-info", b"Metadata-Version: 1.0\nName: Old_Name\nVersion: 1\n"),
    )
    system = (
        ("var/lib/dpkg/status", (STATUS + MORE).encode()),
        ("var/lib/dpkg/status.d/.wh.removed", b""),
        ("usr/lib/python3/dist-packages/.wh.old.egg-info", b""),
    )
    return base, system


def wheel_layer(wheels: Iterable[LockedWheel], session: Session) -> bytes:
    """Return the tar of wheels, as in an image."""
    return make(wheels_layer(tuple(wheels), session, python="3.11"), session).tar


def make_layered_image(layers: Iterable[bytes], layout: Path) -> Image:
    """Put an image of tars into a layout."""
    blobs = [put(layout, content, TAR) for content in layers]
    config = as_bytes({"config": {}, "rootfs": {"type": "layers", "diff_ids": [blob.digest for blob in blobs]}})
    return put_image(layout, config, blobs, "linux/arm64")


def extract(layers: Iterable[bytes], root: Path) -> Path:
    """Unpack layers over each other, as an engine does."""
    root.mkdir()
    for content in layers:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            names = archive.getnames()
            for name in names:
                path = Path(name)
                if path.name.startswith(".wh."):
                    target = root / path.parent / path.name.removeprefix(".wh.")
                    target.unlink()
            archive.extractall(root, filter="tar")
    return root


def purls_of_files(root: Path) -> set[PackageURL]:
    """Return what a scanner finds in a file system: packages of dpkg, and Python distributions."""
    found = set()
    databases = [root / "var/lib/dpkg/status", *(root / "var/lib/dpkg/status.d").glob("*")]
    for database in databases:
        if database.suffix == ".md5sums" or not database.is_file() or database.name.startswith(".wh."):
            continue
        for paragraph in database.read_text().strip().split("\n\n"):
            fields = HeaderParser().parsestr(paragraph)
            if fields.get("Status", "installed").endswith(" config-files"):
                continue
            qualifiers = {"arch": fields["Architecture"], "distro": "debian-12"}
            found.add(PackageURL("deb", "debian", fields["Package"], fields["Version"], qualifiers))
    for metadata in [*root.rglob("METADATA"), *root.rglob("PKG-INFO")]:
        distribution = importlib.metadata.PathDistribution(metadata.parent)
        found.add(PackageURL("pypi", None, canonicalize_name(distribution.metadata["Name"]), distribution.version))
    return found


def components_of(bill: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the components of a bill, with those inside others."""
    waiting = [*bill["components"]]
    while waiting:
        component = waiting.pop()
        waiting += component.get("components", ())
        yield component


def purls_of(bill: dict[str, Any], *kinds: str) -> set[PackageURL]:
    """Return the package URLs of a bill, without the qualifier with the source package."""
    found = set()
    for component in components_of(bill):
        if "purl" not in component:
            continue
        url = PackageURL.from_string(component["purl"])
        # The way that `packageurl` writes it is the standard's.
        assert url.to_string() == component["purl"]
        qualifiers = {key: value for key, value in url.qualifiers.items() if key != "upstream"}
        found.add(PackageURL(url.type, url.namespace, url.name, url.version, qualifiers))
    return {url for url in found if url.type in kinds}


def check_bill(bill: dict[str, Any]) -> None:
    """Check a bill against CycloneDX's strict schema, and what no schema can express."""
    failure = _STRICT.validate_str(as_bytes(bill).decode())
    assert failure is None, failure
    references = ["image", *(component["bom-ref"] for component in components_of(bill))]
    assert len(references) == len(set(references))
    entries = {entry["ref"]: entry.get("dependsOn", ()) for entry in bill["dependencies"]}
    assert set(entries) == set(references)
    assert {lower for below in entries.values() for lower in below} <= set(references)
    reached, waiting = set(), ["image"]
    while waiting:
        reference = waiting.pop()
        if reference not in reached:
            reached.add(reference)
            waiting += entries[reference]
    assert reached >= {component["bom-ref"] for component in bill["components"]}
