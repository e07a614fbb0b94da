"""Starts and stops what the demonstration needs: an authority, two uProxies, and a tap.

It prints nothing.  Rules: everything is on loopback; everything is stopped in reverse order,
however the demonstration ends; the folder holds configuration and sockets, never a key.

    client ── frontend's uProxy ══ tap ══ orders' uProxy ── server
                              a tunnel (HBONE)
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, Self, TypeVar

from uproxy.app.identity import make_source
from uproxy.authority import Definition, DevelopmentAuthority, DomainDefinition, EntryDefinition
from uproxy.authority.folders import temporary_folder
from uproxy.config.settings import IdentitySettings
from uproxy.demo.processes import TIMEOUT_S
from uproxy.demo.uproxies import UproxyProcess
from uproxy.errors import NoIdentityError
from uproxy.identity.credentials import Svid
from uproxy.identity.workload_api.source import fetch_once
from uproxy.lab.ports import free_port
from uproxy.lab.tap import Tap
from uproxy.model import UnixAddress

HOME = "example.org"
ABROAD = "stranger.test"
FRONTEND = f"spiffe://{HOME}/ns/web/sa/frontend"
ORDERS = f"spiffe://{HOME}/ns/db/sa/orders"
NEWSLETTER = f"spiffe://{HOME}/ns/web/sa/newsletter"
L7 = f"spiffe://{HOME}/ns/mesh/sa/l7"
NAMESAKE = f"spiffe://{ABROAD}/ns/web/sa/frontend"
RULE = "only-frontend"
"""The only rule of orders' policy."""

_TIMEOUTS = {"drain_delay": "0s", "drain": "500ms"}
_T = TypeVar("_T")


class DemoWorld:
    """Everything except the applications; leaving its `async with` stops all of it."""

    def __init__(self) -> None:
        self.doors: dict[str, int] = {}
        """Service to the port where frontend's clients reach it; set by `start_uproxies`, as
        the rest is."""
        self._stack = AsyncExitStack()

    folder: Path
    """Where all files are.  If we are root, other users may enter it but not list it."""
    authority: DevelopmentAuthority
    frontend: UproxyProcess
    orders: UproxyProcess
    tunnel_port: int
    """Where tunnels to orders' uProxy end."""
    tap: Tap
    """Where frontend's uProxy believes that they end."""

    async def __aenter__(self) -> Self:
        self.folder = temporary_folder("uproxy-demo-")
        self._stack.callback(shutil.rmtree, self.folder)
        if os.geteuid() == 0:
            # the applications then run as another user, with their own folders inside
            self.folder.chmod(0o711)
        return self

    async def __aexit__(self, *why: object) -> None:
        await self._stack.aclose()

    async def enter(self, part: AbstractAsyncContextManager[_T]) -> _T:
        """Start something that is stopped with the rest."""
        return await self._stack.enter_async_context(part)

    def on_exit(self, close: Callable[[], Awaitable[None]]) -> None:
        """Call `close` before the rest is stopped."""
        self._stack.push_async_callback(close)

    async def start_authority(self) -> Mapping[str, str]:
        """Start the authority; return the endpoint of each trust domain.

        Raises:
            UproxyError: a socket can't be made.
        """
        self.authority = await self.enter(DevelopmentAuthority(_definition(str(self.folder))))
        return self.authority.endpoints

    async def start_uproxies(self, servers: Mapping[str, int]) -> None:
        """Start both uProxies, with a door of frontend for each server, and one door of orders for
        all; return when they are ready.

        Raises:
            UproxyError: one of them doesn't become ready.
        """
        self.tunnel_port = free_port()
        self.doors = {service: free_port() for service in servers}
        self.tap = await self.enter(Tap(self.tunnel_port))
        self.orders = await self.enter(UproxyProcess(self.orders_config(servers), self.folder))
        self.frontend = await self.enter(UproxyProcess(self.frontend_config(servers), self.folder))
        await self.orders.wait_until_ready()
        await self.frontend.wait_until_ready()

    async def identity(self, spiffe_id: str) -> Svid:
        """Fetch an SVID from the authority's Workload API.

        Raises:
            NoIdentityError: none came.
        """
        name = spiffe_id.removeprefix("spiffe://").partition("/")[0]
        path = self.authority.endpoints[name].removeprefix("unix://")
        settings = IdentitySettings(workload_api=UnixAddress(path), spiffe_id=spiffe_id)
        credentials = await fetch_once(make_source(settings), TIMEOUT_S)
        if (task := asyncio.current_task()) is not None and task.cancelling():
            # Ctrl-C came while the source was stopping, which swallows a cancellation
            raise asyncio.CancelledError
        if credentials.svid is None:
            raise NoIdentityError(credentials.reason)
        return credentials.svid

    def frontend_config(self, servers: Mapping[str, int]) -> dict[str, Any]:
        """Return frontend's configuration: an outbound door for each server, whose tunnels go
        through the tap."""
        return {
            **self.caller("frontend", FRONTEND),
            "outbound": [
                {"listen": f"127.0.0.1:{port}", "to": service}
                for service, port in self.doors.items()
            ],
            "destinations": {
                service: {
                    "addresses": [f"127.0.0.1:{port}"],
                    "transport": "hbone",
                    "hbone_address": f"127.0.0.1:{self.tap.port}",
                    "identities": [ORDERS],
                }
                for service, port in servers.items()
            },
        }

    def caller(self, name: str, spiffe_id: str) -> dict[str, Any]:
        """Return what the configurations of all calling workloads have."""
        return {
            "name": name,
            # each engine thread has tunnels of its own; with one there is one tunnel to look at
            "workers": 1,
            "identity": self._identity(spiffe_id),
            "timeouts": _TIMEOUTS,
        }

    def orders_config(self, servers: Mapping[str, int]) -> dict[str, Any]:
        """Return orders' configuration: one door for tunnels, open to frontend only, which may name
        the servers."""
        return {
            "name": "orders",
            "identity": self._identity(ORDERS),
            "inbound": [
                {
                    "name": "tunnels",
                    "listen": f"127.0.0.1:{self.tunnel_port}",
                    "transport": "hbone",
                    "ports": list(servers.values()),
                    "addresses": ["127.0.0.1"],
                }
            ],
            "authorization": [
                {"name": RULE, "action": "allow", "from": {"identities": [FRONTEND]}}
            ],
            "timeouts": _TIMEOUTS,
        }

    def _identity(self, spiffe_id: str) -> dict[str, str]:
        return {"workload_api": self.authority.endpoints[HOME], "spiffe_id": spiffe_id}


def _definition(sockets: str) -> Definition:
    """Return the authority's definition: our own user may have every identity, and the uProxies
    choose theirs by SPIFFE ID."""

    def domain(name: str, *spiffe_ids: str) -> DomainDefinition:
        uid = os.geteuid()
        return DomainDefinition(name, tuple(EntryDefinition(one, uid=uid) for one in spiffe_ids))

    domains = domain(HOME, FRONTEND, ORDERS, NEWSLETTER, L7), domain(ABROAD, NAMESAKE)
    return Definition({one.name: one for one in domains}, sockets)
