"""Moving bytes both ways until both directions have ended.

Each direction is a flow from one leg to the other.  A sink that doesn't take everything
stops its source from being read, so a connection holds one receive's worth of bytes per
direction at most; the two directions don't wait for each other.  Nothing here runs while
nobody sends but one timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from uproxy.contract import RefusedError
from uproxy.libssl import Buffer, TlsError
from uproxy.model import Timeouts
from uproxy.transport import failures
from uproxy.transport.poller import BROKEN, HUNG_UP, READ, WRITE
from uproxy.transport.twin.leg import Leg
from uproxy.transport.twin.tls import TlsLeg

OWN_BACKLOG: Final = 128 * 1024
"""Bytes.  Only somebody who asks for answers (KeyUpdate) and doesn't read them gets here:
he isn't read any more until he does."""


class Flow:
    """One direction."""

    __slots__ = ("count", "ended", "sink", "source")

    def __init__(self, source: Leg, sink: Leg) -> None:
        self.source = source
        self.sink = sink
        self.count = 0
        """Application bytes so far."""
        self.ended = False
        """The source's end has been passed on."""

    @property
    def open(self) -> bool:
        """Whether the source should be read now."""
        return not (self.ended or self.sink.backlog or self.source.backlog > OWN_BACKLOG)


class Relay:
    """Two flows, and the deadline they share."""

    def __init__(
        self, near: Leg, far: Leg, timeouts: Timeouts, on_half_closed: Callable[[], None]
    ) -> None:
        self.outward = Flow(near, far)
        self.homeward = Flow(far, near)
        self._timeouts = timeouts
        self._on_half_closed = on_half_closed
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._last = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, preface: bytes = b"") -> None:
        """Until both directions have ended and everything is sent.

        Args:
            preface: for the far side, before anything else; not counted.

        Raises:
            RefusedError: with `reset`, `timed_out` or `handshake_failed`.
        """
        try:
            self._guarded(lambda: self._begin(preface))
            await self._done
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self.outward.source.mute()
            self.outward.sink.mute()
            if self._done.done() and not self._done.cancelled():
                self._done.exception()  # seen, even if a cut came in the same moment

    def _begin(self, preface: bytes) -> None:
        self._check_deadline()
        if preface:
            self._send(self.outward.sink, preface)
        self._settle()

    def _on_near(self, events: int) -> None:
        self._guarded(lambda: self._turn(self.outward, events))

    def _on_far(self, events: int) -> None:
        self._guarded(lambda: self._turn(self.homeward, events))

    def _guarded(self, work: Callable[[], None]) -> None:
        """What goes wrong in a callback ends the relay, where `run` waits for it."""
        if self._done.done():
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001  run() raises it
            self._done.set_exception(error)

    def _turn(self, flow: Flow, events: int) -> None:
        """One leg, the source of `flow`, is ready for something."""
        leg = flow.source
        broken = events & (BROKEN | HUNG_UP)
        reading = flow.open
        if leg.backlog and events & WRITE | broken:
            self._flush(leg)
        elif broken and not reading:
            self._lose(leg, events)
        if reading and events & READ | broken:
            self._pump(flow)
        self._settle()

    def _settle(self) -> None:
        """Take what needs no socket, end if all is done, otherwise wait for the right events."""
        for flow in (self.outward, self.homeward):
            while flow.open and flow.source.ready:
                self._pump(flow)
        near, far = self.outward.source, self.outward.sink
        if self.outward.ended and self.homeward.ended and not (near.backlog or far.backlog):
            self._done.set_result(None)
            return
        near.watch(READ * self.outward.open | WRITE * (near.backlog > 0), self._on_near)
        far.watch(READ * self.homeward.open | WRITE * (far.backlog > 0), self._on_far)

    def _pump(self, flow: Flow) -> None:
        """One receive's worth, so that a bulk stream doesn't starve the others."""
        try:
            data = flow.source.receive()
        except (OSError, TlsError) as error:
            raise self._broken(flow.source, error) from None
        if data is None:
            return
        self._last = self._loop.time()
        if data:
            flow.count += len(data)
            self._send(flow.sink, data)
        else:
            self._end(flow)

    def _end(self, flow: Flow) -> None:
        flow.ended = True
        try:
            flow.sink.finish()
        except (OSError, TlsError) as error:
            raise self._broken(flow.sink, error) from None
        self._on_half_closed()
        self._check_deadline()

    def _send(self, leg: Leg, data: Buffer) -> None:
        try:
            leg.send(data)
        except (OSError, TlsError) as error:
            raise self._broken(leg, error) from None

    def _flush(self, leg: Leg) -> None:
        try:
            leg.flush()
        except (OSError, TlsError) as error:
            raise self._broken(leg, error) from None
        self._last = self._loop.time()

    def _lose(self, leg: Leg, events: int) -> None:
        """An error or a hang-up of a leg that nothing is wanted from."""
        if events & BROKEN:
            raise self._broken(leg, leg.error())
        leg.hung_up = True

    def _broken(self, leg: Leg, error: OSError | TlsError) -> RefusedError:
        """Why the relay ends, when `leg` has failed.

        A TLS 1.3 server's refusal of our certificate comes after the handshake has ended for
        us (RFC 8446 §2): before its first application byte an alert is that refusal.
        """
        flow = self.outward if leg is self.outward.source else self.homeward
        if isinstance(leg, TlsLeg) and leg.client and flow.count == 0:
            error = leg.last_word(error)
            if isinstance(error, TlsError) and error.alert is not None:
                return RefusedError(failures.handshake(leg.who, error, 0))
        return RefusedError(failures.broken(leg.who, error))

    def _check_deadline(self) -> None:
        """End if nothing has moved for too long, otherwise look again when that could be."""
        if self._timer is not None:
            self._timer.cancel()
        half_closed = self.outward.ended or self.homeward.ended
        limit = self._timeouts.half_close if half_closed else self._timeouts.idle
        if not limit:
            return
        due = self._last + limit
        if self._loop.time() < due:
            self._timer = self._loop.call_at(due, self._guarded, self._check_deadline)
            return
        raise RefusedError(failures.idle(self._timeouts, half_closed=half_closed))
