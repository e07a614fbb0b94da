"""The server's half of gRPC, against our own client's half and against bare h2."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import pytest

from uproxy.authority.rpc import (
    MAX_REQUEST_BYTES,
    CallCancelled,
    CallStarted,
    RequestReceived,
    ServerConnection,
)
from uproxy.authority.rpc import Event as ServerEvent
from uproxy.identity.workload_api.framing import Status, frame
from uproxy.identity.workload_api.grpc import Call, Ended, Event, Message

PATH = "/SpiffeWorkloadAPI/FetchX509SVID"
REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", "localhost")]


class Pair:
    """Our client's call and our server, moving bytes by hand."""

    def __init__(self) -> None:
        self.server = ServerConnection()
        self.call = Call(PATH, "localhost", 4 << 20)
        called, self.request = self.receive()
        assert isinstance(called, CallStarted)
        self.called = called

    def receive(self) -> list[ServerEvent]:
        return self.server.receive(self.call.data_to_send())

    def reply(self) -> list[Event]:
        return self.call.receive(self.server.data_to_send())


def bare() -> tuple[ServerConnection, h2.connection.H2Connection]:
    """A server and a client with HTTP/2's default windows."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    client.initiate_connection()
    server = ServerConnection()
    server.receive(client.data_to_send())
    client.receive_data(server.data_to_send())
    return server, client


def call(client: h2.connection.H2Connection, *values: str) -> int:
    stream = client.get_next_available_stream_id()
    security = [("workload.spiffe.io", value) for value in values]
    client.send_headers(stream, [*REQUEST, *security])
    client.send_data(stream, frame(b""), end_stream=True)
    return stream


def test_a_call_is_reported_with_its_path_and_security_header() -> None:
    called = Pair().called

    assert called == CallStarted(1, PATH, ("true",))


@pytest.mark.parametrize("values", [(), ("true", "true"), ("TRUE",)])
def test_every_value_of_the_security_header_is_reported(values: tuple[str, ...]) -> None:
    server, client = bare()
    call(client, *values)

    called, _request = server.receive(client.data_to_send())

    assert isinstance(called, CallStarted)
    assert called.security_values == values


def test_messages_and_the_status_arrive_in_order() -> None:
    pair = Pair()
    assert pair.request == RequestReceived(1, b"")

    pair.server.send(1, b"one")
    assert pair.reply() == [Message(b"one")]
    pair.server.send(1, b"two")
    pair.server.finish(1, Status.PERMISSION_DENIED, "größer 100 %")
    assert pair.reply() == [Message(b"two"), Ended("größer 100 %", 7)]


def test_a_refusal_is_one_header_block() -> None:
    server, client = bare()
    stream = call(client)
    server.receive(client.data_to_send())

    server.finish(stream, Status.UNIMPLEMENTED, "no")
    events = client.receive_data(server.data_to_send())

    (response,) = [event for event in events if isinstance(event, h2.events.ResponseReceived)]
    headers = {str(name): str(value) for name, value in response.headers or ()}
    assert headers == {":status": "200", "content-type": "application/grpc",
                       "grpc-status": "12", "grpc-message": "no"}  # fmt: skip
    assert any(isinstance(event, h2.events.StreamEnded) for event in events)


def test_a_message_larger_than_the_window_goes_on_as_the_client_reads() -> None:
    server, client = bare()
    stream = call(client, "true")
    server.receive(client.data_to_send())
    message = b"x" * 300_000
    server.send(stream, message)
    received = bytearray()

    for _ in range(100):
        for event in client.receive_data(server.data_to_send()):
            if isinstance(event, h2.events.DataReceived):
                received += event.data or b""
                client.acknowledge_received_data(event.flow_controlled_length or 0, stream)
        server.receive(client.data_to_send())

    assert bytes(received) == frame(message)


def test_to_a_slow_reader_a_newer_message_replaces_those_not_begun() -> None:
    server, client = bare()
    stream = call(client, "true")
    server.receive(client.data_to_send())
    first = b"1" * 100_000
    server.send(stream, first)
    for late in (b"2", b"3", b"4"):
        server.send(stream, late)
    received = bytearray()

    for _ in range(20):
        for event in client.receive_data(server.data_to_send()):
            if isinstance(event, h2.events.DataReceived):
                received += event.data or b""
                client.acknowledge_received_data(event.flow_controlled_length or 0, stream)
        server.receive(client.data_to_send())

    assert bytes(received) == frame(first) + frame(b"4")


def test_a_reset_call_is_cancelled_and_can_be_answered_without_harm() -> None:
    server, client = bare()
    stream = call(client, "true")
    server.receive(client.data_to_send())
    client.reset_stream(stream)

    assert server.receive(client.data_to_send()) == [CallCancelled(stream)]
    server.send(stream, b"late")
    server.finish(stream, Status.OK, "")
    assert b"late" not in server.data_to_send()


def test_a_clients_goaway_cancels_its_calls() -> None:
    server, client = bare()
    stream = call(client, "true")
    server.receive(client.data_to_send())
    client.close_connection()

    assert server.receive(client.data_to_send()) == [CallCancelled(stream)]
    server.send(stream, b"late")


def test_what_is_not_http2_is_an_error() -> None:
    with pytest.raises(h2.exceptions.ProtocolError):
        ServerConnection().receive(b"GET / HTTP/1.1\r\n\r\n")


def test_a_ping_is_answered() -> None:
    server, client = bare()
    client.ping(b"12345678")
    server.receive(client.data_to_send())

    events = client.receive_data(server.data_to_send())

    assert any(isinstance(event, h2.events.PingAckReceived) for event in events)


def test_what_a_client_sends_later_is_reported_with_its_call() -> None:
    server, client = bare()
    stream = client.get_next_available_stream_id()
    client.send_headers(stream, REQUEST)
    client.send_data(stream, frame(b"one") + frame(b"two")[:3])
    _, *requests = server.receive(client.data_to_send())
    assert requests == [RequestReceived(stream, b"one")]

    client.send_data(stream, frame(b"two")[3:])
    assert server.receive(client.data_to_send()) == [RequestReceived(stream, b"two")]


def test_a_request_too_large_ends_its_call_and_no_other() -> None:
    server, client = bare()
    other = call(client)
    stream = client.get_next_available_stream_id()
    client.send_headers(stream, REQUEST)
    client.send_data(stream, b"\0" + (MAX_REQUEST_BYTES + 1).to_bytes(4, "big"))
    events = server.receive(client.data_to_send())
    assert events[-1] == CallCancelled(stream)

    client.send_data(stream, b"more")
    assert server.receive(client.data_to_send()) == []
    server.send(other, b"still there")
    told = client.receive_data(server.data_to_send())
    (ended,) = [each for each in told if isinstance(each, h2.events.ResponseReceived)
                and each.stream_id == stream]  # fmt: skip
    assert ("grpc-status", "3") in [(str(name), str(value)) for name, value in ended.headers or ()]
    assert any(isinstance(each, h2.events.DataReceived) for each in told)


def test_an_answer_waits_for_the_window_before_its_call_ends() -> None:
    server, client = bare()
    stream = call(client)
    server.receive(client.data_to_send())
    answer = bytes(100_000)
    server.send(stream, answer)
    server.finish(stream, Status.OK, "")
    heard, ended = bytearray(), False
    while not ended:
        events = client.receive_data(server.data_to_send())
        heard += _data(client, events)
        ended = any(isinstance(event, h2.events.StreamEnded) for event in events)
        server.receive(client.data_to_send())
    assert bytes(heard) == frame(answer)


def _data(client: h2.connection.H2Connection, events: list[h2.events.Event]) -> bytes:
    received = [event for event in events if isinstance(event, h2.events.DataReceived)]
    for event in received:
        client.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
    return b"".join(event.data or b"" for event in received)
