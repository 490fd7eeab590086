"""`jbuild render`, `smoke` and `push`: one stage each, the same code as `jbuild recipe`."""

from __future__ import annotations

import click

from builder.commands.common import as_json, cell_option, recipe_argument
from builder.commands.working import force_tags_option, run_options, work
from builder.pipeline.order import RunOptions

_HELP = {
    "render": "Render the cells of RECIPE into folders that plain `docker buildx build` can build.",
    "smoke": "Start the built images of RECIPE and ask them its questions.",
    "push": "Push the proven images of RECIPE by digest, then put their tags.",
}

_record_option = click.option(
    "--record", is_flag=True, help="Write the answers beside the recipe, to compare every later run with them."
)


def command(stage: str) -> click.Command:
    """Return the verb of a stage."""

    @click.command(stage, help=f"{_HELP[stage]} Earlier stages run first where they are missing or out of date.")
    @recipe_argument
    @cell_option
    @run_options
    @as_json
    def verb(
        recipe: str,
        selectors: tuple[str, ...],
        force: bool,
        locked: bool,
        jobs: int,
        registries: tuple[str, ...],
        builders: tuple[str, ...],
        as_json: bool,
        force_tags: bool = False,
        record: bool = False,
    ) -> int:
        again = stage if force else None
        options = RunOptions(
            until=stage,
            again=again,
            locked_only=locked,
            registries=registries,
            force_tags=force_tags,
            builders=builders,
            record=record,
        )
        return work(recipe, selectors, options, at_once=jobs, dry_run=False, as_json=as_json)

    if stage == "smoke":
        return _record_option(verb)
    return force_tags_option(verb) if stage == "push" else verb
