"""What engines may rely on in the values that doors give them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from uproxy.contract import PLAIN, CacheScope, Candidate, Route, Tls, TlsPlan, Tunnel
from uproxy.lab.pki import Authority
from uproxy.model import Role, TcpAddress, Timeouts, TlsSettings, TunnelSettings

OURS = Authority("example.org").issue("/ns/web/sa/frontend")
BARE = Route("db", (), PLAIN, Timeouts(idle=7), rule="web", revision=3)


def plan() -> TlsPlan:
    def verify(_chain: tuple[bytes, ...]) -> None:
        raise AssertionError("nobody shakes hands here")

    return TlsPlan(Role.CLIENT, OURS.own, OURS.key, TlsSettings(), verify)  # type: ignore[arg-type]  # never returns


@pytest.mark.parametrize(
    "route",
    [
        replace(BARE, candidates=(Candidate("a", (TcpAddress("10.0.0.7", 1),)),)),
        replace(BARE, upstream=Tls(plan())),
        replace(BARE, preface=b"PROXY"),
        replace(BARE, cache_scope=frozenset({CacheScope.PEER})),
        replace(BARE, door_data="what the door knows"),
        BARE,
    ],
)
def test_an_open_connection_keeps_of_its_route_only_what_is_asked_of_it_later(route: Route) -> None:
    kept = route.when_open
    assert kept == BARE
    assert kept.door_data is None
    assert kept.when_open is kept


def test_plans_are_equal_to_themselves_only_and_never_show_their_key() -> None:
    one, other = plan(), plan()
    assert one == one
    assert one != other
    assert one.trust_id != other.trust_id
    assert "key" not in repr(one)


@pytest.mark.parametrize("end", [15008, TcpAddress("192.0.2.10", 15008)])
def test_an_open_stream_keeps_nothing_of_its_tunnel_but_whom_we_showed_there(
    end: TcpAddress | int,
) -> None:
    kept = replace(BARE, upstream=Tunnel(plan(), end, TunnelSettings(max_streams=1))).when_open
    assert kept == BARE
    assert kept.shown == OURS.own.spiffe_id
