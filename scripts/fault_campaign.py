"""Runs jbuild against servers that fail in all kinds, and kills it, many times; checks what holds and what is left.

Each trial runs a real command with a real engine and real registries, lets one request fail (or kills the process
group), reads the registry itself, runs the same command again, and looks for what is left. The result of the whole
campaign is written to docs/fault-campaign.md. A campaign that was interrupted goes on with the same seed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, NoReturn

sys.path.insert(0, str(Path(__file__).parent))

from servers import running_registry

from builder.host.files import write_text
from builder.host.paths import Workspace, cache_folder
from campaign.faults import FAULTS, IN_TWO
from campaign.front import Plan
from campaign.report import page, summary
from campaign.trial import Draw, Result, as_result, carry_out, run
from campaign.ways import WAYS
from campaign.workshop import running_workshop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from campaign.front import Fault, Repeat
    from campaign.ways import Way
    from campaign.workshop import Workshop

_PAGE = Path(__file__).parents[1] / "docs" / "fault-campaign.md"
_REPEATS: tuple[Repeat, ...] = ("once", "once", "three times", "always")
_KILL_WEIGHTS = {"whole": 5, "rebuild": 5, "render": 2, "lock": 2, "push": 3, "promote": 2, "copy": 1, "unproven": 1}
_FIRST_KILL_S = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; exit code 1: something does not hold."""
    parser = argparse.ArgumentParser(prog="scripts/fault-campaign", description=__doc__)
    parser.add_argument("--faults", type=int, default=300, metavar="N", help="trials with faults (300)")
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="trials with SIGKILL (100)")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices (default: a random one)")
    parser.add_argument("--only", action="append", default=[], metavar="KIND", help="only this kind; repeatable")
    parser.add_argument("--way", action="append", default=[], metavar="WAY", help="only this way; repeatable")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="trials side by side (2)")
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    seed = options.seed or random.SystemRandom().randrange(1, 1 << 31)
    kinds = [fault for fault in FAULTS if not options.only or fault.kind in options.only]
    if options.only and not kinds and "SIGKILL" not in options.only:
        parser.error(f"no such kind; kinds are: {', '.join(fault.kind for fault in FAULTS)}, SIGKILL")
    ways = [way for way in WAYS if not options.way or way.name in options.way]
    is_whole = not options.only and not options.way
    folder = cache_folder() / "agreement" / "campaign" / f"{seed}-{options.faults}-{options.kills}"
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}; logs in {folder}", flush=True)
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="campaign-", ignore_cleanup_errors=True)))
        registry = stack.enter_context(running_registry(root / "registry"))
        base = str(json.loads(Workspace.current().engine_record.read_text())["registry"])
        workshops = [
            stack.enter_context(running_workshop(root / f"w{number}", registry, base))
            for number in range(options.workers)
        ]
        for workshop in workshops:
            workshop.prepare()
        requests, seconds = _faultless(workshops[0], ways, root)
        rng = random.Random(seed)  # noqa: S311
        draws = [
            *_faults(rng, options.faults if kinds else 0, kinds, ways, requests),
            *_kills(
                rng,
                0 if options.only and "SIGKILL" not in options.only else options.kills,
                ways,
                seconds,
                options.faults,
            ),
        ]
        results = _run(draws, workshops, folder, root, keep=is_whole)
    if is_whole:
        write_text(_PAGE, page(results, seed, options.faults, options.kills))
    print(summary(results))
    return int(any(result.violations for result in results))


def _end(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _faultless(workshop: Workshop, ways: list[Way], root: Path) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Return the requests and the seconds of each way without a fault."""
    requests, seconds = {}, {}
    for way in ways:
        folder, plan = root / "faultless" / way.name, Plan()
        attempt = way.begin(workshop, folder, f"{workshop.project.name}-faultless-{way.name.replace(' ', '-')}")
        workshop.use(plan)
        done = run(attempt, workshop)
        if (done.code == 0) == attempt.is_unproven:
            raise SystemExit(f"{way.name} ends otherwise than it should without a fault ({done.code}):\n{done.stderr}")
        requests[way.name], seconds[way.name] = plan.log, done.seconds
        print(f"faultless {way.name}: {len(plan.log)} requests, {done.seconds} s", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    return requests, seconds


def _faults(
    rng: random.Random, count: int, kinds: list[Fault], ways: list[Way], requests: dict[str, list[str]]
) -> list[Draw]:
    """Draw trials: all kinds equally often, at a random request of a random way that has one of the kind."""
    order: list[Fault] = []
    while len(order) < count:
        order += rng.sample(kinds, len(kinds))
    draws = []
    for number, fault in enumerate(order[:count], 1):
        fitting = {way.name: sum(map(fault.fits, requests[way.name])) for way in ways}
        possible = [way for way in ways if fitting[way.name]]
        if not possible:
            raise SystemExit(f"no way has a request for {fault.kind}")
        (way,) = rng.choices(possible, [way.weight for way in possible])
        nth, repeat = rng.randint(1, fitting[way.name]), rng.choice(_REPEATS[2:] if fault.kind in IN_TWO else _REPEATS)
        draws.append(Draw(number=number, way=way, fault=fault, nth=nth, repeat=repeat, seed=rng.randrange(1 << 31)))
    return draws


def _kills(rng: random.Random, count: int, ways: list[Way], seconds: dict[str, float], after: int) -> list[Draw]:
    possible = [way for way in ways if way.name in _KILL_WEIGHTS]
    draws = []
    for number in range(after + 1, after + count + 1 if possible else 0):
        (way,) = rng.choices(possible, [_KILL_WEIGHTS[way.name] for way in possible])
        moment = rng.uniform(_FIRST_KILL_S, seconds[way.name])
        draws.append(Draw(number=number, way=way, kill_after_s=moment))
    return draws


def _run(draws: list[Draw], workshops: list[Workshop], folder: Path, root: Path, *, keep: bool) -> list[Result]:
    """Run the trials that an earlier run has not done, each in a free workshop; print a line for each."""
    path, mutex = folder / "results.jsonl", threading.Lock()
    done = _earlier(path) if keep else {}
    free: SimpleQueue[Workshop] = SimpleQueue()
    for workshop in workshops:
        free.put(workshop)

    def trial(draw: Draw) -> Result:
        if draw.number in done:
            return done[draw.number]
        workshop = free.get()
        try:
            result = carry_out(draw, workshop, root / f"trial-{draw.number}", folder / f"{draw.number}.log")
        finally:
            free.put(workshop)
        with mutex:
            if keep:
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(result)) + "\n")
            print(result.line, flush=True)
        return result

    with ThreadPoolExecutor(len(workshops)) as pool:
        try:
            return list(pool.map(trial, draws))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _earlier(path: Path) -> dict[int, Result]:
    rows = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {result.number: result for result in (as_result(json.loads(row)) for row in rows)}


if __name__ == "__main__":
    sys.exit(main())
