"""go-spiffe's program of tests/peers/gospiffe: mutual TLS with SVIDs from a Workload API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from uproxy.lab.ports import free_port
from uproxy.lab.processes import Process
from uproxy.lab.software.golang import peer


class GoSpiffe(Process):
    """The program, run with `words`; every line it writes is a JSON object."""

    def __init__(self, folder: Path, *words: str | int) -> None:
        log = folder / f"gospiffe-{free_port()}.log"
        super().__init__([peer("gospiffe"), *map(str, words)], log)

    @property
    def said(self) -> list[dict[str, Any]]:
        """What it has written so far."""
        return [json.loads(line) for line in self.output.splitlines() if line.endswith("}")]


class GoServer(GoSpiffe):
    """As `ours` it lets in `caller`, answers its first line with the line, and ends."""

    def __init__(self, folder: Path, endpoint: str, ours: str, *, caller: str) -> None:
        self.port = free_port()
        super().__init__(folder, "serve", endpoint, ours, self.port, caller)

    def is_ready(self) -> bool:
        return bool(self.said)


class GoClient(GoSpiffe):
    """As `ours` it says one line to `server` on `port`, hears the answer, and ends."""

    def __init__(self, folder: Path, endpoint: str, ours: str, port: int, *, server: str) -> None:
        super().__init__(folder, "dial", endpoint, ours, port, server)

    def result(self) -> dict[str, Any]:
        """What it has to say when it has ended: `server` and `heard`, or `error`."""
        self.wait(30)
        return self.said[-1]
