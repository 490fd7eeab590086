"""Renders the Dockerfile from Jinja templates; values cannot become instructions."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import jinja2

from builder.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
# Values that need no quotes in an instruction: image references, folder names, numbers, variable names.
_WORD = re.compile(r"[A-Za-z0-9_./:@+-]+")


def render(template: str, folders: Sequence[Path], values: dict[str, Any]) -> str:
    """Render a template; the user's folder comes first, `builtin/<name>` is always jbuild's own.

    Raises:
        RecipeError: the template is missing or has a mistake, or a value cannot be quoted.
    """
    try:
        return _environment(folders).get_template(template).render(values)
    except jinja2.TemplateNotFound as error:
        locations = ", ".join(str(folder) for folder in folders)
        if error.name == template:
            message, hint = f"there is no template {error.name} in {locations}", "correct `template` in the recipe"
        else:
            message = f"the template {template} extends {error.name}, which does not exist"
            hint = f"`builtin/NAME` is one of jbuild's templates, NAME is one in {locations}"
        candidates = (str(folder / template) for folder in folders if (folder / template).is_file())
        raise RecipeError(message, where=next(candidates, template), hint=hint) from error
    except jinja2.TemplateSyntaxError as error:
        raise RecipeError(
            f"the template has a mistake: {error.message}", where=f"{error.filename}:{error.lineno}"
        ) from error
    except jinja2.UndefinedError as error:
        hint = f"a template may use: {', '.join(sorted(values))}"
        raise RecipeError(
            f"the template uses an undefined value: {error.message}", where=template, hint=hint
        ) from error
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, OSError) as error:
        raise RecipeError(f"the template cannot be rendered: {error}", where=template) from error


def _environment(folders: Sequence[Path]) -> jinja2.Environment:
    files = [jinja2.FileSystemLoader(folder) for folder in folders]
    environment = jinja2.Environment(  # noqa: S701  # a Dockerfile is not HTML; its own quoting is below
        loader=jinja2.ChoiceLoader([*files, jinja2.PrefixLoader({"builtin": files[-1]})]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"quoted": quoted, "exec_form": exec_form, "word": word}
    return environment


def quoted(value: object) -> str:
    """Quote a value for ENV and LABEL, so that Docker does not expand it.

    Raises:
        RecipeError: it contains a line break or another control character.
    """
    text = str(value)
    _refuse_control(text)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'


def exec_form(argv: Sequence[str]) -> str:
    """Return a command as JSON, which Docker runs without a shell.

    Raises:
        RecipeError: an argument contains a line break or another control character.
    """
    for argument in argv:
        _refuse_control(argument)
    return json.dumps(list(argv))


def word(value: object) -> str:
    """Return a value that needs no quotes in an instruction.

    Raises:
        RecipeError: it contains a character that names and references cannot have.
    """
    text = str(value)
    if not _WORD.fullmatch(text):
        raise RecipeError(f"{text!r} is not valid in a Dockerfile", hint="use letters, digits and . _ / : @ + - only")
    return text


def _refuse_control(value: str) -> None:
    if _CONTROL.search(value):
        raise RecipeError(f"{value!r} contains a control character", hint="write it on one line")
