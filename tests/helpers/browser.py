"""A headless Chromium, controlled through chromedriver with WebDriver requests.

Nothing is downloaded and nothing leaves the machine: both programs are the distribution's
(`chromium`, `chromium-driver`), with their background traffic switched off.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from uproxy.lab.ports import free_port, listens
from uproxy.lab.processes import Process

_ARGUMENTS = (
    "--headless=new", "--disable-gpu", "--disable-background-networking", "--no-first-run",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--no-proxy-server",
    "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip


class Browser:
    """One browser tab."""

    def __init__(self, port: int, folder: Path) -> None:
        self._port = port
        # Chromium has no sandbox to offer to root
        arguments = [*_ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        options = {"args": [*arguments, f"--user-data-dir={folder / 'profile'}"]}
        wanted = {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": _ALL_LOGS}}
        self._session = ""
        self._session = self._ask("POST", "/session", {"capabilities": wanted})["sessionId"]

    def resize(self, width: int, height: int = 900, *, scale: float = 1) -> None:
        """Set the size of the page in CSS pixels; unlike a window, it may be as narrow as a
        phone."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """Set the preferred color scheme: `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.devtools("Emulation.setEmulatedMedia", {"features": [feature]})

    def go(self, address: str) -> None:
        self._ask("POST", "/url", {"url": address})

    def run(self, script: str, *arguments: object) -> Any:
        """Run a function body in the page and return its result."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    @property
    def text(self) -> str:
        """The visible text."""
        return str(self.run("return document.body.innerText"))

    @property
    def complaints(self) -> list[str]:
        """The messages of the console: script errors, violations of the content security
        policy."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def screenshot(self) -> bytes:
        """Return a PNG of the visible part."""
        return base64.b64decode(self._ask("GET", "/screenshot"))

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        """Send one command of the DevTools protocol and return its result."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def close(self) -> None:
        self._ask("DELETE", "")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        where = f"/session/{self._session}{path}" if self._session else path
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, where, None if body is None else json.dumps(body))
            value = json.loads(connection.getresponse().read())["value"]
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(f"{method} {where}: {value['error']}: {value['message']}")
        return value


_ALL_LOGS = {"browser": "ALL"}


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Yield a browser with its profile and log in `folder`; skip the test if there is none."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or chromium is None:
        pytest.skip("needs chromium and chromedriver (packages chromium, chromium-driver)")
    port = free_port()
    with Process([driver, f"--port={port}"], folder / "chromedriver.log") as process:
        process.wait_ready(lambda: listens(port))
        tab = Browser(port, folder)
        with contextlib.closing(tab):
            yield tab
