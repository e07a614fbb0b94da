"""How a connection ends in which one side fails: what had come before is delivered, then the end.

Everything is read, everything is delivered, and then the other side is reset: for every engine,
in both directions, with TLS and without.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
import termios
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from tests.helpers import engines
from tests.helpers.engines import RecordingDoor, open_door, plan, route, verifier
from tests.helpers.hostile_client import (
    ALERT,
    HANDSHAKE,
    HostileClient,
    HostileServer,
    key_update,
    session_ticket,
)
from tests.helpers.streams import Stream, Upstream, listening, slow_listening
from tests.helpers.tls_streams import TlsStream
from uproxy.contract import Engine
from uproxy.lab.pki import Authority
from uproxy.lab.waiting import eventually
from uproxy.model import Direction, Outcome, Role, TcpAddress, Timeouts, UnixAddress

engine = engines.engine

MIB = 1 << 20
OURS = Authority("example.org")
US = OURS.issue("/ns/shop/sa/orders")
PEER = OURS.issue("/ns/web/sa/frontend")
TRUNCATED = "the peer closed without a close_notify (truncated)"
NEVER_SEALED = b"\x17\x03\x03\x00\x40" + os.urandom(64)
HALF_A_RECORD = b"\x17\x03\x03\x01\x00" + os.urandom(20)


def inbound(application: Upstream, **timeouts: float) -> RecordingDoor:
    limits = Timeouts(**timeouts)
    ours = plan(Role.SERVER, US, verifier(Role.CLIENT, OURS))
    there = route(application.address, timeouts=limits)
    return RecordingDoor(Direction.INBOUND, there, ours, limits)


def outbound(upstream: Upstream, **timeouts: float) -> RecordingDoor:
    limits = Timeouts(**timeouts)
    ours = plan(Role.CLIENT, US, verifier(Role.SERVER, OURS))
    return RecordingDoor(Direction.OUTBOUND, route(upstream.address, tls=ours, timeouts=limits))


def plain(upstream: Upstream, **timeouts: float) -> RecordingDoor:
    limits = Timeouts(**timeouts)
    return RecordingDoor(Direction.OUTBOUND, route(upstream.address, timeouts=limits))


def undelivered(stream: Stream) -> int:
    """Bytes that the kernel still has to deliver: a reset would drop them."""
    count = fcntl.ioctl(stream.socket, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(count, sys.byteorder)


async def delivered(stream: Stream) -> None:
    await eventually(lambda: undelivered(stream) == 0, "the kernel to deliver")


async def heard_until_reset(stream: Stream, pause: float = 0.0) -> bytes:
    """Everything up to the end, which must be a reset."""
    heard = bytearray()
    try:
        while more := await stream.receive(16_384):
            heard += more
            await asyncio.sleep(pause)
    except ConnectionResetError:
        return bytes(heard)
    raise AssertionError(f"an orderly end after {len(heard)} bytes")


# The peer's end, TLS.

ENDS: dict[str, tuple[Callable[[TlsStream], Awaitable[None]], str]] = {}


def ends(words: str) -> Callable[..., Callable[[TlsStream], Awaitable[None]]]:
    def add(how: Callable[[TlsStream], Awaitable[None]]) -> Callable[[TlsStream], Awaitable[None]]:
        ENDS[how.__name__] = (how, words)
        return how

    return add


@ends(TRUNCATED)
async def fin_without_close_notify(peer: TlsStream) -> None:
    peer.truncate()


@ends(TRUNCATED)
async def close_without_close_notify(peer: TlsStream) -> None:
    await delivered(peer.stream)
    peer.stream.close()


@ends("reset by the peer")
async def reset(peer: TlsStream) -> None:
    await delivered(peer.stream)
    peer.stream.reset()


@ends("bad record mac")
async def a_record_that_was_never_sealed(peer: TlsStream) -> None:
    await peer.stream.send(NEVER_SEALED)


@ends(TRUNCATED)
async def half_a_record(peer: TlsStream) -> None:
    await peer.stream.send(HALF_A_RECORD)
    peer.truncate()


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("size", [1, 100_000, 3 * MIB // 2])
async def test_the_application_gets_all_that_a_peer_had_said(
    engine: Engine, how: str, size: int
) -> None:
    """However slowly it reads."""
    end, words = ENDS[how]
    payload = os.urandom(size)
    async with (
        slow_listening() as upstream,
        open_door(engine, door := inbound(upstream)) as address,
    ):
        peer = TlsStream(await Stream.connect(address), PEER)
        await peer.handshake()
        there = await upstream.accept()
        await peer.send(payload)
        await end(peer)
        await asyncio.sleep(0.05)  # the end may come before anything is read
        assert await heard_until_reset(there) == payload
        ending = await door.ending()
        assert (ending.outcome, ending.bytes_received) == (Outcome.RESET, size)
        assert words in str(ending.reason)


@pytest.mark.parametrize("how", ENDS)
async def test_the_application_gets_all_that_a_server_had_said(engine: Engine, how: str) -> None:
    end, words = ENDS[how]
    payload = os.urandom(3 * MIB // 2)
    async with listening() as upstream, open_door(engine, door := outbound(upstream)) as address:
        downstream = await Stream.connect(address, 4096)
        peer = TlsStream(await upstream.accept(), PEER, server=True)
        await peer.handshake()
        await door.connection()
        await peer.send(payload)
        await end(peer)
        await asyncio.sleep(0.05)
        assert await heard_until_reset(downstream) == payload
        ending = await door.ending()
        assert (ending.outcome, ending.bytes_received) == (Outcome.RESET, len(payload))
        assert words in str(ending.reason)


@pytest.mark.parametrize(
    "last", [b"", NEVER_SEALED, HALF_A_RECORD], ids=["nothing", "noise", "half a record"]
)
async def test_what_comes_with_the_handshakes_end_is_delivered_too(
    engine: Engine, last: bytes
) -> None:
    async with listening() as upstream, open_door(engine, door := inbound(upstream)) as address:
        peer = TlsStream(await Stream.connect(address), PEER)
        with suppress(Exception):
            peer.tls.do_handshake()  # to be continued
        await peer.flush()
        await peer._fill()
        peer.tls.do_handshake()
        peer.tls.sendall(b"hello")
        await peer.stream.send(peer.pending() + last)  # in one segment with Finished
        peer.truncate()
        there = await upstream.accept()
        assert await heard_until_reset(there) == b"hello"
        assert (await door.ending()).bytes_received == 5


async def test_a_fatal_alert_behind_data_comes_after_the_data(engine: Engine) -> None:
    def talk(port: int) -> None:
        with HostileClient(port, PEER) as peer:
            peer.handshake()
            for _ in range(20):
                peer.send(b"12345" * 2000)
            peer.send(b"\x02\x28", ALERT)  # handshake_failure
            peer.receive_until_end()

    async with listening() as upstream, open_door(engine, door := inbound(upstream)) as address:
        talking = asyncio.create_task(asyncio.to_thread(talk, cast("TcpAddress", address).port))
        there = await upstream.accept()
        assert await heard_until_reset(there) == b"12345" * 40_000
        await talking
        ending = await door.ending()
    assert (ending.outcome, ending.reason) == (
        Outcome.RESET, "peer sent alert handshake failure",
    )  # fmt: skip


async def test_an_answer_on_its_way_reaches_a_peer_that_ends_without_close_notify(
    engine: Engine,
) -> None:
    """It has only stopped sending."""
    async with (
        slow_listening() as upstream,
        open_door(engine, door := inbound(upstream)) as address,
    ):
        peer = TlsStream(await Stream.connect(address), PEER)
        await peer.handshake()
        there = await upstream.accept()
        question, answer = os.urandom(MIB), os.urandom(200_000)
        await peer.send(question)
        peer.truncate()
        await there.send(answer)
        assert await heard_until_reset(there) == question
        assert await peer.receive_exactly(len(answer)) == answer
        ending = await door.ending()
        assert (ending.outcome, ending.bytes_sent) == (Outcome.RESET, len(answer))


# In the clear.


async def push_until_full(stream: Stream) -> int:
    """Say as much as is taken; what is left in our own kernel is returned."""
    with suppress(TimeoutError):
        while True:
            async with asyncio.timeout(0.3):
                await asyncio.get_running_loop().sock_sendall(stream.socket, bytes(65_536))
    return undelivered(stream)


async def test_an_answer_followed_by_a_reset_comes_through_a_backlog_the_other_way(
    engine: Engine,
) -> None:
    """An application that answers an upload without reading it, and closes."""
    async with listening() as upstream, open_door(engine, door := plain(upstream)) as address:
        downstream = await Stream.connect(address, 4096)
        there = await upstream.accept()
        uploading = asyncio.create_task(push_until_full(downstream))
        answer = os.urandom(MIB)
        await there.send(answer)
        await uploading
        await delivered(there)
        there.close()  # with much unread: a reset
        assert await heard_until_reset(downstream) == answer
        ending = await door.ending()
        assert (ending.outcome, ending.reason) == (Outcome.RESET, "reset by the peer")


async def test_who_still_uploads_can_read_an_answer_larger_than_all_buffers(
    engine: Engine,
) -> None:
    """It is blocked in sending: somebody has to take that."""
    async with listening() as upstream, open_door(engine, plain(upstream)) as address:
        downstream = await Stream.connect(address, 4096)
        there = await upstream.accept()
        await push_until_full(downstream)
        answer = os.urandom(8 * MIB)
        saying = asyncio.create_task(there.send(answer))
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(saying), 0.5)
        heard = bytearray(await downstream.receive_exactly(6 * MIB))
        await saying
        await delivered(there)
        there.close()
        await downstream.send(bytes(8 * MIB))
        heard += await heard_until_reset(downstream)
        assert bytes(heard) == answer


@pytest.mark.parametrize("half_closes", [True, False])
@pytest.mark.parametrize("who", ["downstream", "upstream"])
async def test_all_that_was_said_before_a_reset_is_delivered(
    engine: Engine, who: str, half_closes: bool
) -> None:
    async with slow_listening() as upstream, open_door(engine, door := plain(upstream)) as address:
        downstream = await Stream.connect(address, 4096)
        there = await upstream.accept()
        first, second = (downstream, there) if who == "downstream" else (there, downstream)
        payload = os.urandom(MIB)
        await first.send(payload)
        await delivered(first)
        if half_closes:
            first.finish()
            await asyncio.sleep(0.02)
        first.reset()
        await asyncio.sleep(0.05)
        heard = bytearray()
        with suppress(ConnectionResetError):
            while more := await second.receive():
                heard += more
        assert bytes(heard) == payload
        assert (await door.ending()).outcome is Outcome.RESET


async def test_unix_sockets_lose_nothing_either(engine: Engine, tmp_path: Path) -> None:
    async with listening(str(tmp_path / "app.sock")) as upstream:
        where = UnixAddress(str(tmp_path / "door.sock"))
        async with open_door(engine, door := plain(upstream), where) as address:
            downstream = await Stream.connect(address)
            there = await upstream.accept()
            uploading = asyncio.create_task(push_until_full(downstream))
            answer = os.urandom(150_000)
            await there.send(answer)
            await uploading
            there.close()  # with much unread
            heard = bytearray()
            with suppress(ConnectionResetError):
                while more := await downstream.receive(4096):
                    heard += more
            assert bytes(heard) == answer
            assert (await door.ending()).outcome is Outcome.RESET


async def test_what_a_caller_said_before_it_was_reset_waits_for_the_upstream_side(
    engine: Engine,
) -> None:
    async with listening() as upstream, open_door(engine, door := outbound(upstream)) as address:
        downstream = await Stream.connect(address)
        await downstream.send(b"last words")
        peer = TlsStream(await upstream.accept(), PEER, server=True)
        peer.tls.bio_write(
            await peer.stream.receive()
        )  # its ClientHello: the upstream side is reached
        await delivered(downstream)
        downstream.reset()
        await peer.handshake()
        assert await peer.receive_exactly(10) == b"last words"
        with pytest.raises(ConnectionResetError):
            await peer.receive()
        ending = await door.ending()
        assert (ending.outcome, ending.reason) == (Outcome.RESET, "reset by the application")


async def test_a_caller_that_is_reset_and_had_said_nothing_is_not_waited_for(
    engine: Engine,
) -> None:
    async with listening() as upstream, open_door(engine, door := outbound(upstream)) as address:
        downstream = await Stream.connect(address)
        peer = await upstream.accept()
        downstream.reset()
        with suppress(ConnectionResetError):
            await peer.receive_all()  # half a handshake
        assert (await door.ending()).outcome is Outcome.RESET


# Those who never read.


@pytest.mark.parametrize("side", ["kernel", "backlog"])
async def test_a_reader_that_never_reads_is_given_up_after_half_close(
    engine: Engine, side: str
) -> None:
    """Whether the bytes wait in our kernel, or with us too."""
    timeouts = {"idle": 60.0, "half_close": 0.3}
    async with (
        slow_listening() as upstream,
        open_door(engine, door := inbound(upstream, **timeouts)) as address,
    ):
        peer = TlsStream(await Stream.connect(address), PEER)
        await peer.handshake()
        there = await upstream.accept()
        if side == "kernel":
            await peer.send(bytes(100_000))
            peer.truncate()
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await peer.send(bytes(64 * MIB))
            peer.stream.reset()
        ending = await door.ending()
        assert (ending.outcome, ending.duration > 0.3) == (Outcome.RESET, True)
        assert len(await heard_until_reset(there)) < 64 * MIB


async def test_to_wait_for_a_slow_reader_costs_no_cpu(engine: Engine) -> None:
    async with (
        slow_listening() as upstream,
        open_door(engine, door := inbound(upstream)) as address,
    ):
        peer = TlsStream(await Stream.connect(address), PEER)
        await peer.handshake()
        there = await upstream.accept()
        await peer.send(bytes(MIB))
        peer.truncate()
        await asyncio.sleep(0.1)
        before = os.times()
        await asyncio.sleep(0.5)
        after = os.times()
        assert after.user + after.system - before.user - before.system < 0.2
        assert not door.endings
        assert len(await heard_until_reset(there)) == MIB


# Messages of TLS itself, in pieces.


def pieces(message: bytes) -> Iterator[tuple[bytes, bytes]]:
    for cut in sorted({1, 2, 3, 4, len(message) // 2, len(message) - 1}):
        if cut < len(message):
            yield message[:cut], message[cut:]


async def test_a_callers_key_update_in_two_records_does_not_end_what_is_said_in_between(
    engine: Engine,
) -> None:
    async with listening() as upstream, open_door(engine, door := inbound(upstream)) as address:
        port = cast("TcpAddress", address).port
        peer = await asyncio.to_thread(HostileClient, port, PEER)
        with peer:
            await asyncio.to_thread(peer.handshake)
            there = await upstream.accept()
            connection = await door.connection()
            for ask in (False, True):
                for first, rest in pieces(key_update(ask=ask)):
                    peer.send(b"question").send(first, HANDSHAKE)
                    assert await there.receive_exactly(8) == b"question"
                    sent = connection.bytes_sent
                    await there.send(b"an answer")
                    await asyncio.sleep(0.01)
                    peer.send(rest, HANDSHAKE).renew_key()
                    assert await asyncio.to_thread(peer.receive, 9) == b"an answer"
                    assert connection.bytes_sent == sent + 9
            peer.send(key_update(ask=False)[:4], HANDSHAKE)
            there.finish()  # our close_notify has to wait too
            await asyncio.sleep(0.01)
            peer.send(key_update(ask=False)[4:], HANDSHAKE).renew_key()
            assert (await asyncio.to_thread(peer.receive_until_end)).data.endswith(b"an answer")
            assert await there.receive_all() == b""


@pytest.mark.parametrize("what", ["ticket", "key update"])
async def test_a_servers_message_in_two_records_does_not_end_what_is_said_in_between(
    engine: Engine, what: str
) -> None:
    message = session_ticket() if what == "ticket" else key_update(ask=True)
    async with listening() as upstream, open_door(engine, door := outbound(upstream)) as address:
        downstream = await Stream.connect(address)
        accepted = await upstream.accept()
        accepted.socket.setblocking(True)
        peer = await asyncio.to_thread(HostileServer, accepted.socket, PEER)
        await door.connection()
        for first, rest in pieces(message):
            peer.send(b"banner").send(first, HANDSHAKE)
            assert await downstream.receive_exactly(6) == b"banner"
            await downstream.send(b"request")
            await asyncio.sleep(0.01)
            peer.send(rest, HANDSHAKE)
            if what != "ticket":
                peer.renew_key()
            assert await asyncio.to_thread(partial(peer.receive, 7)) == b"request"
        assert not door.endings


async def test_half_a_message_and_then_the_end_is_a_truncation(engine: Engine) -> None:
    async with listening() as upstream, open_door(engine, door := inbound(upstream)) as address:
        port = cast("TcpAddress", address).port
        with await asyncio.to_thread(HostileClient, port, PEER) as peer:
            await asyncio.to_thread(peer.handshake)
            there = await upstream.accept()
            peer.send(b"data").send(key_update(ask=False)[:4], HANDSHAKE)
            await there.send(b"nobody will hear this")
            peer.finish()
            assert await heard_until_reset(there) == b"data"
            ending = await door.ending()
    assert (ending.outcome, ending.reason) == (Outcome.RESET, TRUNCATED)
