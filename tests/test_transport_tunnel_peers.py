"""Tunnels (HBONE) to and from peers that aren't ours: the h2 library over pyOpenSSL."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial

import h2.errors
import h2.events
import h2.settings
import hpack
import pytest
from OpenSSL import SSL

from tests.helpers import engines
from tests.helpers.engines import RecordingDoor, open_door
from tests.helpers.streams import FullQueue, Stream, Upstream, listening
from tests.helpers.tls_streams import TlsStream
from tests.helpers.tunnels import (
    ALPN,
    OURS,
    PEER,
    STRANGERS,
    US,
    H2Peer,
    begin_with,
    frame,
    inbound_door,
    named,
    outbound_door,
)
from uproxy.contract import Engine, Refusal
from uproxy.hbone.budgets import BUCKETS, Flood
from uproxy.hbone.codes import ErrorCode
from uproxy.hbone.frames import Frame, Splitter
from uproxy.lab.waiting import eventually
from uproxy.lab.wire import read_records
from uproxy.lifecycle import State
from uproxy.model import Address, Direction, Limits, Outcome, TcpAddress, Timeouts, TunnelSettings

engine = engines.tunnel_engine

KIB, MIB = 1 << 10, 1 << 20
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE = (
    0,
    1,
    3,
    4,
    5,
    6,
    7,
    8,
)
END_STREAM = 1


class Inbound:
    """A door for tunnels, with an application behind it."""

    def __init__(self, door: RecordingDoor, application: Upstream, address: Address) -> None:
        self.door = door
        self.application = application
        self.address = address

    async def relay(self, peer: H2Peer) -> tuple[int, Stream]:
        """Open a stream to the application; return both ends."""
        stream = await peer.open(self.application.address)
        there = await self.application.accept()
        assert await peer.status(stream) == 200
        return stream, there


@asynccontextmanager
async def inbound(
    engine: Engine, settings: TunnelSettings = TunnelSettings(), **how: object
) -> AsyncIterator[Inbound]:
    door = inbound_door(settings=settings, **how)  # type: ignore[arg-type]  # passed through
    async with listening() as application, open_door(engine, door) as address:
        yield Inbound(door, application, address)


@asynccontextmanager
async def outbound(
    engine: Engine, settings: TunnelSettings = TunnelSettings(), **timeouts: float
) -> AsyncIterator[tuple[RecordingDoor, Address, Upstream]]:
    """A door whose tunnels end at what the test accepts."""
    async with listening() as end:
        there = TcpAddress("192.0.2.1", 5432)
        door = outbound_door(end.address, there, settings=settings, timeouts=Timeouts(**timeouts))
        async with open_door(engine, door) as address:
            yield door, address, end


# A client's CONNECT.


async def test_a_client_connects_and_both_ends_finish(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        stream, there = await here.relay(peer)
        await peer.send(stream, b"request", end=True)
        assert await there.receive_all() == b"request"
        await there.send(b"answer")
        there.finish()
        assert await peer.receive(stream, 6) == b"answer"
        await peer.event(h2.events.StreamEnded, stream)
        assert (await here.door.ending()).outcome is Outcome.CLOSED


async def test_settings_say_what_a_client_may_do(engine: Engine) -> None:
    settings = TunnelSettings(max_streams=77, stream_window=128 * KIB, connection_window=2 * MIB)
    async with inbound(engine, settings) as here:
        peer = await H2Peer.connect(here.address)
        await peer.event(h2.events.RemoteSettingsChanged)
        remote = peer.h2.remote_settings
        assert remote.max_concurrent_streams == 77
        assert remote.initial_window_size == 128 * KIB
        while peer.h2.outbound_flow_control_window < 2 * MIB:
            await peer.turn()
        assert peer.h2.outbound_flow_control_window == 2 * MIB


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome.DENIED, 403),
        (Outcome.NO_DESTINATION, 400),
        (Outcome.CONNECT_FAILED, 503),
        (Outcome.NO_IDENTITY, 503),
    ],
)
async def test_a_refusal_has_a_status(engine: Engine, outcome: Outcome, status: int) -> None:
    async with inbound(engine, answer=lambda _arrival: Refusal(outcome, "no")) as here:
        peer = await H2Peer.connect(here.address)
        stream = await peer.open("192.0.2.1:80")
        assert await peer.status(stream) == status
        await peer.event(h2.events.StreamEnded, stream)
        assert (await here.door.ending()).outcome is outcome
        stream = await peer.open("192.0.2.1:81")
        assert await peer.status(stream) == status


async def test_an_application_that_isnt_there_is_a_503(engine: Engine) -> None:
    async with inbound(engine) as here:
        here.application.close()
        peer = await H2Peer.connect(here.address)
        assert await peer.status(await peer.open(here.application.address)) == 503
        assert (await here.door.ending()).outcome is Outcome.CONNECT_FAILED


async def test_an_application_that_answers_no_syn_is_a_503_in_time(engine: Engine) -> None:
    """As one whose backlog is full; the tunnel's other streams don't wait for it."""
    full = FullQueue()
    answer = partial(named, timeouts=Timeouts(connect=0.3))
    async with inbound(engine, answer=answer) as here:
        peer = await H2Peer.connect(here.address)
        stream = await peer.open(full.address)
        other, there = await here.relay(peer)
        await peer.send(other, b"meanwhile")
        assert await there.receive_exactly(9) == b"meanwhile"
        assert await peer.status(stream) == 503
        await peer.event(h2.events.StreamEnded, stream)
        ending = await here.door.ending()
        assert ending.outcome is Outcome.TIMED_OUT
        assert str(ending.reason).startswith(f"no answer from {full.address} in 0.3 s")
        assert ending.duration >= 0.3
    full.close()


@pytest.mark.parametrize(
    "authority",
    ["db.internal:5432", "192.0.2.1", "192.0.2.1:", "[::1]", "192.0.2.1:99999", "a b:1"],
)
async def test_an_authority_that_is_no_address_is_a_400_with_a_line(
    engine: Engine, authority: str
) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        assert await peer.status(await peer.open(authority)) == 400
        ending = await here.door.ending()
        assert ending.outcome is Outcome.NO_DESTINATION
        assert ending.reason == (
            f":authority {authority!r} isn't an IP address and a port, as in 192.0.2.1:8080"
        )
        stream, there = await here.relay(peer)
        await peer.send(stream, b"still good")
        assert await there.receive_exactly(10) == b"still good"


async def test_of_a_long_authority_the_beginning_is_shown(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        assert await peer.status(await peer.open("\xe9" + 1000 * "x")) == 400
        reason = (await here.door.ending()).reason
        assert reason is not None
        assert reason.startswith(":authority '\xc3\xa9" + 78 * "x" + "' isn't")


_AUTHORITY = (":authority", "192.0.2.1:80")


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (
            [(":method", "CONNECT"), _AUTHORITY, (":path", "/")],
            "a CONNECT has :method and :authority, no more and no less",
        ),
        (
            [(":method", "CONNECT"), _AUTHORITY, (":protocol", "websocket")],
            "this is no extended CONNECT: it may have no :protocol",
        ),
        (
            [(":method", "GET"), (":authority", "x"), (":path", "/"), (":scheme", "https")],
            "a tunnel carries CONNECT, not 'GET'",
        ),
        ([(":method", "PUT")], "a 'PUT' has no :scheme or no :path"),
        ([(":method", "CONNECT")], "a CONNECT has :method and :authority, no more and no less"),
        ([(":method", "CONNECT"), _AUTHORITY, ("Upper", "case")], "name"),
        ([(":method", "CONNECT"), _AUTHORITY, ("connection", "close")], "HTTP/2"),
    ],
)
async def test_a_request_that_is_no_connect_ends_its_stream_alone(
    engine: Engine, headers: list[tuple[str, str]], reason: str
) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        good, there = await here.relay(peer)
        bad = peer.h2.get_next_available_stream_id()
        block = peer.h2.encoder.encode(headers)
        await peer.raw(frame(HEADERS, 4, bad, block))
        ending = await here.door.ending()
        assert ending.outcome is Outcome.NO_DESTINATION
        assert reason in (ending.reason or "")
        await peer.send(good, b"on")
        assert await there.receive_exactly(2) == b"on"


async def test_a_stream_above_the_limit_is_refused_so_that_it_may_be_tried_again(
    engine: Engine,
) -> None:
    async with inbound(engine, TunnelSettings(max_streams=2)) as here:
        peer = await H2Peer.connect(here.address)
        await here.relay(peer)
        await here.relay(peer)
        peer.h2.remote_settings = h2.settings.Settings(client=False)  # forgets the limit
        stream = await peer.open(here.application.address)
        reset = await peer.event(h2.events.StreamReset, stream)
        assert reset.error_code == h2.errors.ErrorCodes.REFUSED_STREAM
        ending = await here.door.ending()
        assert (ending.outcome, ending.reason) == (
            Outcome.LIMIT, "2 streams are open (hbone.max_streams)"
        )  # fmt: skip


async def test_who_is_denied_over_and_over_is_told_to_calm_down(engine: Engine) -> None:
    burst = int(BUCKETS[Flood.DENIALS].burst)
    async with inbound(engine, answer=lambda _arrival: Refusal(Outcome.DENIED, "no")) as here:
        peer = await H2Peer.connect(here.address)
        block = hpack.Encoder().encode([(":method", "CONNECT"), _AUTHORITY], huffman=False)
        splitter = Splitter(server=False)
        asked = answered = 0
        goaway: list[Frame] = []
        while not goaway:
            assert asked < 3 * burst
            streams = range(2 * asked + 1, 2 * asked + 1001, 2)
            await peer.raw(*(frame(HEADERS, 4, stream, block) for stream in streams))
            asked += len(streams)
            while answered < asked and not goaway:
                heard = list(splitter.split(await peer.tls.receive()))
                answered += sum(each.kind == HEADERS for each in heard)
                goaway = [each for each in heard if each.kind == GOAWAY]
        assert answered > burst
        assert goaway[0].payload[7] == ErrorCode.ENHANCE_YOUR_CALM
        assert goaway[0].payload[8:] == b"the peer sent too many requests for what it may not reach"


async def test_a_reset_of_the_application_is_a_connect_error(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        stream, there = await here.relay(peer)
        await there.send(b"last words")
        await peer.receive(stream, 10)
        there.reset()
        reset = await peer.event(h2.events.StreamReset, stream)
        assert reset.error_code == h2.errors.ErrorCodes.CONNECT_ERROR
        assert (await here.door.ending()).outcome is Outcome.RESET


@pytest.mark.parametrize("code", [0, 2, 5, 8, 10])
async def test_a_reset_of_the_client_is_a_reset_for_the_application(
    engine: Engine, code: int
) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        stream, there = await here.relay(peer)
        await peer.send(stream, b"last words")
        peer.h2.reset_stream(stream, code)
        await peer.flush()
        assert await there.receive_exactly(10) == b"last words"
        assert await there.is_reset()
        assert (await here.door.ending()).outcome is Outcome.RESET


async def test_a_client_that_wants_no_more_after_its_end_is_no_failure(engine: Engine) -> None:
    """Envoy sends END_STREAM and then RST_STREAM NO_ERROR."""
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        stream, there = await here.relay(peer)
        await peer.send(stream, b"bye", end=True)
        await peer.raw(frame(RST_STREAM, 0, stream, bytes(4)))
        assert await there.receive_all() == b"bye"
        await there.send(b"unwanted")
        there.finish()
        assert (await here.door.ending()).outcome is Outcome.CLOSED


async def test_bytes_behind_the_connect_wait_for_the_application(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        stream = await peer.open(here.application.address)
        await peer.send(stream, b"early")
        there = await here.application.accept()
        assert await there.receive_exactly(5) == b"early"


async def test_the_loss_of_the_tunnel_is_the_loss_of_its_streams(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        pairs = [await here.relay(peer) for _ in range(3)]
        peer.tls.stream.reset()
        for _stream, there in pairs:
            assert await there.is_reset()
        await here.door.ending(3)
        assert {ending.outcome for _, ending in here.door.endings} == {Outcome.RESET}
        await eventually(lambda: bool(here.door.ended_tunnels), "the tunnel has ended")


async def test_a_client_that_goes_away_lets_its_streams_finish(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        stream, there = await here.relay(peer)
        await peer.raw(frame(GOAWAY, 0, 0, bytes(8)))
        await peer.send(stream, b"still here", end=True)
        assert await there.receive_all() == b"still here"
        there.finish()
        assert (await here.door.ending()).outcome is Outcome.CLOSED
        await peer.until_closed()
        await eventually(lambda: bool(here.door.ended_tunnels), "the tunnel has ended")
        assert here.door.ended_tunnels[0][1].outcome is Outcome.CLOSED


async def test_a_client_is_told_to_dial_again_when_the_door_makes_other_handshakes(
    engine: Engine,
) -> None:
    """Our SVID was renewed, say, or other TLS settings are asked for; other rules alone change
    nothing for tunnels."""
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        stream, there = await here.relay(peer)
        here.door.ask_again()
        await here.relay(peer)
        assert not peer.has(h2.events.ConnectionTerminated)
        here.door.downstream_tls = inbound_door().downstream_tls
        here.door.ask_again()
        assert (await peer.event(h2.events.ConnectionTerminated)).error_code == 0
        await peer.raw(frame(DATA, 0, stream, b"still here"))
        assert await there.receive_exactly(10) == b"still here"


async def test_a_door_that_ceases_to_be_for_tunnels_is_asked_about_no_stream(
    engine: Engine,
) -> None:
    """Not even if it makes the same handshakes; what is open goes on."""
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        stream, there = await here.relay(peer)
        assert here.door.listener is not None
        other = RecordingDoor(Direction.INBOUND, here.door.answer, here.door.downstream_tls)
        here.door.listener.replace(other)
        assert (await peer.event(h2.events.ConnectionTerminated)).error_code == 0
        await peer.raw(frame(HEADERS, 4, stream + 2, peer.h2.encoder.encode(
            [(":method", "CONNECT"), (":authority", str(here.application.address))]
        )))  # fmt: skip
        refused = frame(
            RST_STREAM, 0, stream + 2, h2.errors.ErrorCodes.REFUSED_STREAM.to_bytes(4, "big")
        )
        assert await peer.tls.receive_exactly(len(refused)) == refused
        assert not other.arrivals
        await peer.raw(frame(DATA, 0, stream, b"still here"))
        assert await there.receive_exactly(10) == b"still here"


@pytest.mark.parametrize("whose", ["theirs", "ours"])
async def test_a_client_is_told_to_dial_again_when_a_certificate_has_expired(
    engine: Engine, whose: str
) -> None:
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    short = OURS.issue("/ns/shop/sa/short", not_after=soon)
    ours, theirs = (short, PEER) if whose == "ours" else (US, short)
    async with inbound(engine, shows=ours) as here:
        peer = await H2Peer.connect(here.address, theirs)
        stream, there = await here.relay(peer)
        assert (await peer.event(h2.events.ConnectionTerminated)).error_code == 0
        assert datetime.now(UTC) >= soon
        await peer.raw(frame(DATA, 0, stream, b"still here"))
        assert await there.receive_exactly(10) == b"still here"


async def test_a_drained_door_says_goaway_twice_and_serves_what_came_in_between(
    engine: Engine,
) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        stream, there = await here.relay(peer)
        assert here.door.listener is not None
        closing = asyncio.create_task(here.door.listener.close())
        first = await peer.event(h2.events.ConnectionTerminated)
        assert (first.error_code, first.last_stream_id) == (0, 2**31 - 1)
        await peer.raw(frame(HEADERS, 4, stream + 2, peer.h2.encoder.encode(
            [(":method", "CONNECT"), (":authority", str(here.application.address))]
        )))  # fmt: skip
        late = await here.application.accept()
        for each in (stream, stream + 2):
            await peer.raw(frame(DATA, END_STREAM, each))
        late.close()
        there.close()
        await closing
        await eventually(lambda: bool(here.door.ended_tunnels), "the tunnel has ended")


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (frame(DATA, 0, 0, b"x"), "PROTOCOL_ERROR"),
        (frame(PING, 0, 0, b"short"), "FRAME_SIZE_ERROR"),
        (frame(SETTINGS, 0, 0, bytes(5)), "FRAME_SIZE_ERROR"),
        (frame(PUSH_PROMISE, 4, 1, bytes(4)), "PROTOCOL_ERROR"),
        (frame(WINDOW_UPDATE, 0, 0, bytes(4)), "PROTOCOL_ERROR"),
        (frame(HEADERS, 4, 1, b"\xff\xff\xff\xff\xff\xff\xff"), "COMPRESSION_ERROR"),
        (frame(DATA, 0, 99, b"x"), "PROTOCOL_ERROR"),
        (b"\xff" * 9, "FRAME_SIZE_ERROR"),
    ],
)
async def test_a_frame_that_breaks_the_protocol_ends_the_tunnel_with_its_code(
    engine: Engine, bad: bytes, code: str
) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        await peer.event(h2.events.RemoteSettingsChanged)
        await peer.raw(bad)
        gone = await peer.event(h2.events.ConnectionTerminated)
        assert gone.error_code == h2.errors.ErrorCodes[code]
        await peer.until_closed()
        await eventually(lambda: bool(here.door.ended_tunnels), "the tunnel has ended")
        assert here.door.ended_tunnels[0][1].outcome is not Outcome.CLOSED


async def test_who_breaks_the_protocol_and_goes_on_sending_reads_why_all_the_same(
    engine: Engine,
) -> None:
    """A reset would overtake the GOAWAY."""
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        await peer.event(h2.events.RemoteSettingsChanged)
        await peer.raw(frame(PING, 0, 0, b"short"), bytes(4 * MIB))
        gone = await peer.event(h2.events.ConnectionTerminated)
        assert gone.error_code == h2.errors.ErrorCodes.FRAME_SIZE_ERROR
        with pytest.raises(ConnectionResetError, match="closed in order"):
            await peer.turn()
        peer.tls.stream.reset()
        await eventually(lambda: bool(here.door.ended_tunnels), "the tunnel has ended")
        assert here.door.ended_tunnels[0][1].outcome is Outcome.RESET


@pytest.mark.parametrize("how", ["a FIN", "a reset"])
async def test_a_client_without_streams_that_leaves_without_a_word_has_lost_nothing(
    engine: Engine, how: str
) -> None:
    """As ztunnel and curl leave: without close_notify."""
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        stream, there = await here.relay(peer)
        await peer.send(stream, b"all", end=True)
        assert await there.receive_all() == b"all"
        there.finish()
        await peer.event(h2.events.StreamEnded, stream)
        await here.door.ending()
        if how == "a FIN":
            peer.tls.stream.close()
        else:
            peer.tls.stream.reset()
        await eventually(lambda: bool(here.door.ended_tunnels), "the tunnel has ended")
        assert here.door.ended_tunnels[0][1].outcome is Outcome.CLOSED


async def test_a_ping_is_answered(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        peer.h2.ping(b"12345678")
        await peer.flush()
        answer = await peer.event(h2.events.PingAckReceived)
        assert answer.ping_data == b"12345678"


@pytest.mark.slow
async def test_a_stream_that_stalls_after_it_was_quick_gets_less_back_when_it_is_read_again(
    engine: Engine,
) -> None:
    """While its window is used up nothing comes that would tell the session the time.  Half of a
    window is given back at least, unless that becomes smaller: then it is a quarter."""
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        stream, there = await here.relay(peer)
        async with asyncio.timeout(60):
            for _ in range(24):  # a slow machine lets it grow less
                await asyncio.gather(peer.send(stream, bytes(MIB)), there.receive_exactly(MIB))
                await answered(peer)
            with suppress(TimeoutError):
                while True:  # until nobody has taken anything for longer than a second
                    await sent_now(peer, stream)
                    async with asyncio.timeout(1.2):
                        await peer.turn()
            peer.received.clear()
            while not any(
                isinstance(each, h2.events.WindowUpdated) and each.stream_id == stream
                for each in peer.received
            ):
                await there.receive_exactly(64 * KIB)
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await peer.turn()
        update = await peer.event(h2.events.WindowUpdated, stream)
        assert update.delta is not None
        assert update.delta <= 3 * MIB // 2  # of 4.25 MiB; reads are of a quarter of a MiB


async def sent_now(peer: H2Peer, stream: int) -> None:
    """Send as much as the windows allow at once."""
    while room := min(peer.h2.local_flow_control_window(stream), peer.h2.max_outbound_frame_size):
        peer.h2.send_data(stream, bytes(room))
        await peer.flush()


async def answered(peer: H2Peer) -> None:
    """Wait for the answer to a PING, behind which nothing is that the peer had to say before."""
    peer.h2.ping(bytes(8))
    await peer.flush()
    await peer.event(h2.events.PingAckReceived)


async def test_rapid_resets_end_the_tunnel(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        encode = peer.h2.encoder.encode
        target = [(":method", "CONNECT"), (":authority", str(here.application.address))]
        for at in range(1, 8001, 2):
            try:
                await peer.raw(
                    frame(HEADERS, 4, at, encode(target)), frame(RST_STREAM, 0, at, bytes(4))
                )
            except OSError:
                break  # it has ended
        await eventually(lambda: bool(here.door.ended_tunnels), "the tunnel has ended")
        reason = here.door.ended_tunnels[0][1].reason
        assert reason is not None
        assert "ENHANCE_YOUR_CALM" in reason
        after = await H2Peer.connect(here.address)
        stream, there = await here.relay(after)
        await after.send(stream, b"others go on")
        assert await there.receive_exactly(12) == b"others go on"


async def test_http_1_is_refused_in_order(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        other = H2Peer(peer.tls, client=True)
        await other.raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await other.until_closed()
        await eventually(lambda: bool(here.door.ended_tunnels), "the tunnel has ended")


async def test_a_tunnel_without_streams_makes_room_when_connections_are_full(
    engine: Engine,
) -> None:
    async with inbound(engine) as here:
        first = await H2Peer.connect(here.address)
        await eventually(lambda: bool(here.door.carrying_), "it carries")
        engine.set_limits(Limits(connections=1))
        second = await H2Peer.connect(here.address)
        await first.until_closed()
        await eventually(lambda: bool(here.door.ended_tunnels), "the tunnel has ended")
        assert here.door.ended_tunnels[0][1].outcome is Outcome.LIMIT
        engine.set_limits(Limits(connections=2))
        stream, there = await here.relay(second)
        await second.send(stream, b"question")
        assert await there.receive_exactly(8) == b"question"


async def test_strangers_that_say_nothing_make_room_before_a_tunnel_without_streams(
    engine: Engine,
) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        await eventually(lambda: bool(here.door.carrying_), "it carries")
        engine.set_limits(Limits(connections=3))
        strangers = [await Stream.connect(here.address) for _ in range(9)]
        for each in strangers[:7]:
            assert await each.is_reset()
        assert engine.refused()["connections"] == 7
        assert here.door.ended_tunnels == []
        stream, there = await here.relay(peer)
        await peer.send(stream, b"question")
        assert await there.receive_exactly(8) == b"question"


# A server's answers.


async def test_our_connect_is_the_least_that_rfc_9113_asks_for(engine: Engine) -> None:
    async with outbound(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        peer = await H2Peer.accept(end)
        asked = await peer.event(h2.events.RequestReceived)
        fields = [(str(name), str(value)) for name, value in asked.headers or ()]
        assert fields == [(":method", "CONNECT"), (":authority", "192.0.2.1:5432")]
        await peer.answer(asked.stream_id or 0, 200)
        await downstream.send(b"question")
        assert await peer.receive(asked.stream_id or 0, 8) == b"question"
        assert (await door.connection()).dialled == TcpAddress("192.0.2.1", 5432)


async def test_not_a_byte_of_the_application_passes_before_the_answer(engine: Engine) -> None:
    async with outbound(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        await downstream.send(b"secret")
        peer = await H2Peer.accept(end)
        stream = await peer.request()
        await peer.answer(stream, 403, end=True)
        assert await downstream.is_reset()
        assert peer.data == {}
        assert (await door.ending()).outcome is Outcome.PEER_REFUSED


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (401, Outcome.PEER_REFUSED),
        (403, Outcome.PEER_REFUSED),
        (400, Outcome.CONNECT_FAILED),
        (404, Outcome.CONNECT_FAILED),
        (503, Outcome.CONNECT_FAILED),
        (204, Outcome.CONNECT_FAILED),
    ],
)
async def test_a_status_is_an_outcome_in_words(
    engine: Engine, status: int, outcome: Outcome
) -> None:
    async with outbound(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        peer = await H2Peer.accept(end)
        await peer.answer(await peer.request(), status, end=True)
        assert await downstream.is_reset()
        ending = await door.ending()
        assert ending.outcome is outcome
        assert ending.reason is not None
        assert str(status) in ending.reason


async def test_no_answer_has_a_deadline(engine: Engine) -> None:
    async with outbound(engine, connect=0.3) as (door, address, end):
        downstream = await Stream.connect(address)
        peer = await H2Peer.accept(end)
        stream = await peer.request()
        assert await downstream.is_reset()
        ending = await door.ending()
        assert ending.outcome is Outcome.TIMED_OUT
        assert str(ending.reason).startswith("the peer didn't answer the CONNECT in 0.3 s")
        await peer.event(h2.events.StreamReset, stream)


async def test_a_far_end_that_makes_no_handshake_is_told_of_with_the_time_it_had(
    engine: Engine,
) -> None:
    async with outbound(engine, handshake=0.3) as (door, address, end):
        downstream = await Stream.connect(address)
        await end.accept()  # and says nothing
        assert await downstream.is_reset()
        ending = await door.ending()
    assert ending.outcome is Outcome.TIMED_OUT
    assert (
        ending.reason == "the peer didn't finish the handshake in 0.3 s: is it frozen, or far away?"
    )


async def test_a_far_end_that_does_not_answer_is_named_and_not_the_application(
    engine: Engine,
) -> None:
    dead, there = FullQueue(), TcpAddress("192.0.2.1", 5432)
    door = outbound_door(dead.address, there, timeouts=Timeouts(connect=0.3))
    async with open_door(engine, door) as address:
        assert await (await Stream.connect(address)).is_reset()
        ending = await door.ending()
    dead.close()
    assert ending.outcome is Outcome.TIMED_OUT
    assert ending.reason is not None
    assert f"no answer from {dead.address} in 0.3 s" in ending.reason


async def test_a_tunnel_that_has_come_in_keeps_nothing_of_the_door_it_came_in_by(
    engine: Engine,
) -> None:
    """A door has a plan, and a plan has a key."""
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        stream, there = await here.relay(peer)
        door, listener = here.door, here.door.listener
        assert listener is not None
        before = RecordingDoor(
            door.direction, door.answer, door.downstream_tls, tunnels=door.tunnels
        )
        listener.replace(before)
        late, came = await H2Peer.connect(here.address), before.carrying_
        await eventually(lambda: len(came) == 1, "the tunnel has come in")
        gone = weakref.ref(before)
        del before
        listener.replace(door)

        def is_gone() -> bool:
            gc.collect()
            return gone() is None

        await eventually(is_gone, "the door is forgotten")
        await peer.send(stream, b"still here")
        assert await there.receive_exactly(10) == b"still here"
        late.tls.stream.close()


async def test_a_refused_stream_is_opened_on_another_tunnel(engine: Engine) -> None:
    async with outbound(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        first = await H2Peer.accept(end)
        stream = await first.request()
        first.h2.close_connection(last_stream_id=0)
        await first.flush()
        second = await H2Peer.accept(end)
        stream = await second.request()
        await second.answer(stream, 200)
        await downstream.send(b"question")
        assert await second.receive(stream, 8) == b"question"
        assert (await door.connection()).shares_tls is False


async def test_a_peer_that_takes_no_stream_isnt_asked_for_ever(engine: Engine) -> None:
    async with outbound(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        for _ in range(8):
            peer = await H2Peer.accept(end)
            await peer.request()
            peer.h2.close_connection(last_stream_id=0)
            await peer.flush()
        assert await downstream.is_reset()
        ending = await door.ending()
        assert (ending.outcome, ending.state) == (Outcome.CONNECT_FAILED, State.OPENING_STREAM)


async def test_a_new_door_is_asked_when_a_stream_was_refused_and_its_way_has_all_of_its_time(
    engine: Engine,
) -> None:
    async with outbound(engine, connect=2.0) as (door, address, end), listening() as elsewhere:
        downstream, begun = await Stream.connect(address), time.monotonic()
        peer = await H2Peer.accept(end)
        await peer.request()
        there = TcpAddress("192.0.2.2", 5432)
        timeouts = Timeouts(connect=2.0)
        renewed = outbound_door(elsewhere.address, there, timeouts=timeouts)
        assert door.listener is not None
        door.listener.replace(renewed)
        await eventually(lambda: time.monotonic() > begun + 1.0, "half of its time has passed")
        refused = time.monotonic()
        peer.h2.close_connection(last_stream_id=0)
        await peer.flush()
        other = await H2Peer.accept(elsewhere)
        await other.request()
        assert await downstream.is_reset()
        assert time.monotonic() > refused + 1.5
        assert (await renewed.ending()).outcome is Outcome.TIMED_OUT
        [(_, failure)] = door.attempts  # there was no second one
        assert failure is not None
        assert failure.outcome is Outcome.CONNECT_FAILED


async def test_peers_that_take_no_stream_at_any_address_arent_asked_for_ever(
    engine: Engine,
) -> None:
    async with listening() as end:
        applications = [TcpAddress(f"192.0.2.{n}", 5432) for n in (1, 2, 3)]
        door = outbound_door(end.address, *applications)
        async with open_door(engine, door) as address:
            dialled = 0

            async def turn_away() -> None:
                nonlocal dialled
                while True:
                    peer = await H2Peer.accept(end)
                    dialled += 1
                    await peer.request()
                    peer.h2.close_connection(last_stream_id=0)
                    await peer.flush()

            turning = asyncio.create_task(turn_away())
            assert await (await Stream.connect(address)).is_reset()
            turning.cancel()
            assert (await door.ending()).outcome is Outcome.CONNECT_FAILED
            assert dialled == 8 + 2


async def test_a_peer_that_refuses_our_certificate_is_dialled_once_and_its_alert_is_told(
    engine: Engine,
) -> None:
    """Under TLS 1.3 its alert comes when our handshake has ended, and our CONNECT is on its way."""
    async with outbound(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        with pytest.raises(SSL.Error):
            await H2Peer.accept(end, root=STRANGERS.root)
        assert await downstream.is_reset()
        ending = await door.ending()
        assert (ending.outcome, ending.state) == (Outcome.HANDSHAKE_FAILED, State.OPENING_STREAM)
        assert ending.reason is not None
        assert ending.reason.startswith("the peer refused our certificate (unknown ca): ")
        assert "example.org" in ending.reason
        await eventually(lambda: engine.pooled_tunnels() == 0, "no tunnel is left")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await end.accept()


async def test_an_alert_on_a_tunnel_that_has_answered_is_no_refusal(engine: Engine) -> None:
    async with outbound(engine) as (door, address, end):
        first = await Stream.connect(address)
        peer = await H2Peer.accept(end)
        await peer.answer(await peer.request(), 200)
        await door.connection()
        second = await Stream.connect(address)
        await peer.request()
        await peer.tls.fail()
        assert await first.is_reset()
        other = await H2Peer.accept(end)
        stream = await other.request()
        await other.answer(stream, 200)
        await second.send(b"elsewhere")
        assert await other.receive(stream, 9) == b"elsewhere"


async def test_a_server_that_freezes_with_streams_open_is_found_out(engine: Engine) -> None:
    async with outbound(engine, TunnelSettings(keepalive=0.2)) as (door, address, end):
        downstream = await Stream.connect(address)
        peer = await H2Peer.accept(end)
        await peer.answer(await peer.request(), 200)
        await door.connection()
        assert await downstream.is_reset()  # from then on it has said nothing
        ending = await door.ending()
        assert (ending.outcome, ending.reason) == (
            Outcome.RESET, "the peer vanished: keepalive got no answer"
        )  # fmt: skip
        await eventually(lambda: engine.pooled_tunnels() == 0, "the tunnel has ended")


async def test_a_client_that_freezes_with_streams_open_is_found_out(engine: Engine) -> None:
    async with inbound(engine, TunnelSettings(keepalive=0.2)) as here:
        peer = await H2Peer.connect(here.address)
        _stream, there = await here.relay(peer)
        assert await there.is_reset()
        ending = await here.door.ending()
        assert (ending.outcome, ending.reason) == (
            Outcome.RESET, "the peer vanished: keepalive got no answer"
        )  # fmt: skip
        await eventually(lambda: bool(here.door.ended_tunnels), "the tunnel has ended")
        assert here.door.ended_tunnels[0][1].outcome is Outcome.RESET


async def test_a_peer_that_answers_pings_keeps_its_silent_streams(engine: Engine) -> None:
    async with inbound(engine, TunnelSettings(keepalive=0.2)) as here:
        peer = await H2Peer.connect(here.address)
        stream, there = await here.relay(peer)
        for _ in range(3):  # which h2 answers
            await peer.event(h2.events.PingReceived)
        await peer.send(stream, b"still here")
        assert await there.receive_exactly(10) == b"still here"


@pytest.mark.parametrize(("keepalive", "streams"), [(0.0, True), (0.1, False)])
async def test_a_peer_is_left_alone_without_streams_or_where_keepalive_is_off(
    engine: Engine, keepalive: float, streams: bool
) -> None:
    async with inbound(engine, TunnelSettings(keepalive=keepalive)) as here:
        peer = await H2Peer.connect(here.address)
        await eventually(lambda: bool(here.door.carrying_), "it carries")
        if streams:
            await here.relay(peer)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await peer.event(h2.events.PingReceived)


async def test_a_peer_that_answers_with_its_end_is_heard_and_still_gets_ours(
    engine: Engine,
) -> None:
    async with outbound(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        peer = await H2Peer.accept(end)
        stream = await peer.request()
        await peer.answer(stream, 200, end=True)
        assert await downstream.receive_all() == b""
        await downstream.send(b"all the same")
        downstream.finish()
        assert await peer.receive(stream, 12) == b"all the same"
        assert (await door.ending()).outcome is Outcome.CLOSED


async def test_a_goaway_lets_open_streams_go_on(engine: Engine) -> None:
    async with outbound(engine) as (_door, address, end):
        downstream = await Stream.connect(address)
        first = await H2Peer.accept(end)
        stream = await first.request()
        await first.answer(stream, 200)
        await first.raw(frame(GOAWAY, 0, 0, stream.to_bytes(4, "big") + bytes(4)))
        late = await Stream.connect(address)
        second = await H2Peer.accept(end)
        await second.answer(await second.request(), 200)
        await late.send(b"elsewhere")
        await downstream.send(b"still here")
        assert await first.receive(stream, 10) == b"still here"
        downstream.finish()
        await first.event(h2.events.StreamEnded, stream)
        await first.send(stream, b"", end=True)
        await first.until_closed()


async def test_two_frames_without_content_are_never_sent(engine: Engine) -> None:
    async with outbound(engine) as (_door, address, end):
        downstream = await Stream.connect(address)
        peer = await H2Peer.accept(end)
        stream = await peer.request()
        await peer.answer(stream, 200)
        await downstream.send(b"x")
        await peer.receive(stream, 1)
        downstream.finish()
        await peer.event(h2.events.StreamEnded, stream)
        empty = [
            each for each in peer.received
            if isinstance(each, h2.events.DataReceived) and not each.data
        ]  # fmt: skip
        assert len(empty) <= 1


@pytest.mark.parametrize("engine", ["python"], indirect=True)
async def test_a_tunnel_that_died_in_silence_is_found_out_before_it_is_used_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uproxy.transport.python import pool, tunnel

    monkeypatch.setattr(pool, "SILENCE_S", 0.0)
    monkeypatch.setattr(tunnel, "PONG_S", 0.2)
    async with outbound(engine) as (_door, address, end):
        first = await Stream.connect(address)
        dead = await H2Peer.accept(end)
        await dead.answer(await dead.request(), 200)
        await first.send(b"x")
        await dead.receive(1, 1)  # from here on it says nothing more
        second = await Stream.connect(address)
        alive = await H2Peer.accept(end)
        stream = await alive.request()
        await alive.answer(stream, 200)
        await second.send(b"y")
        assert await alive.receive(stream, 1) == b"y"


async def test_a_tunnel_that_ends_still_delivers_what_its_last_stream_has_sent(
    engine: Engine,
) -> None:
    """What the peer says meanwhile must not be answered by a reset, which drops unsent bytes."""
    size = 100 * KIB
    async with outbound(engine, TunnelSettings(idle=0.05)) as (door, address, end):
        end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        downstream = await Stream.connect(address)
        peer = await H2Peer.accept(end)
        peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: MIB})
        peer.h2.increment_flow_control_window(MIB)
        await peer.flush()
        stream = await peer.request()
        await peer.answer(stream, 200)
        await peer.send(stream, b"", end=True)
        assert await downstream.receive_all() == b""
        await downstream.send(bytes(size))
        downstream.finish()
        await door.ending()
        with suppress(AssertionError):  # it may well wait for the peer, which closes it by itself
            await eventually(lambda: engine.pooled_tunnels() == 0, "the tunnel has ended", 0.5)
        while not peer.has(h2.events.StreamEnded):
            peer.take(await peer.tls.receive(4096))
            peer.h2.ping(b"still on")
            await peer.flush()
        assert len(peer.data[stream]) == size


# A peer that is hostile.


async def test_what_ends_before_the_loop_has_heard_of_its_tunnel_is_a_stream_all_the_same(
    engine: Engine,
) -> None:
    """The loop is busy while a tunnel arrives, opens a stream, and is lost."""
    async with inbound(engine) as here:
        peer = H2Peer(TlsStream(await Stream.connect(here.address), PEER, alpn=ALPN), client=True)
        await peer.tls.handshake()
        peer.h2.initiate_connection()
        headers = [(":method", "CONNECT"), (":authority", str(here.application.address))]
        peer.h2.send_headers(1, headers)
        await peer.flush()
        peer.tls.stream.close()
        time.sleep(0.3)  # noqa: ASYNC251  the loop's own threads go on meanwhile
        ending = await here.door.ending()
        arrival = here.door.endings[0][0].arrival
        assert (arrival.tunnel is not None, arrival.target) == (True, here.application.address)
        assert ending.outcome is Outcome.RESET


async def test_a_server_that_allows_no_stream_costs_no_tunnel_for_long(engine: Engine) -> None:
    async with outbound(engine) as (_door, address, end):

        async def refuse_all() -> None:
            while True:
                peer = await H2Peer.accept(end)
                await peer.raw(frame(SETTINGS, 0, 0, b"\0\3" + bytes(4)))
                await peer.raw(frame(RST_STREAM, 0, await peer.request(), b"\0\0\0\7"))

        refusing = asyncio.create_task(refuse_all())
        for _ in range(3):
            downstream = await Stream.connect(address)
            assert await downstream.is_reset()
        await eventually(lambda: engine.pooled_tunnels() == 0, "no tunnel is left")
        refusing.cancel()


async def test_what_a_server_has_allowed_on_one_tunnel_holds_for_the_next(engine: Engine) -> None:
    async with outbound(engine) as (door, address, end):
        await Stream.connect(address)
        peer = await H2Peer.accept(end)
        await peer.raw(frame(SETTINGS, 0, 0, b"\0\3\0\0\0\2"))
        await peer.answer(await peer.request(), 200)
        await peer.event(h2.events.SettingsAcknowledged)  # of those that begin a session
        await peer.event(h2.events.SettingsAcknowledged)
        await door.connection()  # a CONNECT whose answer isn't read yet would be sent elsewhere
        peer.tls.stream.reset()
        await eventually(lambda: engine.pooled_tunnels() == 0, "the tunnel is gone")

        await Stream.connect(address)
        first = await SilentServer.accept(end)
        assert await first.next_connect() == 1
        await Stream.connect(address)
        await Stream.connect(address)
        second = await SilentServer.accept(end)  # two are all that the first one takes
        assert await first.next_connect() == 3
        assert await second.next_connect() == 1


class SilentServer:
    """A server that has said nothing yet."""

    def __init__(self, tls: TlsStream) -> None:
        self.tls = tls
        self._splitter = Splitter(server=True)
        self._heard: list[Frame] = []

    @classmethod
    async def accept(cls, end: Upstream) -> SilentServer:
        tls = TlsStream(await end.accept(), US, server=True)
        await tls.handshake()
        return cls(tls)

    async def next_connect(self) -> int:
        """Wait for a CONNECT; return its stream."""
        while not any(each.kind == HEADERS for each in self._heard):
            self._heard += self._splitter.split(await self.tls.receive())
        while (heard := self._heard.pop(0)).kind != HEADERS:
            pass
        return heard.stream


async def test_a_connect_that_finds_no_room_is_refused_and_its_tunnel_stays(
    engine: Engine,
) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        await eventually(lambda: bool(here.door.carrying_), "it carries")
        peer.h2.ping(b"12345678")
        await peer.flush()
        await peer.event(h2.events.PingAckReceived)
        engine.set_limits(Limits(connections=1))
        stream = await peer.open(here.application.address)
        gone = await peer.event(h2.events.StreamReset, stream)
        assert gone.error_code == h2.errors.ErrorCodes.REFUSED_STREAM
        engine.set_limits(Limits(connections=3))
        stream, there = await here.relay(peer)
        await peer.send(stream, b"question")
        assert await there.receive_exactly(8) == b"question"


async def test_a_stream_of_which_both_ends_have_passed_isnt_reset(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        stream, there = await here.relay(peer)
        await there.send(b"answer")
        there.finish()
        await peer.event(h2.events.StreamEnded, stream)
        await peer.raw(frame(DATA, END_STREAM, stream, b"bye"))
        assert await there.receive_all() == b"bye"
        assert (await here.door.ending()).outcome is Outcome.CLOSED
        await peer.raw(frame(PING, 0, 0, b"12345678"))
        data = b""
        while b"12345678" not in data:
            data += await peer.tls.receive()
        assert frame(RST_STREAM, 0, stream)[3:] not in data


async def test_a_client_that_goes_away_and_stays_is_drained_like_others(engine: Engine) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        stream, there = await here.relay(peer)
        await peer.raw(frame(GOAWAY, 0, 0, bytes(8)), frame(PING, 0, 0, b"12345678"))
        data = b""
        while b"12345678" not in data:
            data += await peer.tls.receive()
        assert here.door.listener is not None
        closing = asyncio.create_task(here.door.listener.close())
        while data.count(frame(GOAWAY, 0, 0)[3:]) < 2:
            data += await peer.tls.receive()
        await peer.raw(frame(DATA, END_STREAM, stream))
        there.close()
        await closing
        await eventually(lambda: bool(here.door.ended_tunnels), "the tunnel has ended")


async def test_who_opens_streams_for_which_there_is_no_room_again_and_again_is_cut_off(
    engine: Engine,
) -> None:
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address)
        await eventually(lambda: bool(here.door.carrying_), "it carries")
        engine.set_limits(Limits(connections=1))
        target = [(":method", "CONNECT"), (":authority", str(here.application.address))]
        block = hpack.Encoder().encode(target)
        with suppress(OSError):  # it has ended
            for first in range(1, 10001, 200):
                await peer.raw(*(frame(HEADERS, 4, first + at, block) for at in range(0, 200, 2)))
                await asyncio.wait({asyncio.create_task(peer.tls.receive())}, timeout=0.05)
        await eventually(lambda: bool(here.door.ended_tunnels), "the tunnel has ended")
        assert "ENHANCE_YOUR_CALM" in (here.door.ended_tunnels[0][1].reason or "")


# Records.


def tapped(stream: Stream) -> bytearray:
    """Keep what is received on a stream from now on."""
    kept, receive = bytearray(), stream.receive

    async def receive_and_keep(size: int = MIB) -> bytes:
        data = await receive(size)
        kept.extend(data)
        return data

    stream.receive = receive_and_keep  # type: ignore[method-assign]  # this one's only
    return kept


async def test_what_many_streams_send_in_one_turn_shares_tls_records(engine: Engine) -> None:
    """All of them may send at once when the peer's SETTINGS give them a window."""
    count, size = 40, 1000
    no_window = begin_with({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    async with outbound(engine) as (door, address, end):
        downstream = [await Stream.connect(address) for _ in range(count)]
        peer = await H2Peer.accept(end, begin=no_window)
        streams = [await peer.request() for _ in range(count)]
        for stream in streams:
            await peer.answer(stream, 200)
        await door.connection(count)
        for each in downstream:
            await each.send(bytes(size))
        await eventually(
            lambda: all(each.bytes_sent == size for each in door.opened_), "all to be read"
        )
        received = tapped(peer.tls.stream)
        peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 65_535})
        await peer.flush()
        for stream in streams:
            assert await peer.receive(stream, size) == bytes(size)
        records = read_records(bytes(received))
        assert sum(len(each.body) for each in records) > count * size
        # a record has 16 KiB at most; with one for each stream there would be 40
        assert len(records) <= 1 + count * size // 16_384 + 1


# A peer like ztunnel, which differs from others by what it announces and how it leaves.

ZTUNNEL = begin_with(
    {
        h2.settings.SettingCodes.ENABLE_PUSH: 0,
        h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 4 * MIB,
        h2.settings.SettingCodes.MAX_FRAME_SIZE: MIB,
        h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 16 * KIB,
    },
    window=16_711_681,
)
ZTUNNELS_HEADERS = (
    ("baggage", "k8s.cluster.name=Kubernetes,k8s.namespace.name=web,k8s.deployment.name=frontend,"
                "service.name=frontend,service.version=v1"),
    ("forwarded", 'for="10.1.0.9:41234"'),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
)  # fmt: skip


def frame_sizes(peer: H2Peer) -> list[int]:
    """The sizes of the DATA frames that a peer has received."""
    return [
        each.flow_controlled_length or 0
        for each in peer.received
        if isinstance(each, h2.events.DataReceived)
    ]


async def test_a_client_like_ztunnel_is_served_in_frames_that_everybody_takes(
    engine: Engine,
) -> None:
    """Its windows are used; its frames of 1 MiB aren't.  What it says of its caller is a hint."""
    async with inbound(engine) as here:
        peer = await H2Peer.connect(here.address, begin=ZTUNNEL)
        stream = await peer.open(here.application.address, *ZTUNNELS_HEADERS)
        there = await here.application.accept()
        assert await peer.status(stream) == 200
        await there.send(bytes(MIB))
        assert await peer.receive(stream, MIB) == bytes(MIB)
        assert max(frame_sizes(peer)) == 16_384
        [arrival] = here.door.arrivals
        assert not arrival.spoken
        await peer.send(stream, b"", end=True)
        there.finish()
        await peer.event(h2.events.StreamEnded, stream)
        assert (await here.door.ending()).outcome is Outcome.CLOSED
        await peer.raw(frame(GOAWAY, 0, 0, bytes(8)))
        await peer.until_closed()
        await eventually(lambda: bool(here.door.ended_tunnels), "the tunnel has ended")
        assert here.door.ended_tunnels[0][1].outcome is Outcome.CLOSED


async def test_a_server_like_ztunnel_drains_and_leaves_with_a_stream_open(engine: Engine) -> None:
    """It says GOAWAY twice, serves what is open, and ends TCP after a while: only that stream is
    lost, and what came later is on another tunnel."""
    async with outbound(engine) as (door, address, end):
        downstream = await Stream.connect(address)
        old = await H2Peer.accept(end, begin=ZTUNNEL)
        stream = await old.request()
        await old.answer(stream, 200)
        await door.connection()
        for last in (2**31 - 1, stream):
            await old.raw(frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + bytes(4)))
        old.h2.ping(b"12345678")
        await old.flush()
        await old.event(h2.events.PingAckReceived)
        late = await Stream.connect(address)
        new = await H2Peer.accept(end, begin=ZTUNNEL)
        elsewhere = await new.request()
        await new.answer(elsewhere, 200)
        await downstream.send(bytes(MIB))
        assert await old.receive(stream, MIB) == bytes(MIB)
        assert max(frame_sizes(old)) == 16_384
        await old.send(stream, b"and back")
        assert await downstream.receive_exactly(8) == b"and back"
        old.tls.stream.finish()
        assert await downstream.is_reset()
        assert (await door.ending()).outcome is Outcome.RESET
        await late.send(b"untouched")
        assert await new.receive(elsewhere, 9) == b"untouched"
