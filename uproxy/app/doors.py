"""The listeners of this process, and how a new configuration replaces their doors: all or nothing.

New sockets are opened before anything else changes, so that a reload that can't have its
sockets leaves everything as it was.  Equal listen addresses keep their socket.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from uproxy import originals, sockets
from uproxy.config import Settings
from uproxy.contract import Door, Engine, Listener
from uproxy.errors import UproxyError
from uproxy.model import Address, Direction, ListenAddress, SystemdAddress, TcpAddress, UnixAddress
from uproxy.systemd import PassedSockets

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SocketPlan:
    """How a listening socket is opened."""

    mode: int | None
    owner: str | None
    exposed: bool
    """Whether it may be reached from beyond this machine."""
    captured: bool = False
    """Whether capture brings connections to it."""
    transparent: bool = False
    """Whether some of these are made to addresses that aren't this host's."""


def socket_plans(settings: Settings) -> dict[ListenAddress, SocketPlan]:
    """Return how the socket of each door of a configuration is opened."""
    inbound = {
        door.listen: SocketPlan(door.mode, door.owner, exposed=True, captured=door.captured)
        for door in settings.inbound
    }
    outbound = {
        # one for capture refuses those who connect from there by itself
        door.listen: SocketPlan(
            door.mode, door.owner, door.expose or door.captured, door.captured, door.captured
        )
        for door in settings.outbound
    }
    return {**inbound, **outbound}


class Doors:
    """All listeners of this process, each with its door."""

    def __init__(self, engine: Engine, listeners: PassedSockets) -> None:
        self._engine = engine
        self._listeners = listeners
        self._open: dict[ListenAddress, tuple[Listener, Door]] = {}
        self._draining: dict[
            ListenAddress, Listener
        ] = {}  # closing: no longer accept, still decide
        self._closing: set[asyncio.Task[None]] = set()
        self._opaque: set[ListenAddress] = set()
        self._bound: dict[
            ListenAddress, Address
        ] = {}  # where the sockets that systemd passed listen

    @property
    def listening(self) -> frozenset[ListenAddress]:
        """The addresses that are open."""
        return frozenset(self._open)

    @property
    def opaque(self) -> frozenset[ListenAddress]:
        """The addresses for capture whose sockets aren't transparent, so that eBPF can't bring
        connections there."""
        return frozenset(self._opaque & self._open.keys())

    def has(self, direction: Direction) -> bool:
        """Whether a door of that direction is open."""
        return any(door.direction is direction for _, door in self._open.values())

    def open_new(
        self, plans: Mapping[ListenAddress, SocketPlan]
    ) -> dict[ListenAddress, socket.socket]:
        """Listen at every planned address that isn't open yet; nothing is accepted there yet.

        Raises:
            UproxyError: one can't be opened, or may not stay open as it is planned now; then none
                is.
        """
        for address, plan in plans.items():
            if address in self._open and address in self._bound:
                check_exposure(address, self._bound[address], exposed=plan.exposed)
        fresh: dict[ListenAddress, socket.socket] = {}
        try:
            for address, plan in plans.items():
                if address not in self._open:
                    fresh[address] = self._listen(address, plan)
        except BaseException:
            for listener in fresh.values():
                sockets.release(listener)
            raise
        return fresh

    def replace(
        self, doors: Mapping[ListenAddress, Door], fresh: Mapping[ListenAddress, socket.socket]
    ) -> None:
        """Put `doors` in force, with the sockets that `open_new` gave; this can't fail.
        PassedSockets that have no door any more are closed, as soon as the loop has had a turn:
        nobody waits for what is still arriving there, and it is refused.
        """
        self.renew(doors)
        for address, listener in fresh.items():
            self._open[address] = (self._engine.open(listener, doors[address]), doors[address])
        for address in [each for each in self._open if each not in doors]:
            opened, _door = self._open[address]
            opened.replace(None)
            self._close(address)

    def renew(self, doors: Mapping[ListenAddress, Door]) -> None:
        """Give each listener its door of another snapshot, those that are being closed too."""
        for address, (opened, _door) in tuple(self._open.items()):
            if address in doors:
                opened.replace(doors[address])
                self._open[address] = (opened, doors[address])
        for address, opened in self._draining.items():
            opened.replace(doors.get(address))

    async def close(self, direction: Direction) -> None:
        """Stop accepting at every door of one direction at once, and wait until each arrival has
        been admitted or refused; open connections stay.  Cancelling ends the waiting only."""
        of_it = [
            address for address, (_, door) in self._open.items() if door.direction is direction
        ]
        for address in of_it:
            self._draining[address] = self._open[address][0]
        closing = [self._close(address) for address in of_it]
        if closing:
            await asyncio.wait(closing)

    def _close(self, address: ListenAddress) -> asyncio.Task[None]:
        opened, _door = self._open.pop(address)
        task = asyncio.create_task(opened.close(), name=f"closing {address}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    def _listen(self, address: ListenAddress, plan: SocketPlan) -> socket.socket:
        if isinstance(address, SystemdAddress):
            listener = inherit(address, self._listeners, exposed=plan.exposed)
            self._bound[address] = bound_address(listener)
        else:
            here = _without_ipv6(address) if plan.captured else address
            listener = sockets.listen(here, plan.mode, plan.owner)
        if plan.transparent and not originals.make_transparent(listener):
            self._opaque.add(address)
            _log.info("door %s: %s", address, _NOT_TRANSPARENT)
        return listener


_NOT_TRANSPARENT = (
    "without CAP_NET_ADMIN or CAP_NET_RAW its socket isn't transparent: capture by nft works, "
    "capture by eBPF doesn't"
)


def _without_ipv6(address: Address) -> Address:
    """Return where to listen for what is captured; without IPv6 in the kernel for IPv4 alone."""
    if isinstance(address, TcpAddress) and not sockets.has_ipv6():
        return TcpAddress("0.0.0.0", address.port)  # noqa: S104  the door refuses other hosts
    return address


def inherit(address: SystemdAddress, listeners: PassedSockets, *, exposed: bool) -> socket.socket:
    """Return the listening socket that systemd passed under this name.

    Raises:
        UproxyError: it passed none, or one that is reachable from beyond this machine although
            it shouldn't be.
    """
    listener = listeners.take(address.name)
    try:
        check_exposure(address, bound_address(listener), exposed=exposed)
    except UproxyError:
        listener.close()
        raise
    return listener


def bound_address(listener: socket.socket) -> Address:
    """Return where a socket listens; a unix socket's path is left out."""
    return sockets.address_of(listener.getsockname(), UnixAddress(""))


def check_exposure(address: ListenAddress, bound: Address, *, exposed: bool) -> None:
    """Make sure that only a door that says `expose: true` is reachable from beyond this machine.

    Raises:
        UproxyError: `bound`, where the socket of `address` listens, is.
    """
    local = not isinstance(bound, TcpAddress) or (bound.ip is not None and bound.ip.is_loopback)
    if not (local or exposed):
        raise UproxyError(
            f"{address}: its socket {bound} is reachable from other machines, which could then "
            "borrow this workload's identity: bind it to loopback, or say expose: true"
        )
