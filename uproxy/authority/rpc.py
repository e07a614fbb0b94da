"""The server side of gRPC on one HTTP/2 connection, without I/O.

Bytes from the client go in and calls come out; messages go in and bytes for the client come
out.  Rules: each call queues at most one unsent message, because a newer full set replaces an
older one (WA-4); flow control is HTTP/2's; a request that isn't valid gRPC is answered with a
status, not dropped; a request has at most MAX_REQUEST_BYTES.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from uproxy.errors import MessageError
from uproxy.identity.workload_api.framing import (
    CONTENT_TYPE,
    SECURITY_HEADER,
    MessageReader,
    Status,
    encode_text,
    frame,
)

MAX_REQUEST_BYTES = 64 << 10
"""A list of audiences, or an Envoy that describes itself, is smaller."""


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The client has called a method; answer with `send` and `finish`."""

    id: int
    path: str
    security_values: tuple[str, ...]
    """All values of the security header, in order."""


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """The client has sent a whole message on a call."""

    id: int
    message: bytes


@dataclass(frozen=True, slots=True)
class CallCancelled:
    """The client has cancelled a call, or gone."""

    id: int


Event = CallStarted | RequestReceived | CallCancelled


@dataclass(slots=True)
class _Call:
    reader: MessageReader
    has_headers_sent: bool = False
    unsent: bytearray = field(default_factory=bytearray)
    next_message: bytes | None = None
    """The newest message; it replaces an older one that hasn't begun to be sent."""
    final_status: tuple[Status, str] | None = None
    """The status that ends the call; None: it stays open."""


class ServerConnection:
    """One client's connection.  After each method call, send what `data_to_send` returns."""

    def __init__(self) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self._h2 = h2.connection.H2Connection(config)
        self._h2.initiate_connection()
        self._calls: dict[int, _Call] = {}

    def data_to_send(self) -> bytes:
        """Return the bytes to be sent to the client, and forget them."""
        return self._h2.data_to_send()

    def receive(self, data: bytes) -> list[Event]:
        """Process bytes from the client; return the calls it started and cancelled, and what it
        sent on them.

        Raises:
            h2.exceptions.ProtocolError: the client breaks HTTP/2; send `data_to_send` and close.
        """
        events: list[Event] = []
        for event in self._h2.receive_data(data):
            events += self._react(event)
        self._flush_all()
        return events

    def send(self, call_id: int, message: bytes) -> None:
        """Send a message on a call as soon as the client's flow control allows.

        A later message replaces one that hasn't begun to be sent.
        """
        call = self._calls.get(call_id)
        if call is not None:
            call.next_message = message
            self._flush_all()

    def finish(self, call_id: int, status: Status, text: str) -> None:
        """End a call with this status, after the message that is being sent; with OK, after the
        one that waits too."""
        call = self._calls.get(call_id)
        if call is not None:
            call.final_status = (status, text)
            if status is not Status.OK:
                call.next_message = None
            self._flush_all()

    def _react(self, event: h2.events.Event) -> list[Event]:
        """Return what an HTTP/2 event means for the calls."""
        match event:
            case h2.events.RequestReceived(stream_id=int(call_id)):
                self._calls[call_id] = _Call(MessageReader(MAX_REQUEST_BYTES))
                return [_called(call_id, event.headers or ())]
            case h2.events.DataReceived(stream_id=int(call_id)):
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, call_id)
                return self._read(call_id, event.data or b"")
            case h2.events.StreamReset(stream_id=int(call_id)):
                self._calls.pop(call_id, None)
                return [CallCancelled(call_id)]
            case h2.events.ConnectionTerminated():
                # h2 can send nothing after it received GOAWAY
                gone, self._calls = self._calls, {}
                return [CallCancelled(call_id) for call_id in gone]
        return []

    def _read(self, call_id: int, data: bytes) -> list[Event]:
        call = self._calls.get(call_id)
        if call is None:
            return []  # it has ended
        try:
            return [RequestReceived(call_id, message) for message in call.reader.feed(data)]
        except MessageError as error:
            self.finish(call_id, Status.INVALID_ARGUMENT, str(error))
            return [CallCancelled(call_id)]

    def _flush_all(self) -> None:
        for call_id, call in list(self._calls.items()):
            if self._flush(call_id, call):
                del self._calls[call_id]

    def _flush(self, call_id: int, call: _Call) -> bool:
        """Send as much of a call as flow control allows; return whether the call has ended."""
        while call.unsent or call.next_message is not None:
            if not call.unsent:
                call.unsent += frame(call.next_message or b"")
                call.next_message = None
                self._send_headers(call_id, call)
            room = min(
                self._h2.local_flow_control_window(call_id), self._h2.max_outbound_frame_size
            )
            if room <= 0:
                return False
            self._h2.send_data(call_id, bytes(call.unsent[:room]))
            del call.unsent[:room]
        return self._maybe_end(call_id, call)

    def _send_headers(self, call_id: int, call: _Call) -> None:
        """Send the response headers, once."""
        if not call.has_headers_sent:
            call.has_headers_sent = True
            self._h2.send_headers(call_id, _RESPONSE)

    def _maybe_end(self, call_id: int, call: _Call) -> bool:
        """Send the trailers if the call has a final status; return whether it had."""
        if call.final_status is None:
            return False
        status, text = call.final_status
        trailers = [("grpc-status", str(int(status))), ("grpc-message", encode_text(text))]
        # an error before any message is sent as trailers only (gRPC over HTTP/2)
        headers = trailers if call.has_headers_sent else [*_RESPONSE, *trailers]
        self._h2.send_headers(call_id, headers, end_stream=True)
        return True


_RESPONSE = [(":status", "200"), ("content-type", CONTENT_TYPE)]


def _called(call_id: int, headers: Iterable[tuple[bytes | str, bytes | str]]) -> CallStarted:
    pairs = [(_text(name), _text(value)) for name, value in headers]
    path = next((value for name, value in pairs if name == ":path"), "")
    return CallStarted(call_id, path, tuple(v for name, v in pairs if name == SECURITY_HEADER))


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
