"""Names the verbs and imports them only when called; turns errors into exits, in this one place."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

import click

from builder import __version__
from builder.console import Console
from builder.errors import JbuildError, UsageError

if TYPE_CHECKING:
    from types import FrameType

    from click.shell_completion import CompletionItem

_INTERRUPTED = 130
_UNEXPECTED = 1
# Verb, its module below `builder.commands`, and its line in `jbuild --help`: help must not import the verbs.
VERBS = (
    ("init", "init", "Write a commented recipe from a few questions or options."),
    ("list", "list_", "List the recipes."),
    ("show", "show", "Show a recipe: its cells, packages, models, questions and what has been made."),
    ("matrix", "matrix", "Show the cells of a recipe, the impossible ones with their reason."),
    ("recipe", "recipe", "Lock, audit, render, build, smoke and, with --push, publish a recipe's cells."),
    ("lock", "lock", "Lock cells: the exact wheels, base image and model files."),
    ("audit", "audit", "Audit cells: what would not load or not run on the device, and why."),
    ("render", "stage", "Render cells into folders that `docker buildx build` can build."),
    ("build", "build", "Bring cells up to built images."),
    ("system", "system", "Build cells' system layers once, push them, and pin them by digest."),
    ("smoke", "stage", "Bring cells up to images that have answered the recipe's questions."),
    ("push", "stage", "Bring cells up to images that are pushed and have their tags."),
    ("promote", "promote", "Bring an image that exists to registries and tags, without building."),
    ("tags", "tags", "Show where a recipe's tags are, missing and stray ones."),
    ("verify", "verify", "Check an image in a registry against its signature, verdict and SBOM."),
    ("verdict", "verdict", "Write the verdict of an image to a file, to be handed over."),
    ("why", "why", "Explain why a cell has no wheels, or why its packages have their versions."),
    ("fit", "fit", "Show what memory a recipe's model needs on a board, and the longest context that fits."),
    ("pick", "pick", "Name the published image that this machine, or a board, can run, and why others are out."),
    ("compose", "compose", "Write a compose file that runs a recipe's image, hardened."),
    ("run", "run", "Run a recipe's image as compose would, show its log, and stop it cleanly at Ctrl-C."),
    ("bench", "bench", "Measure throughput and latency of an image or a running server."),
    ("diff", "diff", "Show what changed between two locks, cells or images, and what a device must pull."),
    ("report", "report", "Write one HTML page: how far each cell is, what is in it, what failed and why."),
    ("models", "models", "Lock, fetch or verify a recipe's models without its wheels."),
    ("summary", "summary", "Sum up what runs in several places made of a plan's cells."),
    ("cache", "cache", "Show what the cache holds, and remove what nobody has used for a while."),
    ("schema", "schema", "Print the JSON Schema of what a verb prints with --json."),
    ("completion", "completion", "Print what a shell needs to complete verbs, options, recipes and cells."),
    ("doctor", "doctor", "Check this machine and show the command that mends what is missing."),
)


class _Verbs(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [name for name, _, _ in VERBS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        for name, module, _ in VERBS:
            if name == cmd_name:
                found = importlib.import_module(f"builder.commands.{module}")
                command: click.Command = found.command(name) if module == "stage" else found.command
                return command
        return None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[Any]]:
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        from click.shell_completion import CompletionItem  # noqa: PLC0415

        return [CompletionItem(name, help=line) for name, _, line in VERBS if name.startswith(incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, _, line in VERBS])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from builder.tomldoc import suggest  # noqa: PLC0415

        if ctx.resilient_parsing:
            # A shell asks what could be typed: no time for messages.
            return super().resolve_command(ctx, args)
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise UsageError(
                f"there is no verb `{args[0]}`", hint=suggest(args[0], self.list_commands(ctx), noun="verbs")
            )
        return super().resolve_command(ctx, args)


@click.command(
    cls=_Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="jbuild")
@click.pass_context
def cli(context: click.Context) -> None:
    """Recipes in, proven vLLM images for NVIDIA Jetson out."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> NoReturn:
    """Run the command line and exit: 0, or the code of the error's branch (see `builder.errors`)."""
    _end_cleanly()
    if "_JBUILD_COMPLETE" in os.environ:
        from builder.shells import use  # noqa: PLC0415

        use()
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
        console.note("interrupted; what is finished is kept, the same command goes on from there")
        sys.exit(_INTERRUPTED)
    except Exception as error:  # noqa: BLE001  # the last resort; whatever arrives here is a bug
        _bug(console, error)


def _help_of(error: click.ClickException) -> str:
    if isinstance(error, click.UsageError) and error.ctx:
        path = error.ctx.command_path
    else:
        # Of an option without its value, click does not tell whose it is.
        names = {name for name, _, _ in VERBS}
        verb = next((each for each in sys.argv[1:] if each in names), None)
        path = f"jbuild {verb}" if verb else "jbuild"
    return f"`{path} --help` shows what it takes"


def _end_cleanly() -> None:
    """Let a cancelled job and a closed terminal unwind as Ctrl-C does; what runs under nohup stays deaf to it."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _bug(console: Console, error: Exception) -> NoReturn:
    from builder.workspace import cache_folder, write_text  # noqa: PLC0415

    path, trace = cache_folder() / "crash.log", "".join(traceback.format_exception(error))
    hint, log = "this is a bug in jbuild; please report it with the file above", None
    try:
        write_text(path, trace)
    except (JbuildError, OSError):
        hint, log = "this is a bug in jbuild; please report it with the log above", trace
    failure = JbuildError(f"unexpected {type(error).__name__}: {error}", where=str(path), hint=hint, log=log)
    console.failure(failure)
    sys.exit(_UNEXPECTED)
