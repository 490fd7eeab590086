"""A headless Chromium, driven over a pipe: no port, no library, and nothing on the network."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_ENDS_WITHIN_S = 30.0
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
)


class Tab:
    """One page. Whatever it asks the network for, and whatever it complains about, is noted."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        """Open a tab over the browser's pipes."""
        self._to, self._from, self._buffer, self._number = to_browser, from_browser, b"", 0
        self._session: str | None = None
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = str(self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            got = self._next()
            if got.get("id") == self._number:
                assert "error" not in got, got
                return dict(got["result"])
            self._note(got)

    def open(self, path: Path, *, width: int, height: int, scale: float = 1, dark: bool = False) -> None:
        """Load a file into a window of this size."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        self.call("Page.navigate", url=path.as_uri())
        ends_at = time.monotonic() + _ENDS_WITHIN_S
        while not self._loaded:
            assert time.monotonic() < ends_at, "the page was not loaded"
            self._note(self._next())

    def run(self, script: str) -> Any:
        """Return what an expression of the page's own language gives."""
        got = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in got, got
        return got["result"].get("value")

    def press(self, key: str) -> None:
        """Press and let go of a key."""
        for kind in ("rawKeyDown", "keyUp"):
            code = {"Tab": 9, "Enter": 13, "Home": 36, "End": 35, "ArrowLeft": 37, "ArrowUp": 38}
            code |= {"ArrowRight": 39, "ArrowDown": 40}
            text = {"text": "\r"} if key == "Enter" and kind == "rawKeyDown" else {}
            kind = "keyDown" if text else kind  # noqa: PLW2901  # only with a text does Enter follow a link
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code[key], **text)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write what is seen as a PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def paper(self, path: Path) -> None:
        """Print to a PDF."""
        data = self.call("Page.printToPDF", printBackground=True, paperWidth=8.27, paperHeight=11.69)["data"]
        path.write_bytes(base64.b64decode(data))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], _ENDS_WITHIN_S)
            assert ready, "the browser says nothing"
            block = os.read(self._from, 1 << 20)
            assert block, "the browser has ended"
            self._buffer += block
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        found = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.asked.append(found["request"]["url"])
        if event.get("method") == "Log.entryAdded":
            self.complaints.append(found["entry"]["text"])
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(found["exceptionDetails"]))
        self._loaded = self._loaded or event.get("method") == "Page.loadEventFired"


@contextmanager
def browsing() -> Iterator[Tab]:
    """Run a browser with a profile of its own."""
    assert PROGRAM
    folder = Path(tempfile.mkdtemp(prefix="jbuild-browser-"))
    (to_child, to_browser), (from_browser, from_child) = os.pipe(), os.pipe()
    # The browser reads from 3 and writes to 4.
    shell = f'exec "$@" 3<&{to_child} 4>&{from_child}'
    child = subprocess.Popen(
        ["bash", "-c", shell, "bash", PROGRAM, *_FLAGS, f"--user-data-dir={folder}"],
        pass_fds=(to_child, from_child),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_child)
    os.close(from_child)
    try:
        yield Tab(to_browser, from_browser)
    finally:
        os.close(to_browser)
        os.close(from_browser)
        child.terminate()
        child.wait(10)
        shutil.rmtree(folder, ignore_errors=True)
