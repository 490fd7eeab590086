"""Runs a build in a sandbox on a builder: a step of BuildKit with the same files, paths, user and environment."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import BuildError, EngineError, ProgramFailedError, ProgramSilentError
from builder.foundry.build_jobs import Capacity
from builder.foundry.build_progress import PROGRESS
from builder.foundry.remote_dockerfile import LINKS, contexts, remote_dockerfile, remote_ignore
from builder.foundry.sandbox import merged
from builder.foundry.sandbox_root import write_links
from builder.host.engine.docker import find_engine
from builder.host.file_locks import scratch
from builder.host.files import disk_errors, write_text
from builder.host.process import run
from builder.pipeline.builder_causes import OTHER_MACHINE, cause_of
from builder.pipeline.builders import ask, buildx, hanging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from builder.errors import JbuildError
    from builder.foundry.build_progress import BuildLog
    from builder.foundry.build_python import BuildPython
    from builder.foundry.build_sandbox import BuildFolder
    from builder.foundry.sandbox import Sandbox
    from builder.host.session import Session
    from builder.model.builds import LockedBuild

_PROGRAM = Path(__file__).with_name("inside") / "remote_build.py"
_ALIVE = "jbuild: it runs"
# Lines of `--progress=plain`: a program's output, and the transfer of a context.
_OUTPUT = re.compile(r"#\d+ \d+\.\d+ (?P<text>.*)")
_TRANSFER = re.compile(r"#\d+ transferring (?:[^:]+: )?(?P<text>\S.*)")
_CODE = re.compile(r"did not complete successfully: exit code: (?P<code>\d+)")
_KILLED = 137


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteSandbox:
    """A sandbox for a build on a builder: a buildx builder or a docker context."""

    builder: str
    build: LockedBuild
    folder: BuildFolder
    python: BuildPython
    sandbox: Sandbox
    session: Session

    def capacity(self) -> Capacity:
        """Send the sandbox to the builder, and return what its machine can compile at once.

        Raises:
            BuildError: its machine has another architecture than the compilers.
            EngineError: there is no such builder, or it does not answer.
        """
        title = f"sending the sandbox of {self.build.name} {self.build.version} to {self.builder}"
        with self.session.console.task(title) as task:

            def note(line: str) -> None:
                if match := _TRANSFER.match(line):
                    task.note(match["text"])

            # The same step would come from BuildKit's cache, with the memory that was free then.
            with self._step({"step": uuid.uuid4().hex}, note) as result:
                facts = json.loads((result / "machine.json").read_text(encoding="utf-8"))
        if facts["architecture"] != self.build.machine:
            raise self._other_machine(f"is {facts['architecture']}")
        return Capacity(processors=facts["processors"], memory=facts["memory"])

    def run(self, argv: Sequence[str], environment: Mapping[str, str], log: BuildLog, *, fresh: bool) -> None:
        """Run a program in the sandbox, as `run_in_sandbox` does here; the wheel and the log come back.

        Raises:
            ProgramFailedError: the program failed.
            EngineError: the builder does not answer any more.
        """
        # Never the same, so that BuildKit does not answer with the outcome of an earlier step.
        order = {
            "argv": merged(argv),
            "environment": {"LANG": "C.UTF-8", **environment},
            "fresh": fresh,
            "step": uuid.uuid4().hex,
        }

        def take(line: str) -> None:
            match = _OUTPUT.match(line)
            if match and match["text"] != _ALIVE:
                log.take(match["text"])

        with self._step({**order, "progress": PROGRESS, "alive": _ALIVE}, take) as result:
            with (result / "build.log").open(encoding="utf-8", errors="replace") as lines:
                log.replace(line.rstrip("\n") for line in lines)
            code = int((result / "code").read_text(encoding="ascii"))
            if code:
                raise ProgramFailedError(tuple(argv), code, "\n".join(log.lines))
            with disk_errors(self.folder.path):
                for wheel in result.glob("*.whl"):
                    shutil.copyfile(wheel, self.folder.wheel / wheel.name)
                # Last: the build counts as ended with it.
                shutil.copyfile(result / "cost.json", self.folder.path / "cost.json")

    @contextmanager
    def _step(self, order: Mapping[str, Any], on_line: Callable[[str], None]) -> Iterator[Path]:
        """Run `remote_build.py` on the builder, and yield the folder with its result."""
        with disk_errors(self.session.workspace.cache), scratch(self.session.workspace.cache) as folder:
            dockerfile = remote_dockerfile(self.sandbox, self.build, keeps="argv" in order)
            write_text(folder / "Dockerfile", dockerfile)
            write_text(folder / "Dockerfile.dockerignore", remote_ignore(self.python, self.build))
            write_text(folder / "run/run.json", json.dumps(order))
            shutil.copyfile(_PROGRAM, folder / "run" / _PROGRAM.name)
            write_links(folder / "run" / LINKS)
            silent_s, environment = self.session.config.silent_s, docker_environment(self.session)
            try:
                run(self._argv(), env=environment, cwd=folder, on_line=on_line, silent_s=silent_s)
            except ProgramFailedError as error:
                raise self._failure(error, environment) from error
            yield folder / "result"

    def _argv(self) -> list[str]:
        named = [f"--build-context={name}={folder}" for name, folder in contexts(self.sandbox).items()]
        return [
            *buildx("build", self.builder),
            f"--platform=linux/{self.build.machine}",
            "--progress=plain",
            "--provenance=false",
            # A build sees the name of its machine.
            "--build-arg=BUILDKIT_SANDBOX_HOSTNAME=jbuild",
            "--file=Dockerfile",
            "--output=type=local,dest=result",
            "--build-context=run=run",
            *named,
            str(self.python.prefix),
        ]

    def _failure(self, error: ProgramFailedError, environment: Mapping[str, str]) -> JbuildError:
        """Return the error for a step that did not come to its end."""
        where = f"{self.build.name} {self.build.version}"
        if isinstance(error, ProgramSilentError):
            return hanging(where, self.session.config.silent_s, self.folder.log, error.output)
        require_builder(self.builder, environment)
        code = _CODE.search(error.output)
        if code and int(code["code"]) == _KILLED:
            return ProgramFailedError(error.argv, _KILLED, error.output)
        cause = cause_of(error.output)
        if cause is OTHER_MACHINE:
            return self._other_machine("cannot run their programs")
        if cause:
            return cause.kind(cause.message, where=f"builder {self.builder}", hint=cause.hint, log=error.output)
        return BuildError(
            f"the builder {self.builder} cannot run the sandbox",
            where=where,
            hint="the log names the cause; without a runner, this machine compiles",
            log=error.output,
        )

    def _other_machine(self, difference: str) -> BuildError:
        machine = self.build.machine
        return BuildError(
            f"the lock has the compilers of {machine} machines, and the builder {self.builder} {difference}",
            where=f"{self.build.name} {self.build.version}",
            hint=f"choose a builder on an {machine} machine, or compile here, without a runner",
        )


def docker_environment(session: Session) -> dict[str, str]:
    """Return the environment in which `docker` reaches builders; those elsewhere need no engine on this machine."""
    try:
        return find_engine(session.workspace).environment()
    except EngineError:
        return {}


def require_builder(name: str, environment: Mapping[str, str]) -> None:
    """Make sure that a builder answers.

    Raises:
        EngineError: there is none of this name, or it cannot build.
    """
    if reason := ask(name, environment):
        raise EngineError(
            f"the builder does not answer: {reason}",
            where=name,
            hint="restart it, then run the same command: finished units stay; `docker buildx ls` lists builders",
        )
