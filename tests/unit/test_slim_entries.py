"""Which entries of a container stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.audit import fatbin, kernel_names
from builder.audit.byte_source import Plain
from builder.image.slim.entry_choice import retained_entries
from builder.model.slimming import SlimRules
from slimming.gpu_library import make_container, make_entry

if TYPE_CHECKING:
    from builder.audit.fatbin import Entry


def label(entry: Entry) -> str:
    assert entry.code is not None
    target = entry.code.target
    return f"{'sm' if target.kind == 'sass' else 'ptx'}_{target.sm}{target.variant}"


def staying(*entries: bytes, sms: tuple[int, ...], same_major: bool | None = True) -> list[str]:
    source = Plain(make_container(*entries))
    container = next(fatbin.containers_between(source, 0, source.size))
    rules = SlimRules(sms=sms, same_major=same_major)

    def kernels(entry: Entry) -> list[bytes]:
        assert entry.code is not None
        return kernel_names.names(fatbin.payload(source, entry), entry.code.target.kind)

    return [label(entry) for entry in retained_entries(container.entries, rules, kernels)]


def of(*targets: str) -> list[bytes]:
    return [make_entry(target) for target in targets]


@pytest.mark.parametrize(
    ("targets", "sms", "expected"),
    [
        (("sm_80", "sm_86", "sm_87", "sm_89", "sm_90"), (87,), ["sm_80", "sm_86", "sm_87"]),
        (("sm_80", "sm_110", "sm_110a", "sm_110f", "sm_100"), (110,), ["sm_110", "sm_110a", "sm_110f", "sm_100"][:3]),
        (("sm_100f", "sm_100a", "sm_103a"), (103,), ["sm_100f", "sm_103a"]),
        (("sm_120f", "sm_120a", "sm_121"), (121,), ["sm_120f", "sm_121"]),
        (("sm_90", "sm_100"), (87,), []),
    ],
)
def test_sass_stays_where_it_runs(targets: tuple[str, ...], sms: tuple[int, ...], expected: list[str]) -> None:
    assert staying(*of(*targets), sms=sms) == expected


def test_code_of_the_same_major_goes_where_it_is_known_not_to_run() -> None:
    assert staying(*of("sm_80", "sm_87"), sms=(87,), same_major=False) == ["sm_87"]


def test_ptx_goes_where_sass_has_all_its_kernels() -> None:
    assert staying(make_entry("sm_80", ("a", "b")), make_entry("ptx_80", ("a",)), sms=(87,)) == ["sm_80"]


def test_ptx_stays_where_sass_lacks_a_kernel() -> None:
    assert staying(make_entry("sm_80", ("a",)), make_entry("ptx_80", ("a", "b")), sms=(87,)) == ["sm_80", "ptx_80"]


def test_ptx_stays_if_one_of_several_gpus_needs_it() -> None:
    assert staying(*of("sm_80", "ptx_80"), sms=(87, 110)) == ["sm_80", "ptx_80"]


def test_ptx_stays_beside_code_of_which_nobody_knows_whether_it_runs() -> None:
    assert staying(*of("sm_80", "ptx_80"), sms=(87,), same_major=None) == ["sm_80", "ptx_80"]
    assert staying(*of("sm_80", "sm_87", "ptx_80"), sms=(87,), same_major=None) == ["sm_80", "sm_87"]


@pytest.mark.parametrize(("target", "stays"), [("ptx_90", False), ("ptx_80a", False), ("ptx_87a", True)])
def test_ptx_that_serves_no_gpu_goes(target: str, stays: bool) -> None:
    assert staying(*of(target), sms=(87,)) == ([target] if stays else [])


def test_other_data_stays() -> None:
    entry = bytearray(make_entry("sm_90"))
    entry[0] = 8
    source = Plain(make_container(bytes(entry)))
    container = next(fatbin.containers_between(source, 0, source.size))
    rules = SlimRules(sms=(87,), same_major=True)
    assert retained_entries(container.entries, rules, lambda _: ()) == list(container.entries)
