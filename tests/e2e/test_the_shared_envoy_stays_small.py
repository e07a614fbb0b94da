"""Callers that don't read cost the shared Envoy what its windows allow, and others nothing."""

from __future__ import annotations

import json

from tests.helpers.http_app import fetch
from tests.helpers.shared import Shared
from tests.helpers.streams import close_all
from tests.helpers.tunnels import H2Peer
from uproxy.lab.mesh import ORDERS, WEB
from uproxy.lab.waiting import eventually
from uproxy.model import TcpAddress

MIB = 1 << 20
STALLED = 16
RECEIVED = "cluster.originate.upstream_cx_rx_bytes_total"


async def test_a_caller_that_doesnt_read_costs_two_megabytes_and_stops_nobody(
    shared: Shared, frontend: int
) -> None:
    """By Envoy's own windows it is 34 MB."""
    path = WEB.removeprefix("spiffe://example.org")
    before = allocated(shared)
    for _ in range(STALLED):
        address = TcpAddress("127.0.0.1", shared.envoy.port)
        caller = await H2Peer.connect(address, shared.world.ca.issue(path))
        stream = await caller.open(shared.addresses[0], ("x-uproxy-expect-id", ORDERS))
        assert await caller.status(stream) == 200
        await caller.send(stream, b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n" % (64 * MIB))
        # one after the other they share tunnels to the destination
        await caller.receive(stream, 1)
    received: list[int] = []

    def quiet() -> bool:
        received.append(shared.envoy.statistics(RECEIVED)[RECEIVED])
        return received[-1] > STALLED * MIB / 8 and len(set(received[-30:])) == 1

    await eventually(quiet, "all to have stalled")
    assert [fetch(frontend).status for _ in range(6)] == [200] * 6
    assert (allocated(shared) - before) / STALLED < 2 * MIB
    close_all()


def allocated(shared: Shared) -> int:
    """Bytes that Envoy uses of its heap."""
    return int(json.loads(shared.envoy.admin("/memory"))["allocated"])
