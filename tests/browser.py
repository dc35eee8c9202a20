"""Headless Chromium over its debugging pipe, without a driver program, a package or a port."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


def find_browser() -> str | None:
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


class Browser:
    """One page of a browser of its own. Close it, or use it in a with statement.

    Chromium reads commands at descriptor 3 and answers at 4, as JSON with a zero byte behind each.
    """

    def __init__(self, folder: Path, width: int = 1360, height: int = 900, timeout_s: float = 60) -> None:
        program = find_browser()
        if program is None:
            raise FileNotFoundError(f"[browser] program: expected one of {', '.join(BROWSERS)}, got none")
        self.timeout_s, self.number, self.buffer = timeout_s, 0, b""
        self.events: list[dict[str, Any]] = []
        to_read, self.to = os.pipe()
        self.back, back_write = os.pipe()
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{back_write}', "browser", program, *FLAGS,
             f"--user-data-dir={folder}", f"--window-size={width},{height}"],
            pass_fds=(to_read, back_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(back_write)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session: str | None = None
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{part}.enable")
        self.size(width, height)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.call("Browser.close")
        os.close(self.to)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.back)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        request: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        if getattr(self, "session", None):
            request["sessionId"] = self.session
        os.write(self.to, json.dumps(request).encode() + b"\0")
        while True:
            message = self._read()
            if message.get("id") == self.number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self.events.append(message)

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + self.timeout_s
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.back], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self.back, 1 << 20) if ready else b""
            assert part, "the browser is gone, or does not answer"
            self.buffer += part
        text, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(text)

    def open(self, page: Path | str) -> float:
        """Load a file or an address; returns the seconds until it has loaded and been painted once."""
        self.events.clear()
        start = time.perf_counter()
        self.call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        self.run(
            "new Promise((done) => { const painted = () => requestAnimationFrame(() => setTimeout(done));"
            " document.readyState === 'complete' ? painted() : addEventListener('load', painted); })"
        )
        return time.perf_counter() - start

    def run(self, script: str) -> Any:
        """The value of an expression; promises are waited for."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, *keys: str) -> None:
        """Real key events: letters, or names such as ArrowDown and Enter."""
        for key in keys:
            printed = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            code = CODES.get(key, ord(key.upper()) if len(key) == 1 else 0)
            self.call(
                "Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **printed
            )
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def click(self, selector: str) -> None:
        """A real click in the middle of the first such element."""
        x, y = self.run(
            f"(() => {{ const node = document.querySelector({json.dumps(selector)}); node.scrollIntoView("
            "{block: 'center', behavior: 'instant'}); const box = node.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def size(self, width: int, height: int, scale: float = 1) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
            mobile=False,
        )  # fmt: skip

    def prefer(self, scheme: str, media: str = "") -> None:
        """What the system asks for: light or dark, no motion; and "print" for paper."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def shoot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self) -> list[str]:
        """Errors and warnings that the page caused since it was opened."""
        self.run("0")
        found = [e["params"]["entry"] for e in self.events if e.get("method") == "Log.entryAdded"]
        thrown = [e["params"] for e in self.events if e.get("method") == "Runtime.exceptionThrown"]
        return [entry["text"] for entry in found] + [str(each["exceptionDetails"]) for each in thrown]

    def requests(self) -> list[str]:
        """Every address that was asked for since the page was opened."""
        self.run("0")
        sent = [e["params"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in sent]


CODES = {
    "ArrowDown": 40, "ArrowUp": 38, "ArrowLeft": 37, "ArrowRight": 39, "End": 35, "Home": 36, "Enter": 13,
    "Escape": 27, "Tab": 9, "PageDown": 34, "PageUp": 33,
}  # fmt: skip
