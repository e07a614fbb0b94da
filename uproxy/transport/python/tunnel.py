"""A tunnel: one TLS connection whose handshake is over, and the streams that it carries (HBONE).

A stream that its reader doesn't drain stops only itself, by its window; a socket that takes nothing
more stops all of them.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Final, Protocol

from uproxy.contract import Refusal
from uproxy.hbone import codes, events
from uproxy.hbone.session import Session
from uproxy.hbone.windows import Growth
from uproxy.libssl import Buffer
from uproxy.model import TunnelSettings
from uproxy.transport import failures
from uproxy.transport.l7_failures import refused_handshake
from uproxy.transport.poller import READ
from uproxy.transport.python.frame_channel import FrameChannel
from uproxy.transport.python.side import Failure
from uproxy.transport.python.stream import StreamSide
from uproxy.transport.python.tls import TlsChannel

DRAIN_S: Final = 1.0
"""Seconds between the GOAWAY that announces the end and the one that names the last stream
(RFC 9113 §6.8): what the peer has opened meanwhile is served."""
LONGEST_WAIT_S: Final = 60.0
"""Seconds between two looks at the wall clock, which may jump."""
PONG_S: Final = 2.0
"""Seconds for which the answer to a PING is awaited."""
_GROWTH: Final = Growth()  # of all tunnels of this process


class Owner(Protocol):
    """What a tunnel tells whoever made it."""

    def on_request(self, side: StreamSide, request: events.Request) -> None:
        """The peer has sent a CONNECT."""

    def on_request_refused(self, side: StreamSide, why: Refusal) -> None:
        """The session has refused a request, which is none, or one too many."""

    def on_streams_changed(self) -> None:
        """A stream has begun or ended, or the peer allows another number of them."""

    def on_over(self, failure: Failure | None) -> None:
        """The tunnel has ended; None: in order."""


def new_session(*, server: bool, settings: TunnelSettings) -> Session:
    """Return the session of a new tunnel."""
    return Session(server=server, settings=settings, now=monotonic(), growth=_GROWTH)


class Tunnel(FrameChannel):
    """One end of a tunnel."""

    def __init__(
        self,
        channel: TlsChannel,
        session: Session,
        owner: Owner,
        not_after: datetime,
        keepalive: float,
    ) -> None:
        """`not_after`: when the SVID that we showed expires; `keepalive`: as in
        `TunnelSettings`."""
        super().__init__(channel, session)
        peer = channel.peer
        self.has_told_why = False
        """Whether it has ended with a GOAWAY that the peer should read: a reset would overtake
        it."""
        self._expires = not_after if peer is None else min(not_after, peer.not_after)
        self._expiry: asyncio.TimerHandle | None = None
        self._owner = owner
        self._sides: dict[int, StreamSide] = {}
        self._final: asyncio.TimerHandle | None = None  # until the second GOAWAY
        self._pong: asyncio.Future[None] | None = None
        self._waiting: set[StreamSide] = set()  # streams with bytes that the socket hasn't taken
        self._draining = False
        self._has_said_goodbye = False  # a peer that has can still open streams
        self._has_answered = False  # the peer, to a CONNECT of ours
        self._keepalive = keepalive
        self._asked_at = 0.0  # when the peer was asked whether it is there; monotonic seconds
        self._look: asyncio.TimerHandle | None = None  # until `_keep_alive`

    def start(self) -> None:
        """Send what begins a session, and read what the peer has sent with its handshake."""
        self._flush()
        self._note_expiry()
        if self._keepalive:
            self._keep_alive()
        self._guarded(self._receive_pending)

    # What its owner does.

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._sides)

    @property
    def room(self) -> int:
        """How many more may be opened now."""
        return 0 if self._draining or self.is_over else self._session.room

    @property
    def allowed(self) -> int | None:
        """How many streams the peer allows at a time; None: it hasn't said yet."""
        return self._session.allowed

    def open(
        self,
        authority: str,
        headers: Sequence[tuple[str, str]] = (),
        *,
        at_l7: bool = False,
        end_delay: float = 0.0,
    ) -> StreamSide:
        """Send a CONNECT; the stream's `answered` is completed by the answer.  `at_l7` and
        `end_delay` are as in `StreamSide`."""
        stream = self._session.open(authority, headers)
        side = StreamSide(self, stream, is_ours=True, at_l7=at_l7, end_delay=end_delay)
        self._sides[stream] = side
        self.send_soon()
        return side

    async def prove(self) -> bool:
        """Send a PING; return whether the answer comes within PONG_S."""
        if self._pong is None:
            self._pong = self._loop.create_future()
            self._session.ping()
            self.send_soon()
        try:
            async with asyncio.timeout(PONG_S):
                await asyncio.shield(self._pong)
        except TimeoutError:
            return False
        return not self.is_over

    def drain(self) -> None:
        """Take no new streams, and end when the last one has: two GOAWAYs, a second apart, because
        the peer may be opening streams meanwhile."""
        if self._has_said_goodbye or self.is_over:
            return
        self._draining = self._has_said_goodbye = True
        self._session.go_away(final=False)
        self.send_soon()
        self._final = self._loop.call_later(DRAIN_S, self._end_draining)

    def _note_expiry(self) -> None:
        """Take no new streams once a certificate of the handshake has expired."""
        left = (self._expires - datetime.now(UTC)).total_seconds()
        if left < 0:
            self.drain()
        elif not self.is_over:
            self._expiry = self._loop.call_later(
                min(left + 0.001, LONGEST_WAIT_S), self._note_expiry
            )

    def _keep_alive(self) -> None:
        """Ask a peer with streams that has said nothing for long whether it is there (PING).  If it
        says nothing for as long again, the tunnel is lost."""
        if self._sides and self._closing is None and monotonic() >= self._alive_due:
            self._guarded(self._ask_if_alive)
        if not self.is_over:
            left = self._alive_due - monotonic() if self._sides else self._keepalive
            self._look = self._loop.call_later(max(left, 0.001), self._keep_alive)

    @property
    def _alive_due(self) -> float:
        return max(self.last_heard, self._asked_at) + self._keepalive

    def _ask_if_alive(self) -> None:
        self._turn(READ)  # the answer may have come while this process was stopped
        if self.is_over or monotonic() < self._alive_due:
            return
        if self._asked_at > self.last_heard:
            raise OSError(errno.ETIMEDOUT, "")
        self._asked_at = monotonic()
        self._session.ping()
        self.send_soon()

    def _end_draining(self) -> None:
        self._final = None
        if not self.is_over:
            self._session.go_away(final=True)
            self.send_soon()
            self._close_if_empty()

    def _close_if_empty(self) -> None:
        if self._draining and self._final is None and not self._sides:
            self.close()

    def refused_by(self, error: Failure, *, at_l7: bool) -> Refusal | None:
        """Return the refusal if its end, `error`, is that of a far end, perhaps an L7 proxy, that
        refuses our certificate; None: it isn't."""
        if self._has_answered:
            return None
        return refused_handshake(self.channel.who, error, self.channel.shown, at_l7=at_l7)

    # What its streams do.

    def has_unsent(self, side: StreamSide) -> bool:
        """Whether bytes of a stream are among those that the socket hasn't taken."""
        return side in self._waiting

    def answer(self, stream: int, status: int, *, end: bool = False) -> None:
        """Answer a CONNECT."""
        self._session.answer(stream, status, end=end)
        self.send_soon()

    def send(self, side: StreamSide, data: Buffer) -> int:
        """Take what the windows allow of `data`; return how many bytes that is."""
        sent = self._session.send(side.stream, data)
        if sent:
            self._waiting.add(side)
            self.send_soon()
        return sent

    def finish(self, side: StreamSide) -> None:
        """Send the end of a stream."""
        self._session.finish(side.stream)
        self._waiting.add(side)
        self.send_soon()

    def reset(self, stream: int, code: codes.ErrorCode) -> None:
        """Abort a stream, in both directions."""
        self._session.reset(stream, code)
        self.send_soon()

    def consumed(self, stream: int, count: int) -> None:
        """Give so many bytes of the window back to the peer."""
        self._session.consumed(stream, count, monotonic())
        self.send_soon()

    def forget(self, stream: int) -> None:
        """Nobody reads or writes a stream any more: what it holds is thrown away, and it is aborted
        unless it has ended both ways."""
        self._session.reset(stream, codes.ErrorCode.CANCEL)
        self.send_soon()
        if self._sides.pop(stream, None) is not None:
            self._owner.on_streams_changed()
            self._close_if_empty()

    # What has happened.

    def _on_all_sent(self) -> None:
        """Let the streams go on that have waited for it."""
        waiting, self._waiting = self._waiting, set()
        for side in waiting:
            side.report(sent=True)

    def _on_received(self, received: list[events.Event]) -> None:
        """Do what the events ask for; then tell each stream's relay, once."""
        touched: dict[StreamSide, bool] = {}
        for event in received:
            self._handle(event, touched)
        for side, window in touched.items():
            side.report(sent=window)
        if self._session.is_overfull:
            self._reset_stalled()

    def _handle(self, event: events.Event, touched: dict[StreamSide, bool]) -> None:
        """Do what an event asks for; note the streams of which there is something to report, and
        whether unsent bytes of theirs could be sent."""
        match event:
            case events.RequestReceived(stream=stream, request=request):
                side = self._sides[stream] = StreamSide(self, stream, is_ours=False)
                self._owner.on_streams_changed()
                self._owner.on_request(side, request)
            case events.RequestRefused(stream=stream, reason=reason, code=code):
                side = StreamSide(self, stream, is_ours=False)
                side.lose(OSError(errno.ECONNRESET, ""))
                self._owner.on_request_refused(side, failures.unserved(reason, code))
            case events.WindowOpened(stream=0):
                for side in self._sides.values():
                    touched[side] = side.on_window() or touched.get(side, False)
            case _:
                stream = getattr(event, "stream", 0)
                self._has_answered |= isinstance(event, events.AnswerReceived)
                if stream in self._sides:
                    side = self._sides[stream]
                    touched[side] = side.on_event(event) or touched.get(side, False)
                elif not stream:
                    self._handle_own(event)

    def _handle_own(self, event: events.Event) -> None:
        """Do what an event asks for that concerns the whole tunnel."""
        match event:
            case events.Broken():
                self._break(event)
            case events.GoAwayReceived():
                self._on_go_away()
            case events.PongReceived():
                if self._pong is not None and not self._pong.done():
                    self._pong.set_result(None)
                self._pong = None
            case events.SettingsReceived():
                self._owner.on_streams_changed()

    def _reset_stalled(self) -> None:
        """End the stream that has gone the longest without being read, so that those that stall
        together don't take the whole tunnel's window."""
        holding = [side for side in self._sides.values() if side.has_unread()]
        if holding:
            stalled = min(holding, key=lambda side: side.read_at)
            stalled.on_stalled()
            stalled.report(sent=False)

    def _on_go_away(self) -> None:
        """The peer takes no new streams; those that are open go on."""
        self._draining = True
        self._owner.on_streams_changed()
        self._close_if_empty()

    def _break(self, why: events.Broken) -> None:
        """The peer has broken the protocol: its GOAWAY goes out, and nothing more is read."""
        self._send()
        self.channel.finish()
        self.has_told_why = True
        raise failures.broken_http2(self.channel.who, why.code, why.reason, why.flood or "")

    def _on_end(self, failure: Failure | None) -> None:
        """Streams that are left are lost."""
        for handle in (self._final, self._expiry, self._look):
            if handle is not None:
                handle.cancel()
        if self._pong is not None and not self._pong.done():
            self._pong.set_result(None)
        self._waiting.clear()  # the socket takes nothing more, and nobody waits for it to
        lost = failure or OSError(errno.ECONNRESET, "")
        reason = f"the tunnel was lost: {failures.describe(self.channel.who, lost)}"
        for side in tuple(self._sides.values()):
            side.on_tunnel_lost(lost, reason)
            side.report(sent=False)
        self._sides.clear()
        self._owner.on_over(failure)
