"""Callers with different identities at once, through one Envoy to one application: nobody's request
arrives under another's name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.background import background
from tests.helpers.shared import FIRST, L7, THROUGH_L7, TRUST
from tests.helpers.witness import Witness, ask
from uproxy.lab.authorities import DevAuthority, entry
from uproxy.lab.mesh import ORDERS, WEB, AgentWorld, FileWorld, ThroughL7, TunnelsIn
from uproxy.lab.software.shared_envoy import SharedEnvoy


@pytest.mark.parametrize(
    ("count", "requests"),
    [(4, 2_000), pytest.param(10, 100_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
)
async def test_no_request_arrives_under_anothers_name(
    folder: Path, file_world: FileWorld, count: int, requests: int
) -> None:
    await ask_as_each(folder, file_world, callers(count), requests, TRUST)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_no_request_arrives_under_anothers_name_where_each_caller_proves_itself(
    folder: Path,
) -> None:
    who = callers(6)
    domain = {"entries": [entry(each) for each in (L7, ORDERS, WEB, *who)], "jwt_ttl": "20s"}
    trust = {"l7": {**TRUST["l7"], "require_proof": True}}
    with DevAuthority(folder, {"example.org": domain}) as authority:
        await ask_as_each(folder, AgentWorld(folder, authority), who, 20_000, trust)


def callers(count: int) -> list[str]:
    return [f"spiffe://example.org/ns/web/sa/caller-{number}" for number in range(count)]


async def ask_as_each(
    folder: Path,
    world: FileWorld | AgentWorld,
    who: Sequence[str],
    requests: int,
    trust: Mapping[str, Any],
) -> None:
    """Make requests as all callers at once, and compare who is said to have made each."""
    witness = Witness()
    with contextlib.ExitStack() as stack:
        app = stack.enter_context(background(witness.serve))
        orders = TunnelsIn(
            folder, world.ours(ORDERS), app, engine="native", inbound_trust=trust,
            authorization=[THROUGH_L7],
        )  # fmt: skip
        (door,) = orders.config["inbound"]
        orders.change(inbound=[{**door, "proxy_protocol": "v2"}])
        stack.enter_context(orders).wait_until_ready()
        envoy = stack.enter_context(SharedEnvoy(folder, world.theirs(L7), destinations=orders.port))
        ports = {}
        for each in who:
            caller = stack.enter_context(
                ThroughL7(folder, world.ours(each), f"{FIRST}:{app}", proxies=[envoy.port], l7=L7)
            )
            caller.wait_until_ready()
            ports[each] = caller.port
        share = requests // len(who)
        await asyncio.gather(
            *(
                ask(port, each, share // 2, per_connection=per_connection)
                for each, port in ports.items()
                for per_connection in (1, 25)
            )
        )
    assert witness.requests == dict.fromkeys(who, share // 2 * 2)
    assert witness.mixed == []
    # Envoy has used connections to the application for more than one of a caller's
    assert witness.connections < requests / 10
