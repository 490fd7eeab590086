"""Imports verbs only when they are called, and turns errors into exits, in this one place."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.shell_completion import CompletionItem

from builder import __version__
from builder.cli.verb_table import VERBS, verbs
from builder.errors import JbuildError, UsageError
from builder.host.console import Console

if TYPE_CHECKING:
    from types import FrameType

_INTERRUPTED = 130
_UNEXPECTED = 1


class _Verbs(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [verb.name for verb in verbs()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        return next((verb.command() for verb in verbs() if verb.name == cmd_name), None)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[Any]]:
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(verb.name, help=verb.help) for verb in verbs() if verb.name.startswith(incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        width = max(len(verb.name) for verb in verbs())
        for heading, group in VERBS.items():
            with formatter.section(heading):
                formatter.write_dl([(verb.name.ljust(width), verb.help) for verb in group])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from builder.host.wording import suggest  # noqa: PLC0415

        # While a shell completes a word, messages have no place.
        is_word = not ctx.resilient_parsing and args and not args[0].startswith("-")
        if is_word and self.get_command(ctx, args[0]) is None:
            hint = suggest(args[0], self.list_commands(ctx), noun="commands")
            raise UsageError(f"there is no command `{args[0]}`", hint=hint)
        return super().resolve_command(ctx, args)


@click.command(
    cls=_Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="jbuild")
@click.pass_context
def cli(context: click.Context) -> None:
    """Build, test and publish vLLM images for NVIDIA Jetson from recipes."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> NoReturn:
    """Run the command line and exit: 0, or the code of the error's branch (see `builder.errors`)."""
    _end_cleanly()
    if "_JBUILD_COMPLETE" in os.environ:
        from builder.cli.verbs.integration import install_bash  # noqa: PLC0415

        install_bash()
    console = Console(as_json="--json" in sys.argv)
    try:
        outcome = cli.main(prog_name="jbuild", standalone_mode=False)
        sys.exit(outcome if isinstance(outcome, int) else 0)
    except JbuildError as error:
        console.failure(error)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        failure = UsageError(error.format_message(), hint=_help_of(error))
        console.failure(failure)
        sys.exit(failure.exit_code)
    except (KeyboardInterrupt, click.Abort):
        console.end()
        console.note("interrupted; finished steps are kept, and the same command resumes from there")
        sys.exit(_INTERRUPTED)
    except Exception as error:  # noqa: BLE001  # the last resort: any other error is a bug
        _bug(console, error)


def _help_of(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    # For an option without its value, click has no context.
    path = context.command_path if context else _path_of(sys.argv[1:])
    return f"`{path} --help` lists arguments and options"


def _path_of(words: list[str]) -> str:
    """Return the verb of a command line with the verbs above it, such as `jbuild cache prune`."""
    command: click.Command | None = cli
    path, context = ["jbuild"], click.Context(cli)
    for word in words:
        below = command.get_command(context, word) if isinstance(command, click.Group) else None
        if below:
            command = below
            path.append(word)
    return " ".join(path)


def _end_cleanly() -> None:
    """Let a cancelled job and a closed terminal unwind as Ctrl-C does; a run under nohup ignores the terminal."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _bug(console: Console, error: Exception) -> NoReturn:
    from builder.host.files import write_text  # noqa: PLC0415
    from builder.host.paths import cache_folder  # noqa: PLC0415

    path, trace = cache_folder() / "crash.log", "".join(traceback.format_exception(error))
    hint, log = "this is a bug in jbuild; please report it with the file above", None
    try:
        write_text(path, trace)
    except (JbuildError, OSError):
        hint, log = "this is a bug in jbuild; please report it with the log above", trace
    failure = JbuildError(f"unexpected {type(error).__name__}: {error}", where=str(path), hint=hint, log=log)
    console.failure(failure)
    sys.exit(_UNEXPECTED)
