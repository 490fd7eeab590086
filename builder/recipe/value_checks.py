"""Checks of single values: each returns a message, or None if the value is right."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from builder.host.wording import printable
from builder.model import patterns

Check = Callable[[str], "str | None"]

# Options of the server with a key in recipes, and those that the image sets.
_OPTION_KEYS = {
    "--model": "server.model",
    "--served-model-name": "server.served-name",
    "--port": "server.port",
    "--max-model-len": "server.max-model-len",
    "--dtype": "server.dtype",
    "--quantization": "server.quantization",
    "-q": "server.quantization",
}
_IMAGE_SETS = ("--host", "--api-key")


@dataclass(frozen=True, slots=True)
class PatternCheck:
    """A check that a value matches a pattern as a whole."""

    pattern: str
    noun: str

    def __call__(self, value: str) -> str | None:
        """Return a message if a value does not match."""
        return None if re.fullmatch(self.pattern, value) else f"`{printable(value)}` is not {self.noun}"


text = PatternCheck(patterns.TEXT, "one line of text without control characters")
optional_text = PatternCheck(patterns.OPTIONAL_TEXT, "one line of text without control characters")
apt = PatternCheck(patterns.APT, "an apt package name")
tag = PatternCheck(patterns.TAG, "a tag: letters, digits, `_`, `.` and `-`, at most 128")
repository = PatternCheck(patterns.REPOSITORY, "a repository name: lower-case letters and digits, joined by `/`")
served_name = PatternCheck(patterns.SERVED_NAME, "a model name for clients")
version = PatternCheck(patterns.VERSION, "a version such as 1.2.3")
runner = PatternCheck(patterns.RUNNER, "a runner's label: letters, digits, `.`, `_` and `-`")
_image = PatternCheck(patterns.IMAGE, "an image reference")
_oci = PatternCheck(patterns.OCI_SOURCE, "a model in a registry: oci://host/name:tag, or @sha256:… in place of the tag")
_hub = PatternCheck(patterns.HUB_SOURCE, "a model source: hf://organisation/name@revision, usually `@main`")


def image(value: str) -> str | None:
    """Check a base image: a reference with a tag or a digest; without one, it means another image every month."""
    if re.fullmatch(patterns.PINNED_IMAGE, value):
        return None
    return _image(value) or f"`{value}` has neither a tag nor a digest"


def requirement(value: str) -> str | None:
    """Check a requirement (PEP 508) with versions, not a URL."""
    if re.fullmatch(patterns.PLAIN_REQUIREMENT, value):
        return None
    if problem := text(value):
        return problem
    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415 - slow, and rarely needed

    try:
        parsed = Requirement(value)
    except InvalidRequirement as error:
        return f"`{printable(value)}` is not a requirement: {printable(str(error).splitlines()[0])}"
    if parsed.url:
        return f"`{printable(value)}` names a URL: name a version instead"
    return None


def model_source(value: str) -> str | None:
    """Check a model's source: a hub with a revision, a registry with a tag or digest, or a folder."""
    if value.startswith("oci://"):
        return _oci(value)
    return _hub(value) if "://" in value else text(value)


def argument(value: str) -> str | None:
    """Check an argument of the server that has no key in recipes."""
    option = value.split("=", 1)[0].replace("_", "-")
    if option in _OPTION_KEYS:
        return f"`{printable(value)}` belongs in `{_OPTION_KEYS[option]}`"
    if option in _IMAGE_SETS:
        return f"`{printable(value)}` is set when the image runs, not in a recipe"
    return text(value)


def expectation(value: str) -> str | None:
    """Check a regular expression for answers: it must not match every answer."""
    if not value:
        return "expects nothing, so it proves nothing"
    if problem := PatternCheck(patterns.LINES, "a pattern without control characters")(value):
        return problem
    try:
        match = re.compile(value).search("")
    except (re.error, OverflowError, RecursionError) as error:
        return f"`{printable(value)}` is not a regular expression: {error}"
    return f"`{printable(value)}` matches an empty answer, so it proves nothing" if match else None
