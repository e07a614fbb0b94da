"""A pod and a host beyond it, for captures: network namespaces, cgroups and a link, made as root.

The pod has the cgroups `app` and `proxy`; the link has IPv4 and IPv6 addresses.  Everything is gone
afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from uproxy.capture import places, record
from uproxy.lab.waiting import wait_until

POD, HOST = "10.99.0.2", "10.99.0.1"
POD6, HOST6 = "fd99::2", "fd99::1"
SECOND, SECOND6 = "10.99.0.3", "fd99::3"
"""More addresses of the host."""
ELSEWHERE, ELSEWHERE6 = "203.0.113.7", "2001:db8:7::7"
"""Where nobody is: routed to the host, which doesn't answer."""
OUT, IN = 15001, 15006
"""The ports to which the command brings connections."""

_numbers = itertools.count()


class Pod:
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
        """Make everything."""
        self.make_namespace(self.host)
        self.make_pod((POD, POD6), (HOST, HOST6, SECOND, SECOND6), "eth0")
        # so that what leaks is lost, instead of answered
        for address in (ELSEWHERE, ELSEWHERE6):
            run("ip", "-n", self.host, "route", "add", "blackhole", address)

    def make_pod(self, addresses: Sequence[str], others: Sequence[str], device: str) -> None:
        """Make cgroups and pod, with a link to a device of the host; `others` are its addresses
        there, by the first two of which the pod reaches the world."""
        for cgroup in (self.app, self.proxy_cgroup):
            cgroup.mkdir(parents=True)
        self.make_namespace(self.pod)
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

    def make_namespace(self, name: str) -> None:
        """Make a namespace, whose loopback interface is up."""
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        self._namespaces.append(name)

    def remove(self) -> None:
        """Remove what was made; the processes in it must be about to end."""
        for namespace in self._namespaces:
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)
        for cgroup in (self.app, self.proxy_cgroup, self.cgroup):
            if cgroup.exists():
                wait_until(functools.partial(removed, cgroup), f"{cgroup} to be empty")

    def attach(self, *options: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Capture the application."""
        return self.capture(
            "attach", "--cgroup", self.app, "--proxy-cgroup", self.proxy_cgroup, "--netns",
            self.pod, "--bpffs", self.bpffs, "--mode", self.mode, *options, check=check,
        )  # fmt: skip

    def detach(self) -> None:
        """End the capture."""
        self.capture("detach")

    def captured(self) -> bool:
        """Whether anything is written down of this capture."""
        return self.name in record.names(record.FOLDER)

    def capture(
        self, action: str, *options: str | Path, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run the command."""
        words = [sys.executable, "-m", "uproxy", "capture", action, "--name", self.name]
        done = subprocess.run([*words, *options], capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done

    def inside(self, namespace: str, cgroup: Path, *words: str | Path) -> list[str]:
        """Return a command that runs in a namespace and a cgroup."""
        join = f'echo $$ >"$0/cgroup.procs" && exec ip netns exec {namespace} "$@"'
        return ["sh", "-c", join, str(cgroup), *map(str, words)]


_Made = TypeVar("_Made", bound=Pod)


@contextlib.contextmanager
def existing(pod: _Made) -> Iterator[_Made]:
    """Make a pod and its host; undo its capture and remove it at the end."""
    try:
        pod.make()
        yield pod
    finally:
        if pod.captured():
            pod.detach()
        pod.remove()


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
