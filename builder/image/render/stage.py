"""The render stage: from a lock to a folder that `docker buildx build` can build."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from builder import __version__
from builder.audit.slim_choice import in_words, slim_rules
from builder.host.files import sha256_of
from builder.host.interpreters import find_compiler
from builder.host.paths import sha256_of_file
from builder.image import runtime
from builder.image.layers.layer_groups import groups
from builder.image.wheels.wheel_entries import variant
from builder.image.wheels.wheel_slimmer import slim_key
from builder.lock import lockfile
from builder.model.images import Plan
from builder.model.recipes import PublishSpec, SmokeSpec
from builder.pipeline.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.host.paths import Workspace
    from builder.pipeline.cell import CellRun


class _RenderStage(Stage[Plan]):
    """From a lock to a Dockerfile and the names of layers."""

    name = "render"
    record = Plan

    def project_inputs(self, run: CellRun) -> Mapping[str, object]:
        """Return what of the recipe ends up in the image, templates, scripts and pinned system layers."""
        workspace, spec = run.session.workspace, run.job.spec
        # What an image is asked and where it goes do not change it; how long it may take to start stands in it. The
        # lock has its builds.
        smoke, publish = SmokeSpec(ready_within_s=spec.smoke.ready_within_s), PublishSpec(repository="")
        spec = replace(spec, waivers=(), smoke=smoke, publish=publish, builds=None)
        return {
            "jbuild": (__version__, groups()),
            "recipe": (
                replace(spec, waivers=(), smoke=smoke, publish=publish, builds=None),
                run.job.recipe.description,
            ),
            "settings": run.session.config.layers,
            "lock": sha256_of_file(workspace.systems),
            "templates": _templates(workspace),
        }

    def run_inputs(self, run: CellRun) -> object:
        python, workspace = run.lock.platform.python, run.session.workspace
        compiler = find_compiler(python, run.lock.compiler, workspace.interpreters)
        # Without slimming and builds, the same inputs as ever.
        slim = (slim_key(slim_rules(run.lock.platform)),) if in_words(run.job) else ()
        built = ([wheel.sha256 for wheel in run.lock.built_wheels],) if run.lock.builds else ()
        return lockfile.content(run.lock), variant(python, compiler), *slim, *built

    def holds(self, run: CellRun, record: Plan) -> bool:
        folder = run.folder
        layers = record.layers if run.options.standalone else ()
        return folder.dockerfile.is_file() and all((folder.layers / layer).is_dir() for layer in layers)

    def make(self, run: CellRun) -> Plan:
        from builder.image.render.plan import render  # noqa: PLC0415  # slow to import

        return render(run.job, run.lock, run.session, standalone=run.options.standalone)


STAGE = _RenderStage()


def _templates(workspace: Workspace) -> list[tuple[str, str]]:
    """Return the templates, the user's own first, and the scripts that images run, with their sha256."""
    files = [
        (str(path.relative_to(folder)), sha256_of(path))
        for folder in workspace.template_folders
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".j2", ".sh"}
    ]
    return files + [(path.name, sha256_of(path)) for path in runtime.scripts()]
