"""The server's half of gRPC over one HTTP/2 connection: bytes in, calls out, answers back.

No sockets and no knowledge of identities.  Rules: a slow reader costs one message per call,
because a newer full set replaces one that hasn't begun to travel (WA-4); flow control is the
client's; what isn't a well-formed gRPC request is answered, not dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from uproxy.identity.workload_api.framing import (
    CONTENT_TYPE,
    SECURITY_HEADER,
    Status,
    encode_text,
    frame,
)


@dataclass(frozen=True, slots=True)
class Called:
    """A client calls a method; answer with `send` and `finish`."""

    id: int
    path: str
    security_values: tuple[str, ...]
    """Every value of the security header, in order."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The client has lost interest in a call."""

    id: int


@dataclass(slots=True)
class _Call:
    has_headers_sent: bool = False
    unsent: bytearray = field(default_factory=bytearray)
    waiting: bytes | None = None
    """The newest message, not begun while `unsent` is on its way."""
    ending: tuple[Status, str] | None = None


class Connection:
    """One client's connection.  After every method `data_to_send` may have bytes."""

    def __init__(self) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self._h2 = h2.connection.H2Connection(config)
        self._h2.initiate_connection()
        self._calls: dict[int, _Call] = {}

    def data_to_send(self) -> bytes:
        """Take the bytes that must go out now."""
        return self._h2.data_to_send()

    def receive(self, data: bytes) -> list[Called | Cancelled]:
        """Take bytes from the client.

        Raises:
            h2.exceptions.ProtocolError: it doesn't speak HTTP/2; send what is left and close.
        """
        events: list[Called | Cancelled] = []
        for event in self._h2.receive_data(data):
            events += self._react(event)
        self._flush_all()
        return events

    def send(self, call_id: int, message: bytes) -> None:
        """Send a message as soon as the client's window allows, or a newer one instead."""
        call = self._calls.get(call_id)
        if call is not None:
            call.waiting = message
            self._flush_all()

    def finish(self, call_id: int, status: Status, text: str) -> None:
        """End a call with a status, after what already travels."""
        call = self._calls.get(call_id)
        if call is not None:
            call.waiting, call.ending = None, (status, text)
            self._flush_all()

    def _react(self, event: h2.events.Event) -> list[Called | Cancelled]:
        match event:
            case h2.events.RequestReceived(stream_id=int(call_id)):
                self._calls[call_id] = _Call()
                return [_called(call_id, event.headers or ())]
            case h2.events.DataReceived(stream_id=int(call_id)):
                # an empty request is all this API knows: read it to give the window back
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, call_id)
            case h2.events.StreamReset(stream_id=int(call_id)):
                self._calls.pop(call_id, None)
                return [Cancelled(call_id)]
            case h2.events.ConnectionTerminated():
                # h2 sends nothing more after a GOAWAY, so neither may we
                gone, self._calls = self._calls, {}
                return [Cancelled(call_id) for call_id in gone]
        return []

    def _flush_all(self) -> None:
        for call_id, call in list(self._calls.items()):
            if self._flush(call_id, call):
                del self._calls[call_id]

    def _flush(self, call_id: int, call: _Call) -> bool:
        """Send what may be sent; whether the call is over."""
        while call.unsent or call.waiting is not None:
            if not call.unsent:
                call.unsent += frame(call.waiting or b"")
                call.waiting = None
                self._begin(call_id, call)
            room = min(
                self._h2.local_flow_control_window(call_id), self._h2.max_outbound_frame_size
            )
            if room <= 0:
                return False
            self._h2.send_data(call_id, bytes(call.unsent[:room]))
            del call.unsent[:room]
        return self._maybe_end(call_id, call)

    def _begin(self, call_id: int, call: _Call) -> None:
        if not call.has_headers_sent:
            call.has_headers_sent = True
            self._h2.send_headers(call_id, _RESPONSE)

    def _maybe_end(self, call_id: int, call: _Call) -> bool:
        if call.ending is None:
            return False
        status, text = call.ending
        trailers = [("grpc-status", str(int(status))), ("grpc-message", encode_text(text))]
        # a refusal before any message is headers and trailers in one
        headers = trailers if call.has_headers_sent else [*_RESPONSE, *trailers]
        self._h2.send_headers(call_id, headers, end_stream=True)
        return True


_RESPONSE = [(":status", "200"), ("content-type", CONTENT_TYPE)]


def _called(call_id: int, headers: Iterable[tuple[bytes | str, bytes | str]]) -> Called:
    pairs = [(_text(name), _text(value)) for name, value in headers]
    path = next((value for name, value in pairs if name == ":path"), "")
    return Called(call_id, path, tuple(v for name, v in pairs if name == SECURITY_HEADER))


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
