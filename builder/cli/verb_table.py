"""The verbs: the module, the result and the line of help of each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from types import ModuleType


class Verb(NamedTuple):
    """A verb, its module below `builder.cli.verbs`, its result there (a dataclass or a union), and its line of help."""

    name: str
    module: str
    result: str
    help: str

    def load(self) -> ModuleType:
        """Import the module of this verb."""
        return importlib.import_module(f"builder.cli.verbs.{self.module}")

    def command(self) -> click.Command:
        """Import the command of this verb."""
        values = vars(self.load()).values()
        return next(value for value in values if isinstance(value, click.Command) and value.name == self.name)


# By the headings of `jbuild --help`.
VERBS = {
    "Make images": (
        Verb("init", "init", "InitResult", "Write a new recipe."),
        Verb("recipe", "recipe", "RecipeResult", "Build and test images, and push them with --push."),
        Verb("lock", "stages", "LockResult", "Lock wheels, base image and model files."),
        Verb("audit", "audit", "AuditResult", "Check that the locked wheels load and run on the device."),
        Verb("render", "stages", "RunResult", "Write Dockerfiles."),
        Verb("build", "stages", "RunResult", "Build images."),
        Verb("smoke", "smoke", "SmokeResult", "Run images and test their answers."),
        Verb("wheel", "wheel", "WheelResult", "Build a wheel that no index has."),
        Verb("slim", "slim", "SlimResult", "Take the code for other GPUs out of wheels."),
        Verb("system", "system", "SystemResult", "Build, push and pin the system layer that builds start from."),
    ),
    "Inspect recipes": (
        Verb("list", "listings", "ListResult", "List recipes."),
        Verb("show", "show", "ShowResult", "Show the cells of a recipe: settings, lock and stages."),
        Verb("matrix", "listings", "MatrixResult", "List the cells of a recipe, or plan CI jobs for them."),
        Verb("why", "why", "WhyResult", "Explain package versions, or why no wheels fit."),
        Verb("diff", "diff", "DiffResult", "Compare two locks, cells or images."),
        Verb("report", "report", "ReportResult", "Write an HTML page about all recipes."),
        Verb("summary", "summary", "SummaryResult", "Merge results of several machines."),
    ),
    "Publish images": (
        Verb("push", "stages", "RunResult", "Push tested images and their tags."),
        Verb("promote", "published_images", "PromoteResult", "Copy an image to other registries or tags."),
        Verb("tags", "published_images", "TagsResult", "Show which image each tag points to."),
        Verb("verify", "published_images", "VerifyResult", "Check the signature, verdict and SBOM of an image."),
        Verb("verdict", "published_images", "VerdictResult", "Export a smoke verdict."),
        Verb("bundle", "bundle_verbs", "BundleResult", "Write an image into a folder that travels."),
        Verb("load", "load_verb", "LoadResult", "Load a bundle's image into an engine or a registry."),
        Verb("vault", "vault", "VaultResult", "Write every file that locks name into a package index."),
    ),
    "Run on a device": (
        Verb("pick", "board_fit", "PickResult", "Find the published image that suits a board."),
        Verb("fit", "board_fit", "FitResult", "Estimate the memory that a model needs on a board."),
        Verb("compose", "device_images", "ComposeResult", "Write a compose file for an image."),
        Verb("run", "device_images", "ServerResult", "Run an image."),
        Verb("bench", "bench", "Bench", "Measure throughput and latency of a server."),
    ),
    "Maintain this machine": (
        Verb("doctor", "maintenance", "DoctorResult", "Check this machine, and fix problems."),
        Verb("models", "models", "ModelsResult", "Lock, fetch or verify model files."),
        Verb("cache", "maintenance", "CacheResult", "Show or prune the cache."),
    ),
    "Integrate with other tools": (
        Verb("completion", "integration", "CompletionResult", "Print a shell completion script."),
        Verb("schema", "integration", "SchemaResult", "Print a JSON Schema: of recipes, configuration or results."),
    ),
}


def verbs() -> tuple[Verb, ...]:
    """Return all verbs, in the order of `jbuild --help`."""
    return tuple(verb for group in VERBS.values() for verb in group)
