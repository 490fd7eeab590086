"""Completion in shells: click's own, told about bash's way with `=`, and never a message between somebody's keys."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from click.shell_completion import BashComplete, add_completion_class, get_completion_class

from builder.errors import UsageError
from builder.tomldoc import suggest

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_JBUILD_COMPLETE"
_PROGRAM = "jbuild"
_INSTALL = {
    "bash": ('eval "$(jbuild completion bash)"', "~/.bashrc"),
    "zsh": ('eval "$(jbuild completion zsh)"', "~/.zshrc, after compinit"),
    "fish": ("jbuild completion fish | source", "~/.config/fish/config.fish"),
}


class _Bash(BashComplete):
    """Bash takes `=` for a word of its own: `--cell vllm=0.9` comes as three words, and only the last is replaced."""

    _there = ""

    @staticmethod
    def _check_version() -> None:
        """Bash 4.4 is from 2016, and jbuild's own scripts need it too."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one that is completed, and that one, joined at `=`."""
        current = int(os.environ["COMP_CWORD"])
        words: list[str] = []
        for word in os.environ["COMP_WORDS"].split("\n")[: current + 1]:
            if words and (word == "=" or words[-1].endswith("=")):
                words[-1] += word
            else:
                words.append(word)
        *before, incomplete = words[1:] if len(words) > 1 else [""]
        self._there = incomplete[: incomplete.rfind("=") + 1]
        return before, incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Return a completion without what stands before the word that bash replaces."""
        # Where an option and its value are one word, only the value is completed, and has its own `=` at most.
        there = self._there.partition("=")[2] if self._there.startswith("-") else self._there
        return f"{item.type},{str(item.value).removeprefix(there)}"


def use() -> None:
    """Make completion in bash ours."""
    add_completion_class(_Bash, "bash")


def script(command: click.Command, shell: str) -> str:
    """Return what a shell reads to complete our command line, and how to have that done at every start.

    Raises:
        UsageError: it is no shell that we know.
    """
    use()
    found = get_completion_class(shell) if shell in SHELLS else None
    if found is None:
        raise UsageError(f"no completion for `{shell}`", hint=suggest(shell, SHELLS, noun="shells"))
    line, place = _INSTALL[shell]
    source = found(command, {}, _PROGRAM, VARIABLE).source().strip("\n")
    return f"{source}\n\n# To have it at every start, add this line to {place}:\n#   {line}"
