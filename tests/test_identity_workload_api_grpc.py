"""One call, against h2's server side: what the client sends, and what it makes of answers."""

from __future__ import annotations

from collections.abc import Iterable

import h2.config
import h2.connection
import h2.errors
import h2.events
import pytest

from uproxy.identity.workload_api.framing import frame
from uproxy.identity.workload_api.grpc import WINDOW_BYTES, Call, Ended, Event, Message

PATH = "/SpiffeWorkloadAPI/FetchX509SVID"
OK = [(":status", "200"), ("content-type", "application/grpc")]


class Server:
    """The other end of one call; `reply` moves its bytes to the client."""

    def __init__(self, max_bytes: int = 4 << 20) -> None:
        self.call = Call(PATH, "localhost", max_bytes)
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.events = self.receive()

    def receive(self) -> list[h2.events.Event]:
        return self.h2.receive_data(self.call.data_to_send())

    def reply(self) -> list[Event]:
        return self.call.receive(self.h2.data_to_send())

    def headers(self, headers: Iterable[tuple[str, str]], *, end: bool = False) -> None:
        self.h2.send_headers(1, list(headers), end_stream=end)

    def message(self, data: bytes) -> None:
        """Send in frames, as far as the client's window goes."""
        framed = frame(data)
        for at in range(0, len(framed), 16_384):
            self.h2.send_data(1, framed[at : at + 16_384])


def test_the_request_is_a_grpc_call_with_the_security_header() -> None:
    server = Server()

    request = next(e for e in server.events if isinstance(e, h2.events.RequestReceived))
    data = next(e for e in server.events if isinstance(e, h2.events.DataReceived))

    assert [(str(name), str(value)) for name, value in request.headers or ()] == [
        (":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", "localhost"),
        ("te", "trailers"),  # codespell:ignore
        ("content-type", "application/grpc"), ("user-agent", "uproxy"),
        ("workload.spiffe.io", "true"),
    ]  # fmt: skip
    assert data.data == frame(b"")
    assert any(isinstance(event, h2.events.StreamEnded) for event in server.events)


def test_messages_come_out_and_the_call_stays_open() -> None:
    server = Server()
    server.headers(OK)
    server.message(b"one")
    assert server.reply() == [Message(b"one")]

    server.message(b"two")
    assert server.reply() == [Message(b"two")]


def test_the_windows_are_raised_before_the_first_message() -> None:
    server = Server()
    server.reply()
    server.receive()
    server.headers(OK)

    assert server.h2.local_flow_control_window(1) >= WINDOW_BYTES
    server.message(b"x" * 110_000)

    assert server.reply() == [Message(b"x" * 110_000)]


def test_a_message_of_four_mebibytes_comes_through() -> None:
    server = Server()
    server.reply()
    server.receive()
    server.headers(OK)
    left = memoryview(frame(b"x" * (4 << 20)))
    events: list[Event] = []

    while left:
        room = min(server.h2.local_flow_control_window(1), 16_384, len(left))
        assert room, "the client gives no window back"
        server.h2.send_data(1, bytes(left[:room]))
        left = left[room:]
        events += server.reply()
        server.receive()

    assert events == [Message(b"x" * (4 << 20))]


def test_trailers_end_the_call_with_their_status() -> None:
    server = Server()
    server.headers(OK)
    server.message(b"one")
    server.headers([("grpc-status", "7"), ("grpc-message", "no identity %C3%A9")], end=True)

    assert server.reply() == [Message(b"one"), Ended("no identity é", 7)]


def test_a_refusal_may_be_trailers_only() -> None:
    server = Server()
    server.headers([*OK, ("grpc-status", "7"), ("grpc-message", "no identity issued")], end=True)

    assert server.reply() == [Ended("no identity issued", 7)]


def test_status_ok_is_an_orderly_end() -> None:
    server = Server()
    server.headers(OK)
    server.headers([("grpc-status", "0")], end=True)

    assert server.reply() == [Ended("", 0, is_orderly=True)]


@pytest.mark.parametrize("status", ["", "x", "-1", "999999999999", "٣"])
def test_a_status_that_is_no_number_is_unknown(status: str) -> None:
    server = Server()
    server.headers([*OK, ("grpc-status", status)], end=True)

    (ending,) = server.reply()

    assert isinstance(ending, Ended)
    assert ending.status == 2


def test_an_end_without_a_status_is_unknown() -> None:
    server = Server()
    server.headers(OK)
    server.h2.end_stream(1)

    assert server.reply() == [Ended("the stream ended without a gRPC status", 2)]


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ([(":status", "404"), ("content-type", "text/html")], "HTTP 404"),
        ([(":status", "403"), ("content-type", "application/grpc")], "HTTP 403"),
        ([(":status", "200"), ("content-type", "text/html")], "'text/html' instead of gRPC"),
        ([*OK, ("grpc-encoding", "gzip")], "compresses"),
    ],
)
def test_what_is_not_grpc_is_said_in_words_and_never_a_denial(
    headers: list[tuple[str, str]], said: str
) -> None:
    server = Server()
    server.headers(headers)

    (ending,) = server.reply()

    assert isinstance(ending, Ended)
    assert said in ending.text
    assert ending.status == 2


def test_a_reset_is_an_orderly_end() -> None:
    server = Server()
    server.headers(OK)
    server.h2.reset_stream(1, h2.errors.ErrorCodes.REFUSED_STREAM)

    assert server.reply() == [Ended("the stream was reset (REFUSED_STREAM)", is_orderly=True)]


def test_a_goaway_is_an_orderly_end() -> None:
    server = Server()
    server.h2.close_connection(last_stream_id=2**31 - 1)

    assert server.reply() == [Ended("the server is going away (NO_ERROR)", is_orderly=True)]


def test_a_goaway_that_asks_for_calm_is_not() -> None:
    server = Server()
    server.h2.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)

    assert server.reply() == [Ended("the server is going away (ENHANCE_YOUR_CALM)")]


def test_the_end_of_the_connection_ends_the_call_once() -> None:
    server = Server()
    server.headers(OK)
    server.message(b"one")

    assert server.reply() == [Message(b"one")]
    assert server.call.receive(b"") == [Ended("the connection was closed")]
    assert server.call.receive(b"") == []


def test_nothing_is_reported_after_the_end() -> None:
    server = Server()
    server.headers([*OK, ("grpc-status", "0")], end=True)
    server.h2.close_connection()

    assert server.reply() == [Ended("", 0, is_orderly=True)]


def test_what_is_not_http2_is_said_in_words() -> None:
    (ending,) = Call(PATH, "localhost", 100).receive(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4)

    assert isinstance(ending, Ended)
    assert "doesn't speak HTTP/2" in ending.text
    assert ending.status is None


def test_a_message_beyond_the_limit_ends_the_call() -> None:
    server = Server(max_bytes=10)
    server.headers(OK)
    server.message(b"x" * 11)

    assert server.reply() == [Ended("a gRPC message of 11 bytes is larger than 10", 2)]


def test_a_ping_is_answered() -> None:
    server = Server()
    server.reply()
    server.receive()
    server.h2.ping(b"12345678")

    assert server.reply() == []
    assert [event.ping_data for event in server.receive()
            if isinstance(event, h2.events.PingAckReceived)] == [b"12345678"]  # fmt: skip


def test_an_endless_grpc_message_is_cut() -> None:
    server = Server()
    server.headers([*OK, ("grpc-status", "14"), ("grpc-message", "x" * 5000)], end=True)

    assert server.reply() == [Ended("x" * 1024, 14)]
