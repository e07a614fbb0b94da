"""Two workloads that know nothing of uProxy, each captured for a uProxy of its own.

A program of the first connects to the second's own address: it is captured, its uProxy makes mutual
TLS (or a tunnel) of it, which is captured where it arrives, verified by the other uProxy, and
handed to the service.  The workloads are those of `World`: the first is its pod, the second
its host, which has more than one address.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from tests.helpers import name_server
from tests.helpers.capture_world import HOST, HOST6, IN, OUT, World, removed, run
from tests.helpers.pair import FRONTEND, ORDERS, Config, identity_of
from uproxy.lab.identities import write_identity
from uproxy.lab.pki import Authority
from uproxy.lab.processes import Process, Uproxy
from uproxy.lab.waiting import wait_until

NAME = "service.test"
"""It has an address of each family: the host's."""
EVERYWHERE = ["10.99.0.0/24", "fd99::/64"]

_numbers = itertools.count()


class Mesh:
    """Both uProxies, running inside the `with` block, and a name server for both workloads."""

    def __init__(
        self, world: World, ports: Sequence[int], *options: str | Path, engine: str = "native"
    ) -> None:
        """`ports` are those of the services; `options` those of the first workload's capture."""
        self.world = world
        self.ports = ports
        self.options = options
        self.there = world.cgroup / "there"
        """The cgroup of the services."""
        self.their_proxy = world.cgroup / "their-proxy"
        self._ca = ca = Authority("example.org")
        folder = world.folder / f"mesh-{next(_numbers)}"
        web = write_identity(folder / "web", ca.issue("/ns/web/sa/frontend"), ca.pem)
        shop = write_identity(folder / "shop", ca.issue("/ns/shop/sa/orders"), ca.pem)
        self.folder = folder
        self.frontend = Uproxy({**_frontend(ports), "engine": engine, "identity": identity_of(web)},
                               folder / "frontend")  # fmt: skip
        self.orders = Uproxy({**_orders(ports), "engine": engine, "identity": identity_of(shop)},
                             folder / "orders")  # fmt: skip
        self.frontend.argv = world.inside(world.pod, world.proxy_cgroup, *self.frontend.argv)
        self.orders.argv = world.inside(world.host, self.their_proxy, *self.orders.argv)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for cgroup in (self.there, self.their_proxy):
                cgroup.mkdir()
                stack.callback(wait_until, partial(removed, cgroup), f"{cgroup} to be empty")
            self.world.attach(*self.options)
            self._attach_there()
            stack.callback(self._capture_there, "detach")
            for uproxy in (self.orders, self.frontend):
                stack.enter_context(uproxy)
                uproxy.wait_ready(lambda: "started: " in uproxy.output)  # noqa: B023  called at once
            stack.enter_context(self.serve(sys.executable, name_server.__file__, HOST, HOST6))
            self._running = stack.pop_all()
        return self

    def __exit__(self, *why: object) -> None:
        self._running.close()

    def _attach_there(self) -> None:
        self._capture_there(
            "attach", "--cgroup", self.there, "--proxy-cgroup", self.their_proxy, "--netns",
            self.world.host, "--bpffs", self.world.bpffs, "--mode", self.world.mode,
            "--inbound", ",".join(map(str, self.ports)),
        )  # fmt: skip

    def _capture_there(self, action: str, *options: str | Path) -> None:
        words = [sys.executable, "-m", "uproxy", "capture", action, "--name"]
        done = subprocess.run([*words, f"{self.world.name}-there", *options],
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr

    # --- programs ---

    def calling(self, *words: str | Path) -> list[str]:
        """Return the command of a program of the first workload, which asks our name server."""
        resolv = self.folder / "resolv.conf"
        resolv.write_text(f"nameserver {HOST}\n")
        bind = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return self.world.inside(
            self.world.pod, self.world.app, "sh", "-c", bind, resolv, *words
        )  # fmt: skip

    def call(self, *words: str | Path, **environment: str) -> str:
        """Let the first workload run a program; return what it printed."""
        done = subprocess.run(
            self.calling(*words), capture_output=True, text=True, check=False, timeout=60,
            stdin=subprocess.DEVNULL, env={**os.environ, **environment},
        )  # fmt: skip
        said = f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.frontend.output}"
        assert done.returncode == 0, said
        return done.stdout.strip()

    def serving(self, *words: str | Path) -> list[str]:
        """Return the command of a program of the second workload."""
        return self.world.inside(self.world.host, self.there, *words)

    @contextlib.contextmanager
    def serve(self, *words: str | Path, ready: str = "ready") -> Iterator[Process]:
        """Run a service that prints `ready` once it listens."""
        log = self.folder / f"service-{next(_numbers)}.log"
        with Process(self.serving(*words), log) as process:
            process.wait_ready(lambda: ready in process.output)
            yield process

    @contextlib.contextmanager
    def another(self, world: World, path: str) -> Iterator[Uproxy]:
        """Run a uProxy for a further workload, which has an identity of its own."""
        folder = self.folder / f"another-{next(_numbers)}"
        files = write_identity(folder, self._ca.issue(path), self._ca.pem)
        uproxy = Uproxy(
            {**_frontend(self.ports), "identity": identity_of(files)}, folder / "uproxy"
        )
        uproxy.argv = world.inside(world.pod, world.proxy_cgroup, *uproxy.argv)
        with uproxy:
            uproxy.wait_ready(lambda: "started: " in uproxy.output)
            yield uproxy

    # --- what the proxies saw ---

    def check(self, *destinations: str) -> None:
        """Make sure that since the last look these connections, and no others, went through both
        uProxies to where they were made, by and to the right workload; in any order."""
        count = len(destinations)
        self._wait(lambda: min(map(len, self._news())) >= count, f"{count} lines in both logs")
        for lines in self._through():
            assert sorted(line["dst.addr"] for line in lines) == sorted(destinations), lines

    def seen(self) -> set[str]:
        """Return where connections were made to since the last look, all of them as above; every
        one of them must have ended in the log of the first uProxy."""
        self._wait(self._is_complete, "all that was captured in both logs")
        ours, theirs = ({line["dst.addr"] for line in lines} for lines in self._through())
        assert ours == theirs
        return ours

    def wait_for(self, destination: str) -> None:
        """Wait until a connection to there has gone through; others may have been given up."""
        self._wait(
            lambda: all(
                any(line["dst.addr"] == destination for line in lines) for lines in self._news()
            ),
            f"{destination} in both logs",
        )
        self._through(is_whole=False)

    def news_there(self, *, forget: bool = False) -> list[Config]:
        """Return what is new in the second uProxy's log."""
        _, theirs = self._news()
        if forget:
            self._told = (self._told[0], self._told[1] + len(theirs))
        return theirs

    def _through(self, *, is_whole: bool = True) -> tuple[list[Config], list[Config]]:
        """Return what is new in both logs, which isn't then any more."""
        both = self._news()
        self._told = (self._told[0] + len(both[0]), self._told[1] + len(both[1]))
        for line in itertools.chain(*both):
            if is_whole or line["outcome"] == "closed":
                assert (line["src.identity"], line["dst.identity"]) == (FRONTEND, ORDERS), line
                # an end that closes with something unread resets
                assert line["outcome"] in ("closed", "reset"), line
        return both

    def _news(self) -> tuple[list[Config], list[Config]]:
        return self.frontend.accesses[self._told[0] :], self.orders.accesses[self._told[1] :]

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(self._is_idle, "all connections to end")
        wait_until(condition, what)

    def _is_complete(self) -> bool:
        ours, theirs = self._news()
        captured = self.world.status()["stats"]["captured"]
        return len(self.frontend.accesses) == captured and len(ours) <= len(theirs)

    def _is_idle(self) -> bool:
        return not any(
            run("ip", "netns", "exec", namespace, "ss", "-Htn", "state", "connected", "exclude",
                "time-wait")
            for namespace in (self.world.pod, self.world.host)
        )  # fmt: skip

    _told = (0, 0)


def _frontend(ports: Sequence[int]) -> Config:
    return {
        "name": "frontend",
        "outbound": [{"listen": f"127.0.0.1:{OUT}", "captured": True}],
        "destinations": {
            "orders": {
                "match": {"addresses": EVERYWHERE, "ports": list(ports)},
                "transport": "mtls",
                "identities": [ORDERS],
            }
        },
    }


def _orders(ports: Sequence[int]) -> Config:
    return {
        "name": "orders",
        "inbound": [
            {
                "name": "in", "listen": f"[::]:{IN}", "captured": True,
                "ports": dict.fromkeys(ports, "mtls"),
            }
        ],
        "authorization": [{"name": "web", "action": "allow", "from": {"identities": [FRONTEND]}}],
    }  # fmt: skip


def at(address: str, port: int) -> str:
    """Return an address and a port as the access log writes them."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def as_json(text: str) -> dict[str, Any]:
    """Return the last line of what a program printed."""
    value = json.loads(text.splitlines()[-1])
    assert isinstance(value, dict)
    return value
