"""At start each door accepts when it can serve, and all of them after a while."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.helpers.streams import Stream
from tests.helpers.world import credentials
from uproxy.app import starting
from uproxy.app.doors import socket_plans
from uproxy.app.identity import now
from uproxy.app.parts import Parts
from uproxy.app.proofs import Awaited
from uproxy.app.starting import accept, what_is_lacking
from uproxy.app.state import RunState
from uproxy.config.settings import (
    DestinationSettings,
    IdentitySettings,
    InboundSettings,
    InboundTrustSettings,
    L7EndpointSettings,
    L7ProxySettings,
    OutboundSettings,
    RuleFrom,
    RuleSettings,
    Settings,
)
from uproxy.lab.pki import Authority
from uproxy.lab.ports import free_port
from uproxy.lab.waiting import eventually
from uproxy.log import Log
from uproxy.model import Host, ListenAddress, TcpAddress, Transport, UnixAddress
from uproxy.snapshot import Snapshot
from uproxy.systemd import PassedSockets

NAMED = TcpAddress("db.internal", 1)


def here() -> TcpAddress:
    return TcpAddress("127.0.0.1", free_port())


@dataclass
class Start:
    """A uProxy that begins to accept, in a task of its own."""

    parts: Parts
    settings: Settings
    fresh: dict[ListenAddress, socket.socket] = field(default_factory=dict)
    given_up: bool = False

    def __post_init__(self) -> None:
        self.state = RunState(now(), now(), "uproxy.yaml")
        self.fresh = self.parts.doors.open_new(socket_plans(self.settings))
        self.task = asyncio.create_task(
            accept(self.parts, self.state, self.fresh, lambda: self.given_up)
        )

    @property
    def accepting(self) -> frozenset[ListenAddress]:
        return self.parts.doors.listening


Begin = Callable[..., Start]


@pytest.fixture
async def begin(tmp_path: Path) -> AsyncIterator[Begin]:
    begun: list[Start] = []

    def start(**facts: object) -> Start:
        agent = IdentitySettings(workload_api=UnixAddress(str(tmp_path / "no-agent.sock")))
        settings = replace(Settings(agent, engine="python"), **facts)  # type: ignore[arg-type]  # as given
        parts = Parts(settings, Log(settings.log, settings.name), PassedSockets({}), {})
        begun.append(Start(parts, settings))
        return begun[-1]

    yield start
    for each in begun:
        await asyncio.wait({each.task})
        each.task.result()
        await each.parts.engine.stop()


def door(name: str, transport: Transport, to: TcpAddress) -> InboundSettings:
    return InboundSettings(name, here(), transport, to)


async def test_a_door_that_needs_nothing_accepts_while_another_waits(begin: Begin) -> None:
    clear, mtls = (
        door("clear", Transport.PLAINTEXT, here()),
        door("mtls", Transport.MTLS, here()),
    )
    begun = begin(inbound=(clear, mtls))
    await eventually(lambda: begun.accepting == {clear.listen}, "the first door")
    assert begun.state.not_ready == ("starting: waiting for the first identity",)
    assert not begun.task.done()
    begun.given_up = True
    await begun.task
    assert begun.accepting == {clear.listen, mtls.listen}


async def test_a_door_waits_for_the_first_address_of_a_name(begin: Begin) -> None:
    to = DestinationSettings("db", (NAMED,), Transport.PLAINTEXT)
    listen = here()
    out = OutboundSettings(listen, "db")
    begun = begin(outbound=(out,), destinations={"db": to})
    await eventually(lambda: begun.state.waiting, "the door to wait")
    assert begun.state.not_ready == ("starting: waiting for the first address of a name",)
    # who calls meanwhile waits too, instead of being refused
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        caller = await Stream.connect(listen)
        await caller.send(b"hello")
        assert begun.accepting == frozenset()
        begun.parts.current.resolved(NAMED, (TcpAddress(*upstream.getsockname()),))
        await begun.task
        assert begun.accepting == {out.listen}
        upstream.settimeout(10)
        connection, _ = await asyncio.to_thread(upstream.accept)
        with connection:
            assert await asyncio.to_thread(connection.recv, 5) == b"hello"
        caller.close()


async def test_what_never_comes_is_waited_for_only_so_long(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "WAIT_S", 0.05)
    mtls = door("mtls", Transport.MTLS, here())
    begun = begin(inbound=(mtls,))
    await begun.task
    assert begun.accepting == {mtls.listen}
    assert begun.state.waiting == ()


async def test_without_doors_nothing_is_waited_for(begin: Begin) -> None:
    rule = RuleSettings("r", "allow", RuleFrom(any=True))
    await asyncio.wait_for(begin(authorization=(rule,)).task, 1)


def test_a_destination_and_an_application_may_have_the_same_name() -> None:
    to = DestinationSettings("x", (NAMED,), Transport.PLAINTEXT)
    inbound, outbound = door("x", Transport.MTLS, here()), OutboundSettings(here(), "x")
    settings = Settings(
        IdentitySettings(), inbound=(inbound,), outbound=(outbound,), destinations={"x": to}
    )
    lacking = what_is_lacking(Snapshot.first(settings, credentials(None)))
    assert "first identity" in lacking[inbound.listen]
    assert "first address" in lacking[outbound.listen]


async def test_a_door_for_tunnels_waits_for_an_identity_and_for_no_address(begin: Begin) -> None:
    tunnels = InboundSettings("api", here(), Transport.HBONE, None, (8080,))
    begun = begin(inbound=(tunnels,))
    await eventually(lambda: begun.state.waiting, "the door to wait")
    assert begun.state.not_ready == ("starting: waiting for the first identity",)
    begun.given_up = True
    await begun.task


def test_a_door_for_tunnels_lacks_nothing_once_there_is_an_identity() -> None:
    authority = Authority("example.org")
    tunnels = InboundSettings("api", here(), Transport.HBONE, None, (8080,))
    agent = IdentitySettings(workload_api=UnixAddress("/run/agent.sock"))
    believed = credentials(authority.issue(), authority)
    assert not what_is_lacking(Snapshot.first(Settings(agent, inbound=(tunnels,)), believed))


def test_a_door_for_tunnels_waits_for_the_keys_of_proofs_until_the_agent_has_answered() -> None:
    authority = Authority("example.org")
    tunnels = InboundSettings("api", here(), Transport.HBONE, None, (8080,))
    direct = door("direct", Transport.MTLS, here())
    agent = IdentitySettings(workload_api=UnixAddress("/run/agent.sock"))
    settings = Settings(agent, inbound=(tunnels, direct))
    made = Snapshot.first(settings, credentials(authority.issue(), authority))
    lacking = what_is_lacking(made, Awaited(keys=True))
    assert lacking == {
        tunnels.listen: "starting: waiting for the keys that callers' proofs are checked with"
    }
    assert not what_is_lacking(made, Awaited(keys=False))
    without = Snapshot.first(settings, credentials(None))
    assert "first identity" in what_is_lacking(without, Awaited(keys=True))[tunnels.listen]


def test_a_door_waits_for_our_proof_until_the_agent_has_answered() -> None:
    authority = Authority("example.org")
    behind = DestinationSettings("db", (here(),), Transport.HBONE, ("spiffe://a.b/c",), via="l7")
    out = OutboundSettings(here(), "db")
    other = OutboundSettings(here(), "cache")
    agent = IdentitySettings(workload_api=UnixAddress("/run/agent.sock"))
    settings = Settings(
        agent,
        outbound=(out, other),
        destinations={"db": behind, "cache": replace(behind, name="cache", via=None)},
        l7_proxies={
            "l7": L7ProxySettings("l7", (L7EndpointSettings(here()),), ("spiffe://a.b/l7",))
        },
    )
    made = Snapshot.first(settings, credentials(authority.issue(), authority))
    lacking = what_is_lacking(made, Awaited(tokens=frozenset({"db"})))
    assert lacking == {out.listen: "starting: waiting for our proof across an L7 proxy"}
    assert not what_is_lacking(made, Awaited())


async def test_a_door_accepts_once_what_the_parts_await_has_been_answered(begin: Begin) -> None:
    authority = Authority("example.org")
    tunnels = InboundSettings("api", here(), Transport.HBONE, None, (8080,))
    trusted = InboundTrustSettings("l7", ("spiffe://a.b/l7",), ("spiffe://a.b/**",), True)
    begun = begin(inbound=(tunnels,), inbound_trust={"l7": trusted})
    begun.parts.proofs.follow(begun.settings)
    await begun.parts.source.start()
    believed = credentials(authority.issue(), authority)
    begun.parts.current.credentials_changed(begun.parts.snapshot.credentials, believed)
    await eventually(lambda: "keys" in "".join(begun.state.not_ready), "the door to wait for keys")
    begun.parts.proofs.follow(replace(begun.settings, inbound_trust={}))
    await begun.task
    assert begun.accepting == {tunnels.listen}
    await begun.parts.source.stop()


async def test_a_door_for_tunnels_waits_for_the_name_in_to(begin: Begin) -> None:
    authority = Authority("example.org")
    believed = credentials(authority.issue(), authority)
    tunnels = InboundSettings("api", here(), Transport.HBONE, Host("app.test"), (8080,))
    begun = begin(inbound=(tunnels,))
    begun.parts.current.credentials_changed(begun.parts.snapshot.credentials, believed)
    await eventually(
        lambda: begun.state.not_ready == ("starting: waiting for the first address of a name",),
        "the door to wait for its name alone",
    )
    begun.parts.current.resolved(TcpAddress("app.test", 0), (TcpAddress("127.0.0.1", 0),))
    await begun.task
    assert begun.accepting == {tunnels.listen}


def test_a_door_waits_for_the_first_address_of_its_l7_proxy_unless_that_may_be_gone_past() -> None:
    name, listen = TcpAddress("l7.internal", 15008), here()
    proxy = L7ProxySettings("l7", (L7EndpointSettings(name),), ("spiffe://example.org/l7",))
    to = DestinationSettings(
        "db", (TcpAddress("10.0.0.7", 1),), Transport.HBONE, ("spiffe://example.org/db",), via="l7"
    )
    config = Settings(
        IdentitySettings(),
        outbound=(OutboundSettings(listen, "db"),),
        destinations={"db": to},
        l7_proxies={"l7": proxy},
    )
    ca = Authority("example.org")
    waiting = Snapshot.first(config, credentials(ca.issue("/web"), ca), lambda: ca.now)
    assert what_is_lacking(waiting) == {listen: "starting: waiting for the first address of a name"}
    assert what_is_lacking(waiting.with_records({name: (TcpAddress("10.0.0.9", 15008),)})) == {}
    bypass = replace(config, l7_proxies={"l7": replace(proxy, when_unavailable="bypass")})
    assert what_is_lacking(waiting.with_settings(bypass)) == {}
    draining = replace(proxy, addresses=(L7EndpointSettings(name, draining=True),))
    assert (
        what_is_lacking(waiting.with_settings(replace(config, l7_proxies={"l7": draining}))) == {}
    )
