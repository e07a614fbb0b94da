"""go-spiffe's program in tests/peers/gospiffe: mutual TLS with SVIDs from a Workload API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from uproxy.lab.ports import free_port
from uproxy.lab.processes import Process
from uproxy.lab.software.golang import peer


class GoSpiffe(Process):
    """The program, run with these arguments; each line it prints is a JSON object."""

    def __init__(self, folder: Path, *words: str | int) -> None:
        log = folder / f"gospiffe-{free_port()}.log"
        super().__init__([peer("gospiffe"), *map(str, words)], log)

    @property
    def printed(self) -> list[dict[str, Any]]:
        """What it has written so far."""
        return [json.loads(line) for line in self.output.splitlines() if line.endswith("}")]


class GoServer(GoSpiffe):
    """A server with the identity `ours`: it admits `caller`, echoes its first line, and ends."""

    def __init__(self, folder: Path, endpoint: str, ours: str, *, caller: str) -> None:
        self.port = free_port()
        super().__init__(folder, "serve", endpoint, ours, self.port, caller)

    def is_ready(self) -> bool:
        return bool(self.printed)


class GoClient(GoSpiffe):
    """A client with the identity `ours`: it sends a line to `server`, reads the answer, and
    ends."""

    def __init__(self, folder: Path, endpoint: str, ours: str, port: int, *, server: str) -> None:
        super().__init__(folder, "dial", endpoint, ours, port, server)

    def result(self) -> dict[str, Any]:
        """Wait for its end; return its last object: `server` and `heard`, or `error`."""
        self.wait(30)
        return self.printed[-1]
