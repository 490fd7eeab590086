"""Licences that wheels declare, and those of a whole image."""

from __future__ import annotations

from pathlib import Path

import pytest
from factories import make_lock, make_locked_wheel, make_model
from hypothesis import given
from hypothesis import strategies as st
from packaging.licenses import canonicalize_license_expression

from builder.host.files import write_bytes
from builder.host.paths import Workspace
from builder.image.wheels.licences import licence, licences, names, spdx_of


def metadata(*lines: str) -> bytes:
    return "\n".join(["Metadata-Version: 2.4", "Name: demo", "Version: 1.0", *lines, "", "Text."]).encode()


LICENCES = [
    (("License-Expression: apache-2.0 AND MIT",), [{"expression": "Apache-2.0 AND MIT"}]),
    (("License-Expression: Apache-2.0", "License: whatever"), [{"expression": "Apache-2.0"}]),
    (("License: MIT",), [{"expression": "MIT"}]),
    (("License: BSD",), [{"license": {"name": "BSD"}}]),
    (("License: UNKNOWN",), []),
    (
        ("License: MIT License", "        ", *["        Permission is hereby granted"] * 9),
        [{"license": {"name": "MIT License"}}],
    ),
    (("License: " + "All rights " * 30,), []),
    (
        ("Classifier: License :: OSI Approved :: Apache Software License", "Classifier: Topic :: Software"),
        [{"license": {"name": "Apache Software License"}}],
    ),
    (
        ("License: BSD-3", "Classifier: License :: OSI Approved :: BSD License", "Classifier: License :: Other"),
        [{"license": {"name": "BSD License"}}, {"license": {"name": "Other"}}],
    ),
    (("License: MIT", "Classifier: License :: OSI Approved :: MIT License"), [{"expression": "MIT"}]),
    ((), []),
]


@pytest.mark.parametrize(("lines", "expected"), LICENCES)
def test_licences(lines: tuple[str, ...], expected: list[object]) -> None:
    assert licences(metadata(*lines)) == expected


def test_no_metadata_no_licence() -> None:
    assert licences(None) == []


def test_a_licence_that_is_no_expression() -> None:
    assert licence("Llama 3.1 Community") == [{"license": {"name": "Llama 3.1 Community"}}]


def expression(workspace: Workspace, *declared: tuple[str, ...], models: tuple[str | None, ...] = ()) -> str | None:
    wheels = [make_locked_wheel(f"wheel-{number}") for number in range(len(declared))]
    for wheel, lines in zip(wheels, declared, strict=True):
        write_bytes(workspace.metadata(wheel.sha256), metadata(*lines))
    found = tuple(make_model(f"m{number}", licence=name) for number, name in enumerate(models))
    return spdx_of(make_lock(*wheels, models=found), workspace)


def test_an_images_licences_are_one_expression(workspace: Workspace) -> None:
    declared = [
        ("License-Expression: MIT",),
        ("License-Expression: Apache-2.0 AND MIT",),
        ("License-Expression: Apache-2.0 OR BSD-2-Clause",),
        ("License-Expression: Apache-2.0 WITH LLVM-exception",),
        ("License: Apache 2.0",),
        ("Classifier: License :: OSI Approved :: ISC License (ISCL)",),
        ("License: BSD-derived (http://x/y)",),
        (),
    ]
    assert expression(workspace, *declared, models=("Llama 3.1 Community", "apache-2.0", None)) == (
        "(Apache-2.0 OR BSD-2-Clause) AND Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND ISC AND "
        "LicenseRef-BSD-derived-http-x-y AND LicenseRef-Llama-3.1-Community AND MIT"
    )


def test_nothing_is_said_where_nothing_is_declared(workspace: Workspace) -> None:
    assert expression(workspace, ()) is None


@given(st.text(st.characters(min_codepoint=32), min_size=1, max_size=60))
def test_whatever_a_model_calls_it_the_expression_is_valid(name: str) -> None:
    lock = make_lock(models=(make_model(licence=name),))
    found = spdx_of(lock, Workspace(project=Path("/nowhere"), cache=Path("/nowhere")))
    assert found
    assert canonicalize_license_expression(found)


def test_every_known_name_is_an_spdx_one() -> None:
    for name, spdx in names().items():
        assert canonicalize_license_expression(spdx) == spdx, name
        assert licence(name)[0].get("expression") in (None, spdx)
