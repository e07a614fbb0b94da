"""Rotation in the demonstration: told as it is, and not told if it isn't so."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest

from uproxy.authority import DevelopmentAuthority
from uproxy.demo import processes
from uproxy.demo.apps import EchoApplications
from uproxy.demo.rotation import Rotation
from uproxy.demo.screen import Screen
from uproxy.demo.world import DemoWorld
from uproxy.errors import UproxyError


class ImpatientWorld(DemoWorld):
    """Orders cuts a connection that is silent while certificates are renewed."""

    def orders_config(self, servers: Mapping[str, int]) -> dict[str, Any]:
        config = super().orders_config(servers)
        return {**config, "timeouts": {**config["timeouts"], "idle": "20ms"}}


async def tell(world: DemoWorld) -> list[str]:
    stream = io.StringIO()
    async with world:
        await world.start_authority()
        apps = await world.enter(EchoApplications())
        await world.start_uproxies(apps.servers)
        await Rotation(world, Screen(stream, {}), apps).tell()
    return stream.getvalue().splitlines()


async def test_an_old_tunnel_stays_beside_the_new_one_until_its_stream_ends() -> None:
    told = await tell(DemoWorld())
    old, new, kept = [line.split()[-1 - line.endswith("still")] for line in told if "from" in line]
    assert old == kept != new
    assert told[-1].endswith("the old tunnel ended with its last stream")


async def test_certificates_that_stay_the_same_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DevelopmentAuthority, "renew", lambda authority, domain: None)
    monkeypatch.setattr(processes, "TIMEOUT_S", 2.0)
    with pytest.raises(UproxyError, match="has a new certificate: this did not happen"):
        await tell(DemoWorld())


async def test_a_connection_that_is_cut_meanwhile_ends_it() -> None:
    with pytest.raises(UproxyError, match=r"the echo connection|this did not happen"):
        await tell(ImpatientWorld())
