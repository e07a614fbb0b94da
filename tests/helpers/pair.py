"""Two workloads with a uProxy each: a frontend, and `orders` with the applications it calls.

Between the uProxies is mTLS, or tunnels (HBONE), with identities from files.
`Pair(folder, {"db": 5432})` gives the frontend a door for each application: `pair.port("db")`.  The
configurations are mappings that can be changed before entering, or later with
`Uproxy.write_config`.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from uproxy.lab.identities import IdentityFiles, write_identity
from uproxy.lab.mesh import TUNNEL_ENGINES
from uproxy.lab.pki import Authority
from uproxy.lab.ports import free_port
from uproxy.lab.processes import Uproxy

FRONTEND = "spiffe://example.org/ns/web/sa/frontend"
ORDERS = "spiffe://example.org/ns/shop/sa/orders"

Config = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Way:
    """What is between the uProxies, and the engine of both."""

    transport: str
    engine: str

    def __str__(self) -> str:
        return f"{self.transport}-{self.engine}"


MTLS = Way("mtls", "native")
TUNNELS = [Way("hbone", engine) for engine in TUNNEL_ENGINES]
ENGINES = [
    TUNNEL_ENGINES[0],
    *(pytest.param(each, marks=pytest.mark.slow) for each in TUNNEL_ENGINES[1:]),
]
"""Those that carry tunnels: one for every run, the others where there is time."""
TUNNELS_IN_TIME = [pytest.param(way, marks=pytest.mark.slow) for way in TUNNELS]
"""The same, for tests that then are slow."""


def identity_of(files: IdentityFiles) -> Config:
    """Return the configuration's `identity` for files of example.org."""
    bundles = {"example.org": str(files.bundle)}
    return {"files": {"svid": str(files.svid), "key": str(files.key), "bundles": bundles}}


def inbound(name: str, port: int, to: str | int) -> Config:
    """Return an inbound door; `to` is an address or a loopback port."""
    target = to if isinstance(to, str) else f"127.0.0.1:{to}"
    return {"name": name, "listen": f"127.0.0.1:{port}", "transport": "mtls", "to": target}


def destination(*addresses: str | int) -> Config:
    """Return a destination at which `orders` is expected; addresses or loopback ports."""
    texts = [each if isinstance(each, str) else f"127.0.0.1:{each}" for each in addresses]
    return {"addresses": texts, "transport": "mtls", "identities": [ORDERS]}


def tunnels(port: int, *apps: str | int) -> Config:
    """Return an inbound door for tunnels to applications on these loopback ports."""
    return {"name": "tunnels", "listen": f"127.0.0.1:{port}", "transport": "hbone",
            "ports": list(apps), "addresses": ["127.0.0.1"]}  # fmt: skip


def through(port: int, app: str | int) -> Config:
    """Return a destination at which `orders` is expected, through tunnels to its `port`."""
    return {**destination(app), "transport": "hbone", "hbone_port": port}


class Pair:
    """Both uProxies, running inside the `with` block."""

    def __init__(
        self, folder: Path, applications: Mapping[str, str | int], way: Way = MTLS
    ) -> None:
        """`applications`: the address or loopback port of each application, by name; a port if
        tunnels lead there."""
        self.way = way
        ca = Authority("example.org")
        web = write_identity(folder / "web", ca.issue("/ns/web/sa/frontend"), ca.pem)
        shop = write_identity(folder / "shop", ca.issue("/ns/shop/sa/orders"), ca.pem)
        self._ports = {name: free_port() for name in applications}
        if way.transport == "hbone":
            self.doors = dict.fromkeys(applications, free_port())
            doors = [tunnels(min(self.doors.values()), *applications.values())]
            destinations = {
                name: through(self.doors[name], to) for name, to in applications.items()
            }
        else:
            self.doors = {name: free_port() for name in applications}
            doors = [inbound(name, self.doors[name], to) for name, to in applications.items()]
            destinations = {name: destination(door) for name, door in self.doors.items()}
        self.orders_config: Config = {
            "name": "orders",
            "engine": way.engine,
            "identity": identity_of(shop),
            "inbound": doors,
            "authorization": [
                {"name": "web", "action": "allow", "from": {"identities": [FRONTEND]}}
            ],
            "timeouts": {"drain_delay": "0"},
        }
        self.frontend_config: Config = {
            "name": "frontend",
            "engine": way.engine,
            "identity": identity_of(web),
            "outbound": [
                {"listen": f"127.0.0.1:{port}", "to": name} for name, port in self._ports.items()
            ],
            "destinations": destinations,
            "timeouts": {"drain_delay": "0"},
        }
        self.orders = Uproxy(self.orders_config, folder / "orders")
        self.frontend = Uproxy(self.frontend_config, folder / "frontend")

    def port(self, name: str) -> int:
        """Return the plaintext port at which clients reach this application."""
        return self._ports[name]

    def __enter__(self) -> Self:
        self.orders.write_config(self.orders_config)
        self.frontend.write_config(self.frontend_config)
        with contextlib.ExitStack() as stack:
            for uproxy in (self.orders, self.frontend):
                stack.enter_context(uproxy)
                uproxy.wait_until_ready()
            self._running = stack.pop_all()
        return self

    def __exit__(self, *why: object) -> None:
        with self._running:
            for uproxy in (self.frontend, self.orders):
                end_at_once(uproxy)
        for uproxy in (self.frontend, self.orders):
            assert "Traceback" not in uproxy.output, uproxy.output
            assert "a defect" not in uproxy.output, uproxy.output


def end_at_once(uproxy: Uproxy) -> int | None:
    """Make a uProxy exit without waiting for open connections, by two signals; return its exit
    code, None if it had ended before."""
    if not uproxy.running:
        return None
    # two different signals: a second SIGTERM could be merged with the first
    uproxy.send(signal.SIGTERM)
    uproxy.send(signal.SIGINT)
    return uproxy.wait()
