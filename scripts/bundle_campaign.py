"""Damages bundles in all kinds, and loads each into a real engine or registry; checks that nothing of it is there.

Each trial copies a bundle that `jbuild bundle` wrote, damages the copy, runs `jbuild load`, and looks for the image and
its name. The result is written to docs/bundle-campaign.md; the same seed repeats the random choices.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

sys.path.insert(0, str(Path(__file__).parent))

from bundle_factory import write_image
from docker.errors import ImageNotFound
from project import Running, clean_environment
from proofs import labels
from proven_folder import CELL, OWN, Folder
from servers import running_registry

from builder.host.engine.docker import find_engine
from builder.host.files import write_text
from builder.host.paths import Workspace
from builder.model.images import proven_name
from campaign.bundle_damage import DAMAGES, Damaged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from docker import DockerClient
    from servers import Registry

    from builder.host.engine.docker import Engine
    from campaign.bundle_damage import DamageKind

_PAGE = Path(__file__).parents[1] / "docs" / "bundle-campaign.md"
_NAME = proven_name("demo", CELL)
_CODES = (2, 6)
_LONGEST_SHOWN = 200
_INTRO = """# Damaged bundles

`scripts/bundle-campaign` writes this page. Each trial damages a copy of a bundle that `jbuild bundle` wrote, whole or
in parts, and runs `jbuild load` with a real engine or a real registry.

After every trial, these must hold: the exit code is 6 (2 if the folder is not a bundle, or a newer jbuild made it); the
message names the damaged file or part; no traceback; the image is not in the engine; the registry has no repository;
the cache has no temporary file. `checksums right` means that every checksum was computed again after the change, as
somebody does who wants to get it past the check.
"""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A damaged bundle, and how its load ended."""

    number: int
    kind: str
    form: str
    into: str
    code: int
    message: str
    violations: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The bundles, and where they are loaded."""

    root: Path
    digests: tuple[str, str]
    engine: Engine
    client: DockerClient
    registry: Registry


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; exit code 1: something does not hold."""
    parser = argparse.ArgumentParser(prog="scripts/bundle-campaign", description=__doc__)
    parser.add_argument("--trials", type=int, default=150, metavar="N", help="damaged bundles (150)")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices (default: a random one)")
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    seed = options.seed or random.SystemRandom().randrange(1, 1 << 31)
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bundles-", ignore_cleanup_errors=True)))
        engine = find_engine(Workspace.current())
        client = engine.client()
        stack.callback(client.close)
        registry = stack.enter_context(running_registry(root / "registry"))
        scene = Scene(root=root, digests=_bundles(root), engine=engine, client=client, registry=registry)
        trials = [_trial(scene, number, DAMAGES[number % len(DAMAGES)], seed) for number in range(options.trials)]
        sound = _loads(scene)
    wrong = [trial for trial in trials if trial.violations]
    if options.trials >= len(DAMAGES):
        write_text(_PAGE, _page(trials, seed))
    print(f"seed {seed}: {_summary(trials)}")
    return 1 if wrong or not sound else 0


def _end(_: int, __: object) -> NoReturn:
    raise SystemExit(130)


def _bundles(root: Path) -> tuple[str, str]:
    """Write a bundle and another one, whole and split; return the digests of the image and of its configuration."""
    images = []
    for name, seed in (("own", 1), ("other", 2)):
        workspace = Workspace(project=root / name / "work", cache=root / name / "cache")
        content = random.Random(seed).randbytes(3_500_000)  # noqa: S311  # not for secrets
        layers = ({"srv/model": content}, {"srv/base": b"base"}, {"srv/name": name.encode()})
        image = write_image(workspace.images, layers, labels=dict(labels(OWN)))
        folder = Folder(root / name, image=image)
        for form, split in (("whole", ()), ("split", ("--split", "1M"))):
            done = folder.run("bundle", "demo", "--output", str(root / name / form), *split)
            if done.code:
                raise SystemExit(done.stderr)
        images.append(image)
    return images[0].digest, images[0].config.digest


def _trial(scene: Scene, number: int, kind: DamageKind, seed: int) -> Trial:
    folder, cache = scene.root / "trial" / "bundle", scene.root / "cache"
    shutil.rmtree(folder.parent, ignore_errors=True)
    shutil.copytree(scene.root / "own" / kind.form, folder)
    choose = random.Random(f"{seed}-{number}-{kind.name}")  # noqa: S311  # not for secrets
    pattern = kind.harm(Damaged(folder=folder, other=scene.root / "other" / kind.form, choose=choose))
    into = choose.choice(["engine", "registry"])
    code, message, stderr = _load(scene, folder, cache, into)
    violations = [
        *([] if code in _CODES else [f"exit code {code}"]),
        *([] if re.search(pattern, message) else [f"the message does not name {pattern}"]),
        *(["traceback"] if "Traceback" in stderr else []),
        *_left(scene, cache),
    ]
    trial = Trial(
        number=number,
        kind=kind.name,
        form=kind.form,
        into=into,
        code=code,
        message=message,
        violations=tuple(violations),
    )
    print(
        f"{number:4} {kind.form:5} {kind.name:45} {into:8} {code} {'; '.join(violations) or message[:90]}", flush=True
    )
    return trial


def _load(scene: Scene, folder: Path, cache: Path, into: str) -> tuple[int, str, str]:
    environment = clean_environment(scene.root / "home", scene.engine.endpoint) | {"JBUILD_CACHE": str(cache)}
    target = ("--registry", scene.registry.host) if into == "registry" else ()
    argv = [sys.executable, "-m", "builder", "load", str(folder), "--json", *target]
    done = Running(argv, scene.root, environment).wait()
    with suppress(ValueError):
        return done.code, str(json.loads(done.stdout).get("message", "")), done.stderr
    return done.code, done.stdout, done.stderr


def _left(scene: Scene, cache: Path) -> list[str]:
    """Return what a refused bundle left."""
    left = []
    # Other programs may load images under the same name: the image itself must not be there.
    for digest in scene.digests:
        with suppress(ImageNotFound):
            scene.client.images.get(digest)
            left.append(f"the engine has {digest}")
    repositories = json.loads(scene.registry.request("/v2/_catalog")[2])["repositories"]
    left += [f"the registry has {name}" for name in repositories]
    return left + [f"the cache has {path.name}" for path in (cache / "bundles").glob("*")]


def _loads(scene: Scene) -> bool:
    """Return whether the undamaged bundles load."""
    try:
        for form, into in (("whole", "engine"), ("split", "engine"), ("split", "registry")):
            code, message, _ = _load(scene, scene.root / "own" / form, scene.root / "cache", into)
            if code:
                print(f"the undamaged bundle ({form}, {into}) ends with {code}: {message}")
                return False
        return scene.client.images.get(_NAME).id is not None
    finally:
        with suppress(ImageNotFound):
            scene.client.images.remove(_NAME, force=True)


def _summary(trials: list[Trial]) -> str:
    kinds = len({(trial.kind, trial.form) for trial in trials})
    wrong = [trial for trial in trials if trial.violations]
    return f"{len(trials)} damaged bundles of {kinds} kinds: {len(wrong)} trials in which something did not hold"


def _page(trials: list[Trial], seed: int) -> str:
    wrong = [trial for trial in trials if trial.violations]
    rows = [
        f"| {trial.number} | {trial.kind} | {trial.form} | {trial.into} | {'; '.join(trial.violations)} |"
        for trial in wrong
    ]
    held = ["| trial | kind | form | into | what |", "|---|---|---|---|---|", *rows, ""] if rows else []
    by_kind = defaultdict(list)
    for trial in trials:
        by_kind[trial.form, trial.kind].append(trial)
    table = ["| bundle | kind | trials | exit codes (trials) | message of the first |", "|---|---|---|---|---|"]
    for (form, kind), own in sorted(by_kind.items(), key=lambda item: (item[0][0] == "split", item[0][1])):
        codes = ", ".join(f"{code} ({count})" for code, count in sorted(Counter(t.code for t in own).items()))
        table.append(f"| {form} | {kind} | {len(own)} | {codes} | {_shown(own[0].message)} |")
    command = f"The command was `scripts/bundle-campaign --trials {len(trials)} --seed {seed}`:"
    return "\n".join((_INTRO, command, f"{_summary(trials)}.\n", *held, *table, ""))


def _shown(message: str) -> str:
    """Return a message with short digests, for a row of a table."""
    short = re.sub(r"[0-9a-f]{64}", lambda match: f"{match[0][:12]}…", message).replace("|", "\\|")
    return short if len(short) < _LONGEST_SHOWN else f"{short[:_LONGEST_SHOWN]} …"


if __name__ == "__main__":
    sys.exit(main())
