"""The story says nothing that isn't so: in a world that is wrong somewhere, it ends there."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest

from uproxy.demo import world as demo_world
from uproxy.demo.screen import Screen
from uproxy.demo.story import Story
from uproxy.demo.world import FRONTEND, HOME, DemoWorld
from uproxy.errors import UproxyError
from uproxy.identity.credentials import Credentials, IdentitySource
from uproxy.lab.ports import free_port


class OpenWorld(DemoWorld):
    """Orders lets every believed identity in."""

    def orders_config(self, servers: Mapping[str, int]) -> dict[str, Any]:
        config = super().orders_config(servers)
        config["authorization"][0]["from"] = "any"
        return config


class ClassicWorld(DemoWorld):
    """Keys are agreed on without the post-quantum half."""

    def frontend_config(self, servers: Mapping[str, int]) -> dict[str, Any]:
        return {**super().frontend_config(servers), "tls": {"groups": ["X25519"]}}


class RawWorld(DemoWorld):
    """Each connection has TLS of its own, and there are no tunnels."""

    def frontend_config(self, servers: Mapping[str, int]) -> dict[str, Any]:
        config = super().frontend_config(servers)
        for destination in config["destinations"].values():
            destination["transport"] = "mtls"
            destination["addresses"] = [destination.pop("hbone_address")]
        return config

    def orders_config(self, servers: Mapping[str, int]) -> dict[str, Any]:
        config = super().orders_config(servers)
        door = config["inbound"][0]
        config["inbound"] = [
            {
                "listen": door["listen"],
                "transport": "mtls",
                "to": f"127.0.0.1:{port}",
            }
            for port in servers.values()
        ]
        return config


class NakedWorld(RawWorld):
    """No uProxy speaks TLS."""

    def frontend_config(self, servers: Mapping[str, int]) -> dict[str, Any]:
        config = super().frontend_config(servers)
        for destination in config["destinations"].values():
            destination["transport"] = "plaintext"
            del destination["identities"]
        return config

    def orders_config(self, servers: Mapping[str, int]) -> dict[str, Any]:
        config = super().orders_config(servers)
        for door in config["inbound"]:
            door["transport"] = "plaintext"
        config["authorization"][0]["from"] = {"unauthenticated": True}
        return config


class WastefulWorld(DemoWorld):
    """A tunnel that has nothing to carry is closed at once."""

    def frontend_config(self, servers: Mapping[str, int]) -> dict[str, Any]:
        return {**super().frontend_config(servers), "hbone": {"idle": "1ms"}}


class ForgetfulWorld(DemoWorld):
    """Orders cuts a connection at its first silence."""

    def orders_config(self, servers: Mapping[str, int]) -> dict[str, Any]:
        config = super().orders_config(servers)
        return {**config, "timeouts": {**config["timeouts"], "idle": "1ms"}}


async def tell(world: DemoWorld) -> str:
    stream = io.StringIO()
    async with world:
        await Story(world, Screen(stream, {}), real=False).tell()
        assert world.folder.exists()
    assert not world.folder.exists()
    return stream.getvalue()


async def test_in_the_world_as_it_is_every_step_is_told() -> None:
    lines = (await tell(DemoWorld())).splitlines()
    assert [line[0] for line in lines if line[:1].isdigit()] == list("12345678")
    assert sum(FRONTEND.removeprefix("spiffe://") in line for line in lines if "echo" in line) == 2


@pytest.mark.parametrize(
    ("world", "why"),
    [
        (OpenWorld(), "an identity that no rule allows was let in"),
        (ClassicWorld(), "the group is 0x001d"),
        (RawWorld(), "an access log says"),
        # ready without an identity, which nothing in it needs
        (NakedWorld(), r"an access log says|frontend is \{\}"),
        (WastefulWorld(), r"\d+ connections went over the wire, not 1"),
        (ForgetfulWorld(), "the echo connection|an access log says|went over the wire, not 1"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, DemoWorld) else "",
)
async def test_a_world_that_is_wrong_somewhere_ends_it_there(world: DemoWorld, why: str) -> None:
    with pytest.raises(UproxyError, match=why):
        await tell(world)
    assert not world.folder.exists()


async def test_a_world_gives_identities_as_its_workload_api_does() -> None:
    async with DemoWorld() as world:
        endpoints = await world.start_authority()
        svid = await world.identity(FRONTEND)
    assert svid.spiffe_id == FRONTEND
    assert endpoints[HOME].startswith(f"unix://{world.folder}/")


async def test_ctrl_c_is_not_lost_while_an_identity_is_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = asyncio.Event()

    async def deaf_fetch(source: IdentitySource, timeout_s: float) -> Credentials:
        waiting.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(timeout_s)
        return Credentials(None, "it was stopped", {}, 0)

    monkeypatch.setattr(demo_world, "fetch_once", deaf_fetch)
    async with DemoWorld() as world:
        await world.start_authority()
        task = asyncio.create_task(world.identity(FRONTEND))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_world_holds_no_key_on_disk() -> None:
    async with DemoWorld() as world:
        await world.start_authority()
        await world.start_uproxies({"echo": free_port()})
        files = [path for path in world.folder.rglob("*") if path.is_file()]
        assert {path.suffix for path in files} == {".yaml"}
        assert not any("PRIVATE" in path.read_text() for path in files)
