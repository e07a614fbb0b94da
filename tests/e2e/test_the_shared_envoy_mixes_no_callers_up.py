"""Callers with different identities at once, through one Envoy to one application: nobody's request
arrives under another's name."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from tests.helpers.background import background
from tests.helpers.shared import FIRST, L7, THROUGH_L7, TRUST
from tests.helpers.witness import Witness, ask
from uproxy.lab.mesh import ORDERS, FileWorld, ThroughL7, TunnelsIn
from uproxy.lab.software.shared_envoy import SharedEnvoy


@pytest.mark.parametrize(
    ("count", "requests"),
    [(4, 2_000), pytest.param(10, 100_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
)
async def test_no_request_arrives_under_anothers_name(
    folder: Path, file_world: FileWorld, count: int, requests: int
) -> None:
    who = [f"spiffe://example.org/ns/web/sa/caller-{number}" for number in range(count)]
    witness = Witness()
    with contextlib.ExitStack() as stack:
        app = stack.enter_context(background(witness.serve))
        orders = TunnelsIn(
            folder, file_world.ours(ORDERS), app, engine="native", inbound_trust=TRUST,
            authorization=[THROUGH_L7],
        )  # fmt: skip
        (door,) = orders.config["inbound"]
        orders.change(inbound=[{**door, "proxy_protocol": "v2"}])
        stack.enter_context(orders).wait_until_ready()
        envoy = stack.enter_context(
            SharedEnvoy(folder, file_world.theirs(L7), destinations=orders.port)
        )
        callers = [
            stack.enter_context(
                ThroughL7(
                    folder, file_world.ours(each), f"{FIRST}:{app}", proxies=[envoy.port], l7=L7
                )
            )
            for each in who
        ]
        share = requests // count
        await asyncio.gather(
            *(
                ask(caller.port, each, share // 2, per_connection=per_connection)
                for caller, each in zip(callers, who, strict=True)
                for per_connection in (1, 25)
            )
        )
    assert witness.requests == dict.fromkeys(who, share)
    assert witness.mixed == []
    # Envoy has used connections to the application for more than one of a caller's
    assert witness.connections < requests / 10
