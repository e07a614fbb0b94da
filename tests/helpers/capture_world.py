"""A workload and the world around it: network namespaces, cgroups and a bpffs, made as root.

`World` has a "pod" (namespace with cgroups `app` and `proxy`) and a host beyond it, joined by one
link with IPv4 and IPv6 addresses.  Everything is gone afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from uproxy.capture import places, record
from uproxy.lab.processes import Process
from uproxy.lab.waiting import wait_until

POD, HOST = "10.99.0.2", "10.99.0.1"
POD6, HOST6 = "fd99::2", "fd99::1"
SECOND, SECOND6 = "10.99.0.3", "fd99::3"
"""More addresses of the host."""
NEIGHBOR, NEIGHBOR6 = "10.98.0.2", "fd98::2"
ELSEWHERE, ELSEWHERE6 = "203.0.113.7", "2001:db8:7::7"
"""Where nobody is: routed to the host, which doesn't answer."""
OUT, IN = 15001, 15006

_numbers = itertools.count()
_HERE = Path(__file__).parent


class World:
    """One pod and one host."""

    def __init__(self, folder: Path, bpffs: Path, mode: str = "ebpf") -> None:
        number = f"{os.getpid():x}-{next(_numbers)}"
        self.folder = folder
        self.bpffs = bpffs
        self.mode = mode
        self.name = f"t{number}"
        self.pod, self.host = f"upp{number}", f"uph{number}"
        self.cgroup = places.cgroup_root() / f"uproxy-{number}"
        self.app, self.proxy_cgroup = self.cgroup / "app", self.cgroup / "proxy"
        self._namespaces: list[str] = []

    def make(self) -> None:
        self._make_namespace(self.host)
        self._make_pod((POD, POD6), (HOST, HOST6, SECOND, SECOND6), "eth0")
        # so that what leaks is lost, instead of answered
        for address in (ELSEWHERE, ELSEWHERE6):
            run("ip", "-n", self.host, "route", "add", "blackhole", address)

    def _make_pod(self, addresses: Sequence[str], others: Sequence[str], device: str) -> None:
        """Make cgroups and pod, with a link to a device of the host; `others` are its addresses
        there, by the first two of which the pod reaches the world."""
        for cgroup in (self.app, self.proxy_cgroup):
            cgroup.mkdir(parents=True)
        self._make_namespace(self.pod)
        run("ip", "-n", self.pod, "link", "add", "eth0", "type", "veth", "peer", "name", device,
            "netns", self.host)  # fmt: skip
        for namespace, name, its_addresses in (
            (self.pod, "eth0", addresses),
            (self.host, device, others),
        ):
            # no link-local address, which would appear some time later
            run("ip", "-n", namespace, "link", "set", name, "addrgenmode", "none")
            for address in its_addresses:
                length = ["/64", "nodad"] if ":" in address else ["/24"]
                words = [f"{address}{length[0]}", "dev", name, *length[1:]]
                run("ip", "-n", namespace, "addr", "add", *words)
            run("ip", "-n", namespace, "link", "set", name, "up")
        for gateway in others[:2]:
            run("ip", "-n", self.pod, "route", "add", "default", "via", gateway)

    def _make_namespace(self, name: str) -> None:
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        self._namespaces.append(name)

    def remove(self) -> None:
        for namespace in self._namespaces:
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)
        for cgroup in (self.app, self.proxy_cgroup, self.cgroup):
            if cgroup.exists():
                wait_until(functools.partial(removed, cgroup), f"{cgroup} to be empty")

    # --- capture ---

    def attach(self, *options: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.capture(
            "attach", "--cgroup", self.app, "--proxy-cgroup", self.proxy_cgroup, "--netns",
            self.pod, "--bpffs", self.bpffs, "--mode", self.mode, *options, check=check,
        )  # fmt: skip

    def detach(self) -> None:
        self.capture("detach")

    def captured(self) -> bool:
        """Whether anything is written down of a capture of this world."""
        return self.name in record.names(record.FOLDER)

    def status(self) -> dict[str, Any]:
        done = self.capture("status", "--json", check=False)
        [found] = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    def capture(
        self, action: str, *options: str | Path, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "uproxy", "capture", action, "--name", self.name]
        done = subprocess.run([*words, *options], capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done

    # --- programs ---

    def inside(self, namespace: str, cgroup: Path, *words: str | Path) -> list[str]:
        """Return a command that runs in a namespace and a cgroup."""
        join = f'echo $$ >"$0/cgroup.procs" && exec ip netns exec {namespace} "$@"'
        return ["sh", "-c", join, str(cgroup), *map(str, words)]

    @contextlib.contextmanager
    def proxy(self) -> Iterator[Process]:
        """Run the proxy of tests/helpers/capture_proxy.py."""
        argv = self.inside(
            self.pod, self.proxy_cgroup, sys.executable, _HERE / "capture_proxy.py",
            str(OUT), str(IN),
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
            namespace, cgroup, sys.executable, _HERE / "capture_app.py", address, str(port),
            *options,
        )  # fmt: skip
        done = subprocess.run(words, capture_output=True, text=True, check=True)
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
        self._make_pod((NEIGHBOR, NEIGHBOR6), ("10.98.0.1", "fd98::1"), "eth1")


@contextlib.contextmanager
def existing(world: World) -> Iterator[World]:
    """Make a world; undo its capture and remove it at the end."""
    try:
        world.make()
        yield world
    finally:
        if world.captured():
            world.detach()
        world.remove()


_SYSCTLS = "grep -rs . /proc/sys/net | grep -v -e nf_conntrack_count -e /stat | sort"


def run(*words: str | Path) -> str:
    """Run a command that must succeed; return what it printed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def removed(cgroup: Path) -> bool:
    """Remove a cgroup; return whether it was empty."""
    with contextlib.suppress(OSError):
        cgroup.rmdir()
        return True
    return False
