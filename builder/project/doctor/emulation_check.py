"""Checks whether arm64 programs run in the engine, natively or emulated."""

from __future__ import annotations

import struct
import tarfile
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import JbuildError, ProgramMissingError
from builder.host.engine.temporary import DOCTOR, owner_label, temporary_tag
from builder.host.files import work_folder
from builder.host.paths import ENGINE_SCRIPT
from builder.host.process import run
from builder.project.doctor.check_table import ok, problem, skipped
from builder.project.doctor.tools_check import can_start_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.engine.docker import Engine
    from builder.project.doctor.check_table import Check, DoctorContext

_ENTRY = Path("proc/sys/fs/binfmt_misc/qemu-aarch64")
_RUN_S = 60
ANSWER = 42
# mov x0, #ANSWER; mov x8, #93 (exit); svc #0: Arm Architecture Reference Manual, MOVZ and SVC.
_CODE = (0xD2800000 | ANSWER << 5, 0xD2800000 | 93 << 5 | 8, 0xD4000001)
_ADDRESS, _HEADERS = 0x400000, 64 + 56


def program() -> bytes:
    """Return an arm64 program, a static ELF executable, that exits with code 42."""
    code = struct.pack(f"<{len(_CODE)}I", *_CODE)
    size = _HEADERS + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 2, 0xB7, 1, _ADDRESS + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _ADDRESS, _ADDRESS, size, size, 0x1000)
    return header + segment + code


def check(case: DoctorContext) -> Iterator[Check]:
    """Run that program in a container, the only proof that emulation works there. It needs no pull."""
    engine = case.engine
    if engine is None:
        yield skipped("arm64", "no engine to run it in")
        return
    native = engine.architecture == "arm64"
    if not (native or case.builds):
        yield skipped("arm64", "no images for arm64 are built here")
        return
    try:
        code = _exit_code(engine)
    except ProgramMissingError:
        yield skipped("arm64", "no docker command to run it with")
        return
    except JbuildError as error:
        yield _broken(case, engine, (error.log or error.message).strip().splitlines()[-1])
        return
    if code == ANSWER:
        yield ok("arm64", "a program ran in a container" + ("" if native else ", emulated"))
    else:
        yield _broken(case, engine, f"a program exited with code {code} instead of {ANSWER}")


def _broken(case: DoctorContext, engine: Engine, failure: str) -> Check:
    entry = case.root / _ENTRY
    text = entry.read_text(encoding="utf-8") if entry.is_file() else ""
    script, fixable = str(ENGINE_SCRIPT), can_start_engine()
    if engine.architecture == "arm64" or not engine.is_local:
        return problem("arm64", "does-not-run", failure)
    if not text.startswith("enabled"):
        found = f"an {engine.architecture} machine without emulation of arm64"
        return problem("arm64", "not-registered", found, fixable=fixable, script=script)
    flags = next((row for row in text.splitlines() if row.startswith("flags:")), "")
    if "F" not in flags.partition(":")[2]:
        found = f"emulation is registered without flag F ({flags or 'no flags'})"
        return problem("arm64", "no-flag", found, fixable=fixable, script=script)
    return problem("arm64", "does-not-run", failure)


def _exit_code(engine: Engine) -> int:
    """Return the exit code of the program in a container.

    Raises:
        JbuildError: the container did not start.
    """
    with _image(engine) as image:
        argv = ["docker", "run", "--rm", "--pull", "never", "--network", "none", "--platform", "linux/arm64"]
        argv += [f"--label={name}={value}" for name, value in owner_label().items()]
        done = run([*argv, image, "/program"], env=engine.environment(), timeout_s=_RUN_S, check=False)
    # The docker command's own codes: the container was not started.
    if done.code in (125, 126, 127):
        raise JbuildError("the container did not start", log=done.stderr)
    return done.code


@contextmanager
def _image(engine: Engine) -> Iterator[str]:
    """Provide an image of that program alone, and remove it afterwards."""
    name = temporary_tag(DOCTOR, "arm64")
    environment = engine.environment()
    with work_folder("jbuild-doctor") as folder:
        path = folder / "image.tar"
        with tarfile.open(path, "w") as archive:
            entry = tarfile.TarInfo("program")
            entry.mode, entry.size = 0o755, len(program())
            archive.addfile(entry, BytesIO(program()))
        run(["docker", "import", "--platform", "linux/arm64", str(path), name], env=environment, timeout_s=_RUN_S)
    try:
        yield name
    finally:
        run(["docker", "image", "rm", "--force", name], env=environment, timeout_s=_RUN_S, check=False)
