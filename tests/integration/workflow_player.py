"""Plays a workflow of GitHub's on this machine: each job's own `run:` steps, in order, in a workspace of its own.

Actions of others are not run: checking out, artifacts and caches are done here as their documentation says; what sets
up an engine is left out, for there is one. All of them must be pinned to a commit.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from expressions import condition, fill, shown

PINNED = re.compile(r"(?P<name>[\w.-]+/[\w.-]+(/[\w.-]+)?)@[0-9a-f]{40}")
_LEFT_OUT = ("docker/setup-docker-action", "docker/setup-qemu-action")
_LONGEST_S = 120.0


@dataclass(kw_only=True)
class Job:
    """A job that has ended: one of a matrix has its values."""

    id: str
    name: str
    runs_on: str
    result: str
    outputs: dict[str, str]
    log: str
    matrix: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Player:
    """A repository with recipes that calls the workflow of another, and the machine that plays GitHub's runners."""

    checkout: Path
    project: Path
    root: Path
    environment: dict[str, str]
    repository: str = "somebody/project"
    secrets: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, dict[str, bytes]] = field(default_factory=dict)
    caches: dict[str, bytes] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    summary: str = ""
    _numbers: count[int] = field(default_factory=count)
    _runs: count[int] = field(default_factory=count)

    def play(self, name: str, **inputs: Any) -> list[Job]:
        """Run a workflow with these inputs; return its jobs."""
        self.workflow = load(self.checkout / ".github" / "workflows" / name)
        self.inputs = _with_defaults(self.workflow["on"]["workflow_call"]["inputs"], inputs)
        self.jobs = []
        for job in self.workflow["jobs"]:
            self._play_job(job)
        return self.jobs

    def run_failed_again(self) -> list[Job]:
        """Do what the button `Re-run failed jobs` does: those and what needs them; return the jobs run."""
        failed = [job for job in self.jobs if job.result == "failure"]
        ids = {job.id for job in failed}
        dependent = [name for name, job in self.workflow["jobs"].items() if ids & set(_needs(job)) and name not in ids]
        self.jobs = [job for job in self.jobs if job not in failed and job.id not in dependent]
        before = list(self.jobs)
        for job in failed:
            if job.id not in dependent:
                self._play_one(job.id, job.matrix)
        for name in dependent:
            self._play_job(name)
        return [job for job in self.jobs if job not in before]

    def run_only(self, name: str) -> list[Job]:
        """Run one job of the last run once more."""
        self.jobs = [job for job in self.jobs if job.id != name]
        self._play_job(name)
        return self.jobs[-1:]

    def _needed(self, job: dict[str, Any]) -> dict[str, Any]:
        needed: dict[str, Any] = {}
        for name in _needs(job):
            found = [each for each in self.jobs if each.id == name]
            results = {each.result for each in found} or {"skipped"}
            worst = next(word for word in ("failure", "skipped", "success") if word in results)
            outputs = found[-1].outputs if found else {}
            needed[name] = {"result": worst, "outputs": outputs}
        return needed

    def _play_job(self, name: str) -> None:
        job = self.workflow["jobs"][name]
        needs = self._needed(job)
        failed = any(each["result"] != "success" for each in needs.values())
        if not condition(job.get("if"), self._contexts(needs=needs), self.project, failed=failed):
            self.jobs.append(Job(id=name, name=name, runs_on="", result="skipped", outputs={}, log=""))
            return
        if "strategy" not in job:
            self._play_one(name, {})
            return
        matrix = fill(job["strategy"]["matrix"], self._contexts(needs=needs), self.project)
        assert list(matrix) == ["include"]
        for values in matrix["include"]:
            self._play_one(name, values)

    def _play_one(self, name: str, matrix: dict[str, Any]) -> None:
        job = self.workflow["jobs"][name]
        place = self.root / f"job-{next(self._numbers)}"
        machine = Machine(player=self, place=place)
        contexts = self._contexts(needs=self._needed(job), matrix=matrix)
        assert int(fill(job["timeout-minutes"], contexts, self.project)) > 0
        failed = machine.run_steps(job["steps"], contexts)
        contexts = {**contexts, "steps": machine.steps}
        outputs = {key: shown(fill(text, contexts, self.project)) for key, text in job.get("outputs", {}).items()}
        self.jobs.append(
            Job(
                id=name,
                name=str(fill(job.get("name", name), contexts, self.project)),
                runs_on=str(fill(job["runs-on"], contexts, self.project)),
                result="failure" if failed else "success",
                outputs=outputs,
                log=machine.log,
                matrix=matrix,
            )
        )

    def _contexts(self, **more: Any) -> dict[str, Any]:
        github = {"repository": self.repository, "ref": "refs/heads/main", "event_name": "push"}
        # Caches are never overwritten, so the key of each run is another.
        github |= {"run_id": str(next(self._runs)), "run_attempt": "1"}
        return {
            "github": github,
            "job": {"workflow_repository": "owner/jbuild", "workflow_sha": "0" * 40},
            "runner": {"environment": "github-hosted", "arch": "X64", "os": "Linux"},
            "inputs": self.inputs,
            "secrets": self.secrets,
            "matrix": {},
            "needs": {},
            "steps": {},
            **more,
        }


class Machine:
    """The runner of one job."""

    def __init__(self, *, player: Player, place: Path) -> None:
        self.player, self.place = player, place
        self.workspace, self.temp = place / "workspace", place / "temp"
        self.steps: dict[str, Any] = {}
        self.path: list[str] = []
        self.log = ""
        self.workspace.mkdir(parents=True)
        # Installing jbuild from the registry of packages is not what is tested.
        program = self.temp / "jbuild" / "bin" / "jbuild"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m builder "$@"\n')
        program.chmod(0o755)

    def run_steps(self, steps: list[dict[str, Any]], contexts: dict[str, Any]) -> bool:
        """Run steps; return whether one failed."""
        failed = False
        for step in steps:
            now = {**contexts, "steps": self.steps}
            if condition(step.get("if"), now, self.workspace, failed=failed):
                failed = not self._run(step, now) or failed
        return failed

    def _run(self, step: dict[str, Any], contexts: dict[str, Any]) -> bool:
        if "run" in step:
            return self._shell(step, contexts)
        given = {key: fill(value, contexts, self.workspace) for key, value in step.get("with", {}).items()}
        if step["uses"].startswith("./"):
            return self._composite(self.workspace / step["uses"], given, contexts)
        pinned = PINNED.fullmatch(step["uses"])
        assert pinned, f"not pinned: {step['uses']}"
        if pinned["name"] not in _LEFT_OUT:
            {
                "actions/checkout": self._check_out,
                "actions/upload-artifact": self._upload,
                "actions/download-artifact": self._download,
                "actions/cache": self._cache,
                "actions/cache/restore": self._restore,
                "actions/cache/save": self._save,
            }[pinned["name"]](given)
        return True

    def _shell(self, step: dict[str, Any], contexts: dict[str, Any]) -> bool:
        assert "${{" not in step["run"], "an expression in a script can carry commands: give it by `env`"
        files = {name: self.temp / f"{name}-{len(self.log)}" for name in ("OUTPUT", "STEP_SUMMARY", "PATH", "ENV")}
        for path in files.values():
            path.touch()
        given = {key: shown(fill(value, contexts, self.workspace)) for key, value in step.get("env", {}).items()}
        own = {key: value for key, value in self.player.environment.items() if key != "XDG_CONFIG_HOME"}
        environment = {
            **own,
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_WORKSPACE": str(self.workspace),
            "RUNNER_TEMP": str(self.temp),
            "PATH": ":".join([*reversed(self.path), own["PATH"]]),
            **{f"GITHUB_{name}": str(path) for name, path in files.items()},
            **given,
        }
        argv = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(
            argv,
            cwd=self.workspace,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_LONGEST_S,
            check=False,
        )
        self.log += f"--- {step.get('name')}\n{done.stdout}"
        outputs = dict(line.split("=", 1) for line in files["OUTPUT"].read_text().splitlines())
        if "id" in step:
            self.steps[step["id"]] = {"outputs": outputs}
        self.path += files["PATH"].read_text().split()
        self.player.summary += files["STEP_SUMMARY"].read_text()
        return done.returncode == 0

    def _composite(self, folder: Path, given: dict[str, Any], contexts: dict[str, Any]) -> bool:
        action = load(folder / "action.yml")
        assert set(given) <= set(action["inputs"]), "an input that the action does not have"
        inputs = {key: shown(value) for key, value in _with_defaults(action["inputs"], given).items()}
        github = {**contexts["github"], "action_path": str(folder)}
        return not self.run_steps(action["runs"]["steps"], {**contexts, "inputs": inputs, "github": github})

    def _check_out(self, given: dict[str, Any]) -> None:
        assert given["persist-credentials"] is False
        if given.get("path"):
            checkout, unwanted = (
                self.player.checkout,
                shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache"),
            )

            def ignored(folder: str, names: list[str]) -> set[str]:
                return unwanted(folder, names) | ({"build", "locks"} if Path(folder) == checkout else set())

            shutil.copytree(self.player.checkout, self.workspace / given["path"], ignore=ignored)
            return
        shutil.copytree(self.player.project, self.workspace, symlinks=True, dirs_exist_ok=True)

    def _upload(self, given: dict[str, Any]) -> None:
        assert given["overwrite"] is True
        lines = given["path"].split()
        # As the action does: the folder that all patterns share is the artifact's root.
        roots = [Path(re.split(r"[*?\[]", line)[0].rpartition("/")[0] if "*" in line else line) for line in lines]
        found = [path for line in lines for path in self.workspace.glob(line.rstrip("/"))]
        files = [path for each in found for path in ([each] if each.is_file() else each.rglob("*")) if path.is_file()]
        assert files or given.get("if-no-files-found") != "error", given
        base = Path() if len({root.parts[0] for root in roots}) > 1 or len(roots) == 1 else roots[0]
        kept = {str(path.relative_to(self.workspace / base)): path.read_bytes() for path in files}
        self.player.artifacts[given["name"]] = kept

    def _download(self, given: dict[str, Any]) -> None:
        assert given["merge-multiple"] is True
        beginning = given["pattern"].removesuffix("*")
        for name, files in self.player.artifacts.items():
            for path, content in files.items() if name.startswith(beginning) else ():
                target = self.workspace / given["path"] / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)

    def _cache(self, given: dict[str, Any]) -> None:
        assert all(line.startswith("~/.cache/jbuild") for line in given["path"].split()), given["path"]
        assert not given["key"].endswith("-"), given["key"]

    def _restore(self, given: dict[str, Any]) -> None:
        keys = [key for key in self.player.caches if key.startswith(given["restore-keys"])]
        if keys:
            (self.workspace / given["path"]).write_bytes(self.player.caches[keys[-1]])

    def _save(self, given: dict[str, Any]) -> None:
        assert given["key"] not in self.player.caches, "a cache is never overwritten"
        self.player.caches[given["key"]] = (self.workspace / given["path"]).read_bytes()


def load(path: Path) -> dict[str, Any]:
    """Return a workflow or action; YAML 1.1 takes the key `on` for a truth value."""
    text = re.sub(r"^on:", "'on':", path.read_text(), flags=re.MULTILINE)
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def _needs(job: dict[str, Any]) -> list[str]:
    needs = job.get("needs", [])
    return [needs] if isinstance(needs, str) else list(needs)


def _with_defaults(declared: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    assert set(given) <= set(declared), f"there is no such input: {set(given) - set(declared)}"
    missing = [key for key, one in declared.items() if one.get("required") and key not in given]
    assert not missing, missing
    return {key: given.get(key, one.get("default", "")) for key, one in declared.items()}
