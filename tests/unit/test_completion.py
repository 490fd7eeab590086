"""Completion, as bash itself asks for it; as zsh and fish do where they are installed."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tomli_w
from recipe_factory import recipe_data

from builder.cli.verb_table import verbs

if TYPE_CHECKING:
    from collections.abc import Callable

    CommandLine = Callable[..., tuple[int, str, str]]

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two recipes, one of which has mistakes, and a `jbuild` on the PATH."""
    folder = tmp_path / "project"
    (folder / "recipes").mkdir(parents=True)
    (folder / "recipes" / "jetson-demo.toml").write_text(tomli_w.dumps(recipe_data()))
    (folder / "recipes" / "jetson-broken.toml").write_text("matrix = 1\n")
    program = tmp_path / "bin" / "jbuild"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {sys.executable} -m builder "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.chdir(folder)
    return folder


# A line up to the cursor, words as bash splits them, and some of what it is completed to.
LINES = [
    ("jbuild ma", ["matrix"]),
    ("jbuild recipe jetson-", ["jetson-broken", "jetson-demo"]),
    ("jbuild recipe jetson-demo --until re", ["render"]),
    ("jbuild show jetson-demo --cell r3", ["r36_4_0-v0_20_2", "r39_2_0-v0_20_2"]),
    ("jbuild matrix jetson-demo --cell l4t = 36", ["36.4.0"]),
    ("jbuild show jetson-demo --cell = l4t =", ["36.4.0", "39.2.0"]),
    ("jbuild fit jetson-demo --board orin-nx", ["orin-nx-8", "orin-nx-16"]),
    # What has mistakes, or is not there, completes to nothing, in silence.
    ("jbuild show jetson-broken --cell r3", []),
    ("jbuild nothing x", []),
]
FEW = LINES[:4:3]


def bash(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True, timeout=60)


def test_bash_completes_verbs_options_recipes_and_cells(project: Path, command_line: CommandLine) -> None:
    _, source, _ = command_line("completion", "bash")
    asked = [source]
    for line, _ in LINES:
        words = line.split()
        asked.append(f"COMP_WORDS=({' '.join(words)}) COMP_CWORD={len(words) - 1} COMPREPLY=()")
        asked.append('_jbuild_completion jbuild; echo "${COMPREPLY[*]}"')
    done = bash("\n".join(asked))
    assert done.stderr == ""
    found = [answer.split() for answer in done.stdout.splitlines()]
    assert found == [wanted for _, wanted in LINES]


def test_an_empty_word_gives_every_verb_without_importing_one(project: Path) -> None:
    code = (
        "import sys, builder.cli.main as c\n"
        "from click.shell_completion import BashComplete\n"
        "items = BashComplete(c.cli, {}, 'jbuild', '_JBUILD_COMPLETE').get_completions([], '')\n"
        "print([i.value for i in items], [n for n in sys.modules if n.startswith('builder.cli.verbs.')])"
    )
    argv = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{[verb.name for verb in verbs()]} []"


# Prints what an answer does besides reading files, and the libraries that it imports.
_OBSERVED = """
import sys
events = []
def observe(event, _):
    if event.startswith(("socket.", "subprocess.", "os.fork", "os.posix_spawn")):
        events.append(event)
sys.addaudithook(observe)
from builder.cli.main import main
try:
    main()
except SystemExit:
    pass
slow = {"docker", "filelock", "huggingface_hub", "jinja2", "requests", "rich", "tomli_w", "uv", "yaml", "zstandard"}
print(sorted(slow & set(sys.modules)), events, file=sys.stderr)
"""


@pytest.mark.parametrize("words", ["jbuild ma", "jbuild recipe jetson-demo --cell r3"])
def test_an_answer_asks_no_server_starts_no_program_and_imports_nothing_slow(project: Path, words: str) -> None:
    variables = {"COMP_WORDS": "\n".join(words.split()), "COMP_CWORD": str(len(words.split()) - 1)}
    environment = {**os.environ, **variables, "_JBUILD_COMPLETE": "bash_complete", "PYTHONPATH": str(CHECKOUT)}
    argv = [sys.executable, "-c", _OBSERVED]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout
    assert done.stderr == "[] []\n"


def test_a_key_press_in_a_real_bash(project: Path, tmp_path: Path) -> None:
    """What `jbuild completion` says at its end is what makes it work."""
    settings = tmp_path / "bashrc"
    settings.write_text(
        "PS1='> '\nbind 'set enable-bracketed-paste off'\neval \"$(jbuild completion bash)\"\necho ready\n"
    )
    control, terminal = pty.openpty()
    argv = ["bash", "--rcfile", str(settings), "-i"]
    environment = {**os.environ, "TERM": "dumb", "HISTFILE": ""}
    child = subprocess.Popen(
        argv, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, start_new_session=True
    )
    os.close(terminal)
    typed = [
        ("ready", "jbuild matr\t"),
        ("jbuild matrix ", "jetson-de\t"),
        ("jetson-demo ", "--cell l4t=36\t"),
        ("36.4.0 ", "\n"),
    ]
    said = ""
    while typed and child.poll() is None:
        if typed and said.find(typed[0][0]) >= 0:
            os.write(control, typed.pop(0)[1].encode())
        if select.select([control], [], [], 0.1)[0]:
            said += os.read(control, 4096).decode()
    child.kill()
    child.wait()
    os.close(control)
    assert not typed, said
    assert "jbuild matrix jetson-demo --cell l4t=36.4.0 " in said


def test_zsh_completes(project: Path, command_line: CommandLine, tmp_path: Path) -> None:
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    _, source, _ = command_line("completion", "zsh")
    # The completion system itself needs a terminal: what the script hands over to it is looked at.
    script = (
        "compdef() { :; }\n_describe() { print -l ${(P)3}; }\n"
        "compadd() { local name=${@[-1]}; print -l -- ${(P)name}; }\n" + source
    )
    for line, _ in FEW:
        words = line.split()
        script += f"\nwords=({' '.join(words)}); CURRENT={len(words)}; _jbuild_completion; print -- ---"
    done = subprocess.run(["zsh", "-f", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    answers = done.stdout.split("---\n")
    assert done.stderr == ""
    assert len(answers) == len(FEW) + 1
    for (line, wanted), answer in zip(FEW, answers, strict=False):
        assert all(word in answer for word in wanted), (line, answer)


def test_fish_completes(project: Path, command_line: CommandLine) -> None:
    if not shutil.which("fish"):
        pytest.skip("fish is not installed")
    _, source, _ = command_line("completion", "fish")
    script = source + "".join(f"\ncomplete --do-complete '{line}'; echo ---" for line, _ in FEW)
    argv = ["fish", "--no-config", "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    answers = done.stdout.split("---\n")
    for (line, wanted), answer in zip(FEW, answers, strict=False):
        found = [word.split("\t")[0] for word in answer.splitlines()]
        assert found == wanted, line


@pytest.mark.parametrize(
    ("shell", "first"),
    [("bash", "_jbuild_completion() {"), ("zsh", "#compdef jbuild"), ("fish", "function _jbuild_completion;")],
)
def test_the_script_says_how_to_install_it(command_line: CommandLine, shell: str, first: str) -> None:
    code, out, err = command_line("completion", shell)
    assert (code, err) == (0, "")
    assert out.startswith(first)
    assert "add this line to" in out
    assert out.splitlines()[-1].startswith("#   ")
    assert f"jbuild completion {shell}" in out.splitlines()[-1]


def test_another_shell(command_line: CommandLine) -> None:
    code, _, err = command_line("completion", "ksh")
    assert code == 2
    assert "'bash', 'zsh', 'fish'" in err
