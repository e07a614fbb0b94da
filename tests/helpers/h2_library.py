"""The `h2` library as another judge of what a peer of a tunnel says: what it makes of one frame, in
the words in which our session's account is told too.

h2 ends its connection for much that RFC 9113 calls a stream error.  It is made to go on here, so
that tests/helpers/h2_rules.py can say what follows instead.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import h2.events
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.exceptions import ProtocolError
from h2.frame_buffer import FrameBuffer
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream, StreamClosedBy, StreamState
from hyperframe.frame import SettingsFrame

from uproxy.hbone import frames
from uproxy.hbone.codes import ACK, END_STREAM, PREFACE, ErrorCode, FrameType
from uproxy.hbone.frames import Frame

Said = tuple[Any, ...]
_DEBUG_BYTES = 160
"""Of a GOAWAY that are shown."""


_BLOCKS: dict[type[h2.events.Event], str] = {
    h2.events.RequestReceived: "request",
    h2.events.ResponseReceived: "answer",
    h2.events.InformationalResponseReceived: "informational",
    h2.events.TrailersReceived: "trailers",
}


class State(enum.Enum):
    """What a stream is to who receives a frame on it (RFC 9113 §5.1)."""

    IDLE = enum.auto()
    OPEN = enum.auto()
    """The peer may send on it."""
    HALF_CLOSED = enum.auto()
    """The peer has ended its side."""
    RESET_BY_US = enum.auto()
    RESET_BY_PEER = enum.auto()
    ENDED = enum.auto()
    """By both sides."""
    SKIPPED = enum.auto()
    """A later one was opened without it."""


@dataclass(slots=True)
class Account:
    """What one end makes of one frame."""

    heard: list[Said] = field(default_factory=list)
    sent: list[Said] = field(default_factory=list)
    """What it sends because of it: acknowledgements, answers and resets, not windows."""
    broken: int | None = None
    """The error code with which it ends the connection."""


def split(said: bytes) -> list[tuple[bytes, Frame]]:
    """Cut bytes into frames, each as it is and in its parts."""
    made, at = [], 0
    while at < len(said):
        end = at + 9 + int.from_bytes(said[at : at + 3], "big")
        stream = int.from_bytes(said[at + 5 : at + 9], "big") & 0x7FFFFFFF
        frame = Frame(said[at + 3], said[at + 4], stream, said[at + 9 : end])
        made.append((said[at:end], frame))
        at = end
    return made


def sent_as_answer(frame: Frame) -> Said | None:
    """What a frame that an end sends because of its peer says, but for headers; None: nothing that
    is compared."""
    match frame.kind:
        case FrameType.RST_STREAM:
            return ("reset", frame.stream, int.from_bytes(frame.payload))
        case FrameType.PING if frame.flags & ACK:
            return ("pong", frame.payload)
        case FrameType.SETTINGS if frame.flags & ACK:
            return ("settings taken",)
    return None


class _Stream(H2Stream):
    """A stream of which a content-length says nothing: a CONNECT and what it is answered with have
    no content (RFC 9110 §9.3.6), DATA is the tunnel's."""

    def _initialize_content_length(self, headers: object) -> None:
        pass


class _Connection(H2Connection):
    def _begin_new_stream(self, *args: Any) -> H2Stream:
        made = super()._begin_new_stream(*args)
        made.__class__ = _Stream
        return made


class Library:
    """One end of a connection of h2's, with our SETTINGS."""

    def __init__(self, *, server: bool, greeting: bytes) -> None:
        config = H2Configuration(
            client_side=not server, header_encoding=None, normalize_inbound_headers=False
        )
        self.connection = _Connection(config)
        self.server = server
        self.informational: dict[int, int] = {}
        self._settle(greeting)
        self.unreturned()
        self._go_on()

    def _settle(self, greeting: bytes) -> None:
        """Have the settings that our greeting says, from the start: a peer may use a window that is
        larger than the default before it has acknowledged it."""
        _, said = split(greeting.removeprefix(PREFACE))[0]
        parsed = SettingsFrame()
        parsed.parse_body(memoryview(said.payload))
        # how many streams there may be is a rule's
        values = parsed.settings | {
            SettingCodes.MAX_CONCURRENT_STREAMS: 1 << 31,
            SettingCodes.ENABLE_PUSH: 0,
        }
        initial = {SettingCodes(each): value for each, value in values.items()}
        connection = self.connection
        connection.local_settings = Settings(client=not self.server, initial_values=initial)
        connection.decoder.max_header_list_size = initial[SettingCodes.MAX_HEADER_LIST_SIZE]
        connection.initiate_connection()

    def state(self, stream: int) -> State:
        """What a stream is now."""
        connection = self.connection
        assert connection.open_inbound_streams >= 0  # forgets streams that are over
        if stream in connection.streams:
            machine = connection.streams[stream].state_machine
            ended = machine.state is StreamState.HALF_CLOSED_REMOTE
            return State.HALF_CLOSED if ended else State.OPEN
        outbound = stream % 2 == int(not self.server)
        highest = connection.highest_inbound_stream_id
        if outbound:
            highest = connection.highest_outbound_stream_id
        if stream > highest:
            return State.IDLE
        return {
            StreamClosedBy.SEND_RST_STREAM: State.RESET_BY_US,
            StreamClosedBy.RECV_RST_STREAM: State.RESET_BY_PEER,
            None: State.SKIPPED,
        }.get(connection._closed_streams.get(stream), State.ENDED)

    def is_answered(self, stream: int) -> bool:
        """Whether a final answer to our request has come."""
        found = self.connection.streams.get(stream)
        return found is not None and bool(found.state_machine.headers_received)

    @property
    def open(self) -> dict[int, H2Stream]:
        """The streams that are open, by their numbers."""
        return {each: stream for each, stream in self.connection.streams.items() if stream.open}

    def hear(self, said: bytes, frame: Frame) -> tuple[Account, ProtocolError | None]:
        """Take a frame; return the account, and why the connection has ended."""
        before = self.state(frame.stream)
        try:
            events = self.connection.receive_data(said)
        except ProtocolError as error:
            self._go_on()
            self.unreturned()
            return Account(broken=int(error.error_code)), error
        account = Account(sent=self.unreturned())
        for event in events:
            self._hear_event(event, account, after_end=before is State.HALF_CLOSED)
        if frame.kind == FrameType.GOAWAY:
            self._go_on()
            account.heard += self._drop_unseen(frame)
        return account, None

    def _go_on(self) -> None:
        """Be open, whatever has ended the connection.  h2 ends it with a GOAWAY too, which ends
        nothing that is open (§6.8)."""
        connection = self.connection
        connection.state_machine.state = (
            ConnectionState.SERVER_OPEN if self.server else ConnectionState.CLIENT_OPEN
        )
        if connection.incoming_buffer._data:
            connection.incoming_buffer = FrameBuffer(server=self.server)
            connection.incoming_buffer.add_data(PREFACE if self.server else b"")

    def _drop_unseen(self, goaway: Frame) -> list[Said]:
        """A GOAWAY means to the streams above its last one what RST_STREAM with REFUSED_STREAM
        would (§6.8, §8.7), and this is how h2 is told."""
        last = int.from_bytes(goaway.payload[:4]) & 0x7FFFFFFF
        told = Account()
        for stream in sorted(each for each in self.open if each > last and not self.server):
            ended = self.state(stream) is State.HALF_CLOSED
            reset = frames.rst_stream(stream, ErrorCode.REFUSED_STREAM)
            for event in self.connection.receive_data(reset):
                self._hear_event(event, told, after_end=ended)
        return told.heard

    def unreturned(self) -> list[Said]:
        """Return what h2 has sent, and undo that it has given back windows: that is for us to do,
        and then for h2 to follow."""
        told = []
        for _, frame in split(self.connection.data_to_send().removeprefix(PREFACE)):
            if frame.kind == FrameType.WINDOW_UPDATE and not frame.stream:
                manager = self.connection._inbound_flow_control_window_manager
                manager.current_window_size -= int.from_bytes(frame.payload)
            elif (said := sent_as_answer(frame)) is not None:
                told.append(said)
        return told

    def _hear_event(self, event: h2.events.Event, account: Account, *, after_end: bool) -> None:
        if type(event) in _BLOCKS:
            block: Any = event
            stream = block.stream_id
            account.heard.append((_BLOCKS[type(event)], stream, _pairs(block.headers)))
            if isinstance(event, h2.events.InformationalResponseReceived):
                self.informational[stream] = self.informational.get(stream, 0) + 1
        elif (said := _told(event, after_end=after_end)) is not None:
            account.heard.append(said)

    # what our session says is said by h2 too: it raises if that is wrong

    def follow(self, frame: Frame, headers: Iterable[tuple[str, str]]) -> None:
        """Say what our session has said."""
        ends = bool(frame.flags & END_STREAM)
        match frame.kind:
            case FrameType.HEADERS:
                self.connection.send_headers(frame.stream, list(headers), end_stream=ends)
            case FrameType.DATA:
                self.connection.send_data(frame.stream, frame.payload, end_stream=ends)
            case FrameType.RST_STREAM:
                self._reset(frame.stream, int.from_bytes(frame.payload))
            case FrameType.WINDOW_UPDATE:
                more = int.from_bytes(frame.payload)
                self.connection.increment_flow_control_window(more, frame.stream or None)
        self.connection.clear_outbound_data_buffer()

    def _reset(self, stream: int, code: int) -> None:
        """RST_STREAM may be said of a stream that is over: whatever still comes is in flight."""
        assert self.state(stream) is not State.IDLE, f"RST_STREAM on the idle stream {stream}"
        if stream in self.open:
            self.connection.reset_stream(stream, code)
        else:
            self.connection.streams.pop(stream, None)
            self.connection._closed_streams[stream] = StreamClosedBy.SEND_RST_STREAM


def _told(event: h2.events.Event, *, after_end: bool) -> Said | None:
    """What an event says that isn't about headers; None: nothing that is compared."""
    match event:
        case h2.events.DataReceived() if event.data:
            return ("data", event.stream_id, bytes(event.data))
        case h2.events.StreamEnded():
            return ("end", event.stream_id)
        case h2.events.StreamReset() if event.remote_reset:
            return ("reset", event.stream_id, int(event.error_code or 0), after_end)
        case h2.events.PingAckReceived():
            return ("pong",)
        case h2.events.RemoteSettingsChanged():
            return ("settings",)
        case h2.events.ConnectionTerminated():
            last, code = event.last_stream_id or 0, int(event.error_code or 0)
            words = repr((event.additional_data or b"")[:_DEBUG_BYTES])[2:-1]
            return ("goaway", last, code, words)
    return None


def _pairs(headers: Iterable[Any] | None) -> tuple[tuple[bytes, bytes], ...]:
    """Headers with the pseudo-headers by their names: their order means nothing."""
    made = [(bytes(name), bytes(value)) for name, value in headers or ()]
    pseudo = sorted(each for each in made if each[0].startswith(b":"))
    return (*pseudo, *(each for each in made if not each[0].startswith(b":")))
