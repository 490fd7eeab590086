"""The page of `jbuild report` in a real browser: nothing is asked for or obeyed, and every way of reading it works."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, TypedDict

import pytest
from browser import PROGRAM, browsing
from conftest import CHECKOUT
from report_parts import Made, write_recipe

from builder.host.paths import Workspace
from builder.pipeline.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from browser import Tab

BAD = '</script><script>window.hit=1</script><img src=https://far.example/x onerror="window.hit=1">\'"&'
CELL = "demo.v0_15_1-debian12"


class Size(TypedDict):
    """The size of a window."""

    width: int
    height: int


PHONE, DESK = Size(width=390, height=844), Size(width=1280, height=900)

if PROGRAM is None and not os.environ.get("CI"):
    pytest.skip("chromium is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about cells in several states, one of them full of attacks, written by the command itself."""
    workspace = Workspace(project=tmp_path_factory.mktemp("project"), cache=tmp_path_factory.mktemp("cache"))
    write_recipe(workspace, vllm=("0.9.2", "0.15.1", "0.16.0"), description=BAD)
    wheels = tuple((f"package-{n}", f"{n}.0", n * 100_000) for n in range(120))
    Made(workspace=workspace, recipe="demo", cell="v0_15_1-debian12", wheels=wheels).whole()
    broken = Made(workspace=workspace, recipe="demo", cell="v0_16_0-ubuntu2404")
    broken.verdict(broken.image(broken.lock()), text=BAD)
    broken.run(failure=Failure(stage="push", message=BAD, hint=BAD, log=BAD * 20))
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "JBUILD_CACHE": str(workspace.cache)}
    argv = [sys.executable, "-m", "builder", "report", "demo"]
    subprocess.run(argv, cwd=workspace.project, env=environment, check=True, capture_output=True)
    return workspace.report


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with browsing() as opened:
        yield opened


def focused(tab: Tab) -> str:
    return str(tab.run("document.activeElement.getAttribute('href') || document.activeElement.tagName"))


def test_nothing_is_asked_for_obeyed_or_complained_about(tab: Tab, page: Path) -> None:
    tab.open(page, **DESK)
    tab.run("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    tab.run("new Promise((done) => setTimeout(done, 200))")
    assert tab.run("window.hit") is None
    assert tab.run("document.images.length") == 0
    assert "window.hit=1" in tab.run("document.body.innerText")
    assert set(tab.asked) == {page.as_uri()}
    assert tab.complaints == []


def test_a_script_that_gets_in_all_the_same_does_not_run(tab: Tab, page: Path) -> None:
    tab.open(page, **DESK)
    tab.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hit = 2\">')")
    tab.run("document.body.append(Object.assign(document.createElement('script'), {text: 'window.hit = 3'}))")
    tab.run("new Promise((done) => setTimeout(done, 200))")
    assert tab.run("window.hit") is None
    assert any("Content Security Policy" in each for each in tab.complaints)
    tab.complaints.clear()


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_nothing_runs_over_the_edge(tab: Tab, page: Path, size: Size) -> None:
    tab.open(page, **size)
    tab.run("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    assert tab.run("document.documentElement.scrollWidth") == size["width"]
    assert tab.run("[...document.querySelectorAll('.map a')].every((each) => each.offsetHeight >= 44)")


def test_the_map_is_walked_with_the_arrow_keys(tab: Tab, page: Path) -> None:
    tab.open(page, **DESK)
    tab.press("Tab")
    assert focused(tab) == "#main"
    assert tab.run("document.activeElement.offsetWidth") > 40, "the link past the header is seen when it has the focus"
    tab.run("document.querySelector('.map').closest('.scroll').focus()")
    tab.press("Tab")
    assert focused(tab) == "#demo.v0_9_2-debian12"
    assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for key, place in (
        ("ArrowRight", "v0_15_1-debian12"),
        ("ArrowDown", "v0_15_1-ubuntu2404"),
        ("ArrowRight", "v0_16_0-ubuntu2404"),
        ("ArrowRight", "v0_16_0-ubuntu2404"),
        ("Home", "v0_9_2-debian12"),
        ("End", "v0_16_0-ubuntu2404"),
        ("ArrowUp", "v0_16_0-debian12"),
        ("ArrowLeft", "v0_15_1-debian12"),
    ):
        tab.press(key)
        assert focused(tab) == f"#demo.{place}"
    tab.press("Enter")
    tab.run("new Promise((done) => setTimeout(done, 200))")
    assert tab.run(f"document.getElementById('{CELL}').closest('details').open")
    assert focused(tab) == "SUMMARY"
    assert 0 <= tab.run("document.activeElement.getBoundingClientRect().top") < 400


def test_a_link_to_a_cell_opens_it_also_where_it_is_one_of_many(tab: Tab, page: Path) -> None:
    tab.open(page, **DESK)
    tab.run("location.hash = 'demo.v0_9_2-ubuntu2404'")
    tab.run("new Promise((done) => setTimeout(done, 100))")
    assert tab.run("document.activeElement.id") == "demo.v0_9_2-ubuntu2404"
    assert tab.run("document.activeElement.closest('details').open")


def test_packages_are_found_in_one_cell_and_in_all(tab: Tab, page: Path) -> None:
    tab.open(page, **DESK)
    typed = "document.querySelector('{}').value = '{}'; document.querySelector('{}').dispatchEvent(new Event('input'))"
    tab.run(typed.format("#find", "package-11", "#find"))
    assert tab.run("document.getElementById('found').innerText").startswith("11 found")
    tab.run(typed.format("#find", "torch 2.10", "#find"))
    found = tab.run("document.getElementById('found').innerText")
    assert "demo v0_16_0-ubuntu2404" in found
    assert "demo v0_15_1-debian12" not in found
    tab.run(f"document.getElementById('{CELL}').querySelector('.filter').id = 'one'")
    tab.run(typed.format("#one", "package-7", "#one"))
    assert tab.run("document.getElementById('one').closest('p').textContent").strip().endswith("11 of 120")
    seen = f"[...document.getElementById('{CELL}').querySelectorAll('.packages tbody tr')].filter((e) => !e.hidden)"
    assert tab.run(f"{seen}.length") == 11


def test_dark_and_light_are_two(tab: Tab, page: Path, tmp_path: Path) -> None:
    seen = []
    for dark in (False, True):
        tab.open(page, **PHONE, dark=dark)
        seen.append(tab.run("getComputedStyle(document.body).backgroundColor"))
        tab.picture(tmp_path / f"{dark}.png")
    assert seen == ["rgb(255, 255, 255)", "rgb(18, 21, 26)"]
    assert (tmp_path / "True.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_on_paper_everything_but_packages_is_open(tab: Tab, page: Path, tmp_path: Path) -> None:
    tab.open(page, **DESK, dark=True)
    tab.paper(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    tab.call("Emulation.setEmulatedMedia", media="print")
    tab.run("window.dispatchEvent(new Event('beforeprint'))")
    text = tab.run("document.body.innerText")
    assert "Past runs" in text
    assert "It is Paris." in text
    assert "package-7" not in text
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    tab.run("window.dispatchEvent(new Event('afterprint'))")
    assert tab.run(f"document.getElementById('{CELL}').closest('details').open") is False
    tab.call("Emulation.setEmulatedMedia", media="")


def test_without_scripts_everything_can_be_opened_and_read(tab: Tab, page: Path) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(page, **DESK)
        assert tab.run("document.querySelector('.search').offsetHeight") == 0
        assert tab.run("document.querySelectorAll('.map a').length") == 6
        # The browser itself opens what a link leads into.
        tab.run(f"document.querySelector('a[href=\"#{CELL}\"]').click()")
        time.sleep(0.3)
        assert tab.run(f"document.getElementById('{CELL}').closest('details').open")
        assert "It is Paris." in tab.run("document.body.innerText")
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
