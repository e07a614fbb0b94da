"""Moving bytes both ways until both directions have ended.

Each direction is a flow from one side to the other.  A sink that doesn't take everything
stops its source from being read, so a connection holds one receive's worth of bytes per
direction at most; the two directions don't wait for each other.  Nothing here runs while
nobody sends but one timer.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Final

from uproxy.contract import RefusedError
from uproxy.libssl import TlsError
from uproxy.model import Timeouts
from uproxy.transport import failures
from uproxy.transport.poller import BROKEN, HUNG_UP, READ, WRITE
from uproxy.transport.python.loss import Loss
from uproxy.transport.python.side import Side

OWN_BACKLOG: Final = 128 * 1024
"""Bytes.  Only somebody who asks for answers (KeyUpdate) and doesn't read them gets here:
he isn't read any more until he does."""


class Flow:
    """One direction."""

    __slots__ = ("count", "ended", "sink", "source")

    def __init__(self, source: Side, sink: Side) -> None:
        self.source = source
        self.sink = sink
        self.count = 0
        """Application bytes so far."""
        self.ended = False
        """The source's end has been passed on."""

    @property
    def open(self) -> bool:
        """Whether the source should be read now."""
        return not (
            self.ended or self.sink.backlog or self.sink.midway or self.source.backlog > OWN_BACKLOG
        )


class Relay:
    """Two flows, and the deadline they share."""

    def __init__(
        self,
        downstream: Side,
        upstream: Side,
        timeouts: Timeouts,
        on_half_closed: Callable[[], None],
    ) -> None:
        self.to_upstream = Flow(downstream, upstream)
        self.to_downstream = Flow(upstream, downstream)
        self._timeouts = timeouts
        self._on_half_closed = on_half_closed
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._last = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._loss: Loss | None = None

    async def run(self, preface: bytes = b"") -> None:
        """Until both directions have ended and everything is sent, or one side has failed and
        what it had sent is delivered.

        Args:
            preface: for the upstream side, before anything else; not counted.

        Raises:
            RefusedError: with `reset`, `timed_out` or `handshake_failed`.
        """
        try:
            self._guarded(lambda: self._begin(preface))
            await self._done
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self.to_upstream.source.mute()
            self.to_upstream.sink.mute()
            if self._done.done() and not self._done.cancelled():
                self._done.exception()  # seen, even if a cut came in the same moment

    def _begin(self, preface: bytes) -> None:
        downstream, upstream = self.to_upstream.source, self.to_upstream.sink
        for side in (downstream, upstream):
            if side.failure is not None:
                self._lose(side, side.failure)
        if preface:
            self._do(upstream, lambda: upstream.send(preface))
        self._check_deadline()
        self._update_interest()

    def _on_downstream(self, events: int) -> None:
        self._guarded(lambda: self._turn(self.to_upstream, events))

    def _on_upstream(self, events: int) -> None:
        self._guarded(lambda: self._turn(self.to_downstream, events))

    def _guarded(self, work: Callable[[], None]) -> None:
        """What goes wrong in a callback ends the relay, where `run` waits for it."""
        if self._done.done():
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001  run() raises it
            self._done.set_exception(error)

    def _turn(self, flow: Flow, events: int) -> None:
        """One side, the source of `flow`, is ready for something."""
        side = flow.source
        broken = events & (BROKEN | HUNG_UP)
        reading = flow.open
        if side.backlog and events & WRITE | broken:
            self._do(side, side.flush)
            self._last = self._loop.time()
        elif broken and not reading:
            self._hang_up(side, events)
        if reading and events & READ | broken:
            self._pass_on(flow)
        self._update_interest()

    def _update_interest(self) -> None:
        """Take what needs no socket, end if all is done, otherwise wait for the right events."""
        for flow in (self.to_upstream, self.to_downstream):
            while flow.open and flow.source.ready:
                self._pass_on(flow)
        downstream, upstream = self.to_upstream.source, self.to_upstream.sink
        sent = not (downstream.backlog or upstream.backlog)
        if self._loss is not None:
            self._update_loss(self._loss)
        elif self.to_upstream.ended and self.to_downstream.ended and sent:
            self._done.set_result(None)
            return
        downstream.watch(
            READ * self.to_upstream.open | WRITE * (downstream.backlog > 0), self._on_downstream
        )
        upstream.watch(
            READ * self.to_downstream.open | WRITE * (upstream.backlog > 0), self._on_upstream
        )

    def _pass_on(self, flow: Flow) -> None:
        """One receive's worth, so that a bulk stream doesn't starve the others."""
        source, sink = flow.source, flow.sink
        if sink.failure is not None:
            self._discard(flow)
            return
        try:
            data = source.receive()
        except (OSError, TlsError) as error:
            self._lose_source(flow, error)
            return
        if data is None:
            return
        if source.failure is not None:
            self._lose(source, source.failure)
        if self._loss is None or self._loss.side is source:
            self._last = self._loop.time()
        if data:
            flow.count += len(data)
            self._do(sink, lambda: sink.send(data))
        else:
            self._end(flow)

    def _discard(self, flow: Flow) -> None:
        """Take one receive's worth of what can't be passed on any more, and forget it."""
        flow.ended = flow.source.ready or not flow.source.discard()

    def _end(self, flow: Flow) -> None:
        flow.ended = True
        self._do(flow.sink, flow.sink.finish)
        self._on_half_closed()
        self._check_deadline()

    def _do(self, side: Side, work: Callable[[], None]) -> None:
        """Send; a failure leaves what has come from the side to be read."""
        try:
            work()
        except OSError as error:
            side.lose(error)
            self._lose(side, error)
        except TlsError as error:
            self._lose(side, error)

    # A side that has failed.

    def _hang_up(self, side: Side, events: int) -> None:
        """An error or a hang-up of a side that nothing is wanted from now."""
        side.hung_up = True
        if events & BROKEN:
            error = side.error()
            side.lose(error)
            self._lose(side, error)

    def _lose_source(self, flow: Flow, error: OSError | TlsError) -> None:
        """Nothing more can be read of it, and all that came was passed on."""
        flow.ended = True
        if isinstance(error, OSError):
            flow.source.lose(error)
        self._lose(flow.source, error)
        back = self._flow_from(flow.sink)
        # a side that has only stopped sending can still be told what the other one had said
        if flow.source.failure is None and back.open:
            self._pass_on(back)

    def _lose(self, side: Side, error: OSError | TlsError) -> None:
        """Record why the relay ends; the first reason stands."""
        if self._loss is not None:
            self._loss.name(side, error)
            return
        self._last = self._loop.time()
        self._loss = Loss(side, error, self._last)
        self._on_half_closed()

    def _update_loss(self, loss: Loss) -> None:
        """Reset the other side once it has all that the one that failed had sent; it is over
        when that one has all that the other had."""
        flow = self._flow_from(loss.side)
        failed, survivor = flow.source, flow.sink
        if flow.ended and survivor.delivered:
            survivor.reset()
            survivor.lose(OSError(errno.ECONNRESET, ""))
            self._flow_from(survivor).ended = True
            if failed.delivered:
                raise self._refusal(loss)
        if loss.has_moved(failed, survivor):
            self._last = self._loop.time()
        self._check_deadline()

    def _refusal(self, loss: Loss) -> RefusedError:
        return loss.refusal(self._flow_from(loss.side).count)

    def _flow_from(self, side: Side) -> Flow:
        return self.to_upstream if side is self.to_upstream.source else self.to_downstream

    # Time.

    def _check_deadline(self) -> None:
        """End if nothing has moved for too long, otherwise look again when that could be."""
        if self._timer is not None:
            self._timer.cancel()
        loss, now = self._loss, self._loop.time()
        closing = loss is not None or self.to_upstream.ended or self.to_downstream.ended
        limit = self._timeouts.half_close if closing else self._timeouts.idle
        due = self._last + limit if limit else None
        if due is not None and now >= due:
            if loss is not None:
                raise self._refusal(loss)
            raise RefusedError(failures.idle(self._timeouts, half_closed=closing))
        if loss is not None and self._flow_from(loss.side).ended:
            look = loss.next_look(now)
            due = look if due is None else min(due, look)
        if due is not None:
            check = self._check_deadline if loss is None else self._update_interest
            self._timer = self._loop.call_at(due, self._guarded, check)
