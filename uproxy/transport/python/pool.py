"""The tunnels that we have dialled, kept open for the streams of later connections.

Tunnels are shared where everything that decides about them is equal: the plan, which is our SVID,
the identities that may answer and the trust, and the address of the far end.  A tunnel keeps no
plan, because a plan has a key: when the last snapshot with a plan is gone, its tunnels take no new
streams, and end with their last one.
"""

from __future__ import annotations

import asyncio
import socket
from time import monotonic
from typing import Final, cast
from weakref import ReferenceType, WeakKeyDictionary, ref

from uproxy import libssl, sockets
from uproxy.contract import OnTunnelEnded, PeerSvid, Refusal, RefusedError, Route, TlsPlan
from uproxy.hbone.events import Request
from uproxy.model import Direction, Outcome, TcpAddress
from uproxy.transport import failures
from uproxy.transport.dial import reach
from uproxy.transport.poller import Poller
from uproxy.transport.python import tunnel
from uproxy.transport.python.side import Failure, StreamRefusedError
from uproxy.transport.python.stream import StreamSide
from uproxy.transport.python.tls import TlsChannel, refusing
from uproxy.transport.python.way import Way

SILENCE_S: Final = 10.0
"""Seconds without a byte from the far end after which a PING proves that it still answers, before
another stream is opened: ztunnel's and Istio's keepalive interval."""
ROOM_BEFORE_SETTINGS: Final = 100
"""Streams for which a tunnel is dialled: what RFC 9113 §6.5.2 recommends a peer to allow at least,
and ztunnel's limit."""

MAX_LIMITS: Final = 64
"""Far ends of which it is remembered how many streams they allow."""

_WHO: Final = failures.NAMES[Direction.OUTBOUND][1]


_Key = tuple[TcpAddress, str | None]
"""Address and SNI."""


class Pool:
    """All tunnels that one engine has dialled."""

    def __init__(self, poller: Poller, on_ended: OnTunnelEnded) -> None:
        self.on_ended = on_ended
        """What is called with the end of each whose handshake has succeeded."""
        self._poller = poller
        self._ends: WeakKeyDictionary[TlsPlan, dict[_Key, list[PooledTunnel]]] = WeakKeyDictionary()
        """Those that take new streams."""
        self._limits: dict[TcpAddress, int] = {}
        """How many streams far ends allowed on a tunnel, when they said so last.  On a new one
        streams are opened before its end can say so."""
        self._all: set[PooledTunnel] = set()  # those that take no new streams, too

    def __len__(self) -> int:
        return len(self._all)

    def take(self, way: Way, route: Route) -> PooledTunnel:
        """Return a tunnel with room for one more stream, which is reserved until `opened` or
        `give_back`; it may still be being dialled."""
        ends = self._ends.setdefault(way.plan, {})
        tunnels = ends.setdefault((way.end, way.server_name), [])
        one = next((each for each in tunnels if each.room > 0), None)
        if one is None:
            one = PooledTunnel(self, self._poller, way)
            tunnels.append(one)
            self._all.add(one)
            one.dial(way, route)
        one.reserved += 1
        return one

    def retire(self, one: PooledTunnel, plan: TlsPlan | None) -> None:
        """Give no new stream to a tunnel."""
        ends = {} if plan is None else self._ends.get(plan, {})
        tunnels = ends.get(one.key, [])
        if one in tunnels:
            tunnels.remove(one)
            if not tunnels:
                del ends[one.key]

    def note_limit(self, end: TcpAddress, most: int) -> None:
        """A far end has said how many streams it allows; none is no limit to remember."""
        if most:
            self._limits.pop(end, None)
            self._limits[end] = most
        if len(self._limits) > MAX_LIMITS:
            del self._limits[next(iter(self._limits))]

    def limit_of(self, end: TcpAddress) -> int:
        """Return how many streams a far end allows on a tunnel, as far as is known."""
        return self._limits.get(end, ROOM_BEFORE_SETTINGS)

    def forget(self, one: PooledTunnel) -> None:
        """A tunnel has ended."""
        self._all.discard(one)

    async def close(self) -> None:
        """End every tunnel now."""
        for each in tuple(self._all):
            await each.close()


class PooledTunnel:
    """A tunnel that is being dialled, is open, or takes no new streams and ends with its last.

    Satisfies `tunnel.Owner`."""

    def __init__(self, pool: Pool, poller: Poller, way: Way) -> None:
        loop = asyncio.get_running_loop()
        self.connected: asyncio.Future[None] = loop.create_future()
        """Done when TCP is; fails with the RefusedError of the dial."""
        self.ready: asyncio.Future[None] = loop.create_future()
        """Done when the handshake is; fails with a RefusedError."""
        self.reserved = 0
        """Connections that are about to open a stream."""
        self.end = way.end
        self.key: _Key = (way.end, way.server_name)
        self.dialled_from: TcpAddress | None = None
        self.has_carried = False
        """Whether a stream was opened, so that the handshake is no later one's own."""
        self._pool = pool
        self._poller = poller
        self._settings = way.settings
        self._tunnel: tunnel.Tunnel | None = None
        self._retired = self._stopped = False
        self._failure: Failure | None = None  # with which it has ended
        self._idle: asyncio.TimerHandle | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._loop = loop
        self._plan: ReferenceType[TlsPlan] = ref(way.plan, lambda _plan: self._retire_soon())

    @property
    def room(self) -> int:
        """How many more streams may be reserved."""
        if self._retired:
            return 0
        most, opened = self._settings.streams_per_connection, self._tunnel
        if opened is None or opened.allowed is None:
            most = min(most, self._pool.limit_of(self.end))
        if opened is None:
            return most - self.reserved
        return min(opened.room, most - opened.streams) - self.reserved

    def dial(self, way: Way, route: Route) -> None:
        """Begin to connect, with the time limits of the route that needs it first."""
        self._dialling = self._loop.create_task(self._dial(way, route))

    async def open(self, way: Way) -> StreamSide:
        """Open the stream that was reserved; it is ready when the peer has answered 200.

        Raises:
            StreamRefusedError: not here, but perhaps on another tunnel.
            RefusedError: the peer has refused it.
        """
        side = await self._open_stream(way)
        try:
            await side.answered
        except BaseException:
            side.close()
            raise
        return side

    def give_back(self) -> None:
        """A stream that was reserved isn't opened."""
        self.reserved -= 1
        self.on_streams_changed()

    def retire(self) -> None:
        """Take no new streams, and end with the last one."""
        if self._retired:
            return
        self._retired = True
        self._pool.retire(self, self._plan())
        self.on_streams_changed()

    def _retire_soon(self) -> None:
        """The plan is gone; the last reference may have been dropped in any thread, at any time."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.retire)

    async def close(self) -> None:
        """End it now."""
        self._retired = self._stopped = True
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.gather(self._dialling, return_exceptions=True)
        if self._tunnel is not None:
            self._tunnel.abort()

    async def _open_stream(self, way: Way) -> StreamSide:
        """Open a stream, if the far end still answers."""
        opened = self._tunnel
        try:
            if opened is None:
                raise _unusable("isn't open")
            if self._failure is not None:
                refused = opened.refused_by(self._failure, at_l7=way.at_l7)
                if refused is not None:
                    raise RefusedError(refused)
            if monotonic() - opened.last_heard > SILENCE_S and not await opened.prove():
                self.retire()
                raise _unusable("didn't answer a PING")
            if not opened.room:
                raise _unusable("takes no more streams")
            side = opened.open(
                str(way.authority), way.headers, at_l7=way.at_l7, end_delay=way.end_delay
            )
            self.has_carried = True
        finally:
            self.give_back()
        return side

    # Dialling.

    async def _dial(self, way: Way, route: Route) -> None:
        """Connect and do the handshake; those who wait get what became of it."""
        try:
            await self._do_handshake(await self._connect(way, route), way, route)
        except RefusedError as no:
            self._fail(no)
        except asyncio.CancelledError:
            self._fail(RefusedError(failures.STOPPED))
            raise
        except Exception:
            self._fail(RefusedError(failures.DEFECT))
            raise

    async def _connect(self, way: Way, route: Route) -> socket.socket:
        connected, _end = await reach(self._poller, (way.end,), way.server, route.timeouts.connect)
        self.dialled_from = sockets.tcp_address_of(connected.getsockname())
        self.connected.set_result(None)
        return connected

    async def _do_handshake(self, connected: socket.socket, way: Way, route: Route) -> None:
        channel, limit = TlsChannel(self._poller, connected, _WHO), route.timeouts.handshake
        try:
            # the time limit outside: its TimeoutError is an OSError too, which `refusing` takes
            async with asyncio.timeout(limit or None):
                with refusing(channel):
                    await channel.handshake(
                        libssl.context_of(way.plan), server_name=way.server_name
                    )
        except TimeoutError as error:
            channel.reset()
            raise RefusedError(failures.handshake(_WHO, error, limit)) from None
        except BaseException:
            channel.close()
            raise
        session = tunnel.new_session(server=False, settings=self._settings)
        self._tunnel = tunnel.Tunnel(
            channel, session, self, way.plan.own.not_after, self._settings.keepalive
        )
        self._tunnel.start()
        self.ready.set_result(None)
        self.on_streams_changed()

    def _fail(self, why: RefusedError) -> None:
        """Tell those who wait that it can't be dialled."""
        self.retire()
        self._pool.forget(self)
        for future in (self.connected, self.ready):
            if not future.done():
                future.set_exception(why)
                future.exception()  # nobody may be waiting any more

    # What the tunnel says.

    def on_request(self, side: StreamSide, request: Request) -> None:  # noqa: ARG002
        """A server opens no streams: the session refuses them."""
        raise AssertionError("a client was given a request")

    def on_request_refused(self, side: StreamSide, why: Refusal) -> None:  # noqa: ARG002
        """As `on_request`."""
        raise AssertionError(f"a client was given a request: {why.reason}")

    def on_streams_changed(self) -> None:
        """Let it end when it has carried nothing for `hbone.idle`, or at once if it is retired."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        opened = self._tunnel
        if opened is not None and opened.allowed is not None:
            self._pool.note_limit(self.end, opened.allowed)
        if opened is None or opened.is_over or opened.streams or self.reserved > 0:
            return
        if self._retired:
            opened.close()
        elif not opened.room:
            self.retire()  # the far end allows none
        elif self._settings.idle:
            self._idle = self._loop.call_later(self._settings.idle, self.retire)

    def on_over(self, failure: Failure | None) -> None:
        """It has ended; its streams say why."""
        self._failure = failure
        self.retire()
        self._pool.forget(self)
        if self._idle is not None:
            self._idle.cancel()
        if self._tunnel is not None:
            self._tell_end(self._tunnel.channel, failure)
            self._tunnel.channel.close()

    def _tell_end(self, channel: TlsChannel, failure: Failure | None) -> None:
        why = failures.STOPPED if self._stopped else None
        if why is None and failure is not None:
            why = failures.ended_tunnel(_WHO, failure)
        self._pool.on_ended(cast("PeerSvid", channel.peer), self.end, why)


def _unusable(why: str) -> StreamRefusedError:
    return StreamRefusedError(Refusal(Outcome.CONNECT_FAILED, f"the tunnel to {_WHO} {why}"))
