"""The half of a session that speaks: what its caller wants said, within the peer's limits."""

from __future__ import annotations

from collections.abc import Sequence

from uproxy.hbone import frames, headers
from uproxy.hbone.budgets import (
    MAX_HEADER_LIST_BYTES,
    PRIORITIES_PER_STREAM,
    UPDATES_PER_DATA,
    UPDATES_PER_STREAM,
    Budgets,
    Flood,
)
from uproxy.hbone.codes import (
    DEFAULT_WINDOW,
    MAX_STREAM_ID,
    PREFACE,
    ErrorCode,
    Setting,
)
from uproxy.hbone.output import Output
from uproxy.hbone.windows import Growth, Inflow, Stream
from uproxy.model import TunnelSettings

STREAMS_BEFORE_SETTINGS = 100
"""How many streams a server is taken to accept until it says so: RFC 9113 §6.5.2 recommends that it
accepts no fewer; Envoy closes the connection at one too many."""
_REMEMBERED = 256
"""Streams that have ended, of which is remembered how."""
_DEBUG_CHARACTERS = 160
"""Of a reason, in GOAWAY."""
_BAD_REQUEST, _SERVER_ERROR = 400, 500
"""Statuses between them say that the client is at fault."""


class Sender:
    """Streams, windows and output of one end of a tunnel.  A stream that isn't known, because it
    has ended, has no room and takes no orders; nothing here raises for it."""

    def __init__(
        self, *, server: bool, settings: TunnelSettings, now: float, growth: Growth | None = None
    ) -> None:
        self._server = server
        self._settings = settings
        self._output = Output()
        self._encoder = headers.Encoder()
        self._budgets = Budgets(now)
        self._now = now
        self._streams: dict[int, Stream] = {}
        self._gone: dict[int, bool] = {}
        """Streams that ended lately, and whether the peer may not know it yet."""
        self._highest = 0
        """The last stream that the client opened."""
        self._shortfall = 0
        """Of all streams."""
        self._due: list[Flood] = []
        """What is to be charged for streams that our owner has refused since a request came
        last."""
        self._inflow = Inflow(
            max(settings.connection_window, DEFAULT_WINDOW), growth=growth or Growth()
        )
        self._incoming = max(settings.stream_window, DEFAULT_WINDOW)
        """What the peer may send on a new stream; a smaller window holds once it is
        acknowledged."""
        self._outgoing = DEFAULT_WINDOW
        """What we may send on the tunnel."""
        self._initial = DEFAULT_WINDOW
        """What we may send on a new stream."""
        self._allowed: int | None = None
        self._last_stream: int | None = None
        """In our final GOAWAY: streams above it aren't looked at."""
        self._leaving = False
        """One of us has sent GOAWAY."""
        self._closed = False
        self._pings = 0
        self._ping_pending = False
        """The last PING wasn't answered."""
        self._greet()

    def _greet(self) -> None:
        """Say our preface, SETTINGS and the window of the tunnel (§3.4)."""
        ours = self._settings
        values = [
            (Setting.INITIAL_WINDOW_SIZE, ours.stream_window),
            (Setting.MAX_HEADER_LIST_SIZE, MAX_HEADER_LIST_BYTES),
        ]
        if self._server:
            values.append((Setting.MAX_CONCURRENT_STREAMS, ours.max_streams))
        else:
            self._output.add(PREFACE)
            values.append((Setting.ENABLE_PUSH, 0))
        self._output.add(frames.settings(values))
        if self._inflow.returning:
            self._output.add(frames.window_update(0, self._inflow.grant()))

    @property
    def streams(self) -> int:
        """How many streams are open, or hold bytes that weren't consumed."""
        return len(self._streams)

    @property
    def held(self) -> int:
        """How many bytes of all streams have arrived and weren't consumed."""
        return self._inflow.held

    @property
    def is_overfull(self) -> bool:
        """Whether so much is held that the peer's other streams are slowed down: the stream that
        has gone longest without being read should be reset."""
        return self._inflow.is_overfull

    @property
    def allowed(self) -> int | None:
        """How many streams the peer accepts; None: it hasn't said yet."""
        return self._allowed

    @property
    def room(self) -> int:
        """How many streams may be opened right away; 0 on a server."""
        if self._server or self._closed or self._leaving:
            return 0
        ids = (MAX_STREAM_ID - self._highest) // 2
        allowed = STREAMS_BEFORE_SETTINGS if self._allowed is None else self._allowed
        limit = min(allowed, self._settings.streams_per_connection)
        return max(0, min(limit - len(self._streams), ids))

    @property
    def is_closed(self) -> bool:
        """Whether it takes nothing more: it was closed, or the peer has broken a rule."""
        return self._closed

    @property
    def has_output(self) -> bool:
        """Whether there are frames to send."""
        return self._output.is_waiting

    def take_output(self) -> bytes:
        """Return the frames to send, in order; b"": none."""
        return self._output.take()

    def open(self, authority: str, fields: Sequence[tuple[str, str]] = ()) -> int:
        """Send a CONNECT and return its stream.

        Raises:
            RuntimeError: There is no `room`.
        """
        if not self.room:
            raise RuntimeError("a tunnel without room was asked for a stream")
        self._highest += 1 if not self._highest else 2
        stream = Stream(self._highest, self._initial, self._incoming, self._now)
        self._begin(stream)
        block = self._encoder.encode(headers.connect(authority, fields))
        self._output.add(frames.headers(stream.id, block, end=False))
        return stream.id

    def answer(
        self,
        stream: int,
        status: int,
        fields: Sequence[tuple[str, str]] = (),
        *,
        end: bool = False,
    ) -> None:
        """Answer a CONNECT, once.  With `end` the stream is over: nobody waits for the client to
        end its side (§8.1)."""
        found = self._live(stream)
        if found is None or found.answered:
            return
        found.answered = True
        block = self._encoder.encode(headers.answer(status, fields))
        self._output.reply(frames.headers(stream, block, end=end))
        if end:
            found.sent_end = True
            if _BAD_REQUEST <= status < _SERVER_ERROR:
                self._due.append(Flood.DENIALS)
            self.reset(stream, ErrorCode.NO_ERROR)

    def sendable(self, stream: int) -> int:
        """Return how many bytes may be sent on a stream right away."""
        found = self._streams.get(stream)
        if found is None or found.sent_end or (self._server and not found.answered):
            return 0
        return max(0, min(found.outgoing, self._outgoing))

    def send(self, stream: int, data: bytes | bytearray | memoryview) -> int:
        """Send as many of the bytes as the windows allow, and return how many."""
        wanted = len(data)
        count = min(wanted, self.sendable(stream))
        if not count:
            return 0
        begun = self._output.data(stream, memoryview(data)[:count])
        self._streams[stream].outgoing -= count
        self._outgoing -= count
        if count == wanted or count >= _SILLY_BYTES:
            self._budgets.give(Flood.WINDOW_UPDATES, begun * UPDATES_PER_DATA)
        return count

    def finish(self, stream: int) -> None:
        """Say that nothing more is sent on a stream, on which the peer still may send."""
        found = self._streams.get(stream)
        if found is None or found.sent_end or (self._server and not found.answered):
            return
        self._output.end(stream)
        found.sent_end = True
        self._settle(found)

    def reset(self, stream: int, code: ErrorCode) -> None:
        """End a stream at once, in both directions, unless it has ended; nothing that it holds is
        consumed any more.  Whoever is done with a stream that may hold bytes calls this."""
        found = self._streams.get(stream)
        if found is None:
            return
        if not (found.sent_end and found.received_end):
            self._output.reply(frames.rst_stream(stream, code))
            if code is ErrorCode.REFUSED_STREAM:
                self._due.append(Flood.REFUSALS)
            self._end(found, unknowing=True)
        self._remove(found)

    def consumed(self, stream: int, count: int, now: float) -> None:
        """The application took bytes that arrived: the peer may send more.  How much more depends
        on how long the application has waited."""
        self._now = max(self._now, now)
        found = self._streams.get(stream)
        if found is None:
            return
        count = min(count, found.held)
        self._shortfall -= found.consumed(count)
        self._inflow.consumed(count)
        self._give_back(found)
        self._settle(found)

    def ping(self) -> None:
        """Ask whether the peer is there."""
        if not self._closed:
            self._pings += 1
            self._ping_pending = True
            self._output.add(frames.ping(self._pings.to_bytes(8, "big"), ack=False))

    def go_away(self, *, final: bool) -> None:
        """Take no new streams: those on their way are still served until it is `final`."""
        if self._closed:
            return
        self._leaving = True
        last = MAX_STREAM_ID
        if final or not self._server:
            last = self._last_stream = self._highest if self._server else 0
        self._output.add(frames.go_away(last, ErrorCode.NO_ERROR, ""))

    def close(self, code: ErrorCode, debug: str) -> None:
        """Send GOAWAY with an error; nothing is received any more, and all streams are over."""
        if self._closed:
            return
        self._closed = True
        self._streams.clear()
        self._inflow.extra = 0  # nothing more comes: other tunnels may grow by it
        last = self._highest if self._server else 0
        self._output.add(frames.go_away(last, code, debug[:_DEBUG_CHARACTERS]))

    def _begin(self, stream: Stream) -> None:
        self._streams[stream.id] = stream
        self._budgets.give(Flood.WINDOW_UPDATES, UPDATES_PER_STREAM)
        self._budgets.give(Flood.PRIORITIES, PRIORITIES_PER_STREAM)

    def _live(self, stream: int) -> Stream | None:
        """Return a stream that wasn't reset; None if it isn't there."""
        found = self._streams.get(stream)
        return None if found is None or found.was_reset else found

    def _end(self, stream: Stream, *, unknowing: bool) -> None:
        """A stream was reset, which the peer may not know yet: nothing passes any more."""
        stream.was_reset = stream.sent_end = stream.received_end = True
        self._remember(stream.id, unknowing=unknowing)

    def _settle(self, stream: Stream) -> None:
        """Forget a stream that is over."""
        if stream.is_over:
            self._remove(stream)

    def _remove(self, stream: Stream) -> None:
        """Forget a stream, and give back to the tunnel what it holds."""
        del self._streams[stream.id]
        if not stream.was_reset:
            self._end(stream, unknowing=False)
        self._shortfall -= stream.shortfall
        stream.drop_extra(self._inflow)
        self._inflow.consumed(stream.held)
        self._give_back(None)

    def _remember(self, stream: int, *, unknowing: bool) -> None:
        self._gone[stream] = unknowing
        if len(self._gone) > _REMEMBERED:
            del self._gone[next(iter(self._gone))]

    def _give_back(self, stream: Stream | None) -> None:
        """Let the peer send as much as was consumed, when it is worth a frame."""
        if stream:
            share = self._inflow.most_extra // len(self._streams)
            increment = stream.take_increment(self._incoming, self._inflow, share, self._now)
            if increment:
                self._output.reply(frames.window_update(stream.id, increment))
        if increment := self._inflow.take_increment():
            self._output.reply(frames.window_update(0, increment))


_SILLY_BYTES = 256
"""Who lets us send less than this at a time, when there is more, gets no budget for doing so."""
