"""The streams of a tunnel that has come in: each CONNECT is an arrival of its own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, cast
from weakref import ref

from uproxy.contract import SILENT, Arrival, Door, Refusal, RefusedError, Spoken, TlsPlan
from uproxy.hbone import headers
from uproxy.hbone.events import Request
from uproxy.model import TcpAddress, TunnelSettings
from uproxy.transport import failures
from uproxy.transport.python.limits import LimitedConnection
from uproxy.transport.python.side import Failure
from uproxy.transport.python.stream import StreamSide
from uproxy.transport.python.tls import TlsChannel
from uproxy.transport.python.tunnel import Tunnel, new_session

if TYPE_CHECKING:
    from uproxy.transport.python.limits import Limiter
    from uproxy.transport.python.listener import Listener, Started


class Carrier(LimitedConnection, Protocol):
    """The connection that carries."""

    @property
    def arrival(self) -> Arrival: ...


class CarriedStreams:
    """What a connection does that carries streams.  Satisfies `tunnel.Owner`."""

    def __init__(
        self,
        carrier: Carrier,
        channel: TlsChannel,
        settings: TunnelSettings,
        listener: Listener,
        limiter: Limiter,
        idle: float,
    ) -> None:
        """`idle`: seconds without a stream after which the tunnel is ended; 0: never."""
        plan = cast("TlsPlan", carrier.arrival.tls)
        self._carrier = carrier
        self._listener = listener
        self._limiter = limiter
        self._idle = idle
        self._timer: asyncio.TimerHandle | None = None
        self._plan = ref(plan)  # it has a key, which goes with the last snapshot that has it
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._streams: set[Started] = set()
        session = new_session(server=True, settings=settings)
        self._tunnel = Tunnel(channel, session, self, plan.own.not_after, settings.keepalive)

    @property
    def count(self) -> int:
        """How many streams are open."""
        return self._tunnel.streams

    @property
    def has_told_why(self) -> bool:
        """Whether a GOAWAY is on its way to the peer that says what it has done wrong."""
        return self._tunnel.has_told_why

    async def until_over(self) -> None:
        """Carry streams until the tunnel has ended, and each of them.

        Raises:
            RefusedError: it hasn't ended in order.
        """
        self._listener.tunnels.add(self)
        self._tunnel.start()
        if self._listener.is_closing:
            self.drain()
        self.on_streams_changed()
        await self._over
        await self._until_streams_ended()

    async def end(self, cut: Refusal | None) -> None:
        """Wait for the ends of the streams.  If the tunnel was `cut`, it and they are ended now,
        for that reason; otherwise it was lost, and they pass on what they hold first."""
        self._limiter.mark_active(self._carrier)
        if cut is None:
            self._tunnel.channel.reset()
        else:
            for each in tuple(self._streams):
                each.close(cut)
            self._tunnel.abort()
        await self._until_streams_ended()

    def drain(self) -> None:
        """Take no new streams; end with the last one."""
        self._tunnel.drain()

    def follow(self, door: Door) -> None:
        """Another door decides about new streams: if it is for none, or makes other handshakes than
        the tunnel's, with a renewed SVID, say, the peer is to dial again."""
        if door.tunnels is None or door.tls() is not self._plan():
            self.drain()

    async def _until_streams_ended(self) -> None:
        while self._streams:
            await asyncio.wait([each.task for each in self._streams])

    # What the tunnel says.

    def on_request(self, side: StreamSide, request: Request) -> None:
        """A CONNECT has come; where it leads is for the door to say."""
        self._take(side, request.authority, _spoken(request))

    def on_request_refused(self, side: StreamSide, why: Refusal) -> None:
        """A request was refused; it is on record like another refused arrival."""
        connection = self._take(side, None, SILENT)
        if connection is not None:
            connection.close(why)

    def on_streams_changed(self) -> None:
        """Without streams it makes room when connections are full, and ends after a while."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._tunnel.streams or self._tunnel.is_over:
            self._limiter.mark_active(self._carrier)
            return
        self._limiter.mark_spare(self._carrier)
        if self._idle:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._idle, self.drain)

    def on_over(self, failure: Failure | None) -> None:
        """The tunnel has ended."""
        self._listener.tunnels.discard(self)
        self.on_streams_changed()
        if self._over.done():
            return
        if failure is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(
                RefusedError(failures.broken(self._tunnel.channel.who, failure))
            )
            self._over.exception()  # if it was cut, nobody waits

    def _take(self, side: StreamSide, target: TcpAddress | None, spoken: Spoken) -> Started | None:
        carrier = replace(self._carrier.arrival, tls=self._plan())
        connection = self._listener.take_stream(carrier, side, target, spoken)
        if connection is not None:
            self._streams.add(connection)
            connection.task.add_done_callback(lambda _task: self._streams.discard(connection))
        return connection


def _spoken(request: Request) -> Spoken:
    """Return what a CONNECT says of a caller."""
    callers = tuple(value for name, value in request.headers if name == headers.CALLER)
    proofs = tuple(value for name, value in request.headers if name == headers.PROOF)
    return Spoken(callers, proofs) if callers or proofs else SILENT
