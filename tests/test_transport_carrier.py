"""Two relays over one connection that carries two streams: what a relay needs of a side suffices.

The scenarios are those of `test_transport_relay.py` and `test_transport_losses.py`, with a side
that has neither a socket nor TLS of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

import pytest

from tests.helpers import probes
from tests.helpers.carrier_native import NativeRelays
from tests.helpers.carrier_peer import STREAMS, WINDOW, CarriedStream, CarrierPeer
from tests.helpers.carrier_python import PythonRelays
from tests.helpers.streams import Stream, close_all

MIB = 1 << 20


class Relays(Protocol):
    """The relays of one engine: application n talks to stream n of the carrier."""

    async def ending(self, at: int) -> str | None:
        """Wait for the end of one; return why it failed, None if it ended in order."""

    async def close(self) -> None: ...


RELAYS: dict[str, Callable[[Sequence[socket.socket], socket.socket], Relays]] = {
    "native": NativeRelays,
    "python": PythonRelays,
}


class Carried:
    """Two applications, and the two streams that they are relayed to."""

    def __init__(self, relays: Relays, applications: list[Stream], peer: CarrierPeer) -> None:
        self.relays = relays
        self.applications = applications
        self.peer = peer
        self.streams: list[CarriedStream] = list(peer.streams.values())


@pytest.fixture(params=sorted(RELAYS))
async def carried(request: pytest.FixtureRequest) -> AsyncIterator[Carried]:
    ours, theirs = zip(*(tcp_pair() for _ in (*STREAMS, "carrier")), strict=True)
    for each in ours:
        each.setblocking(False)
    applications, carrier = [Stream(each) for each in theirs[:-1]], Stream(theirs[-1])
    peer = CarrierPeer(carrier)
    relays = RELAYS[request.param](ours[:-1], ours[-1])
    yield Carried(relays, applications, peer)
    await peer.close()
    await relays.close()
    close_all()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection with small buffers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        dialled = socket.create_connection(listener.getsockname())
        accepted, _address = listener.accept()
    return dialled, accepted


async def test_bytes_pass_both_ways_on_both_streams(carried: Carried) -> None:
    for at, (downstream, there) in enumerate(
        zip(carried.applications, carried.streams, strict=True)
    ):
        await downstream.send(b"question %d" % at)
        assert await there.receive_exactly(10) == b"question %d" % at
        await there.send(b"an answer %d" % at)
        assert await downstream.receive_exactly(11) == b"an answer %d" % at


async def test_the_application_may_half_close_first(carried: Carried) -> None:
    downstream, there = carried.applications[0], carried.streams[0]
    await downstream.send(b"request")
    downstream.finish()
    assert await there.receive_all() == b"request"
    await there.send(b"late answer")
    await there.finish()
    assert await downstream.receive_all() == b"late answer"
    assert await carried.relays.ending(0) is None


async def test_the_stream_may_half_close_first(carried: Carried) -> None:
    downstream, there = carried.applications[0], carried.streams[0]
    await there.send(b"banner")
    await there.finish()
    assert await downstream.receive_all() == b"banner"
    await downstream.send(b"still talking")
    downstream.finish()
    assert await there.receive_all() == b"still talking"
    assert await carried.relays.ending(0) is None


async def test_the_end_of_one_stream_leaves_the_other_alone(carried: Carried) -> None:
    await test_the_application_may_half_close_first(carried)
    await carried.applications[1].send(b"on")
    assert await carried.streams[1].receive_exactly(2) == b"on"


async def test_many_bytes_arrive_as_they_were_sent_both_ways_at_once(carried: Carried) -> None:
    payloads = [os.urandom(4 * MIB) for _ in range(4)]
    senders: list[Callable[[bytes], Awaitable[None]]] = [
        *(each.send for each in carried.applications), *(each.send for each in carried.streams)
    ]  # fmt: skip
    receivers: list[Callable[[int], Awaitable[bytes]]] = [
        *(each.receive_exactly for each in carried.streams),
        *(each.receive_exactly for each in carried.applications),
    ]
    sending = [
        asyncio.ensure_future(send(data)) for send, data in zip(senders, payloads, strict=True)
    ]
    received = await asyncio.gather(*(receive(4 * MIB) for receive in receivers))
    await asyncio.gather(*sending)
    assert [hashlib.sha256(each).digest() for each in received] == [
        hashlib.sha256(each).digest() for each in payloads
    ]


class Pushing:
    """Sends 16 MiB, and counts what was taken."""

    def __init__(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        self.sent = 0
        self.task = asyncio.create_task(self._push(send))

    async def _push(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        while self.sent < 16 * MIB:
            await send(bytes(16 * 1024))
            self.sent += 16 * 1024

    async def has_stalled(self) -> int:
        """Wait until nothing more is taken; return what was."""
        last, same = -1, 0
        while same < 20:
            await asyncio.sleep(0.01)
            same = same + 1 if self.sent == last else 0
            last = self.sent
        return last


async def test_a_stream_whose_reader_stalls_stops_its_writer_and_not_the_other_stream(
    carried: Carried,
) -> None:
    stalled = Pushing(carried.applications[0].send)
    assert await stalled.has_stalled() < 12 * MIB  # what the kernel's buffers take
    answering = asyncio.create_task(carried.applications[1].send(bytes(4 * MIB)))
    assert len(await carried.streams[1].receive_exactly(4 * MIB)) == 4 * MIB
    await answering
    assert len(await carried.streams[0].receive_exactly(16 * MIB)) == 16 * MIB
    await stalled.task


async def test_an_application_whose_reader_stalls_stops_its_stream_and_not_the_other_one(
    carried: Carried,
) -> None:
    stalled = Pushing(carried.streams[0].send)
    assert await stalled.has_stalled() < 12 * MIB
    answering = asyncio.create_task(carried.streams[1].send(bytes(4 * MIB)))
    assert len(await carried.applications[1].receive_exactly(4 * MIB)) == 4 * MIB
    await answering
    assert len(await carried.applications[0].receive_exactly(16 * MIB)) == 16 * MIB
    await stalled.task


async def test_a_reset_of_the_application_becomes_a_reset_of_its_stream_alone(
    carried: Carried,
) -> None:
    downstream, there = carried.applications[0], carried.streams[0]
    await downstream.send(b"x")
    assert await there.receive_exactly(1) == b"x"
    downstream.reset()
    assert await there.is_reset()
    assert await carried.relays.ending(0) == "reset by the application"
    await carried.applications[1].send(b"on")
    assert await carried.streams[1].receive_exactly(2) == b"on"


async def test_a_reset_of_a_stream_becomes_a_reset_of_its_application_alone(
    carried: Carried,
) -> None:
    downstream, there = carried.applications[0], carried.streams[0]
    await there.reset()
    assert await downstream.is_reset()
    assert await carried.relays.ending(0) == "reset by the peer"
    await carried.streams[1].send(b"on")
    assert await carried.applications[1].receive_exactly(2) == b"on"


@pytest.mark.parametrize("size", [1, WINDOW, MIB])
async def test_the_application_gets_all_that_a_stream_had_sent_before_it_was_reset(
    carried: Carried, size: int
) -> None:
    downstream, there = carried.applications[0], carried.streams[0]
    payload = os.urandom(size)

    async def send_and_reset() -> None:
        await there.send(payload)
        await there.reset()

    sending = asyncio.create_task(send_and_reset())
    assert await downstream.receive_exactly(size) == payload
    assert await downstream.is_reset()
    await sending


async def test_the_loss_of_the_carrier_is_the_loss_of_both_streams(carried: Carried) -> None:
    for downstream, there in zip(carried.applications, carried.streams, strict=True):
        await downstream.send(b"x")
        assert await there.receive_exactly(1) == b"x"
    await carried.peer.close()
    carried.peer.stream.reset()
    assert [await downstream.is_reset() for downstream in carried.applications] == [True, True]
    assert [await carried.relays.ending(at) for at in (0, 1)] == ["reset by the peer"] * 2


def test_a_connection_without_streams_pays_for_none() -> None:
    assert probes.load("carrier_probe").size_of_a_connection() <= 1200  # bytes
