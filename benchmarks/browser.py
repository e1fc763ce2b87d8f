"""A real Chromium, driven over its debugging pipe: no port, no library, messages end in a NUL.

with Browser(tmp_path) as browser:
    browser.open(url, width=390, is_dark=True)
    browser.run("document.title")
    browser.wait_for("document.querySelectorAll('.run').length === 2")
    browser.take_picture(path)
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WHY_NOT = "no Chromium on PATH; on Debian: apt-get install chromium"
# Chromium reads commands from descriptor 3 and writes answers to 4.
_START = (
    "import fcntl,os,sys; r,w=(fcntl.fcntl(int(n),fcntl.F_DUPFD,10) for n in sys.argv[1:3]); "
    "os.dup2(r,3); os.dup2(w,4); os.execv(sys.argv[3],sys.argv[3:])"
)


class Browser:
    """One page of one browser. `said` is what its console complained of."""

    def __init__(self, folder: Path, *flags: str) -> None:
        assert CHROMIUM is not None
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        command = [
            CHROMIUM,
            *("--headless=new", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
            # Tests run as root, too, where Chromium has no sandbox of its own.
            *("--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"),
            *flags,
            "about:blank",
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(to_read), str(to_write), *command],
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._left, self._number, self._session = b"", 0, ""
        self.said: list[str] = []
        self.pid = self._process.pid
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(each["targetId"] for each in targets if each["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = ""
        with contextlib.suppress(EOFError, BrokenPipeError):
            self.call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, *, timeout_s: float = 60, **params: Any) -> Any:
        """One command of the DevTools protocol, and its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline_s = time.monotonic() + timeout_s
        while True:
            answer = self._next(deadline_s)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._note(answer)

    def open(
        self, url: str, *, width: int = 1280, height: int = 900, is_dark: bool = False
    ) -> None:
        """Goes there as a screen of that size; returns when the document is there."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def run(self, expression: str) -> Any:
        """The expression's value; a promise's is awaited."""
        done = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait_for(self, condition: str, *, timeout_s: float = 30) -> None:
        """Until the expression is true; fails with what the console said when it never is."""
        deadline_s = time.monotonic() + timeout_s
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < deadline_s, (condition, self.said)
            time.sleep(0.03)

    def take_picture(self, path: Path, *, is_whole: bool = False) -> None:
        """A PNG of the screen, or of the whole page."""
        options: dict[str, Any] = {}
        if is_whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
            options = {"captureBeyondViewport": True, "clip": clip}
        data = self.call("Page.captureScreenshot", **options)["data"]
        path.write_bytes(base64.b64decode(data))

    def print_to(self, path: Path) -> None:
        """A PDF, as paper would have it."""
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF")["data"]))

    def _next(self, deadline_s: float) -> Any:
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._from], [], [], max(0, deadline_s - time.monotonic()))
            if not ready:
                raise TimeoutError("Chromium does not answer")
            data = os.read(self._from, 1 << 20)
            if not data:
                raise EOFError("Chromium has ended")
            self._left += data
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def _note(self, event: Any) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.said.append(json.dumps(params["exceptionDetails"].get("exception", params))[:500])
        elif event.get("method") == "Log.entryAdded":
            self.said.append(f"{params['entry']['text']} {params['entry'].get('url', '')}"[:500])
        elif event.get("method") == "Runtime.consoleAPICalled" and params["type"] != "log":
            self.said.append(json.dumps(params["args"])[:500])
