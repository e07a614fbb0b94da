"""What a session hears beside headers and data: SETTINGS, PING, GOAWAY, windows and resets."""

from __future__ import annotations

from uproxy.hbone import frames
from uproxy.hbone.budgets import MAX_SETTINGS, Flood, FloodError
from uproxy.hbone.codes import (
    ACK,
    MAX_FRAME_BYTES,
    MAX_STREAM_ID,
    MAX_WINDOW,
    ErrorCode,
    Setting,
    StreamError,
    TunnelError,
)
from uproxy.hbone.events import (
    GoAwayReceived,
    PongReceived,
    ResetReceived,
    SettingsReceived,
    Told,
    WindowOpened,
)
from uproxy.hbone.frames import Frame
from uproxy.hbone.sending import Sender
from uproxy.hbone.windows import Growth
from uproxy.model import TunnelSettings

_DEBUG_BYTES = 160
"""Of what a peer says in GOAWAY."""
_LONGEST_FRAME = 2**24 - 1
_ON_OR_OFF = 1


class Control(Sender):
    """What the peer says about its tunnel and its streams, and what follows from it."""

    def __init__(
        self, *, server: bool, settings: TunnelSettings, now: float, growth: Growth | None = None
    ) -> None:
        super().__init__(server=server, settings=settings, now=now, growth=growth)
        self._told = Told()
        self._opened: set[int] = set()
        """Streams on which there is room where there was none; 0: on the tunnel."""
        self._peer_last = MAX_STREAM_ID
        """In the peer's GOAWAY."""

    def _spend(self, flood: Flood) -> None:
        self._budgets.spend(flood, self._now)

    def _is_idle(self, stream: int) -> bool:
        """Whether nobody has opened such a stream; those of servers don't exist."""
        return stream > self._highest or not stream & 1

    def _stray(self, frame: Frame) -> None:
        """Ignore a frame for a stream that isn't open.

        Raises:
            TunnelError: It never was (§5.1).
        """
        if self._is_idle(frame.stream):
            reason = f"{frames.name(frame)} on stream {frame.stream}, which isn't open"
            raise TunnelError(ErrorCode.PROTOCOL_ERROR, reason)
        self._spend(Flood.STRAYS)

    def _tell_windows(self) -> None:
        for stream in sorted(self._opened):
            if not stream or self._live(stream):
                self._told.add(WindowOpened(stream))
        self._opened.clear()

    def _on_unknown(self, _frame: Frame) -> None:
        """Ignore what we don't know (§4.1)."""
        self._spend(Flood.STRAYS)

    def _on_push_promise(self, frame: Frame) -> None:
        reason = f"{frames.name(frame)}, which SETTINGS forbid"
        raise TunnelError(ErrorCode.PROTOCOL_ERROR, reason)

    def _on_priority(self, frame: Frame) -> None:
        """Ignore it: all streams are alike.

        Raises:
            StreamError: Its length is wrong (§6.3).
        """
        self._spend(Flood.PRIORITIES)
        if len(frame.payload) != _PRIORITY_BYTES:
            reason = f"PRIORITY of {len(frame.payload)} bytes"
            raise StreamError(frame.stream, ErrorCode.FRAME_SIZE_ERROR, reason)

    def _on_rst_stream(self, frame: Frame) -> None:
        stream = self._live(frame.stream)
        if stream is None:
            self._stray(frame)
            return
        if self._server and not stream.answered:
            self._spend(Flood.RESETS)
        code, after_end = frames.read_code(frame.payload), stream.received_end
        self._told.add(ResetReceived(stream.id, code, after_end=after_end))
        self._end(stream, unknowing=False)
        self._settle(stream)

    def _on_window_update(self, frame: Frame) -> None:
        self._spend(Flood.WINDOW_UPDATES)
        increment = frames.read_number(frame.payload)
        if not frame.stream:
            self._grow_tunnel(increment)
            return
        stream = self._live(frame.stream)
        if stream is None:
            self._stray(frame)
        elif not increment:
            raise StreamError(stream.id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
        elif stream.outgoing + increment > MAX_WINDOW:
            raise StreamError(stream.id, ErrorCode.FLOW_CONTROL_ERROR, _too_large("stream"))
        else:
            if stream.outgoing <= 0 < stream.outgoing + increment:
                self._opened.add(stream.id)
            stream.outgoing += increment

    def _grow_tunnel(self, increment: int) -> None:
        if not increment:
            raise TunnelError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of the tunnel by 0")
        if self._outgoing + increment > MAX_WINDOW:
            raise TunnelError(ErrorCode.FLOW_CONTROL_ERROR, _too_large("tunnel"))
        if not self._outgoing:
            self._opened.add(0)
        self._outgoing += increment

    def _on_settings(self, frame: Frame) -> None:
        self._spend(Flood.SETTINGS)
        if frame.flags & ACK:
            self._on_settings_ack(frame)
            return
        values = frames.read_settings(frame.payload)
        if len(values) > MAX_SETTINGS:
            raise FloodError(Flood.SETTINGS)
        if self._allowed is None:
            self._allowed = MAX_STREAM_ID  # of a peer that says nothing of it (§6.5.2)
        before = self._initial
        for setting, value in values:
            self._set(setting, value)
        self._move_windows(self._initial - before)
        self._output.reply(frames.SETTINGS_ACK)
        self._told.add(SettingsReceived())

    def _set(self, setting: int, value: int) -> None:
        if setting in _RANGES:
            least, most, code = _RANGES[setting]
            if not least <= value <= most:
                raise TunnelError(code, f"the setting {Setting(setting).name} is {value}")
        if setting == Setting.HEADER_TABLE_SIZE:
            self._encoder.resize(value)
        elif setting == Setting.MAX_CONCURRENT_STREAMS:
            self._allowed = value
        elif setting == Setting.INITIAL_WINDOW_SIZE:
            self._initial = value
        elif setting == Setting.ENABLE_PUSH and value and not self._server:
            raise TunnelError(ErrorCode.PROTOCOL_ERROR, "a server's ENABLE_PUSH is 1")

    def _move_windows(self, by: int) -> None:
        """Apply to open streams what the peer changed of its INITIAL_WINDOW_SIZE (§6.9.2)."""
        for stream in self._streams.values():
            before, stream.outgoing = stream.outgoing, stream.outgoing + by
            if stream.outgoing > MAX_WINDOW:
                raise TunnelError(ErrorCode.FLOW_CONTROL_ERROR, _too_large("stream"))
            if before <= 0 < stream.outgoing:
                self._opened.add(stream.id)

    def _on_settings_ack(self, frame: Frame) -> None:
        """Our SETTINGS are in force: a window smaller than the default holds from here on."""
        if frame.payload:
            raise TunnelError(ErrorCode.FRAME_SIZE_ERROR, "an ACK of SETTINGS with a payload")
        window = self._settings.stream_window
        by, self._incoming = window - self._incoming, window
        for stream in self._streams.values():
            stream.incoming += by

    def _on_ping(self, frame: Frame) -> None:
        if not frame.flags & ACK:
            self._spend(Flood.PINGS)
            self._output.reply(frames.ping(frame.payload, ack=True))
        elif self._ping_pending and frame.payload == self._pings.to_bytes(8, "big"):
            self._ping_pending = False
            self._told.add(PongReceived())
        else:
            self._spend(Flood.STRAYS)

    def _on_go_away(self, frame: Frame) -> None:
        """Open no more streams; those that the peer didn't look at are over (§6.8)."""
        self._spend(Flood.STRAYS)
        self._leaving = True
        self._peer_last = min(self._peer_last, frames.read_number(frame.payload))
        code = frames.read_code(frame.payload[4:8])
        debug = repr(frame.payload[8 : 8 + _DEBUG_BYTES])[2:-1]  # for a log: without line ends
        self._told.add(GoAwayReceived(self._peer_last, code, debug))
        if self._server:
            return
        for stream in [each for each in self._streams.values() if each.id > self._peer_last]:
            self._end(stream, unknowing=False)
            self._settle(stream)
            reason = f"above stream {self._peer_last}, the last that the peer looks at"
            self._told.add(ResetReceived(stream.id, ErrorCode.REFUSED_STREAM, reason))


_PRIORITY_BYTES = 5

_RANGES: dict[int, tuple[int, int, ErrorCode]] = {
    Setting.ENABLE_PUSH: (0, _ON_OR_OFF, ErrorCode.PROTOCOL_ERROR),
    Setting.INITIAL_WINDOW_SIZE: (0, MAX_WINDOW, ErrorCode.FLOW_CONTROL_ERROR),
    Setting.MAX_FRAME_SIZE: (MAX_FRAME_BYTES, _LONGEST_FRAME, ErrorCode.PROTOCOL_ERROR),
    Setting.ENABLE_CONNECT_PROTOCOL: (0, _ON_OR_OFF, ErrorCode.PROTOCOL_ERROR),
}
"""What a value may be, and the error otherwise (§6.5.2; RFC 8441 §3)."""


def _too_large(what: str) -> str:
    return f"the window of a {what} grew over {MAX_WINDOW} bytes"
