"""Moves bytes both ways between two sides, until both directions have ended.

Each direction is a flow from one side to the other.  While a sink has unsent bytes its source
isn't read, so a connection holds at most one read's worth of bytes for each direction; the two
directions don't wait for each other.  It keeps no deadline: `last_moved` says when bytes moved,
and whoever runs the relay may cancel it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from uproxy.contract import Refusal, RefusedError
from uproxy.transport.python.loss import Loss, is_delivered
from uproxy.transport.python.side import FAILURES, Failure, Side

MAX_UNSENT_ANSWERS: Final = 128 * 1024
"""Bytes unsent to a source above which it isn't read.  Answers of TLS itself (to KeyUpdates) get
there only if the peer asks for them and doesn't read them."""


class Flow:
    """One direction."""

    __slots__ = ("count", "ended", "sink", "source")

    def __init__(self, source: Side, sink: Side) -> None:
        self.source = source
        self.sink = sink
        self.count = 0
        """Application bytes so far."""
        self.ended = False
        """The source's end has been passed on, or nothing more of it will be."""

    @property
    def open(self) -> bool:
        """Whether the source should be read now."""
        return not (
            self.ended
            or self.sink.unsent
            or self.sink.must_read_first
            or self.source.unsent > MAX_UNSENT_ANSWERS
        )


class StrandedError(Exception):
    """The upstream side was lost, may be replaced by another one, and no byte has passed."""


class Relay:
    """Two flows.  Await `until_half_closed`, then `until_closed`."""

    def __init__(
        self,
        downstream: Side,
        upstream: Side,
        age: float = 0.0,
        is_stranded: Callable[[], bool] | None = None,
    ) -> None:
        """`age`: seconds since the connection was accepted; `is_stranded` says of a lost upstream
        side whether another one may take its place."""
        self.to_upstream = Flow(downstream, upstream)
        self.to_downstream = Flow(upstream, downstream)
        self._loop = asyncio.get_running_loop()
        self._half_closed: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._last_moved = self._loop.time()
        self._accepted_at = self._last_moved - age
        self._next_look: asyncio.TimerHandle | None = None
        self._loss: Loss | None = None
        self._is_stranded = is_stranded

    async def until_half_closed(self, preface: bytes = b"") -> None:
        """Move bytes until one direction has ended, or one side has failed.

        Args:
            preface: written to the upstream before anything else; not counted.

        Raises:
            StrandedError: see there; downstream is as it was.
        """
        self._guarded(lambda: self._begin(preface))
        await self._half_closed

    async def until_closed(self) -> None:
        """Move bytes until both directions have ended and everything is sent.

        Raises:
            RefusedError: one side failed, and what it had sent is delivered; `reset` or
                `handshake_failed`.
        """
        try:
            await self._closed
        finally:
            if self._next_look is not None:
                self._next_look.cancel()

    @property
    def is_over(self) -> bool:
        """Whether it moves no more bytes."""
        return self._closed.done() or self._half_closed.cancelled()

    def last_moved(self) -> float:
        """Return when bytes moved or were delivered last, in seconds of the loop's clock."""
        self._guarded(self._note_delivery)
        return self._last_moved

    @property
    def lost(self) -> Side | None:
        """The side that has failed first; None: none has."""
        return None if self._loss is None else self._loss.side

    def loss(self) -> Refusal | None:
        """Return why one side has failed; None if none has."""
        return None if self._loss is None else self._refusal(self._loss)

    def _begin(self, preface: bytes) -> None:
        """Find sides that have failed already, write the preface, and move what is there."""
        downstream, upstream = self.to_upstream.source, self.to_upstream.sink
        for side in (downstream, upstream):
            self._note_failure(side)
        if preface:
            self._do(upstream, lambda: upstream.write(preface))
        self._update_interest()

    def _on_downstream(self, readable: bool, sent: bool) -> None:
        self._guarded(lambda: self._turn(self.to_upstream, readable, sent))

    def _on_upstream(self, readable: bool, sent: bool) -> None:
        self._guarded(lambda: self._turn(self.to_downstream, readable, sent))

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do work unless it is over; what it raises ends the relay, for whoever awaits it."""
        if self.is_over:
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001  whoever awaits the relay gets it
            for future in (self._half_closed, self._closed):
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # one of the two may never be awaited

    def _turn(self, flow: Flow, readable: bool, sent: bool) -> None:
        """Move bytes, because a flow's source is `readable`, has `sent` unsent bytes, or has
        failed."""
        if sent:
            self._last_moved = self._loop.time()
        self._note_failure(flow.source)
        if readable:
            self._pass_on(flow)
        self._update_interest()

    def _update_interest(self) -> None:
        """Read what is pending, end if all is done, otherwise wait for what can happen next."""
        for flow in (self.to_upstream, self.to_downstream):
            while flow.open and flow.source.pending:
                self._pass_on(flow)
        downstream, upstream = self.to_upstream.source, self.to_upstream.sink
        sent = not (downstream.unsent or upstream.unsent)
        if self._loss is not None:
            self._update_loss(self._loss)
        elif self.to_upstream.ended and self.to_downstream.ended and sent:
            self._closed.set_result(None)
            return
        downstream.want(self.to_upstream.open, downstream.unsent > 0, self._on_downstream)
        upstream.want(self.to_downstream.open, upstream.unsent > 0, self._on_upstream)

    def _pass_on(self, flow: Flow) -> None:
        """Read once and write it: one read's worth, so that no stream delays the others."""
        source, sink = flow.source, flow.sink
        if sink.failure is not None:
            self._discard(flow)
            return
        try:
            data = source.read()
        except FAILURES as error:
            self._lose_source(flow, error)
            return
        if data is None:
            return
        self._note_failure(source)
        if self._loss is None or self._loss.side is source:
            self._last_moved = self._loop.time()
        if data:
            flow.count += len(data)
            self._do(sink, lambda: sink.write(data))
        else:
            self._end(flow)

    def _discard(self, flow: Flow) -> None:
        """Read once, and forget it: the sink has failed."""
        try:
            data = flow.source.read()
        except FAILURES:
            flow.ended = True
        else:
            flow.ended = data is not None and not data

    def _end(self, flow: Flow) -> None:
        """Pass on the end that the source has sent."""
        flow.ended = True
        self._do(flow.sink, flow.sink.finish)
        self._half_close()

    def _do(self, side: Side, work: Callable[[], None]) -> None:
        """Write to a side.  If that fails, the relay ends when the side has been read."""
        try:
            work()
        except FAILURES as error:
            self._lose(side, error)

    def _half_close(self) -> None:
        """Let `until_half_closed` return: one direction has ended, or a side has failed."""
        if not self._half_closed.done():
            self._half_closed.set_result(None)

    # A side that has failed.

    def _note_failure(self, side: Side) -> None:
        """Begin to end, if the side has failed."""
        if side.failure is not None:
            self._lose(side, side.failure)

    def _lose_source(self, flow: Flow, error: Failure) -> None:
        """Read nothing any more from a source that has failed; all that came was passed on."""
        flow.ended = True
        self._lose(flow.source, error)
        back = self._flow_from(flow.sink)
        # a side that has only stopped sending can still receive what the other one had sent
        if flow.source.failure is None and back.open:
            self._pass_on(back)

    def _lose(self, side: Side, error: Failure) -> None:
        """Record why the relay ends; the first failure is the reason."""
        if self._loss is not None:
            self._loss.add_error(side, error)
            return
        if side is self.to_upstream.sink and self._may_be_replaced():
            raise StrandedError
        self._last_moved = self._loop.time()
        self._loss = Loss(side, error, self._last_moved)
        self._half_close()

    def _may_be_replaced(self) -> bool:
        """Whether nothing has passed either way, and another upstream side may be used."""
        flows = self.to_upstream, self.to_downstream
        untouched = not any(flow.count or flow.ended for flow in flows)
        return untouched and self._is_stranded is not None and self._is_stranded()

    def _update_loss(self, loss: Loss) -> None:
        """Reset the other side once it has received all that the failed one had sent; end when
        the failed one has received all that the other had.

        Raises:
            RefusedError: it has, and the relay ends.
        """
        flow = self._flow_from(loss.side)
        failed, survivor = flow.source, flow.sink
        if flow.ended and is_delivered(survivor):
            survivor.finish(in_order=False)
            self._flow_from(survivor).ended = True
            if is_delivered(failed):
                raise RefusedError(self._refusal(loss))
        self._note_delivery()
        if flow.ended:
            self._look_again(loss)

    def _note_delivery(self) -> None:
        """Note that bytes have moved, if the kernel has delivered some since the last look."""
        loss, flow = self._loss, self.to_upstream
        if loss is not None and loss.has_moved(flow.source, flow.sink):
            self._last_moved = self._loop.time()

    def _look_again(self, loss: Loss) -> None:
        """Look again after a while: the kernel doesn't report delivery."""
        if self._next_look is not None:
            self._next_look.cancel()
        due = loss.next_look(self._loop.time())
        self._next_look = self._loop.call_at(due, self._guarded, self._update_interest)

    def _refusal(self, loss: Loss) -> Refusal:
        age = self._loop.time() - self._accepted_at
        return loss.refusal(self._flow_from(loss.side).count, age)

    def _flow_from(self, side: Side) -> Flow:
        return self.to_upstream if side is self.to_upstream.source else self.to_downstream
