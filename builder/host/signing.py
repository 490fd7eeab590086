"""Signatures by cosign's key pairs. cosign gets only bytes and a key; it contacts neither a registry nor a log."""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import ProgramFailedError, RegistryError, UsageError
from builder.host.config import with_options
from builder.host.files import sha256_of, work_folder, write_text
from builder.host.process import find_program, run
from builder.host.records import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from builder.host.config import Config
    from builder.host.paths import Workspace

PASSWORD = "COSIGN_PASSWORD"  # noqa: S105  # the name of the variable
_WITHIN_S = 60.0
_INSTALL = "install cosign (Debian: `apt-get install cosign`), or remove the key from [publish] in jbuild.toml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Signer:
    """Signs with a private key. `cache` stores the signatures, so the next run pushes the same bytes."""

    key: Path
    cache: Path

    def sign(self, content: bytes) -> str:
        """Return the signature of bytes, in base64.

        Raises:
            UsageError: cosign or the key's password is missing.
            RegistryError: cosign failed.
        """
        cached = self.cache / fingerprint(sha256_of(self.key), base64.b64encode(content).decode())
        if cached.is_file():
            return cached.read_text(encoding="utf-8").strip()
        check(self.key)
        with work_folder("jbuild-sign") as folder:
            path = folder / "content"
            path.write_bytes(content)
            argv = ["cosign", "sign-blob", f"--key={self.key}", "--tlog-upload=false", "--yes", str(path)]
            try:
                signature = run(argv, timeout_s=_WITHIN_S).stdout.strip()
            except ProgramFailedError as error:
                where, hint = str(self.key), f"is {PASSWORD} the key's password?"
                raise RegistryError("cosign could not sign", where=where, hint=hint, log=error.output) from error
        write_text(cached, signature)
        return signature


def signer(config: Config, workspace: Workspace) -> Signer | None:
    """Return the signer of the configured key, or None."""
    return Signer(key=config.cosign_key, cache=workspace.signatures) if config.cosign_key else None


def check(key: Path) -> None:
    """Check that a key can be used to sign.

    Raises:
        UsageError: cosign or the key's password is missing.
    """
    _check_program()
    if PASSWORD not in os.environ:
        raise UsageError(
            f"cannot sign images: {PASSWORD} is not set",
            where=str(key),
            hint=f"export {PASSWORD} with the key's password (empty for a key without one)",
        )


def _check_program() -> None:
    if find_program("cosign") is None:
        raise UsageError("cannot sign or check signatures: cosign is not installed", hint=_INSTALL)


def public_keys(config: Config, extra: Iterable[Path] = ()) -> tuple[Path, ...]:
    """Return the trusted public keys: `extra`, or else the configured ones.

    Raises:
        UsageError: a key is not a file.
    """
    keys = tuple(extra)
    for key in keys:
        if not key.is_file():
            raise UsageError("no such key", where=str(key), hint="name the public key's file (cosign.pub)")
    return with_options(config, trusted_keys=keys).trusted_keys


def is_signed(content: bytes, signatures: Iterable[str], keys: Iterable[Path]) -> bool:
    """Return whether one of the public keys made one of the signatures of the content.

    Raises:
        UsageError: cosign is missing.
    """
    return any(_verify(content, signature, key) for signature in signatures for key in keys)


def _verify(content: bytes, signature: str, key: Path) -> bool:
    try:
        base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        return False
    _check_program()
    with work_folder("jbuild-verify") as folder:
        signed, signing = folder / "content", folder / "signature"
        signed.write_bytes(content)
        signing.write_text(signature, encoding="ascii")
        # There is no transparency log; the key alone decides.
        argv = ["cosign", "verify-blob", f"--key={key}", f"--signature={signing}", "--insecure-ignore-tlog=true"]
        done = run([*argv, str(signed)], timeout_s=_WITHIN_S, check=False)
    return done.code == 0
