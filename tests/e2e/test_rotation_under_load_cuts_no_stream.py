"""Both uProxies get a new SVID every few seconds while connections go through their tunnels.

New tunnels are made under the new SVIDs, those of before end with their last stream, and neither a
short connection nor one that lives through all of it loses a byte.

`UPROXY_ROTATION_S=600` makes it ten minutes instead of half of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import traffic
from tests.helpers.agents import Agent
from tests.helpers.endings import handshakes, metric
from tests.helpers.load import Load
from tests.helpers.pair import ENGINES
from uproxy.lab.mesh import ORDERS, WEB, TunnelsIn, TunnelsOut, by_agent
from uproxy.lab.waiting import eventually

SECONDS = float(os.environ.get("UPROXY_ROTATION_S", "30"))
ROTATIONS = int(SECONDS / 4)
"""At least so many in that time, of each; with a lifetime of 4 s there are more."""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    # pytest's own folders are too long for a socket's path
    with tempfile.TemporaryDirectory(prefix="agent-") as sockets:
        agent = Agent(tmp_path, Path(sockets))
        agent.plan(ttl="4s")
        with agent.authority:
            yield agent


async def talk_all_along(port: int, stop: asyncio.Event) -> int:
    """Say a word now and then on one connection, and hear it; return how many."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = 0
    while not stop.is_set():
        word = b"%08d" % said
        writer.write(word)
        assert await reader.readexactly(8) == word
        said += 1
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.05)
    writer.write_eof()
    assert await reader.read() == b""
    await traffic.close(writer)
    return said


def rotations(uproxy: TunnelsIn | TunnelsOut) -> float:
    return metric(uproxy, "uproxy_identity_rotations_total")


@pytest.mark.slow
@pytest.mark.timeout(3 * SECONDS + 60)
@pytest.mark.parametrize("engine", ENGINES)
async def test_short_and_long_connections_live_through_many_rotations(
    agent: Agent, tmp_path: Path, echo_app: int, engine: str
) -> None:
    with (
        TunnelsIn(tmp_path, by_agent(agent.endpoint, ORDERS), echo_app, engine=engine) as far,
        TunnelsOut(
            tmp_path, by_agent(agent.endpoint, WEB), echo_app, end=far.port, engine=engine
        ) as near,
    ):  # fmt: skip
        far.wait_until_ready()
        near.wait_until_ready()
        stop = asyncio.Event()
        long_ones = [asyncio.create_task(talk_all_along(near.port, stop)) for _ in range(3)]
        until = time.monotonic() + SECONDS
        async with Load(near.port, workers=4) as load:
            await eventually(
                lambda: (
                    time.monotonic() > until and min(rotations(far), rotations(near)) >= ROTATIONS
                ),
                "many rotations",
                2 * SECONDS,
            )
        stop.set()
        words = await asyncio.gather(*long_ones)
        assert min(words) > 100
        assert load.failures == []
        assert load.successes > 100
        for uproxy in (far, near):
            assert {line["outcome"] for line in uproxy.accesses} == {"closed"}
            assert len(uproxy.accesses) == len(load.attempts) + len(long_ones)
            assert metric(uproxy, "istio_tcp_connections_failed_total") == 0
        # each of the near one's SVIDs had tunnels, and what had one has ended with its streams
        assert handshakes(far) > ROTATIONS
        await eventually(
            lambda: metric(far, "uproxy_hbone_connections") <= 2, "old tunnels to end", 15
        )
