"""A `uproxy run` process: its configuration file, its admin listener, its access log.

Rules: no settings reach it through our environment, and it runs the same code as this process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import uproxy
from uproxy.demo.admin import get
from uproxy.demo.processes import Program, ProgramCommand, until_async
from uproxy.errors import UproxyError
from uproxy.lab.ports import free_port

_RESULTS = ("applied", "refused")
"""Of a reload, as metrics name them."""
_NOT_FOR_IT = ("UPROXY__", "SPIFFE_", "LISTEN_", "NOTIFY_", "WATCHDOG_", "PYTHON")
"""Prefixes of variables that it must not inherit."""


class UproxyProcess(Program):
    """A uProxy that runs inside the `async with`."""

    def __init__(
        self, config: Mapping[str, Any], folder: Path, way_in: Sequence[str | Path] = ()
    ) -> None:
        """`config` has no `admin`; the file is written into `folder`.  `way_in` is a command that
        runs it elsewhere, where its admin listener can't be asked."""
        self.name = str(config["name"])
        self.admin_port = free_port()
        self.config_file = folder / f"{self.name}.yaml"
        self._write(config)
        argv: list[str | Path] = [
            *way_in,
            sys.executable,
            "-P",
            "-m",
            "uproxy",
            "run",
            "--config",
            self.config_file,
        ]
        super().__init__(ProgramCommand(f"{self.name}'s uProxy", argv, env=environment()), folder)

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
            status, _ = await get(self.admin_port, "/readyz")
            return status == 200

        await until_async(look, f"{self.name}'s uProxy is ready", self)

    async def own_certificate(self) -> dict[str, Any]:
        """Return its SVID as `/certs` shows it: `spiffe_id`, `expires`, `chain`; empty if it
        has none."""
        status, body = await get(self.admin_port, "/certs")
        svid: dict[str, Any] | None = json.loads(body)["svid"] if status == 200 else None
        return svid or {}

    async def connections(self) -> dict[str, Any]:
        """Return `/connections`: the open `connections`, and the `tunnels` made to us; empty if it
        doesn't answer."""
        status, body = await get(self.admin_port, "/connections")
        found: dict[str, Any] = json.loads(body) if status == 200 else {}
        return found

    async def handshakes(self) -> int:
        """Return how many TLS handshakes its metrics have counted; 0 if it doesn't answer."""
        return await self._counted("uproxy_handshakes_total{")

    async def change(self, config: Mapping[str, Any]) -> None:
        """Replace its configuration file, and wait until it has reloaded.

        Raises:
            UproxyError: it refused the file, or took longer than the timeout.
        """
        applied, refused = (f'uproxy_config_reloads_total{{result="{one}"}}' for one in _RESULTS)
        before, bad = await self._counted(applied), await self._counted(refused)
        self._write(config)

        async def look() -> bool:
            if await self._counted(refused) > bad:
                why = json.loads(self.lines[-1])["message"]
                raise UproxyError(f"{self.name}'s uProxy refused its file: {why}")
            return await self._counted(applied) > before

        await until_async(look, f"{self.name}'s uProxy reloads its configuration", self)

    async def _counted(self, start: str) -> int:
        """Return the sum of the metrics whose lines begin like this."""
        _, body = await get(self.admin_port, "/metrics")
        lines = (line for line in body.decode().splitlines() if line.startswith(start))
        return round(sum(float(line.split()[-1]) for line in lines))

    def _write(self, config: Mapping[str, Any]) -> None:
        """Write its configuration file in one step, as whoever reads it must see a whole one."""
        admin = {"listen": f"127.0.0.1:{self.admin_port}", "metrics": None, "ready": None}
        fresh = self.config_file.with_suffix(".new")
        fresh.write_text(yaml.safe_dump({**config, "admin": admin}, sort_keys=False))
        fresh.replace(self.config_file)

    async def shows_status(self) -> bool:
        """Return whether the status page answers with HTML."""
        status, body = await get(self.admin_port, "/")
        return status == 200 and b"<html" in body.lower()


def environment() -> dict[str, str]:
    """Return the environment for `python -m uproxy`."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_FOR_IT)}
    return {**ours, "PYTHONPATH": str(Path(uproxy.__file__).parents[1])}
