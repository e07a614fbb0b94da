"""A workload and the world around it: uproxy/lab/pods.py, with programs to try capture with.

`World` has a "pod" (namespace with cgroups `app` and `proxy`) and a host beyond it, joined by one
link with IPv4 and IPv6 addresses.  Everything is gone afterwards.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uproxy.lab.pods import (
    ELSEWHERE,
    ELSEWHERE6,
    HOST,
    HOST6,
    IN,
    OUT,
    POD,
    POD6,
    SECOND,
    SECOND6,
    Pod,
    existing,
    removed,
    run,
)
from uproxy.lab.processes import Process
from uproxy.lab.waiting import wait_until

__all__ = [
    "ELSEWHERE",
    "ELSEWHERE6",
    "HOST",
    "HOST6",
    "IN",
    "NEIGHBOR",
    "NEIGHBOR6",
    "OUT",
    "POD",
    "POD6",
    "SECOND",
    "SECOND6",
    "Neighbor",
    "World",
    "existing",
    "removed",
    "run",
]

NEIGHBOR, NEIGHBOR6 = "10.98.0.2", "fd98::2"

_numbers = itertools.count()
_HERE = Path(__file__).parent


class World(Pod):
    """One pod and one host."""

    def status(self) -> dict[str, Any]:
        done = self.capture("status", "--json", check=False)
        [found] = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    @contextlib.contextmanager
    def proxy(self, outbound: int = OUT, inbound: int = IN) -> Iterator[Process]:
        """Run the proxy of tests/helpers/capture_proxy.py, at these ports."""
        argv = self.inside(
            self.pod, self.proxy_cgroup, sys.executable, _HERE / "capture_proxy.py",
            str(outbound), str(inbound),
        )  # fmt: skip
        log = self.folder / f"proxy-{next(_numbers)}.log"
        with Process(argv, log) as process:
            wait_until(lambda: "ready" in log.read_text(), "the proxy to listen")
            yield process

    def connect(self, address: str, port: int, *options: str) -> dict[str, Any]:
        """Let the application connect; return what it saw."""
        return self.run_app(self.pod, self.app, address, port, *options)

    def call(self, address: str, port: int, *options: str) -> dict[str, Any]:
        """Let somebody on the host connect; return what they saw."""
        return self.run_app(self.host, self.cgroup / "..", address, port, *options)

    def run_app(
        self, namespace: str, cgroup: Path, address: str, port: int, *options: str
    ) -> dict[str, Any]:
        words = self.inside(
            namespace, cgroup, sys.executable, "-m", "tests.helpers.capture_app", address,
            str(port), *options,
        )  # fmt: skip
        done = subprocess.run(
            words, cwd=_HERE.parents[1], capture_output=True, text=True, check=True
        )
        seen = json.loads(done.stdout)
        assert isinstance(seen, dict)
        return seen

    @contextlib.contextmanager
    def server(self, namespace: str, port: int, cgroup: Path | None = None) -> Iterator[None]:
        """Run a server that says `real` and nothing else."""
        program = (
            "import socket\n"
            f"s = socket.create_server(('::', {port}), family=socket.AF_INET6,"
            " dualstack_ipv6=True)\n"
            "print('ready', flush=True)\n"
            "while True:\n"
            "    c, _ = s.accept(); c.sendall(b'real\\n'); c.close()\n"
        )
        argv = self.inside(namespace, cgroup or self.cgroup / "..", sys.executable, "-c", program)
        log = self.folder / f"server-{next(_numbers)}.log"
        with Process(argv, log):
            wait_until(lambda: "ready" in log.read_text(), "the server to listen")
            yield

    @contextlib.contextmanager
    def service(self, namespace: str, port: int, cgroup: Path | None = None) -> Iterator[None]:
        """Run tests/helpers/capture_service.py, which echoes."""
        words = sys.executable, _HERE / "capture_service.py", str(port)
        log = self.folder / f"service-{next(_numbers)}.log"
        with Process(self.inside(namespace, cgroup or self.cgroup / "..", *words), log) as process:
            process.wait_ready(lambda: "ready" in process.output)
            yield

    def dump(self) -> dict[str, str]:
        """Return everything that capture could leave behind, as text."""
        inside = ["ip", "netns", "exec", self.pod]
        commands = {
            "rules": ["ip", "-n", self.pod, "rule"],
            "rules 6": ["ip", "-n", self.pod, "-6", "rule"],
            "routes": ["ip", "-n", self.pod, "route", "show", "table", "all"],
            "routes 6": ["ip", "-n", self.pod, "-6", "route", "show", "table", "all"],
            "sysctls": [*inside, "sh", "-c", _SYSCTLS],
            "nft": [*inside, "nft", "list", "ruleset"],
        }
        shown = {what: run(*command) for what, command in commands.items()}
        shown["pins"] = "\n".join(sorted(map(str, self.bpffs.rglob("*"))))
        return shown


class Neighbor(World):
    """Another pod, of the same host."""

    def __init__(self, first: World, folder: Path) -> None:
        super().__init__(folder, first.bpffs, first.mode)
        self.host = first.host

    def make(self) -> None:
        self.make_pod((NEIGHBOR, NEIGHBOR6), ("10.98.0.1", "fd98::1"), "eth1")


_SYSCTLS = "grep -rs . /proc/sys/net | grep -v -e nf_conntrack_count -e /stat | sort"
