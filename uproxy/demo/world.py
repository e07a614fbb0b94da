"""Starts and stops what the demonstration needs: an authority, two uProxies, and taps.

It prints nothing.  Rules: everything is on loopback; everything is stopped in reverse order,
however the demonstration ends; the folder holds configuration and sockets, never a key.

    client ── frontend's uProxy ══ tap ══ orders' uProxy ── server
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
        self.inbound_doors: dict[str, int] = {}
        """Service to the port where other workloads reach orders' uProxy."""
        self.taps: dict[str, Tap] = {}
        self._stack = AsyncExitStack()

    folder: Path
    """Where all files are.  If we are root, other users may enter it but not list it."""
    authority: DevelopmentAuthority
    frontend: UproxyProcess
    orders: UproxyProcess

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
        """Start both uProxies, with a door and a tap for each server; return when they are
        ready.

        Raises:
            UproxyError: one of them doesn't become ready.
        """
        self.inbound_doors = {service: free_port() for service in servers}
        self.doors = {service: free_port() for service in servers}
        for service, port in self.inbound_doors.items():
            self.taps[service] = await self.enter(Tap(port))
        self.orders = await self.enter(UproxyProcess(self.orders_config(servers), self.folder))
        self.frontend = await self.enter(UproxyProcess(self.frontend_config(), self.folder))
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

    def frontend_config(self) -> dict[str, Any]:
        """Return frontend's configuration: an outbound door for each service, to its tap."""
        return {
            "name": "frontend",
            "identity": self._identity(FRONTEND),
            "outbound": [
                {"listen": f"127.0.0.1:{port}", "to": service}
                for service, port in self.doors.items()
            ],
            "destinations": {
                service: {
                    "addresses": [f"127.0.0.1:{tap.port}"],
                    "transport": "mtls",
                    "identities": [ORDERS],
                }
                for service, tap in self.taps.items()
            },
            "timeouts": _TIMEOUTS,
        }

    def orders_config(self, servers: Mapping[str, int]) -> dict[str, Any]:
        """Return orders' configuration: an inbound door for each server, open to frontend only."""
        return {
            "name": "orders",
            "identity": self._identity(ORDERS),
            "inbound": [
                {
                    "name": service,
                    "listen": f"127.0.0.1:{self.inbound_doors[service]}",
                    "transport": "mtls",
                    "to": f"127.0.0.1:{port}",
                }
                for service, port in servers.items()
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

    domains = domain(HOME, FRONTEND, ORDERS, NEWSLETTER), domain(ABROAD, NAMESAKE)
    return Definition({one.name: one for one in domains}, sockets)
