"""Whoever floods a tunnel, or breaks HTTP/2 in it, ends it: one step of one counter, one line.

The counter says what was done; the connections that the tunnel carried have lines of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hpack
import pytest
from h2.events import StreamEnded

from tests.helpers.endings import Line, metric
from tests.helpers.streams import Stream, listening
from tests.helpers.tunnels import H2Peer
from uproxy.hbone import frames
from uproxy.hbone.budgets import BUCKETS, MAX_CONTINUATIONS, Flood
from uproxy.hbone.codes import ErrorCode, FrameType
from uproxy.hbone.frames import frame
from uproxy.lab.mesh import ORDERS, WEB, FileWorld, TunnelsIn, TunnelsOut
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import eventually
from uproxy.model import TcpAddress

BROKEN = "uproxy_hbone_broken_total"
WEB_PATH, ORDERS_PATH = "/ns/web/sa/frontend", "/ns/shop/sa/orders"


def too_many(flood: Flood) -> int:
    """More than a tunnel may ever have at once, refills included, if it takes 5 s."""
    burst, rate = BUCKETS[flood]
    return int(burst + 5 * rate + 1)


def connect(authority: str) -> bytes:
    return hpack.Encoder().encode([(":method", "CONNECT"), (":authority", authority)])


def rapid_resets(_authority: str) -> bytes:
    block = connect("192.0.2.1:1")  # which isn't ours, so that nothing is dialled
    return b"".join(
        frames.headers(stream, block, end=False) + frames.rst_stream(stream, ErrorCode.CANCEL)
        for stream in range(1, 2 * too_many(Flood.RESETS), 2)
    )


def empty_frames(authority: str) -> bytes:
    opened = frames.headers(1, connect(authority), end=False)
    return opened + frame(FrameType.DATA, 0, 1) * too_many(Flood.EMPTY_FRAMES)


def header_bomb(_authority: str) -> bytes:
    """A header that is long where it is decoded, and a byte in each place but the first."""
    block = hpack.Encoder().encode([(":method", "CONNECT"), *[("x", "a" * 3000)] * 8])
    return frames.headers(1, block, end=False)


def continuations(authority: str) -> bytes:
    begun = frame(FrameType.HEADERS, 0, 1, connect(authority))
    return begun + frame(FrameType.CONTINUATION, 0, 1, b"\x88") * (MAX_CONTINUATIONS + 1)


ATTACKS: dict[str, Callable[[str], bytes]] = {
    "resets": rapid_resets,
    "pings": lambda _to: frames.ping(bytes(8), ack=False) * too_many(Flood.PINGS),
    "settings": lambda _to: frame(FrameType.SETTINGS, 0, 0) * too_many(Flood.SETTINGS),
    "empty_frames": empty_frames,
    "continuations": continuations,
    "headers": header_bomb,
    "window_updates": lambda _to: frames.window_update(0, 1) * too_many(Flood.WINDOW_UPDATES),
    "flow_control_error": lambda _to: frames.window_update(0, 2**31 - 1),
    "protocol_error": lambda _to: frame(FrameType.DATA, 0, 0, b"x"),
}
"""What a peer may send, by the reason under which it is counted."""


def told(uproxy: Uproxy) -> list[Line]:
    """The lines about broken tunnels."""
    return [line for line in uproxy.lines if "was broken" in line.get("message", "")]


@pytest.mark.parametrize("reason", ATTACKS)
async def test_a_peer_that_attacks_is_one_step_and_one_line(
    door: TunnelsIn, file_world: FileWorld, echo_app: int, reason: str
) -> None:
    steps, lines = metric(door, BROKEN), len(told(door))
    before = metric(door, BROKEN, direction="inbound", reason=reason)
    peer = await H2Peer.connect(TcpAddress("127.0.0.1", door.port), file_world.ca.issue(WEB_PATH))
    await peer.raw(ATTACKS[reason](f"127.0.0.1:{echo_app}"))
    await peer.until_closed()
    peer.tls.stream.reset()
    await eventually(lambda: metric(door, BROKEN) > steps, "it to be counted")
    assert metric(door, BROKEN, direction="inbound", reason=reason) == before + 1
    assert metric(door, BROKEN) == steps + 1
    await eventually(lambda: len(told(door)) > lines, "it to be logged")
    (line,) = told(door)[lines:]
    assert line["level"] == "warning"
    assert f"the tunnel of {WEB} from 127.0.0.1:" in line["message"]
    assert "Traceback" not in door.output


@pytest.mark.parametrize("streams", [3, 0])
async def test_a_server_that_breaks_a_tunnel_of_ours_is_one_step_and_one_line_too(
    tmp_path: Path, file_world: FileWorld, engine: str, streams: int
) -> None:
    async with listening() as end:
        assert isinstance(end.address, TcpAddress)
        with TunnelsOut(
            tmp_path, file_world.ours(WEB), 1234, end=end.address.port, engine=engine
        ) as near:
            near.wait_until_ready()
            door = TcpAddress("127.0.0.1", near.port)
            clients = [await Stream.connect(door)]
            peer = await H2Peer.accept(end, file_world.ca.issue(ORDERS_PATH))
            await peer.answer(await peer.request(), 200)
            for _ in range(streams - 1):
                clients.append(await Stream.connect(door))
                await peer.answer(await peer.request(), 200)
            if not streams:
                clients[0].finish()
                await peer.event(StreamEnded)
                peer.h2.end_stream(1)
                await peer.flush()
                assert await clients[0].receive_all() == b""
            await peer.raw(ATTACKS["pings"](""))
            await peer.until_closed()
            await eventually(lambda: metric(near, BROKEN) > 0, "it to be counted")
            assert metric(near, BROKEN, direction="outbound", reason="pings") == 1
            assert metric(near, BROKEN) == 1
            ended = "uproxy_hbone_connections_closed_total"
            assert metric(near, ended, direction="outbound", outcome="reset") == 1
            await eventually(lambda: told(near), "it to be logged")
            (line,) = told(near)
            assert line["level"] == "warning"
            assert f"the tunnel to {ORDERS} at {end.address} was broken" in line["message"]
            assert "too many PING frames" in line["message"]
            for client in clients:
                client.close()
