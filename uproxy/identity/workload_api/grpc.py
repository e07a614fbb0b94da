"""One server-streaming gRPC call over HTTP/2: bytes in, messages and one ending out.

Not a gRPC library: one call per connection, no compression, no deadlines, and no I/O of
its own.  Rules: the request carries the security header (WE-2); both flow-control windows
are raised before the first byte, because a federation of a hundred domains is larger than
HTTP/2's default window; PINGs are answered; after the ending nothing is reported.

A GOAWAY ends the call even if it is a graceful one: h2 treats every GOAWAY as the end of
its connection, and a Workload API client loses nothing by opening a new stream at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from uproxy.errors import MessageError
from uproxy.identity.workload_api.framing import (
    CONTENT_TYPE,
    SECURITY_HEADER,
    MessageReader,
    Status,
    decode_text,
    frame,
)

WINDOW_BYTES = 1 << 20
_MAX_HEADER_BYTES = 16 << 10
_SETTINGS = b"\x04"
"""The type of the first frame every HTTP/2 server sends (RFC 9113 §3.4)."""
_MAX_TEXT = 1024
"""A grpc-message goes to logs and the status page; nobody needs more of it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One whole message arrived."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The call is over; nothing follows."""

    text: str
    """Why, in the server's words or ours."""
    status: int | None = None
    """The gRPC status; None when the stream ended without one."""
    is_orderly: bool = False
    """The server finished, reset or sent away the stream: a new one is welcome at once."""


Event = Message | Ended


class Call:
    """One call on a fresh connection.  `data_to_send` after the constructor is the request."""

    def __init__(
        self, path: str, authority: str, max_message_bytes: int, request: bytes = b""
    ) -> None:
        self._reader = MessageReader(max_message_bytes)
        self._greeted = False
        self._ended = False
        self._h2 = _connection()
        self._stream_id = self._h2.get_next_available_stream_id()
        self._h2.send_headers(self._stream_id, _request_headers(path, authority))
        # a request is far below HTTP/2's first window and frame size
        self._h2.send_data(self._stream_id, frame(request), end_stream=True)

    def data_to_send(self) -> bytes:
        """Take the bytes that must go out now."""
        return self._h2.data_to_send()

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the server; empty bytes are the end of the connection."""
        if self._ended:
            return []
        if not data:
            return [self._end(Ended("the connection was closed"))]
        # h2 would first wait for the 5 MB that "HTT" of an HTTP/1.1 answer seems to announce
        if not self._greeted and data[3:4] not in (b"", _SETTINGS):
            return [self._end(Ended("the endpoint doesn't speak HTTP/2"))]
        self._greeted = True
        try:
            frames = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            reason = f"the endpoint doesn't speak HTTP/2 as it should: {error}"
            return [self._end(Ended(reason[:_MAX_TEXT]))]
        events: list[Event] = []
        for event in frames:
            if not self._ended:
                events += self._react(event)
        return events

    def _react(self, event: h2.events.Event) -> list[Event]:
        match event:
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                return self._headers(event)
            case h2.events.DataReceived():
                return self._data(event)
            case h2.events.StreamEnded():
                text = "the stream ended without a gRPC status"
                return [self._end(Ended(text, Status.UNKNOWN))]
            case h2.events.StreamReset():
                text = f"the stream was reset ({_error_name(event.error_code)})"
                return [self._end(Ended(text, is_orderly=True))]
            case h2.events.ConnectionTerminated():
                # only "you call too often" asks us to wait
                calm = event.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
                text = f"the server is going away ({_error_name(event.error_code)})"
                return [self._end(Ended(text, is_orderly=not calm))]
        return []

    def _headers(
        self, event: h2.events.ResponseReceived | h2.events.TrailersReceived
    ) -> list[Event]:
        headers = {_text(name): _text(value) for name, value in event.headers or ()}
        if "grpc-status" in headers:
            return [self._end(_status_ending(headers))]
        if isinstance(event, h2.events.TrailersReceived):
            return []
        problem = _response_problem(headers)
        return [self._end(Ended(problem, Status.UNKNOWN))] if problem else []

    def _data(self, event: h2.events.DataReceived) -> list[Event]:
        self._h2.acknowledge_received_data(event.flow_controlled_length or 0, self._stream_id)
        try:
            return [Message(message) for message in self._reader.feed(event.data or b"")]
        except MessageError as error:
            return [self._end(Ended(str(error), Status.UNKNOWN))]

    def _end(self, ending: Ended) -> Ended:
        self._ended = True
        return ending


def _connection() -> h2.connection.H2Connection:
    connection = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=True, header_encoding=None)
    )
    # assigned, not updated: h2 never sends what `local_settings.update` changed before the
    # connection begins, yet counts on it from then on
    connection.local_settings = h2.settings.Settings(
        client=True,
        initial_values={
            h2.settings.SettingCodes.ENABLE_PUSH: 0,
            h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
            h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: _MAX_HEADER_BYTES,
        },
    )
    connection.decoder.max_header_list_size = _MAX_HEADER_BYTES
    connection.initiate_connection()
    connection.increment_flow_control_window(WINDOW_BYTES)
    return connection


def _request_headers(path: str, authority: str) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),  # codespell:ignore
        ("content-type", CONTENT_TYPE),
        ("user-agent", "uproxy"),
        (SECURITY_HEADER, "true"),
    ]


def _status_ending(headers: dict[str, str]) -> Ended:
    text = decode_text(headers.get("grpc-message", ""))[:_MAX_TEXT]
    value = headers["grpc-status"]
    if not (value.isascii() and value.isdigit() and len(value) <= 2):
        return Ended(f"grpc-status is {value[:32]!r}", Status.UNKNOWN)
    return Ended(text, int(value), is_orderly=int(value) == Status.OK)


def _response_problem(headers: dict[str, str]) -> str | None:
    status = headers.get(":status", "")
    if status != "200":
        return f"the endpoint answered HTTP {status}: is it a Workload API?"
    content_type = headers.get("content-type", "")
    if not content_type.startswith(CONTENT_TYPE):
        return f"the endpoint answered {content_type[:80]!r} instead of gRPC"
    if headers.get("grpc-encoding", "identity") != "identity":
        return "the endpoint compresses its answer, which nobody asked for"
    return None


def _error_name(code: object) -> str:
    return code.name if isinstance(code, h2.errors.ErrorCodes) else str(code)


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
