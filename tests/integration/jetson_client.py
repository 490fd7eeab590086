"""What tests of the stand-in for the Jetson AI Lab index share: a plain client, and a file that it knows."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jetson_index import JetsonIndex

CU126 = "jp6/cu126"
TORCH = "torch-2.8.0-cp310-cp310-linux_aarch64.whl"
# The same on every machine, as long as neither the table nor the maker changes.
TORCH_SHA256 = "c370ffea27163908f99ea3c3af342cb7095e8f42343c7f73dc014da899ce763f"
TORCH_FILE = f"/{CU126}/+f/{TORCH_SHA256[:3]}/{TORCH_SHA256[3:16]}/{TORCH}"
TORCH_PAGE = f"/{CU126}/+simple/torch/"
BROWSER, INSTALLER = "Mozilla/5.0", "uv/0.9.1"


def ask(index: JetsonIndex, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Ask with a plain client that follows nothing; `user_agent` and the like are headers."""
    connection = http.client.HTTPConnection(index.host, timeout=10)
    given = {name.replace("_", "-").title(): value for name, value in headers.items()}
    try:
        connection.request(method, path, headers={"User-Agent": BROWSER, **given})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()
