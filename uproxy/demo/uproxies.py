"""A `uproxy run` process: its configuration file, its admin listener, its access log.

Rules: no settings reach it through our environment, and it runs the same code as this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import uproxy
from uproxy.demo.processes import Program, ProgramCommand, until_async
from uproxy.lab.ports import free_port

_ANSWER_S = 5.0
"""Seconds that the admin listener may take to answer."""
_HANDSHAKES = "uproxy_handshakes_total{"
_NOT_FOR_IT = ("UPROXY__", "SPIFFE_", "LISTEN_", "NOTIFY_", "WATCHDOG_", "PYTHON")
"""Prefixes of variables that it must not inherit."""


class UproxyProcess(Program):
    """A uProxy that runs inside the `async with`."""

    def __init__(self, config: Mapping[str, Any], folder: Path) -> None:
        """`config` has no `admin`; the file is written into `folder`."""
        self.name = str(config["name"])
        self.admin_port = free_port()
        self.config_file = folder / f"{self.name}.yaml"
        admin = {"listen": f"127.0.0.1:{self.admin_port}", "metrics": None, "ready": None}
        self.config_file.write_text(yaml.safe_dump({**config, "admin": admin}, sort_keys=False))
        argv: list[str | Path] = [
            sys.executable,
            "-P",
            "-m",
            "uproxy",
            "run",
            "--config",
            self.config_file,
        ]
        super().__init__(ProgramCommand(f"{self.name}'s uProxy", argv, env=_environment()), folder)

    @property
    def status_page(self) -> str:
        """The address of its status page."""
        return f"http://127.0.0.1:{self.admin_port}/"

    @property
    def accesses(self) -> list[dict[str, Any]]:
        """The rows of its access log: one for each connection that has ended."""
        rows = (json.loads(line) for line in self.lines if line.startswith("{"))
        return [row for row in rows if "outcome" in row]

    async def wait_until_ready(self) -> None:
        """Wait until `/readyz` answers 200.

        Raises:
            UproxyError: it ended, or took longer than the timeout.
        """

        async def look() -> bool:
            status, _ = await asyncio.to_thread(self._get, "/readyz")
            return status == 200

        await until_async(look, f"{self.name}'s uProxy is ready", self)

    async def own_certificate(self) -> dict[str, Any]:
        """Return its SVID as `/certs` shows it: `spiffe_id`, `expires`, `chain`; empty if it
        has none."""
        status, body = await asyncio.to_thread(self._get, "/certs")
        svid: dict[str, Any] | None = json.loads(body)["svid"] if status == 200 else None
        return svid or {}

    async def connections(self) -> dict[str, Any]:
        """Return `/connections`: the open `connections`, and the `tunnels` made to us; empty if it
        doesn't answer."""
        status, body = await asyncio.to_thread(self._get, "/connections")
        found: dict[str, Any] = json.loads(body) if status == 200 else {}
        return found

    async def handshakes(self) -> int:
        """Return how many TLS handshakes its metrics have counted; 0 if it doesn't answer."""
        _, body = await asyncio.to_thread(self._get, "/metrics")
        lines = (line for line in body.decode().splitlines() if line.startswith(_HANDSHAKES))
        return round(sum(float(line.split()[-1]) for line in lines))

    async def shows_status(self) -> bool:
        """Return whether the status page answers with HTML."""
        status, body = await asyncio.to_thread(self._get, "/")
        return status == 200 and b"<html" in body.lower()

    def _get(self, path: str) -> tuple[int, bytes]:
        """Return (HTTP status, body); status 0 if nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=_ANSWER_S)
        with contextlib.closing(connection):
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException):
                return 0, b""


def _environment() -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_FOR_IT)}
    return {**ours, "PYTHONPATH": str(Path(uproxy.__file__).parents[1])}
