"""Tunnels that peers have made: checked and cut as connections are, and counted as none."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.helpers.connections import FakeConnection, arrival, ending
from tests.helpers.world import World, peer, with_crl
from tests.test_connections import (
    CA,
    FACTS,
    INBOUND,
    ON,
    OURS,
    WEB,
    connect,
    first_cut,
    judging,
    settle,
    world,
)
from uproxy.connections import ConnectionInfo
from uproxy.contract import Refusal
from uproxy.lab.pki import Issued
from uproxy.lab.waiting import eventually
from uproxy.lifecycle import State
from uproxy.model import Direction, Outcome, TcpAddress, Transport
from uproxy.snapshot.plans import own_svid

TUNNEL = ConnectionInfo(Direction.INBOUND, "api", Transport.HBONE, own_svid(OURS.svid), None, None)
STREAM = replace(INBOUND, transport=Transport.HBONE)


def carry(here: World, number: int = 1, who: Issued = WEB) -> FakeConnection:
    """A tunnel."""
    proven = peer(who, CA)
    made = FakeConnection(arrival(proven, number=number), peer=proven, tls=FACTS)
    here.connections.tunnels.began(made, TUNNEL, here.snapshot.revision)
    return made


def open_stream(here: World, of: FakeConnection, number: int) -> FakeConnection:
    who = replace(of.arrival, id=number, tunnel=of.arrival.id, target=TcpAddress("10.0.0.7", 8080))
    made = FakeConnection(who, peer=of.peer, tls=FACTS, shares_tls=True)
    here.connections.admitted(STREAM, who, here.snapshot.revision)
    here.connections.opened(made)
    return made


async def test_a_tunnel_is_listed_apart_and_is_no_connection() -> None:
    here = world()
    first, second = carry(here, 1), carry(here, 2)
    tunnels = here.connections.tunnels
    assert [entry.connection for entry in tunnels] == [first, second]
    assert [entry.connection for entry in tunnels.newest(1)] == [second]
    assert (len(tunnels), len(here.connections), here.connections.active) == (2, 0, 0)
    assert here.connections.totals().opened == 0
    assert here.metric("uproxy_connections") == 0
    assert here.metric("uproxy_handshakes_total", direction="inbound") == 2
    tunnels.ended(first, ending())
    assert [entry.connection for entry in tunnels] == [second]


@pytest.mark.parametrize("outcome", [Outcome.CLOSED, Outcome.DRAINED, Outcome.TIMED_OUT])
async def test_a_tunnel_that_ends_in_order_is_told_to_debug_alone(
    outcome: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    here = world()
    made = carry(here)
    with caplog.at_level(logging.DEBUG, "uproxy"):
        here.connections.tunnels.ended(made, ending(outcome))
    assert here.records == []
    assert here.connections.outcomes == {}
    [line] = caplog.records
    assert line.levelname == "DEBUG"
    assert f"the tunnel of {WEB.spiffe_id} from 10.0.0.1:40000 has ended" in line.getMessage()
    ended = "uproxy_hbone_connections_closed_total"
    assert here.metric(ended, direction="inbound", outcome=outcome.value) == 1


async def test_a_tunnel_that_breaks_is_told_once_with_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    here = world()
    made = carry(here)
    reason = "the peer broke HTTP/2: too many streams were reset"
    here.connections.tunnels.ended(made, ending(Outcome.RESET, reason=reason, breach="resets"))
    assert here.metric("uproxy_hbone_broken_total") == 1
    assert here.metric("uproxy_hbone_broken_total", direction="inbound", reason="resets") == 1
    [line] = caplog.records
    assert line.levelname == "WARNING"
    assert line.getMessage().endswith(f"was broken: reset: {reason}")
    assert here.records == []


async def test_a_tunnel_that_is_lost_was_broken_by_nobody() -> None:
    here = world()
    here.connections.tunnels.ended(carry(here), ending(Outcome.RESET, reason="reset by the peer"))
    assert here.metric("uproxy_hbone_broken_total") == 0


async def test_a_dialled_tunnel_that_breaks_is_counted_and_told_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    here = world()
    why = Refusal(Outcome.RESET, "the peer broke HTTP/2: DATA", breach="protocol_error")
    here.connections.tunnels.ended_dialled(peer(WEB, CA), TcpAddress("10.0.0.7", 15008), why)
    [line] = caplog.records
    assert line.levelname == "WARNING"
    assert line.getMessage() == (
        f"the tunnel to {WEB.spiffe_id} at 10.0.0.7:15008 was broken: reset: {why.reason}"
    )
    broken, ended = "uproxy_hbone_broken_total", "uproxy_hbone_connections_closed_total"
    assert here.metric(broken, direction="outbound", reason="protocol_error") == 1
    assert here.metric(ended, direction="outbound", outcome="reset") == 1


@pytest.mark.parametrize(
    ("why", "outcome"),
    [
        (None, "closed"),
        (Refusal(Outcome.DRAINED, "uProxy stopped"), "drained"),
        # the connections that needed it say so
        (Refusal(Outcome.HANDSHAKE_FAILED, "the peer refused our certificate"), "handshake_failed"),
    ],
)
async def test_a_dialled_tunnel_that_ends_otherwise_is_only_counted(
    why: Refusal | None, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    here = world()
    here.connections.tunnels.ended_dialled(peer(WEB, CA), TcpAddress("10.0.0.7", 15008), why)
    assert caplog.records == []
    ended = "uproxy_hbone_connections_closed_total"
    assert here.metric(ended, direction="outbound", outcome=outcome) == 1
    assert here.metric("uproxy_hbone_broken_total") == 0


async def test_a_tunnel_shows_what_its_handshake_showed_for_as_long_as_it_is_open() -> None:
    here = world()
    made = carry(here)
    tunnels = here.connections.tunnels
    assert tunnels.shown(1) is TUNNEL.own
    tunnels.ended(made, ending())
    assert tunnels.shown(1) is None


async def test_a_revoked_peers_tunnel_is_cut_and_nobody_elses() -> None:
    here = world()
    other = CA.issue("/ns/web/sa/other")
    async with judging(here):
        bad, good = carry(here, 1), carry(here, 2, other)
        inside = open_stream(here, bad, 3)
        here.believe(with_crl(here.credentials, CA, WEB))
        await first_cut(bad)
        await settle()
        assert [each.outcome for each in bad.refusals] == [Outcome.IDENTITY_DISTRUSTED]
        assert [each.outcome for each in inside.refusals] == [Outcome.IDENTITY_DISTRUSTED]
        assert not good.refusals


async def test_a_cut_tunnel_is_no_broken_one(caplog: pytest.LogCaptureFixture) -> None:
    here = world()
    made = carry(here)
    here.connections.close_all(Refusal(Outcome.IDENTITY_DISTRUSTED, "trust is gone"))
    here.connections.tunnels.ended(made, ending(Outcome.IDENTITY_DISTRUSTED))
    assert [line.levelname for line in caplog.records if "tunnel" in line.getMessage()] == []


async def test_a_new_policy_ends_streams_and_leaves_their_tunnel() -> None:
    here = world()
    async with judging(here):
        tunnel = carry(here)
        inside = open_stream(here, tunnel, 2)
        here.configure(replace(here.settings, authorization=(ON,)))
        await first_cut(inside)
        await settle()
        assert [each.outcome for each in inside.refusals] == [Outcome.POLICY_CHANGED]
        assert not tunnel.refusals


async def test_a_tunnel_whose_certificate_expires_is_cut_if_told_to() -> None:
    soon = CA.issue("/ns/web/sa/short", not_after=CA.now + timedelta(seconds=30))
    for switch, outcomes in (("keep", []), ("close", [Outcome.IDENTITY_EXPIRED])):
        async with judging(world(on_expiry=switch)) as here:
            made = carry(here, who=soon)
            here.pass_time(seconds=31)
            here.configure(here.settings)
            await settle()
            assert [each.outcome for each in made.refusals] == outcomes


async def test_the_expiry_of_a_tunnel_is_noticed_without_any_other_change() -> None:
    soon = CA.issue("/ns/web/sa/short", not_after=CA.now + timedelta(seconds=1))
    async with judging(world(on_expiry="close")) as here:
        here.pass_time(seconds=0.95)
        made = carry(here, who=soon)
        await settle()
        assert not made.refusals
        here.pass_time(seconds=1)
        await eventually(lambda: made.refusals, "the expired tunnel to be cut")


async def test_a_handshake_under_an_older_trust_is_checked_when_it_carries() -> None:
    here = world()
    before = here.snapshot.revision
    here.believe(with_crl(here.credentials, CA, WEB))
    proven = peer(WEB, CA)
    made = FakeConnection(arrival(proven), peer=proven, tls=FACTS)
    here.connections.tunnels.began(made, TUNNEL, before)
    assert [each.outcome for each in made.refusals] == [Outcome.IDENTITY_DISTRUSTED]


async def test_a_tunnel_that_ends_during_the_pass_is_left_alone() -> None:
    here = world()
    made = carry(here)
    here.connections.tunnels.ended(made, ending())
    async with judging(here):
        here.believe(with_crl(here.credentials, CA, WEB))
        await settle()
        assert not made.refusals


async def test_when_the_drain_is_over_tunnels_are_cut_too_and_not_counted() -> None:
    here = world()
    tunnel = carry(here, 1)
    made = connect(here, number=2)
    assert here.connections.close_all(Refusal(Outcome.DRAINED, "over")) == 1
    assert [each.outcome for each in (*made.refusals, *tunnel.refusals)] == [Outcome.DRAINED] * 2


async def test_waiting_for_idle_waits_for_streams_and_for_no_tunnel() -> None:
    here = world()
    tunnel = carry(here, 1)
    inside = open_stream(here, tunnel, 2)
    assert here.connections.active == 1
    here.connections.closed(inside, ending(state=State.CLOSING))
    await here.connections.wait_until_idle(Direction.INBOUND, for_seconds=0)
    assert len(here.connections.tunnels) == 1
