"""What a recipe says of packages that are built from source: `build`, its checks, and overrides of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.errors import DocumentError
from builder.model.recipes import InputSource, PackageBuild, PackageBuilds, PackageInput, PackageSource
from builder.recipe.load import load
from builder.recipe.matrix import expand, specify

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.recipes import Recipe

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RECIPE = """description = "A recipe"
[matrix]
vllm = ["0.9.3", "0.10.2"]
l4t = ["36.4.0"]
[packages]
requires = ["vllm=={{vllm}}", "Flash_Attn==2.8.3"]
{build}
[[models]]
name = "tiny"
source = "hf://org/tiny@main"
[[smoke.questions]]
ask = "Anything?"
expect = "Yes"
{overrides}
"""
FLASH = '[[packages.build]]\nname = "flash-attn"\n'
INPUT = FLASH + '[[packages.build.inputs]]\nvariable = "SRC_DIR"\n'
SHA256 = "ab" * 32


def loaded(folder: Path, build: str = "", overrides: str = "", *, templates: bool = False) -> Recipe:
    path = folder / "demo.toml"
    path.write_text(RECIPE.format(build=build, overrides=overrides), encoding="utf-8")
    (folder / "Dockerfile.j2").touch()
    return load(path, (folder,) if templates else ())


def problems(folder: Path, build: str, overrides: str = "", *, templates: bool = False) -> list[tuple[str, str]]:
    with pytest.raises(DocumentError) as caught:
        loaded(folder, build, overrides, templates=templates)
    # Every mistake has its line, and says what to do next where the right value is not clear.
    assert all(problem.line for problem in caught.value.problems)
    return [(problem.key, problem.message) for problem in caught.value.problems]


def test_without_builds_nothing_is_built(tmp_path: Path) -> None:
    assert loaded(tmp_path).spec.builds is None


def test_all_keys(tmp_path: Path) -> None:
    git = f'source = {{ git = "https://example.com/flash.git", commit = "{COMMIT}" }}\n'
    more = 'patches = ["patches/a.patch"]\nenvironment = { V = "{vllm}" }\nversion = "{vllm}"\nrequires = ["x=={vllm}"]'
    recipe = loaded(tmp_path, FLASH + git + more)
    source = PackageSource(git="https://example.com/flash.git", commit=COMMIT)
    expected = PackageBuild(
        name="flash-attn",
        source=source,
        patches=("patches/a.patch",),
        environment=(("V", "0.9.3"),),
        version="0.9.3",
        requires=("x==0.9.3",),
    )
    builds = specify(recipe, expand(recipe)[0]).builds
    assert builds == PackageBuilds(packages=(expected,))
    assert builds.named("flash-attn") == expected
    assert builds.named("other") is None


def test_inputs_are_folders_commits_and_archives(tmp_path: Path) -> None:
    sources = [
        f'{{ git = "https://example.com/a.git", commit = "{COMMIT}" }}\npatches = ["a.patch"]',
        '{ folder = "native/b" }',
        f'{{ archive = "https://example.com/c-1.0.tar.gz", sha256 = "{SHA256}" }}',
    ]
    tables = [
        f'[[packages.build.inputs]]\nvariable = "{name}"\nsource = {text}'
        for name, text in zip("ABC", sources, strict=True)
    ]
    builds = loaded(tmp_path, FLASH + "\n".join(tables)).spec.builds
    build = builds.named("flash-attn") if builds else None
    assert build
    archive = InputSource(archive="https://example.com/c-1.0.tar.gz", sha256=SHA256)
    assert build.inputs == (
        PackageInput(
            variable="A",
            source=InputSource(git="https://example.com/a.git", commit=COMMIT),
            patches=("a.patch",),
        ),
        PackageInput(variable="B", source=InputSource(folder="native/b")),
        PackageInput(variable="C", source=archive),
    )
    assert build.all_patches == ("a.patch",)


def test_all_that_lack_a_wheel(tmp_path: Path) -> None:
    assert loaded(tmp_path, 'build = "missing"').spec.builds == PackageBuilds(missing=True)
    assert problems(tmp_path, 'build = "mising"') == [("packages.build", "`mising` is not `missing`")]
    assert problems(tmp_path, "build = 1") == [("packages.build", "must be a list of tables, not a whole number")]


def test_an_override_adds_to_builds_and_replaces_those_of_a_package(tmp_path: Path) -> None:
    override = (
        '[[overrides]]\nwhen = { vllm = "0.10.2" }\nbuild = [{ name = "flash-attn", environment = { A = "2" } }]\n'
        '[[overrides]]\nwhen = { vllm = "0.9.3" }\nbuild = "missing"\n'
    )
    recipe = loaded(tmp_path, FLASH + 'environment = { A = "1" }', override)
    older, newer = (specify(recipe, cell).builds for cell in expand(recipe))
    assert older == PackageBuilds(packages=(PackageBuild(name="flash-attn", environment=(("A", "1"),)),), missing=True)
    assert newer == PackageBuilds(packages=(PackageBuild(name="flash-attn", environment=(("A", "2"),)),))


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ('[[packages.build]]\nname = "other"', "name", "no requirement names `other`"),
        (FLASH + FLASH, "name", "`flash-attn` is listed twice"),
        (FLASH + "source = {}", "source", "this source names no Git repository and no folder"),
        (FLASH + 'source = { git = "https://a.b/c" }', "source.git", "a Git repository needs a commit"),
        (
            FLASH + 'source = { git = "https://a.b/c", commit = "main" }',
            "source.commit",
            "`main` is not a commit: 40 hexadecimal digits",
        ),
        (
            FLASH + f'source = {{ git = "https://me:secret@a.b/c", commit = "{COMMIT}" }}',
            "source.git",
            "`https://me:secret@a.b/c` is not a Git URL without a password",
        ),
        (
            FLASH + 'source = { folder = "../elsewhere" }',
            "source.folder",
            "the folder `../elsewhere` is outside the project",
        ),
        (FLASH + 'source = { folder = "/srv/x" }', "source.folder", "the folder `/srv/x` is outside the project"),
        (
            FLASH + 'source = { folder = "x", git = "https://a.b/c" }',
            "source.folder",
            "this source has a Git repository already",
        ),
        (FLASH + 'patches = ["../a.patch"]', "patches[0]", "the patch `../a.patch` is outside the recipe's folder"),
        (FLASH + 'patches = ["a.patch", "a.patch"]', "patches[1]", "`a.patch` is listed twice"),
        (
            FLASH + 'environment = { "A-B" = "1" }',
            "environment.A-B",
            "`A-B` is not the name of an environment variable",
        ),
        (
            FLASH + 'environment = { HF_TOKEN = "1" }',
            "environment.HF_TOKEN",
            "`HF_TOKEN` is a secret: everybody could read it in the lock",
        ),
        (FLASH + 'version = "1.0"', "version", "the index's source archives have versions"),
        (FLASH + 'flags = ["-O2"]', "flags", "unknown key `flags`"),
        (INPUT, "inputs[0].source", "this source names no Git repository and no folder"),
        (
            INPUT + 'source = { git = "https://a.b/c" }',
            "inputs[0].source.git",
            "a Git repository needs a commit",
        ),
        (
            INPUT + 'source = { archive = "https://a.b/c.zip" }',
            "inputs[0].source.archive",
            "an archive needs a sha256",
        ),
        (
            INPUT + f'source = {{ sha256 = "{SHA256}" }}',
            "inputs[0].source.sha256",
            "this source names no archive",
        ),
        (
            INPUT + f'source = {{ folder = "x", archive = "https://a.b/c.zip", sha256 = "{SHA256}" }}',
            "inputs[0].source.archive",
            "this source is not an archive",
        ),
        (
            INPUT + f'source = {{ archive = "https://a.b/c", sha256 = "{SHA256}" }}',
            "inputs[0].source.archive",
            "`https://a.b/c` is not the address of a .tar.gz, .tar.xz, .tar.bz2 or .zip",
        ),
        (
            INPUT
            + 'source = { folder = "x" }\n[[packages.build.inputs]]\nvariable = "SRC_DIR"\nsource = { folder = "y" }',
            "inputs[1].variable",
            "`SRC_DIR` is listed twice",
        ),
        (
            FLASH + 'environment = { SRC_DIR = "/x" }\n' + INPUT.removeprefix(FLASH) + 'source = { folder = "x" }',
            "inputs[0].variable",
            "`environment` sets `SRC_DIR` too",
        ),
        (
            FLASH + '[[packages.build.inputs]]\nvariable = "SRC-DIR"\nsource = { folder = "x" }',
            "inputs[0].variable",
            "`SRC-DIR` is not the name of an environment variable",
        ),
    ],
)
def test_mistakes(tmp_path: Path, text: str, key: str, message: str) -> None:
    (mistake,) = problems(tmp_path, text)
    assert mistake[1] == message
    assert mistake[0].startswith("packages.build[")
    assert mistake[0].endswith(f".{key}")


def test_patches_of_a_project_must_exist(tmp_path: Path) -> None:
    text = FLASH + 'patches = ["patches/a.patch"]'
    key = "packages.build[0].patches[0]"
    assert problems(tmp_path, text, templates=True) == [(key, "there is no patch `patches/a.patch`")]
    of_input = INPUT + 'source = { folder = "x" }\npatches = ["patches/a.patch"]'
    key = "packages.build[0].inputs[0].patches[0]"
    assert problems(tmp_path, of_input, templates=True) == [(key, "there is no patch `patches/a.patch`")]
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches" / "a.patch").touch()
    assert loaded(tmp_path, text, templates=True).spec.builds
