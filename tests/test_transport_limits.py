"""Who comes in, who waits, who is sent away: limits, and a listener short of descriptors."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import socket
import sys
import termios
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from OpenSSL import SSL

from tests.helpers import engines
from tests.helpers.engines import RecordingDoor, open_door, plan, route, verifier
from tests.helpers.streams import Stream, listening
from tests.helpers.tls_streams import TlsStream
from uproxy.contract import Engine, Refusal, RefusedError
from uproxy.lab.pki import Authority
from uproxy.lab.waiting import eventually
from uproxy.lifecycle import State
from uproxy.model import Direction, Limits, Outcome, Role, TcpAddress, Timeouts, UnixAddress
from uproxy.spiffe.presented import MAX_CLIENT_HELLO
from uproxy.transport.python import client_hello as hello_module
from uproxy.transport.python.client_hello import MAX_HELLO, ClientHello, Fault
from uproxy.transport.python.limits import MAX_TIMES_HEARD, Limiter

engine = engines.engine
engine_in_order = engines.engine_in_order

OURS = Authority("example.org")
US = OURS.issue("/ns/shop/sa/orders")
PEER = OURS.issue("/ns/web/sa/frontend")
NO = Refusal(Outcome.DENIED, "no")


def tls_door(**timeouts: float) -> RecordingDoor:
    ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS))
    return RecordingDoor(Direction.INBOUND, NO, ours, Timeouts(**timeouts))


def client_hello() -> bytes:
    client = TlsStream(Stream(socket.socket()), PEER)
    with pytest.raises(SSL.WantReadError):
        client.tls.do_handshake()
    client.stream.close()
    return client.pending()


async def test_a_full_engine_refuses_with_a_reset_and_counts(engine: Engine) -> None:
    engine.set_limits(Limits(connections=2))
    async with listening() as upstream:
        door = RecordingDoor(Direction.OUTBOUND, route(upstream.address))
        async with open_door(engine, door) as address:
            kept = [await Stream.connect(address) for _ in range(2)]
            await door.connection(2)
            assert await (await Stream.connect(address)).is_reset()
            ending = await door.ending()
            assert (ending.outcome, ending.state) == (Outcome.LIMIT, State.ACCEPTED)
            assert ending.reason == "2 connections are open (limits.connections)"
            assert engine.refused()["connections"] == 1
            kept[0].reset()
            await door.ending(2)
            await Stream.connect(address)
            await door.connection(3)


async def test_when_full_the_oldest_silent_connection_makes_room(engine: Engine) -> None:
    engine.set_limits(Limits(connections=3))
    door = tls_door(handshake=30.0)
    async with open_door(engine, door) as address:
        silent = []
        for index in range(3):
            stream = await Stream.connect(address)
            await stream.send(client_hello()[: 10 * index])  # begun is still silent
            silent.append(stream)
        peer = TlsStream(await Stream.connect(address), PEER)
        await peer.handshake()
        assert await silent[0].is_reset()
        await eventually(lambda: door.endings, "its ending")
        first = door.endings[0]
        assert first[1].outcome is Outcome.LIMIT
        assert first[1].state is State.HANDSHAKING_DOWNSTREAM
        await eventually(lambda: door.arrivals, "the handshake's other end")
        assert engine.refused()["connections"] == 1


async def test_when_full_somebody_refused_makes_room_though_it_reads_its_alert(
    engine: Engine,
) -> None:
    engine.set_limits(Limits(connections=1))
    async with open_door(engine, door := tls_door()) as address:
        stranger = TlsStream(
            await Stream.connect(address), Authority("stranger.test").issue("/ns/a/sa/b")
        )
        await stranger.handshake()
        with pytest.raises(SSL.Error):
            await stranger.receive()
        peer = TlsStream(await Stream.connect(address), PEER)
        await peer.handshake()
        await door.ending(2)
    assert {ending.outcome for _, ending in door.endings} == {
        Outcome.PEER_UNTRUSTED,
        Outcome.DENIED,
    }


async def test_a_handshake_takes_its_slot_with_its_complete_hello(engine_in_order: Engine) -> None:
    engine_in_order.set_limits(Limits(handshakes_in_flight=1))
    door = tls_door(handshake=30.0)
    hello = client_hello()
    async with open_door(engine_in_order, door) as address:
        trickling = [await Stream.connect(address) for _ in range(5)]
        for stream in trickling:
            await stream.send(hello[:-1])
        in_flight = await Stream.connect(address)
        await in_flight.send(hello)
        assert await in_flight.receive()  # the server's flight: it has the slot now
        late = await Stream.connect(address)
        await late.send(hello)
        assert await in_flight.is_reset()
        ending = await door.ending()
        assert (ending.outcome, ending.state) == (Outcome.LIMIT, State.HANDSHAKING_DOWNSTREAM)
        assert ending.reason == (
            "its handshake had stalled for the longest when 1 were in flight "
            "(limits.handshakes_in_flight)"
        )
        assert engine_in_order.refused()["handshakes_in_flight"] == 1
        assert await late.receive()
        late.reset()
        await door.ending(2)
        await trickling[0].send(hello[-1:])
        assert await trickling[0].receive()
        assert engine_in_order.refused()["handshakes_in_flight"] == 1


async def test_strangers_whose_handshakes_stall_shut_nobody_out(engine: Engine) -> None:
    engine.set_limits(Limits(handshakes_in_flight=4))
    door = tls_door(handshake=30.0)
    hello = client_hello()
    async with open_door(engine, door) as address:
        strangers = [await Stream.connect(address) for _ in range(8)]
        for stranger in strangers:
            await stranger.send(hello)
        await eventually(lambda: engine.refused()["handshakes_in_flight"] == 4, "four evicted")
        for count in range(1, 6):
            peer = TlsStream(await Stream.connect(address), PEER)
            await peer.handshake()
            await eventually(lambda: len(door.arrivals) == count, "the known caller")  # noqa: B023


async def answered(address: Any) -> tuple[TlsStream, bytes]:
    """A caller that has the server's flight, and its own answer, which isn't sent."""
    peer = TlsStream(await Stream.connect(address), PEER)
    with pytest.raises(SSL.WantReadError):
        peer.tls.do_handshake()
    await peer.flush()
    while True:
        peer.tls.bio_write(await peer.stream.receive())
        with suppress(SSL.WantReadError):
            peer.tls.do_handshake()
            return peer, peer.pending()


async def test_of_two_handshakes_the_one_that_was_heard_last_goes_on(
    engine_in_order: Engine,
) -> None:
    """Though it is the older one."""
    engine_in_order.set_limits(Limits(handshakes_in_flight=2))
    door = tls_door(handshake=30.0)
    async with open_door(engine_in_order, door) as address:
        slow, answer = await answered(address)
        stalled, _ = await answered(address)
        await slow.stream.send(answer[:10])
        late, _ = await answered(address)
        assert await stalled.stream.is_reset()
        await slow.stream.send(answer[10:])
        await eventually(lambda: door.arrivals, "the slow caller")
        assert engine_in_order.refused()["handshakes_in_flight"] == 1
        late.stream.reset()


def is_read(stream: Stream) -> bool:
    """Whether a server on this machine has received and read all that was sent to it."""
    if any(fcntl.ioctl(stream.socket, termios.TIOCOUTQ, bytes(4))):
        return False
    theirs, ours = stream.socket.getpeername()[1], stream.socket.getsockname()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if local.endswith(f":{theirs:04X}") and remote.endswith(f":{ours:04X}"):
            return int(queues.partition(":")[2], 16) == 0
    raise AssertionError("the server has closed")


async def test_who_sends_byte_by_byte_makes_room_before_one_that_stalls(
    engine_in_order: Engine,
) -> None:
    """Otherwise a stranger would keep a slot with a byte now and then."""
    engine_in_order.set_limits(Limits(handshakes_in_flight=2))
    async with open_door(engine_in_order, tls_door(handshake=30.0)) as address:
        trickling, answer = await answered(address)
        stalled, _ = await answered(address)
        for at in range(MAX_TIMES_HEARD + 1):
            await trickling.stream.send(answer[at : at + 1])
            await eventually(lambda: is_read(trickling.stream), "it to be read")
        late, _ = await answered(address)
        assert await trickling.stream.is_reset()
        late.stream.reset()
        stalled.stream.reset()


async def test_a_source_may_have_so_many_connections(engine: Engine) -> None:
    engine.set_limits(Limits(per_source_connections=1))
    async with listening() as upstream:
        door = RecordingDoor(Direction.OUTBOUND, route(upstream.address))
        async with open_door(engine, door) as address:
            first = await Stream.connect(address)
            await door.connection()
            assert await (await Stream.connect(address)).is_reset()
            assert (await door.ending()).outcome is Outcome.LIMIT
            assert engine.refused()["per_source_connections"] == 1
            first.reset()
            await door.ending(2)
            await Stream.connect(address)
            await door.connection(2)


async def test_unix_callers_have_no_address_to_be_counted_by(
    engine: Engine, tmp_path: object
) -> None:
    engine.set_limits(Limits(per_source_connections=1))
    async with listening() as upstream:
        door = RecordingDoor(Direction.OUTBOUND, route(upstream.address))
        async with open_door(engine, door, UnixAddress(f"{tmp_path}/door.sock")) as address:
            for _ in range(3):
                await Stream.connect(address)
            await door.connection(3)


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Lower the limit to what is in use: each new one is EMFILE."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.dup(0)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_accepting_survives_a_shortage_of_descriptors_without_spinning(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening() as upstream:
        door = RecordingDoor(Direction.OUTBOUND, route(upstream.address))
        async with open_door(engine, door) as address:
            waiting = socket.socket()
            waiting.setblocking(False)
            with no_descriptor_left():
                stream = Stream(waiting)
                assert isinstance(address, TcpAddress)
                await asyncio.get_running_loop().sock_connect(waiting, (address.host, address.port))
                await eventually(lambda: engine.refused()["descriptors"] >= 2, "a shortage")
                assert engine.refused()["descriptors"] < 10
                assert not door.opened_
            await door.connection()
            there = await upstream.accept()
            await stream.send(b"patient")
            assert await there.receive() == b"patient"
            stream.close()
    assert "raise LimitNOFILE" in caplog.text


async def test_a_shortage_while_dialling_fails_the_connection_not_the_engine(
    engine: Engine,
) -> None:
    async with listening() as upstream:
        holes: list[int] = []

        def fill(_arrival: object) -> object:
            with suppress(OSError):
                while True:
                    holes.append(os.dup(0))
            return there

        there = route(upstream.address)
        door = RecordingDoor(Direction.OUTBOUND, fill)  # type: ignore[arg-type]  # one of two
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        async with open_door(engine, door) as address:
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
            try:
                downstream = await Stream.connect(address)
                assert await downstream.is_reset()
                ending = await door.ending()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for hole in holes:
                    os.close(hole)
            door.answer = there
            await Stream.connect(address)
            await door.connection()
    assert ending.outcome is Outcome.CONNECT_FAILED
    assert (
        ending.reason == f"no descriptor left to connect to {upstream.address}: raise LimitNOFILE"
    )


async def test_a_refused_peer_that_stays_is_closed_soon_after_its_alert(engine: Engine) -> None:
    """Not only when the handshake's deadline comes, which is a minute here."""
    ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS))
    there = route(TcpAddress("127.0.0.1", 1))
    door = RecordingDoor(Direction.INBOUND, there, ours, Timeouts(handshake=60))
    async with open_door(engine, door) as address:
        peer = await Stream.connect(address)
        await peer.send(b"GET / HTTP/1.1\r\n\r\n")
        ending = await door.ending()
        was_reset = peer.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
    assert ending.outcome is Outcome.HANDSHAKE_FAILED
    assert ending.duration < 5
    assert not was_reset


# The pure parts.


def test_a_hello_is_complete_with_its_last_byte_and_not_before() -> None:
    hello = client_hello()
    assert [size for size in range(len(hello) + 1) if ClientHello().feed(hello[:size])] == [
        len(hello)
    ]
    assert dripped(hello) == len(hello)


def test_a_hello_may_come_in_several_records() -> None:
    hello = client_hello()[5:]
    records = in_records(hello[:1], hello[1:3], hello[3:100], hello[100:])
    assert ClientHello().feed(records)
    assert not any(ClientHello().feed(records[:size]) for size in range(len(records)))
    assert dripped(records) == len(records)


def test_a_dripped_hello_costs_the_same_for_each_byte_up_to_the_last() -> None:
    """Read anew from its beginning with every byte, one connection would keep us busy."""
    hello = client_hello()[5:]
    records = in_records(*(hello[at : at + 1] for at in range(len(hello))))
    lines = Counter[int]()

    def count(frame: FrameType, _event: str, _arg: Any) -> Any:
        if frame.f_code.co_filename != hello_module.__file__:
            return None
        lines[0] += 1
        return count

    tracing = sys.gettrace()
    sys.settrace(count)
    try:
        assert dripped(records) == len(records)
    finally:
        sys.settrace(tracing)
    assert lines[0] < 100 * len(records)


def in_records(*parts: bytes) -> bytes:
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


def dripped(data: bytes) -> int:
    """Fed byte by byte: how many it takes."""
    hello = ClientHello()
    return next(size for size, byte in enumerate(data, 1) if hello.feed(bytes((byte,))))


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"GET / HTTP/1.1", id="HTTP"),
        pytest.param(in_records(b"\x01", b"\0", *[b"\0"] * (MAX_HELLO // 6)), id="endless"),
    ],
)
def test_what_cannot_become_a_hello_is_openssls_to_judge(said: bytes) -> None:
    hello = ClientHello()
    assert hello.feed(said)
    assert hello.fault is None


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        pytest.param(b"\x15\x03\x03\x00\x02", Fault.UNEXPECTED_MESSAGE, id="an alert"),
        pytest.param(b"\x16\x03\x01\x00\x05\x02", Fault.UNEXPECTED_MESSAGE, id="another message"),
        pytest.param(b"\x16\x03\x01\x00\x00", Fault.UNEXPECTED_MESSAGE, id="an empty record"),
        pytest.param(
            in_records(b"\x01" + (MAX_CLIENT_HELLO - 3).to_bytes(3, "big")),
            Fault.ILLEGAL_PARAMETER,
            id="a long hello",
        ),
        pytest.param(b"\x16\x03\x01\x40\x01", Fault.RECORD_OVERFLOW, id="too much"),
        pytest.param(
            in_records(b"\x01", b"") + b"\x00", Fault.UNEXPECTED_MESSAGE, id="an empty second"
        ),
    ],
)
def test_what_no_record_of_a_hello_can_be_is_refused_at_its_header(
    said: bytes, fault: Fault
) -> None:
    hello = ClientHello()
    assert hello.feed(said)
    assert hello.fault is fault


class Somebody:
    def __init__(self, host: str | None = None) -> None:
        self.source = host
        self.cut: Refusal | None = None
        self.is_stalled = True

    def close(self, refusal: Refusal) -> None:
        self.cut = refusal


def test_leaving_twice_is_leaving_once() -> None:
    limiter, guest = Limiter(), Somebody("192.0.2.1")
    limiter.limits = Limits(connections=1, per_source_connections=1)
    for _ in range(3):
        limiter.add(guest)
        limiter.remove(guest)
        limiter.remove(guest)


def test_a_handshake_whose_peer_waits_for_us_makes_no_room() -> None:
    limiter, answered, stalled = Limiter(), Somebody(), Somebody()
    limiter.limits = Limits(handshakes_in_flight=2)
    answered.is_stalled = False
    for guest in (answered, stalled):
        limiter.take_slot(guest)
        limiter.mark_stalled(guest)
    limiter.take_slot(Somebody())  # a step of it is being done
    assert (answered.cut is None, stalled.cut is None) == (True, False)
    with pytest.raises(RefusedError):
        limiter.take_slot(Somebody())
    answered.is_stalled = True
    limiter.take_slot(Somebody())
    assert answered.cut is not None
    assert limiter.refused["handshakes_in_flight"] == 3


def test_a_spare_tunnel_makes_room_only_where_nobody_is_silent_and_then_the_oldest() -> None:
    limiter, tunnels, strangers = Limiter(), [Somebody(), Somebody()], [Somebody(), Somebody()]
    limiter.limits = Limits(connections=4)
    for guest in tunnels:
        limiter.add(guest)
        limiter.mark_spare(guest)
    for guest in strangers:
        limiter.add(guest)
        limiter.mark_silent(guest)
    for number, expected in enumerate([*strangers, *tunnels], start=1):
        assert expected.cut is None
        limiter.add(Somebody())
        assert expected.cut is not None
        assert limiter.refused["connections"] == number
    with pytest.raises(RefusedError):
        limiter.add(Somebody())


def test_a_tunnel_that_has_got_a_stream_is_not_sent_away() -> None:
    limiter, tunnel = Limiter(), Somebody()
    limiter.limits = Limits(connections=1)
    limiter.add(tunnel)
    limiter.mark_spare(tunnel)
    limiter.mark_active(tunnel)
    with pytest.raises(RefusedError):
        limiter.add(Somebody())
    assert tunnel.cut is None


def test_a_silent_one_that_has_left_is_not_sent_away() -> None:
    limiter, gone, silent, late = Limiter(), Somebody(), Somebody(), Somebody()
    limiter.limits = Limits(connections=2)
    for guest in (gone, silent):
        limiter.add(guest)
        limiter.mark_silent(guest)
    limiter.remove(gone)
    limiter.add(Somebody())
    limiter.add(late)
    assert (gone.cut is None, silent.cut is None) == (True, False)
