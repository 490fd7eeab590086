"""The page of `jbuild report`: what it says of cells, that nothing in it is obeyed, and that it can be read."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_lock, make_locked_wheel
from report_parts import Made, digest, write_recipe
from work import LINEAR, calls_in

from builder.host import records
from builder.model.audits import Finding
from builder.model.verdicts import Agreement, FailedModule, GpuComputation, Modules
from builder.pipeline.failure import Failure
from builder.project.page.cell_view import CellView, cell_view
from builder.project.page.page_data import gather, grid_of
from builder.project.page.page_html import SIGNS, clean, render
from builder.project.page.page_parts import charts_of
from builder.recipe.load import load
from builder.recipe.matrix import expand

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.host.paths import Workspace
    from builder.host.session import Session

STYLE = Path(__file__).parents[2] / "builder" / "project" / "page" / "templates" / "page.css"
CELL = "v0_15_1-debian12"
BAD = '</script><script>window.hit=1</script><img src=x onerror="window.hit=1">\'"&\x1b[31m\u202e'


@pytest.fixture
def made(workspace: Workspace) -> Made:
    write_recipe(workspace)
    return Made(workspace=workspace, recipe="demo", cell=CELL)


@pytest.fixture
def view(session: Session, workspace: Workspace) -> Callable[..., CellView]:
    def look(cell: str = CELL, without: str | None = None) -> CellView:
        cells = expand(load(workspace.project / "recipes" / "demo.toml"))
        (found,) = [each for each in cells if each.id == cell]
        return cell_view(found, session, without)

    return look


def page(session: Session) -> str:
    paths = sorted((session.workspace.project / "recipes").glob("*.toml"))
    return render(gather(paths, session))


FINDING = Finding(rule="missing-library", severity="error", wheel="torch", file="t.so", detail="wants x", fix="add x")


def test_a_cell_is_as_far_as_its_records_hold(made: Made, view: Callable[..., CellView]) -> None:
    assert (view().state, view().command) == ("not begun", f"jbuild recipe demo --cell {CELL}")
    lock = made.lock()
    assert view().state == "locked"
    made.audit(replace(FINDING, severity="info"))
    assert view().state == "audited"
    made.plan()
    assert view().state == "planned"
    image = made.image(lock)
    assert view().state == "built"
    made.verdict(image)
    assert (view().state, view().detail) == ("smoked", "emulated")
    assert view().command == f"jbuild recipe demo --cell {CELL} --push"
    made.publication(image)
    assert (view().state, view().detail) == ("published", "emulated")
    assert view().command == "docker pull r.example/vllm:0.15.1"
    assert [step.state for step in view().steps] == ["done"] * 6


def test_a_verdict_or_a_publication_of_another_image_does_not_count(made: Made, view: Callable[..., CellView]) -> None:
    made.whole()
    lock = make_lock(*(make_locked_wheel(n, v, size=s) for n, v, s in made.wheels), recipe="demo", cell=CELL)
    made.image(made.lock(), seed="another")
    assert lock.recipe == "demo"
    assert view().state == "built"


def test_an_image_of_an_older_lock_is_stale(made: Made, view: Callable[..., CellView]) -> None:
    made.whole()
    replace(made, wheels=(("torch", "2.11.0", 1), *made.wheels[1:])).lock()
    assert (view().state, view().detail) == ("stale", "the lock is newer")
    assert [step.state for step in view().steps] == ["done", "done", "stale", "stale", "stale", "stale"]


def test_the_last_runs_failure_is_the_cells(made: Made, view: Callable[..., CellView]) -> None:
    made.whole()
    made.run(failure=Failure(stage="build", message="it broke", hint="do this", log="line"), day=9)
    found = view()
    assert (found.state, found.detail) == ("failed", "at build")
    assert found.failure
    assert found.failure.hint == "do this"
    assert [step.state for step in found.steps] == ["done", "done", "done", "failed", "done", "done"]
    made.run(day=10)
    assert view().state == "published"


def test_every_failed_stage_stays_until_it_succeeds(
    made: Made, view: Callable[..., CellView], session: Session
) -> None:
    made.run(failure=Failure(stage="smoke", message="it says London"), day=1)
    made.run(failure=Failure(stage="lock", message="a package index did not answer", hint="run it again"), day=2)
    found = view()
    assert (found.state, found.detail) == ("failed", "at smoke, lock")
    assert [(one.stage, one.when) for one in found.failures] == [
        ("smoke", "2026-11-01T10:00:00+00:00"),
        ("lock", "2026-11-02T10:00:00+00:00"),
    ]
    assert [step.state for step in found.steps] == ["failed", "to do", "to do", "to do", "failed", "to do"]
    html = render(gather([made.workspace.project / "recipes" / "demo.toml"], session))
    text = '<b>Failed at lock:</b> a package index did not answer <span class="soft">(2026-11-02 10:00 UTC)</span>'
    assert text in html
    assert "failed at smoke, lock, 2026-11-02 10:00 UTC:" in html
    made.run(failure=Failure(stage="smoke", message="it says Rome"), day=3)
    assert [(one.stage, one.message) for one in view().failures] == [("smoke", "it says Rome")]


def test_records_of_failures_count_without_a_history(made: Made, view: Callable[..., CellView]) -> None:
    lock = made.lock()
    made.audit(FINDING)
    assert (view().state, view().detail) == ("failed", "at audit")
    assert view().failure == Failure(stage="audit", message="missing-library: torch wants x", hint="add x")
    made.audit(replace(FINDING, waived="it is known"))
    made.plan()
    made.verdict(made.image(lock), passed=False, failure="it says London")
    assert view().failure == Failure(stage="smoke", message="it says London", when="2026-11-01T10:00:00+00:00")


def test_a_damaged_lock_is_a_failure_and_hides_nothing(made: Made, view: Callable[..., CellView]) -> None:
    made.whole()
    made.workspace.lock("demo", CELL).write_text("nonsense = 1")
    found = view()
    assert found.failure
    assert (found.state, found.failure.stage) == ("failed", "lock")
    assert found.image


def test_damaged_records_are_as_good_as_none(made: Made, view: Callable[..., CellView]) -> None:
    made.whole()
    for name in ("audit", "render", "build", "smoke", "push"):
        made.folder.record(name).write_text('{"record": [')
    assert view().state == "locked"


def test_impossible_cells_and_those_without_wheels_say_why(made: Made, view: Callable[..., CellView]) -> None:
    found = view("v0_9_2-ubuntu2404")
    assert (found.state, found.reason) == ("impossible", "not made for this test")
    made.run(failure=Failure(stage="lock", message="no wheels work together", log="because of torch"))
    found = view(without="no wheels work together")
    assert (found.state, found.command) == ("no wheels", f"jbuild why demo --cell {CELL}")
    assert found.failure
    assert found.failure.log == "because of torch"


def test_what_differs_from_the_published_image(made: Made, view: Callable[..., CellView]) -> None:
    made.whole()
    assert view().same_as_published
    lock = made.lock()
    made.published(lock, made.image(lock))
    newer = replace(made, wheels=(("torch", "2.11.0", 210_000_000), made.wheels[1], ("new", "1.0", 5)))
    newer.image(newer.lock(), seed="newer")
    found = view()
    assert not found.same_as_published
    assert found.difference
    assert found.difference.packages
    assert {(c.name, c.before, c.after) for c in found.difference.packages.changed} == {
        ("torch", "2.10.0", "2.11.0"),
        ("new", None, "1.0"),
    }
    assert found.difference.pull


def test_figures_over_past_runs(made: Made, view: Callable[..., CellView]) -> None:
    made.whole(runs=1)
    assert view().charts == ()
    made.whole(runs=4)
    charts = {chart.title: chart for chart in view().charts}
    assert set(charts) == {"server ready after", "answer, tokens a second", "image", "whole run"}
    assert charts["server ready after"].last == "94.0 s"
    assert charts["server ready after"].range == "91.0 to 94.0 s in 5 runs"
    assert charts["server ready after"].heights[-1] == 100
    assert charts_of(()) == ()


def test_what_a_smoke_run_saw_besides_its_answers(session: Session, made: Made) -> None:
    image = made.image(made.lock())
    seen: dict[str, Any] = {
        "gpu": GpuComputation(device="Orin", sm="8.7", arch_list=("sm_80", "sm_87")),
        "modules": Modules(loaded=41, broken=(FailedModule(file="a/_C.so", lacks=f"libx.so {BAD}"),)),
        "emulation": (f"QEMU_CPU={BAD}",),
        "warnings": ("slower than the last time",),
    }
    (answer,) = made.verdict(image, **seen).answers
    golden = Agreement(tokens=7, worst=0.1, difference="then it says London")
    made.verdict(image, answers=(replace(answer, at_once=4, golden=golden),), **seen)
    text = " ".join(Reader(page(session)).texts)
    for said in ("Orin, SM 8.7", "41 load", "1 are broken", "lacks libx.so </script>", "slower than the last time"):
        assert said in text
    assert "For emulation only: QEMU_CPU=</script>" in text
    assert "4 at once, 7 tokens as golden: then it says London" in text


def test_runs_are_newest_first_and_not_endless(made: Made, view: Callable[..., CellView]) -> None:
    for day in range(1, 29):
        made.run(day=day)
    runs = view().runs
    assert len(runs) == 20
    assert runs[0].when > runs[-1].when


def cells_of(*values: dict[str, str]) -> list[CellView]:
    return [
        CellView(recipe="r", id="-".join(each.values()), values=tuple(each.items()), state="not begun")
        for each in values
    ]


def product(**axes: list[str]) -> list[CellView]:
    return cells_of(*(dict(zip(axes, each, strict=True)) for each in itertools.product(*axes.values())))


def test_a_map_has_the_longest_axis_across_and_the_others_down() -> None:
    grid = grid_of(["a", "b", "c", "d"], product(a=["1", "2"], b=["x"], c=["p", "q", "r"], d=["m", "n"]))
    assert (grid.column_axis, grid.columns, grid.row_axes) == ("c", ("p", "q", "r"), ("a", "d"))
    assert grid.fixed == (("b", "x"),)
    assert [row.head for row in grid.rows] == [("1", "m"), ("1", "n"), ("2", "m"), ("2", "n")]
    assert [cell.id for cell in grid.rows[1].cells if cell] == ["1-x-p-n", "1-x-q-n", "1-x-r-n"]


def test_an_axis_that_is_too_long_for_a_screen_goes_down() -> None:
    grid = grid_of(["a", "b"], product(a=[str(n) for n in range(20)], b=["x", "y"]))
    assert (grid.column_axis, grid.row_axes, len(grid.rows)) == ("b", ("a",), 20)
    assert grid_of(["a"], product(a=[str(n) for n in range(20)])).columns[-1] == "19"


def test_a_map_of_one_cell_and_one_with_holes() -> None:
    grid = grid_of(["a"], cells_of({"a": "1"}))
    assert (grid.columns, grid.row_axes, grid.fixed) == (("1",), (), ())
    grid = grid_of(["a", "b"], cells_of({"a": "1", "b": "x"}, {"a": "2", "b": "y"}))
    assert sum(cell is None for row in grid.rows for cell in row.cells) == 2


class Reader(HTMLParser):
    """Reads a page as a browser does, and notes what could make it do something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag]


def poisoned(workspace: Workspace) -> None:
    """Everything that anybody can write is an attack."""
    write_recipe(workspace, description=BAD.replace("\x1b", "").replace("\u202e", ""), reason="<b>bad</b>'\"")
    made = Made(workspace=workspace, recipe="demo", cell=CELL)
    lock = made.lock(rules=(), warnings=())
    made.audit(replace(FINDING, severity="warning", wheel=BAD, file=BAD, detail=BAD, fix=BAD, also=(BAD,)))
    made.plan()
    image = made.image(lock)
    verdict = made.verdict(image, text=BAD, symptoms=(BAD,))
    publication = made.publication(image)
    records.write(
        made.folder.record("push"),
        "f",
        replace(publication, registries=(replace(publication.registries[0], repository=BAD),)),
    )
    failure = Failure(stage="push", message=BAD, where=BAD, hint=BAD, log=BAD)
    made.run(verdict=verdict)
    made.run(failure=failure, day=2)
    (workspace.project / "recipes" / "wrong<b>.toml").write_text(f"{json.dumps(BAD)} = 1\n")


def test_nothing_that_anybody_wrote_is_obeyed(session: Session, workspace: Workspace) -> None:
    poisoned(workspace)
    text = page(session)
    read = Reader(text)
    assert len(read.all("script")) == 1
    assert read.all("script")[0] == {}
    assert read.all("img") == []
    assert {name for _, found in read.tags for name in found if name.startswith("on")} == set()
    assert sum("</script><script>window.hit=1</script><img" in each for each in read.texts) > 8, "it is shown"
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_a_pages_policy_allows_its_own_style_and_script_and_nothing_else(session: Session, made: Made) -> None:
    made.whole()
    text = page(session)
    (policy,) = [m["content"] for m in Reader(text).all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"


def test_a_page_needs_nothing_else(session: Session, made: Made) -> None:
    made.whole()
    read = Reader(page(session))
    links = [str(found[name]) for _, found in read.tags for name in ("href", "src") if name in found]
    assert links
    assert all(link.startswith("#") for link in links)
    assert not {tag for tag, _ in read.tags} & {"link", "iframe", "object", "embed", "base", "img"}
    assert not any("style" in found for _, found in read.tags)
    assert "url(" not in STYLE.read_text()
    assert "@import" not in STYLE.read_text()


def test_every_link_within_the_page_leads_somewhere_and_ids_are_unique(session: Session, made: Made) -> None:
    made.whole()
    write_recipe(made.workspace, "other")
    read = Reader(page(session))
    ids = [str(found["id"]) for _, found in read.tags if "id" in found]
    assert len(ids) == len(set(ids))
    assert {str(found["href"])[1:] for found in read.all("a")} <= set(ids)
    labelled = {str(found[name]) for _, found in read.tags for name in ("aria-labelledby", "for") if name in found}
    assert labelled <= set(ids)


def test_tables_say_what_their_columns_and_rows_are(session: Session, made: Made) -> None:
    made.whole()
    read = Reader(page(session))
    assert read.all("table")
    assert len(read.all("caption")) == len([t for t in read.all("table") if t.get("class") == "map"])
    heads = re.findall(r"<thead><tr>(.*?)</tr></thead>", page(session), re.DOTALL)
    assert len(heads) == len(read.all("table"))
    assert all("<td" not in head and 'scope="col"' in head for head in heads)
    assert read.all("html")[0] == {"lang": "en"}
    assert any(found.get("class") == "skip" for found in read.all("a"))


def test_no_state_is_told_by_colour_alone(session: Session, made: Made) -> None:
    assert len(set(SIGNS.values())) == len(SIGNS)
    made.whole()
    text = page(session)
    (place,) = re.findall(r'<td class="s-published">.*?</td>', text)
    assert "✔" in place
    assert "published" in re.sub("<[^>]*>", "", place)


def palettes() -> dict[str, dict[str, str]]:
    style = STYLE.read_text()
    light, dark = re.findall(r":root \{\s*--(.*?)\}", style, re.DOTALL)
    named = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", f"--{each}")) for each in (light, dark)]
    return {"light": named[0], "dark": {**named[0], **named[1]}}


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, contrast ratio."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_can_be_told_from_what_is_behind_it(mode: str) -> None:
    colours = palettes()[mode]
    pairs = [(text, behind) for text in ("ink", "soft", "link") for behind in ("paper", "card")]
    pairs += [(name, name.replace("-ink", "-fill")) for name in colours if name.endswith("-ink")]
    assert len(pairs) >= 6 + len(SIGNS)
    assert {text: round(contrast(colours[text], colours[behind]), 2) for text, behind in pairs
            if contrast(colours[text], colours[behind]) < 4.5} == {}  # fmt: skip
    assert contrast(colours["bar"], colours["card"]) >= 3.0, "of what is no text"


def test_every_state_has_a_style_and_every_style_a_state() -> None:
    classes = set(re.findall(r"^\.s-([a-z-]+) \{", STYLE.read_text(), re.MULTILINE))
    assert classes == {state.replace(" ", "-") for state in SIGNS}
    assert {name for rules in palettes().values() for name in rules} >= {f"{state}-fill" for state in classes}


def many(workspace: Workspace, cells: int) -> None:
    """A matrix of cells as large as real ones: 146 wheels each, and twenty runs."""
    vllm = ("0.9.2", *(f"0.{15 + n}.1" for n in range(cells // 2)))
    write_recipe(workspace, vllm=vllm)
    names = [(f"package-{n}", f"{n}.2.{n % 7}", n * 12_345) for n in range(140)]
    for number, version in enumerate(vllm[1:]):
        for distribution in ("debian12", "ubuntu2404"):
            cell = f"v{version.replace('.', '_')}-{distribution}"
            wheels = (*names, *((f"own-{n}", f"{number}.0", 1000) for n in range(6)))
            made = Made(workspace=workspace, recipe="demo", cell=cell, wheels=wheels)
            made.whole(runs=20)
            findings = [replace(FINDING, severity="info", file=f"f{n}.so") for n in range(5)]
            made.audit(*findings)


def test_a_hundred_cells_are_less_than_two_megabytes(session: Session, workspace: Workspace) -> None:
    """Forty of them, and two fifths of it; twice as many cells are twice the work."""
    paths = [workspace.project / "recipes" / "demo.toml"]
    calls = []
    for count in (10, 20):
        many(workspace, count)
        calls.append(calls_in(lambda: render(gather(paths, session))))
    assert calls[1] < LINEAR * calls[0]
    many(workspace, 40)
    found = gather(paths, session)
    assert found.counts["published"] == 40
    assert len(render(found).encode()) < 800_000


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain ü 漢", "plain ü 漢"),
        ("a\x00b\x1b[1m", "a\ufffdb\ufffd[1m"),
        ("two\nlines\tand", "two\nlines\tand"),
        ("\u202eright to left\u2066", "\ufffdright to left\ufffd"),
        ("half \ud800", "half \ufffd"),
        (7, 7),
    ],
)
def test_what_would_be_obeyed_and_not_shown_goes(value: Any, shown: Any) -> None:
    assert clean(value) == shown


def test_the_command_writes_a_page_and_says_what_is_in_it(
    command_line: Callable[..., tuple[int, str, str]], made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.whole()
    write_recipe(made.workspace, "other")
    (made.workspace.project / "recipes" / "wrong.toml").write_text("nonsense = 1\n")
    monkeypatch.chdir(made.workspace.project)
    code, out, _ = command_line("report", "demo", "--json")
    described = json.loads(out)
    assert code == 0
    assert described["counts"] == {"not begun": 2, "impossible": 1, "published": 1}
    assert described["path"] == str(made.workspace.project / "build" / "report.html")
    assert Path(described["path"]).stat().st_size == described["size"]
    states = {cell["cell"]: cell["state"] for cell in described["recipes"][0]["cells"]}
    assert states[CELL] == "published"
    code, out, _ = command_line("report", "--output", "all.html")
    text = Path("all.html").read_text()
    assert (code, out.startswith("all.html: ")) == (0, True)
    assert "The recipe has mistakes" in text
    assert 'id="other"' in text


def test_an_unknown_recipe_writes_nothing(
    command_line: Callable[..., tuple[int, str, str]], made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made.workspace.project)
    code, _, err = command_line("report", "dem")
    assert code == 2
    assert "did you mean `demo`?" in err
    assert not (made.workspace.project / "build").exists()


def test_recipes_of_which_something_was_made_come_first(session: Session, made: Made) -> None:
    write_recipe(made.workspace, "a-new-one")
    made.whole()
    found = gather(sorted((made.workspace.project / "recipes").glob("*.toml")), session)
    assert [recipe.name for recipe in found.recipes] == ["demo", "a-new-one"]
    assert found.troubled == ()
    made.run(failure=Failure(stage="push", message="no"), day=9)
    found = gather(sorted((made.workspace.project / "recipes").glob("*.toml")), session)
    assert [cell.id for cell in found.troubled] == [CELL]
    assert digest("image") in render(found)
