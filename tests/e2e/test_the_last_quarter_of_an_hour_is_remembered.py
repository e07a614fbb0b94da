"""A running uProxy remembers how much happened, and what is wrong with it since when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import traffic
from uproxy.lab.mesh import ORDERS, UNWANTED, WEB, FileWorld, Inbound, Outbound
from uproxy.lab.processes import Uproxy
from uproxy.lab.waiting import wait_until

CALLS = 15
BYTES = 10_000


def status(uproxy: Uproxy) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(uproxy.request("/status.json")[1])
    return told


@pytest.mark.slow
async def test_connections_bytes_and_refusals_are_in_the_next_step(
    folder: Path, file_world: FileWorld, echo_app: int
) -> None:
    """The first step ends 15 seconds after the start."""
    inbound = Inbound(folder, file_world.ours(ORDERS), echo_app)
    callers = [Outbound(folder, file_world.ours(who), inbound.port) for who in (WEB, UNWANTED)]
    with inbound, callers[0] as web, callers[1] as unwanted:
        for uproxy in (inbound, web, unwanted):
            uproxy.wait_until_ready()
        for _ in range(CALLS):
            await traffic.exchange(web.port, BYTES)
        with pytest.raises((OSError, EOFError)):
            await traffic.exchange(unwanted.port, BYTES)
        told = wait_until(
            lambda: status(inbound)["rates"]["opened"] and status(inbound), "a step", 30
        )
        rates, headline = told["rates"], told["headline"]
        counts = {name: sum(rates[name]) * rates["step"] for name in rates if name != "step"}
        assert counts["opened"] == pytest.approx(CALLS, rel=0.05)
        assert counts["failed"] == pytest.approx(1, rel=0.05)
        assert counts["received"] == pytest.approx(CALLS * BYTES, rel=0.05)
        assert headline["words"] == "1 caller refused, certificate fine"
        assert headline["since"] is not None
