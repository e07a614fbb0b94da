"""Callers that don't read cost the shared Envoy what its windows allow, and others nothing."""

from __future__ import annotations

import json

import pytest
from OpenSSL import SSL

from tests.helpers.http_app import fetch
from tests.helpers.shared import Shared
from tests.helpers.streams import close_all
from tests.helpers.tunnels import H2Peer
from uproxy.lab.mesh import ORDERS, WEB
from uproxy.lab.software.shared_envoy import SharedEnvoy
from uproxy.lab.waiting import eventually, wait_until
from uproxy.model import TcpAddress

MIB = 1 << 20
EXPECTS = ("x-uproxy-expect-id", ORDERS)
STALLED = 16
RECEIVED = "cluster.originate.upstream_cx_rx_bytes_total"


async def test_a_caller_that_doesnt_read_costs_two_megabytes_and_stops_nobody(
    shared: Shared, frontend: int
) -> None:
    """By Envoy's own windows it is 34 MB."""
    before = allocated(shared)
    for _ in range(STALLED):
        caller = await call(shared, shared.envoy)
        stream = await caller.open(shared.addresses[0], EXPECTS)
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


async def test_connections_above_the_limit_are_closed_at_once(shared: Shared) -> None:
    envoy = shared.another_envoy()
    limit = "max_active_downstream_connections: "
    envoy.replace("base.yaml", {f"{limit}20000": f"{limit}2"})
    with envoy:
        callers = [await call(shared, envoy) for _ in range(2)]
        with pytest.raises((SSL.Error, ConnectionError, EOFError)):
            await call(shared, envoy)
        # those that are there go on
        for caller in callers:
            stream = await caller.open(shared.addresses[0], EXPECTS)
            assert await caller.status(stream) == 200
        close_all()


@pytest.mark.slow
def test_with_too_little_memory_it_takes_no_more_requests(shared: Shared) -> None:
    envoy = shared.another_envoy()
    envoy.replace("base.yaml", {"max_heap_size_bytes: 1073741824": "max_heap_size_bytes: 1048576"})
    with envoy:
        prefix = "overload.envoy.overload_actions"
        actions = ("shrink_heap", "stop_accepting_requests", "stop_accepting_connections")
        wanted = {f"{prefix}.{action}.active" for action in actions}

        def taken() -> bool:
            found = envoy.statistics(prefix)
            return all(found[each] == 1 for each in wanted)

        wait_until(taken, "the actions to be taken")


async def call(shared: Shared, envoy: SharedEnvoy) -> H2Peer:
    """Connect as the frontend."""
    svid = shared.world.ca.issue(WEB.removeprefix("spiffe://example.org"))
    return await H2Peer.connect(TcpAddress("127.0.0.1", envoy.port), svid)


def allocated(shared: Shared) -> int:
    """Bytes that Envoy uses of its heap."""
    return int(json.loads(shared.envoy.admin("/memory"))["allocated"])
