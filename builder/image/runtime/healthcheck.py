"""The image's health check: exit code 0 when the server answers at `/health`, else 1 and the reason.

Runs inside images on Python 3.8 and later, with nothing but the standard library.
"""

from __future__ import annotations

import http.client
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

if TYPE_CHECKING or __package__:
    from builder.image.runtime.settings import EVERYWHERE, SettingsError, option, read_server, running_arguments, settle
else:
    # In an image, the scripts are in one folder, which is not a package.
    from settings import EVERYWHERE, SettingsError, option, read_server, running_arguments, settle

_TIMEOUT_S = 10
_OK = 200


def main() -> int:
    """Ask the server once."""
    try:
        settings = settle(read_server(), os.environ, ())
        arguments = (*settings.arguments, *running_arguments())
        status = ask(arguments)
    except (OSError, http.client.HTTPException, SettingsError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stderr.write(f"status {status}\n")
    return 0 if status == _OK else 1


def ask(arguments: Sequence[str]) -> int:
    """Return the status of `/health` of a server with these arguments."""
    host = option(arguments, "--host") or ""
    port = int(option(arguments, "--port") or "8000")
    connection = _connection(
        "127.0.0.1" if host in EVERYWHERE else host,
        port,
        tls=option(arguments, "--ssl-certfile") is not None,
    )
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    finally:
        connection.close()


def _connection(host: str, port: int, *, tls: bool) -> http.client.HTTPConnection:
    if not tls:
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    import ssl  # noqa: PLC0415  # not part of every Python, and slow to import under emulation

    # The certificate is for the server's public name; here only the server's life is asked for.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)


if __name__ == "__main__":
    raise SystemExit(main())
