"""Every command that code, data and documentation advise is one that the command line takes."""

from __future__ import annotations

from collections import Counter

import pytest
from advised_commands import (
    AdvisedCommand,
    advised_commands,
    command_group,
    mistake,
    of_data,
    of_markdown,
    of_python,
)

GROUP = command_group()
COMMANDS = advised_commands()


def test_every_advised_command_is_one() -> None:
    mistakes = [f"{one.file}: `{one.text}`: {why}" for one in COMMANDS if (why := mistake(GROUP, one))]
    assert "\n".join(mistakes) == ""


def test_commands_are_found_everywhere() -> None:
    counts = Counter(one.file.rpartition(".")[2] for one in COMMANDS)
    assert counts["py"] > 100
    assert counts["md"] > 150
    assert counts["toml"] > 10
    assert counts["j2"] >= 2
    assert {"action.yml", "README.md", "README.zh-CN.md", "builder/jetson/symptoms.toml"} <= {c.file for c in COMMANDS}
    named = {one.text.split()[1] for one in COMMANDS if one.text.startswith("jbuild ")}
    # Verbs that nothing advises are rare: most are on a page.
    assert len(named & set(GROUP.list_commands(GROUP.make_context("jbuild", [], resilient_parsing=True)))) > 20


PYTHON = [
    ('hint = "run `jbuild lock --force`; then `jbuild doctor`"', ["jbuild lock --force", "jbuild doctor"]),
    (
        'hint = f"`jbuild lock {job.name} --cell {cell}` or " "`--from x`"',
        ["jbuild lock VALUE --cell VALUE", "--from x"],
    ),
    ('HINT = "run `jbuild lock {recipe} --force`"', ["jbuild lock VALUE --force"]),
    ('x = f"see: jbuild matrix {name}"', ["jbuild matrix VALUE"]),
    ('x = f"jbuild why {cell.recipe} --cell {cell.id}"', ["jbuild why VALUE --cell VALUE"]),
    ("x = 'eval \"$(jbuild completion zsh)\"'; y = '`A=1 jbuild list`'", ["jbuild list"]),
    ('"""Docstring of `jbuild show`: jbuild keeps it by itself."""', ["jbuild show"]),
    ('x = "`--gpu-memory-utilization`, `docker run --rm`, jbuild builds images"', []),
]


@pytest.mark.parametrize(("text", "commands"), PYTHON)
def test_commands_of_a_module(text: str, commands: list[str]) -> None:
    assert [command for command, _ in of_python(text)] == commands


def test_commands_of_a_page() -> None:
    page = """# A page

A sentence with `jbuild show
RECIPE`, `$(jbuild completion bash)` and `cell`.

    jbuild list                 # the `jbuild nothing` of it
    HF_TOKEN=x jbuild lock a \\
        --jobs 2 | tee log

```console
$ jbuild render a
jbuild
```
"""
    assert sorted(of_markdown(page)) == [
        ("jbuild completion bash", False),
        ("jbuild list", True),
        ("jbuild lock a          --jobs 2", True),
        ("jbuild render a", True),
        ("jbuild show RECIPE", False),
    ]


def test_commands_of_data() -> None:
    data = """
hint = "again: `jbuild recipe … --from plan`"
<code>jbuild show {{ recipe.name }}</code>
    options=(--result "$RESULT")
    options+=(--push)
    jbuild recipe "${options[@]}" -- "$RECIPE"
    jbuild list \\
      --json
"""
    assert list(of_data(data)) == [
        ("jbuild recipe … --from plan", False),
        ("jbuild show VALUE", False),
        ('jbuild recipe --result "$RESULT" --push -- "$RECIPE"', True),
        ("jbuild list        --json", True),
    ]


TAKEN = [
    "jbuild",
    "jbuild --version",
    "jbuild VALUE",
    "jbuild recipe … --from render",
    "jbuild recipe RECIPE --from STAGE --cell python=3.10 --cell X",
    'jbuild recipe --result "$RESULT" -- "$RECIPE"',
    "jbuild run x -- --max-num-seqs 4",
    "jbuild models lock VALUE",
    "jbuild lock --help",
    "--from render",
    "--cell a --cell b",
]
NOT_TAKEN = [
    ("jbuild rendr x", "no verb"),
    ("jbuild models lok x", "no verb"),
    ("jbuild lock x --form", "--form"),
    ("jbuild recipe x --from plan", "'plan' is not one of"),
    ("jbuild recipe x --until", "requires an argument"),
    ("jbuild recipe x --jobs many", "many"),
    ("jbuild lock x y", "more arguments"),
    ("jbuild lock", "missing: RECIPE"),
    ("jbuild completion tcsh", "tcsh"),
    ("jbuild lock 'x", "quotation"),
    ("--from plan", "'plan' is not one of"),
    ("--no-such-option", "no verb has"),
]


@pytest.mark.parametrize("text", TAKEN)
def test_a_command_that_is_taken(text: str) -> None:
    assert mistake(GROUP, AdvisedCommand(file="x", text=text, complete=True)) is None


@pytest.mark.parametrize(("text", "reason"), NOT_TAKEN)
def test_a_command_that_is_not_taken(text: str, reason: str) -> None:
    assert reason in str(mistake(GROUP, AdvisedCommand(file="x", text=text, complete=True)))


def test_a_sentence_may_name_a_verb_alone() -> None:
    assert mistake(GROUP, AdvisedCommand(file="x", text="jbuild lock --force", complete=False)) is None
