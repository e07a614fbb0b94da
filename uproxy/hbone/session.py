"""One end of a tunnel: bytes of the peer in, events and bytes for the peer out (RFC 9113).

It has no socket and no clock.  Its caller hands on what it receives, looks at the events, and sends
what `take_output` returns; it reads nothing more from a peer that doesn't take what was sent, which
bounds what waits.  Whatever a peer sends, nothing is raised: a rule that is broken ends the stream
or the tunnel, and is an event.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from uproxy.hbone import frames, headers
from uproxy.hbone.budgets import (
    MAX_CONTINUATIONS,
    MAX_HEADER_LIST_BYTES,
    MAX_INFORMATIONAL,
    MAX_REPLIES_WAITING,
    SMALL_DATA_BYTES,
    SMALL_DATA_ROOM,
    Flood,
    FloodError,
)
from uproxy.hbone.codes import (
    END_HEADERS,
    END_STREAM,
    ErrorCode,
    FrameType,
    StreamError,
    TunnelError,
)
from uproxy.hbone.control import Control
from uproxy.hbone.events import (
    AnswerReceived,
    Broken,
    EndReceived,
    Event,
    RequestReceived,
    RequestRefused,
    ResetReceived,
)
from uproxy.hbone.frames import Frame, Splitter
from uproxy.hbone.windows import Growth, Stream
from uproxy.model import TunnelSettings

_BAD_REQUEST = 400
_OK = 200


@dataclass(slots=True)
class _Block:
    """A header block of which parts are to come."""

    stream: int
    end: bool
    content: bytearray
    continuations: int = 0


class Session(Control):
    """One end of a tunnel."""

    def __init__(
        self, *, server: bool, settings: TunnelSettings, now: float, growth: Growth | None = None
    ) -> None:
        super().__init__(server=server, settings=settings, now=now, growth=growth)
        self._splitter = Splitter(server=server)
        self._decoder = headers.Decoder()
        self._block: _Block | None = None

    def receive(self, data: bytes | bytearray | memoryview, now: float) -> list[Event]:
        """Take bytes of the peer; return what they mean, in order.  Events may follow for a stream
        that the caller ends because of an earlier one."""
        if self._closed:
            return []
        self._now = now
        try:
            for frame in self._splitter.split(data):
                self._take(frame)
        except TunnelError as error:
            self._break(error)
        self._tell_windows()
        return self._told.take()

    def _break(self, error: TunnelError) -> None:
        flood = error.flood if isinstance(error, FloodError) else None
        self._opened.clear()
        self.close(error.code, error.reason)
        self._told.add(Broken(error.code, error.reason, flood))

    def _take(self, frame: Frame) -> None:
        block = self._block
        if block and (frame.kind != FrameType.CONTINUATION or frame.stream != block.stream):
            reason = f"{frames.name(frame)} inside of a header block"
            raise TunnelError(ErrorCode.PROTOCOL_ERROR, reason)
        try:
            frames.check_place(frame)
            _HANDLERS.get(frame.kind, Session._on_unknown)(self, frame)
        except StreamError as error:
            self._abort(error)
        if self._output.replies > MAX_REPLIES_WAITING + 2 * self._settings.max_streams:
            raise FloodError(Flood.REPLIES)

    def _abort(self, error: StreamError) -> None:
        """End the stream on which the peer broke a rule."""
        stream = self._live(error.stream)
        if stream is not None:
            if self._server:
                self._spend(Flood.RESETS)
            after_end = stream.received_end
            self._told.add(ResetReceived(stream.id, error.code, error.reason, after_end))
            self._end(stream, unknowing=True)
            self._settle(stream)
        elif self._is_idle(error.stream):
            return
        else:
            self._remember(error.stream, unknowing=True)
        self._output.reply(frames.rst_stream(error.stream, error.code))

    def _on_data(self, frame: Frame) -> None:
        data, count = frames.content(frame), len(frame.payload)
        end = bool(frame.flags & END_STREAM)
        if not data and not end:
            self._spend(Flood.EMPTY_FRAMES)
        self._inflow.arrived(count)
        stream = self._live(frame.stream)
        problem = self._data_problem(stream, frame)
        if stream is None or problem:
            self._inflow.consumed(count)
            self._give_back(None)
            if problem:
                raise problem
            return
        stream.incoming -= count
        stream.held += len(data)
        if padding := count - len(data):
            stream.returning += padding
            self._inflow.consumed(padding)
        self._give_back(stream)
        if data:
            self._charge(stream, len(data), end=end)
            self._told.add_data(stream.id, data)
        if end:
            self._ended(stream)

    def _data_problem(self, stream: Stream | None, frame: Frame) -> StreamError | None:
        """Return why DATA can't be taken; None if it can, or if it is to be ignored."""
        number = frame.stream
        if stream is None:
            self._stray(frame)
            if self._gone.get(number):
                return None
            return StreamError(number, ErrorCode.STREAM_CLOSED, "DATA on a stream that has ended")
        if stream.received_end:
            return StreamError(number, ErrorCode.STREAM_CLOSED, "DATA after END_STREAM")
        if not self._server and not stream.answered:
            return StreamError(number, ErrorCode.PROTOCOL_ERROR, "DATA before an answer")
        if len(frame.payload) > max(0, stream.incoming):
            reason = f"{len(frame.payload)} bytes of DATA, but the window has {stream.incoming}"
            return StreamError(number, ErrorCode.FLOW_CONTROL_ERROR, reason)
        return None

    def _charge(self, stream: Stream, count: int, *, end: bool) -> None:
        """Count by how much a DATA frame is smaller than it should be, until it is consumed."""
        if count >= SMALL_DATA_BYTES or end:
            return
        stream.shortfall += SMALL_DATA_BYTES - count
        self._shortfall += SMALL_DATA_BYTES - count
        if self._shortfall > SMALL_DATA_ROOM:
            raise FloodError(Flood.SMALL_DATA)

    def _ended(self, stream: Stream) -> None:
        stream.received_end = True
        self._give_back(stream)
        self._told.add(EndReceived(stream.id))
        self._settle(stream)

    def _on_headers(self, frame: Frame) -> None:
        if not frame.stream & 1:
            raise TunnelError(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {frame.stream}")
        content = frames.content(frame)
        self._block = _Block(frame.stream, bool(frame.flags & END_STREAM), bytearray(content))
        self._grown(self._block, frame)

    def _on_continuation(self, frame: Frame) -> None:
        block = self._block
        if block is None:
            raise TunnelError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        block.continuations += 1
        if block.continuations > MAX_CONTINUATIONS:
            raise FloodError(Flood.CONTINUATIONS)
        block.content += frame.payload
        self._grown(block, frame)

    def _grown(self, block: _Block, frame: Frame) -> None:
        if len(block.content) > MAX_HEADER_LIST_BYTES:
            raise FloodError(Flood.HEADERS)
        if frame.flags & END_HEADERS:
            self._block = None
            # decoded in any case: the table of the blocks that follow depends on it (§4.3)
            self._on_block(block, frame, self._decoder.decode(bytes(block.content)))
        elif not frame.payload:
            self._spend(Flood.EMPTY_FRAMES)

    def _on_block(self, block: _Block, frame: Frame, received: list[tuple[str, str]]) -> None:
        stream = self._live(block.stream)
        if stream is not None:
            self._on_more(stream, block, received)
        elif self._server and block.stream > self._highest:
            self._on_request(block, received)
        else:
            self._stray(frame)
            if self._server and not self._gone.get(block.stream):
                ended = block.stream in self._gone
                code = ErrorCode.STREAM_CLOSED if ended else ErrorCode.PROTOCOL_ERROR
                reason = f"HEADERS on stream {block.stream}, after stream {self._highest}"
                raise TunnelError(code, reason)

    def _on_more(self, stream: Stream, block: _Block, received: list[tuple[str, str]]) -> None:
        """Take an answer, or trailers, of which only the end is of interest."""
        if stream.received_end:
            raise StreamError(stream.id, ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM")
        try:
            if self._server or stream.answered:
                headers.check_trailers(received)
                if not block.end:
                    raise headers.MalformedError("trailers without END_STREAM")
                self._ended(stream)
            else:
                self._on_answer(stream, block, received)
        except headers.MalformedError as error:
            raise StreamError(stream.id, ErrorCode.PROTOCOL_ERROR, str(error)) from error

    def _on_answer(self, stream: Stream, block: _Block, received: list[tuple[str, str]]) -> None:
        status, fields = headers.read_answer(received)
        if status < _OK:
            stream.informational += 1
            if block.end or stream.informational > MAX_INFORMATIONAL:
                raise headers.MalformedError(f"no answer follows a {status}")
            return
        stream.answered = True
        self._told.add(AnswerReceived(stream.id, status, fields, block.end))
        if block.end:
            self._ended(stream)

    def _on_request(self, block: _Block, received: list[tuple[str, str]]) -> None:
        self._highest = block.stream
        due, self._due = self._due, []
        for flood in due:
            self._spend(flood)
        if self._last_stream is not None:
            self._spend(Flood.STRAYS)
            self._remember(block.stream, unknowing=True)
            return
        if len(self._streams) >= self._settings.max_streams:
            reason = f"{self._settings.max_streams} streams are open (hbone.max_streams)"
            self._refuse(block, reason, ErrorCode.REFUSED_STREAM)
            return
        try:
            request = headers.read_request(received)
        except headers.MalformedError as error:
            self._refuse(block, str(error), ErrorCode.PROTOCOL_ERROR)
        except headers.NotServedError as error:
            self._refuse(block, str(error), None)
        else:
            stream = Stream(block.stream, self._initial, self._incoming, self._now)
            self._begin(stream)
            self._told.add(RequestReceived(stream.id, request))
            if block.end:
                self._ended(stream)

    def _refuse(self, block: _Block, reason: str, code: ErrorCode | None) -> None:
        """End a stream that never was open, with a code or the status 400."""
        self._spend(Flood.REFUSALS)
        status = _BAD_REQUEST if code is None else None
        self._remember(block.stream, unknowing=not (status and block.end))
        if status:
            answer = self._encoder.encode(headers.answer(status, ()))
            self._output.reply(frames.headers(block.stream, answer, end=True))
        if code is not None or not block.end:
            code = code or ErrorCode.NO_ERROR
            self._output.reply(frames.rst_stream(block.stream, code))
        self._told.add(RequestRefused(block.stream, reason, status, code or ErrorCode.NO_ERROR))


_HANDLERS: dict[int, Callable[[Session, Frame], None]] = {
    FrameType.DATA: Session._on_data,
    FrameType.HEADERS: Session._on_headers,
    FrameType.PRIORITY: Session._on_priority,
    FrameType.RST_STREAM: Session._on_rst_stream,
    FrameType.SETTINGS: Session._on_settings,
    FrameType.PUSH_PROMISE: Session._on_push_promise,
    FrameType.PING: Session._on_ping,
    FrameType.GOAWAY: Session._on_go_away,
    FrameType.WINDOW_UPDATE: Session._on_window_update,
    FrameType.CONTINUATION: Session._on_continuation,
}
