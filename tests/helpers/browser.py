"""A headless Chromium, driven through chromedriver by plain WebDriver requests.

Nothing is downloaded and nothing leaves the machine: both programs are the distribution's
(`chromium`, `chromium-driver`), with their background traffic off.
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
    """One tab."""

    def __init__(self, port: int, folder: Path) -> None:
        self._port = port
        # Chromium has no sandbox to offer to root
        arguments = [*_ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        options = {"args": [*arguments, f"--user-data-dir={folder / 'profile'}"]}
        wanted = {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": _ALL_LOGS}}
        self._session = ""
        self._session = self._ask("POST", "/session", {"capabilities": wanted})["sessionId"]

    def resize(self, width: int, height: int = 900, *, scale: float = 1) -> None:
        """CSS pixels of the page; unlike a window, a page may be as narrow as a phone."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """`light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.devtools("Emulation.setEmulatedMedia", {"features": [feature]})

    def go(self, address: str) -> None:
        self._ask("POST", "/url", {"url": address})

    def run(self, script: str, *arguments: object) -> Any:
        """What the function body `script` returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    @property
    def text(self) -> str:
        """What a reader sees."""
        return str(self.run("return document.body.innerText"))

    @property
    def complaints(self) -> list[str]:
        """What the console holds: errors of scripts, breaches of the page's policy."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def screenshot(self) -> bytes:
        """PNG of what is visible."""
        return base64.b64decode(self._ask("GET", "/screenshot"))

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        """One command of the DevTools protocol."""
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
    """A browser whose profile and log lie in `folder`; skips the test where there is none."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or chromium is None:
        pytest.skip("needs chromium and chromedriver (packages chromium, chromium-driver)")
    port = free_port()
    with Process([driver, f"--port={port}"], folder / "chromedriver.log") as process:
        process.wait_ready(lambda: listens(port))
        tab = Browser(port, folder)
        with contextlib.closing(tab):
            yield tab
