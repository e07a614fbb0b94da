"""A stock Envoy opens streams at a running uProxy's door for tunnels, and takes streams of one.

Envoy has its default circuit breakers, and opens up to 1,024 streams before it has read SETTINGS.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import crowds, traffic
from tests.helpers.background import background
from tests.helpers.crowds import Crowd
from tests.helpers.dialogue import ask, dial, talk
from tests.helpers.endings import ended, handshakes, only
from uproxy.lab.mesh import (
    ORDERS,
    STRANGER,
    UNWANTED,
    WEB,
    FileWorld,
    TunnelsIn,
    TunnelsOut,
    allowing,
)
from uproxy.lab.ports import free_port
from uproxy.lab.software.envoy import Envoy
from uproxy.lab.software.envoy_tunnels import TunnelOriginator, TunnelTerminator, Waypoint
from uproxy.lab.waiting import wait_until

MIB = 1 << 20
WAYPOINT = "spiffe://example.org/ns/mesh/sa/l7"


def originator(
    folder: Path,
    world: FileWorld,
    door: TunnelsIn,
    app: int,
    *,
    ours: str = WEB,
    expect: str = ORDERS,
    attempts: int = 1,
) -> TunnelOriginator:
    return TunnelOriginator(
        folder, world.theirs(ours), target=door.port, authority=f"127.0.0.1:{app}",
        expect=[expect], proxy={"max_connect_attempts": attempts},
    )  # fmt: skip


@pytest.fixture(scope="module")
def client(
    folder: Path, file_world: FileWorld, door: TunnelsIn, echo_app: int
) -> Iterator[TunnelOriginator]:
    with originator(folder, file_world, door, echo_app) as envoy:
        yield envoy


@pytest.fixture(scope="module")
def server(folder: Path, file_world: FileWorld, echo_app: int) -> Iterator[TunnelTerminator]:
    with TunnelTerminator(
        folder, file_world.theirs(ORDERS), target=echo_app, allow=[WEB], trust=[UNWANTED]
    ) as envoy:
        yield envoy


@pytest.fixture(scope="module")
def to_server(
    folder: Path, file_world: FileWorld, server: TunnelTerminator, echo_app: int, engine: str
) -> Iterator[TunnelsOut]:
    with TunnelsOut(
        folder, file_world.ours(WEB), echo_app, end=server.port, engine=engine
    ) as uproxy:
        uproxy.wait_until_ready()
        yield uproxy


def grown(envoy: Envoy, before: dict[str, int], name: str) -> int:
    """By how much the counters whose names end like this have grown."""
    now = envoy.statistics()
    return sum(now[each] - before.get(each, 0) for each in now if each.endswith(name))


def said(envoy: Envoy) -> list[str]:
    """Its lines about streams."""
    return [line for line in envoy.output.splitlines() if line.startswith("stream: ")]


def answers(client: TunnelOriginator) -> list[str]:
    """The statuses that have answered its CONNECTs."""
    return re.findall(r'":status","value":"(\d+)"', "".join(said(client)))


# Envoy opens streams.


def test_streams_of_an_envoy_share_a_tunnel_and_both_know_who_talks(
    client: TunnelOriginator, door: TunnelsIn, echo_app: int
) -> None:
    before, ours = client.statistics(), handshakes(door)
    with ended(door, "closed", count=20) as lines:
        for _ in range(20):
            assert ask(client.port) == b"hello\n"
    assert grown(client, before, "ssl.handshake") <= 1
    assert handshakes(door) - ours == grown(client, before, "ssl.handshake")
    assert {(line["src.identity"], line["dst.identity"]) for line in lines} == {(WEB, ORDERS)}
    assert {line["dst.hbone_addr"] for line in lines} == {f"127.0.0.1:{echo_app}"}
    assert {line["dst.addr"] for line in lines} == {f"127.0.0.1:{door.port}"}
    assert {line["rule"] for line in lines} == {"callers"}
    wait_until(lambda: len(said(client)) >= 20, "Envoy's lines")
    assert set(answers(client)) == {"200"}
    assert {line.split()[-1] for line in said(client)} == {ORDERS}


def test_bytes_arrive_through_an_envoy_that_opens_streams(
    client: TunnelOriginator, door: TunnelsIn
) -> None:
    with ended(door, "closed") as lines:
        asyncio.run(traffic.exchange(client.port, 8 * MIB + 1))
    line = only(lines)
    assert (line["bytes_recv"], line["bytes_sent"]) == (8 * MIB + 1, 8 * MIB + 1)


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_cold_burst_of_an_envoy_is_served_whole(
    folder: Path, file_world: FileWorld, door: TunnelsIn, echo_app: int, count: int
) -> None:
    with originator(folder, file_world, door, echo_app) as cold:
        with ended(door, "closed", count=count, timeout=60):
            assert asyncio.run(crowds.gather(cold.port, count)) == Crowd(count, 0)
        assert client_failures(cold) == 0


def client_failures(envoy: Envoy) -> int:
    return sum(
        count
        for name, count in envoy.statistics("cluster.target.").items()
        if name.endswith(("connect_fail", "protocol_error", "overflow", "tx_reset"))
    )


def test_what_a_cold_burst_has_above_the_limit_is_refused_alone(
    folder: Path, file_world: FileWorld, echo_app: int, engine: str
) -> None:
    """Envoy opens them before it knows the limit; the others must not pay for it."""
    limit = 50
    with (
        TunnelsIn(
            folder, file_world.ours(ORDERS), echo_app, engine=engine, hbone={"max_streams": limit}
        ) as uproxy,
    ):
        uproxy.wait_until_ready()
        with originator(folder, file_world, uproxy, echo_app) as cold:
            crowd = asyncio.run(crowds.gather(cold.port, 2 * limit))
            assert crowd.served >= limit
            assert ask(cold.port) == b"hello\n"


def test_a_half_close_comes_through_an_envoy_that_opens_streams(
    folder: Path, file_world: FileWorld, engine: str
) -> None:
    with (
        background(traffic.answer_digest) as app,
        TunnelsIn(folder, file_world.ours(ORDERS), app, engine=engine) as uproxy,
        originator(folder, file_world, uproxy, app) as client,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "closed"):
            asyncio.run(traffic.deliver(client.port, MIB + 7))


def test_an_envoy_whom_no_rule_allows_has_a_403_in_its_log(
    folder: Path, file_world: FileWorld, door: TunnelsIn, echo_app: int
) -> None:
    with originator(folder, file_world, door, echo_app, ours=UNWANTED) as client:
        with ended(door, "denied") as lines:
            assert ask(client.port) == b""
        assert only(lines)["src.identity"] == UNWANTED
        wait_until(lambda: said(client), "Envoy's line")
        assert answers(client) == ["403"]
        assert client.statistics()["cluster.target.ssl.handshake"] == 1


def test_an_envoy_that_asks_for_another_port_has_a_400_in_its_log(
    folder: Path, file_world: FileWorld, door: TunnelsIn
) -> None:
    with originator(folder, file_world, door, free_port()) as client:
        with ended(door, "no_destination"):
            assert ask(client.port) == b""
        wait_until(lambda: said(client), "Envoy's line")
        assert answers(client) == ["400"]


def test_an_envoy_hears_of_an_application_that_is_down(
    folder: Path, file_world: FileWorld, engine: str
) -> None:
    nowhere = free_port()
    with (
        TunnelsIn(folder, file_world.ours(ORDERS), nowhere, engine=engine) as uproxy,
        originator(folder, file_world, uproxy, nowhere) as client,
    ):
        uproxy.wait_until_ready()
        with ended(uproxy, "connect_failed", rule="callers"):
            assert ask(client.port) == b""
        wait_until(lambda: said(client), "Envoy's line")
        assert answers(client) == ["503"]


def test_an_envoy_of_another_trust_domain_opens_no_tunnel(
    folder: Path, file_world: FileWorld, door: TunnelsIn, echo_app: int
) -> None:
    with (
        originator(folder, file_world, door, echo_app, ours=STRANGER) as client,
        ended(door, "peer_untrusted", rule="X5-17"),
    ):
        assert ask(client.port) == b""


def test_an_envoy_that_expects_somebody_else_opens_no_tunnel(
    folder: Path, file_world: FileWorld, door: TunnelsIn, echo_app: int
) -> None:
    with originator(folder, file_world, door, echo_app, expect=UNWANTED) as client:
        with ended(door, "handshake_failed"):
            assert ask(client.port) == b""
        assert client.statistics()["cluster.target.ssl.fail_verify_san"] >= 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_envoy_that_ends_without_a_word_takes_only_its_own_streams_along(
    folder: Path,
    file_world: FileWorld,
    door: TunnelsIn,
    echo_app: int,
    client: TunnelOriginator,
    number: signal.Signals,
) -> None:
    with (
        originator(folder, file_world, door, echo_app) as dying,
        dial(client.port) as other,
        dial(dying.port) as sock,
    ):
        talk(other, b"other")
        talk(sock, b"first")
        before = len(door.accesses)
        dying.stop(number)
        wait_until(lambda: len(door.accesses) > before, "the end of its stream")
        assert door.accesses[before]["outcome"] == "reset"
        talk(other, b"still there")


def test_a_uproxy_that_drains_lets_an_envoys_open_streams_finish(
    folder: Path, file_world: FileWorld, echo_app: int, engine: str
) -> None:
    with (
        TunnelsIn(folder, file_world.ours(ORDERS), echo_app, engine=engine) as uproxy,
        originator(folder, file_world, uproxy, echo_app) as client,
    ):
        uproxy.wait_until_ready()
        with dial(client.port) as sock:
            talk(sock, b"before")
            uproxy.send(signal.SIGTERM)
            wait_until(
                lambda: client.statistics()["cluster.target.upstream_cx_close_notify"],
                "Envoy to hear GOAWAY",
            )
            talk(sock, b"and after")
            assert uproxy.running
        assert uproxy.wait(15) == 0
        assert [line["outcome"] for line in uproxy.accesses] == ["closed"]


def test_a_rule_that_goes_ends_an_envoys_stream_and_not_its_tunnel(
    folder: Path, file_world: FileWorld, engine: str
) -> None:
    with (
        background(traffic.echo) as one,
        background(traffic.echo) as two,
        TunnelsIn(folder, file_world.ours(ORDERS), one, two, engine=engine) as uproxy,
    ):
        uproxy.wait_until_ready()
        with (
            originator(folder, file_world, uproxy, one) as client,
            dial(client.port) as sock,
        ):
            talk(sock, b"allowed")
            ours = handshakes(uproxy)
            rule = {**allowing(WEB), "to": {"ports": [two]}}
            uproxy.change(authorization=[rule])
            wait_until(lambda: uproxy.accesses, "its line")
            # which is an ordinary end to who talks to this Envoy
            assert sock.recv(100) == b""
            assert client.statistics()["cluster.target.http2.rx_reset"] == 1
            assert uproxy.accesses[0]["outcome"] == "policy_changed"
            uproxy.change(authorization=[allowing(WEB)])
            wait_until(lambda: ask(client.port) == b"hello\n", "the rule to hold again")
            assert handshakes(uproxy) == ours


# Envoy takes streams.


def test_streams_to_an_envoy_share_a_tunnel_and_both_know_who_talks(
    to_server: TunnelsOut, server: TunnelTerminator, echo_app: int
) -> None:
    before, before_lines = server.statistics(), len(said(server))
    with ended(to_server, "closed", count=20) as lines:
        for _ in range(20):
            assert ask(to_server.port) == b"hello\n"
    assert grown(server, before, f"listener.127.0.0.1_{server.port}.ssl.handshake") <= 1
    assert {(line["src.identity"], line["dst.identity"]) for line in lines} == {(WEB, ORDERS)}
    assert {line["dst.hbone_addr"] for line in lines} == {f"127.0.0.1:{echo_app}"}
    assert {line["dst.addr"] for line in lines} == {f"127.0.0.1:{server.port}"}
    wait_until(lambda: len(said(server)) >= before_lines + 20, "Envoy's lines")
    assert set(said(server)[before_lines:]) == {f"stream: 127.0.0.1:{echo_app} 200 - {WEB}"}


def test_bytes_arrive_through_an_envoy_that_takes_streams(to_server: TunnelsOut) -> None:
    with ended(to_server, "closed") as lines:
        asyncio.run(traffic.exchange(to_server.port, 8 * MIB + 1))
    line = only(lines)
    assert (line["bytes_recv"], line["bytes_sent"]) == (8 * MIB + 1, 8 * MIB + 1)


@pytest.mark.parametrize("allowed", [10, 100])
def test_a_cold_burst_keeps_to_what_an_envoy_allows(
    folder: Path, file_world: FileWorld, echo_app: int, engine: str, allowed: int
) -> None:
    """One stream too many would cost all of the tunnel's."""
    count = 2 * allowed + 20
    with (
        TunnelTerminator(
            folder, file_world.theirs(ORDERS), target=echo_app, allow=[WEB],
            http2={"max_concurrent_streams": allowed},
        ) as envoy,
        TunnelsOut(
            folder, file_world.ours(WEB), echo_app, end=envoy.port, engine=engine
        ) as uproxy,
    ):  # fmt: skip
        uproxy.wait_until_ready()
        with ended(uproxy, "closed", count=count, timeout=30):
            assert asyncio.run(crowds.gather(uproxy.port, count)) == Crowd(count, 0)
        tunnels = envoy.statistics("downstream_cx_total")["http.tunnels.downstream_cx_total"]
        assert tunnels <= count / allowed + 2


def test_a_half_close_comes_through_an_envoy_that_takes_streams(
    folder: Path, file_world: FileWorld, engine: str
) -> None:
    with (
        background(traffic.answer_digest) as app,
        TunnelTerminator(
            folder, file_world.theirs(ORDERS), target=app, allow=[WEB]
        ) as envoy,
        TunnelsOut(folder, file_world.ours(WEB), app, end=envoy.port, engine=engine) as uproxy,
    ):  # fmt: skip
        uproxy.wait_until_ready()
        with ended(uproxy, "closed"):
            asyncio.run(traffic.deliver(uproxy.port, MIB + 7))


def test_an_envoy_that_denies_us_is_a_refusal_in_words(
    folder: Path, file_world: FileWorld, server: TunnelTerminator, echo_app: int, engine: str
) -> None:
    with TunnelsOut(
        folder, file_world.ours(UNWANTED), echo_app, end=server.port, engine=engine
    ) as uproxy:
        uproxy.wait_until_ready()
        with ended(uproxy, "peer_refused", opened=False) as lines:
            assert ask(uproxy.port) == b""
        assert "answered the CONNECT with 403" in only(lines)["error"]
        wait_until(lambda: any(" 403 " in line for line in said(server)), "Envoy's line")


def test_an_envoy_whose_application_is_down_is_told_of_in_words(
    folder: Path, file_world: FileWorld, engine: str
) -> None:
    nowhere = free_port()
    with (
        TunnelTerminator(
            folder, file_world.theirs(ORDERS), target=nowhere, allow=[WEB]
        ) as envoy,
        TunnelsOut(folder, file_world.ours(WEB), nowhere, end=envoy.port, engine=engine) as uproxy,
    ):  # fmt: skip
        uproxy.wait_until_ready()
        with ended(uproxy, "connect_failed") as lines:
            assert ask(uproxy.port) == b""
        assert "answered the CONNECT with 503" in only(lines)["error"]


def test_an_envoy_with_a_wrong_identity_gets_no_stream(
    folder: Path, file_world: FileWorld, server: TunnelTerminator, echo_app: int, engine: str
) -> None:
    before = len(said(server))
    with TunnelsOut(
        folder, file_world.ours(WEB), echo_app, end=server.port, engine=engine, expect=[UNWANTED]
    ) as uproxy:
        uproxy.wait_until_ready()
        with ended(uproxy, "peer_unexpected") as lines:
            assert ask(uproxy.port) == b""
    assert ORDERS in only(lines)["error"]
    assert len(said(server)) == before


def test_an_envoy_that_restarts_cuts_what_is_open_and_is_found_again(
    folder: Path, file_world: FileWorld, echo_app: int, engine: str
) -> None:
    with (
        TunnelTerminator(folder, file_world.theirs(ORDERS), target=echo_app, allow=[WEB]) as envoy,
        TunnelsOut(
            folder, file_world.ours(WEB), echo_app, end=envoy.port, engine=engine
        ) as uproxy,
    ):  # fmt: skip
        uproxy.wait_until_ready()
        with dial(uproxy.port) as sock:
            talk(sock, b"before")
            with ended(uproxy, "reset"):
                envoy.stop(signal.SIGTERM)
                with pytest.raises(ConnectionResetError):
                    sock.recv(100)
        with ended(uproxy, "connect_failed"):
            assert ask(uproxy.port) == b""
        envoy.start()
        wait_until(lambda: ask(uproxy.port) == b"hello\n", "Envoy to be found again")


def test_an_envoy_that_drains_gets_no_new_stream_and_keeps_the_old_one(
    folder: Path, file_world: FileWorld, echo_app: int, engine: str
) -> None:
    with (
        TunnelTerminator(folder, file_world.theirs(ORDERS), target=echo_app, allow=[WEB]) as envoy,
        TunnelsOut(
            folder, file_world.ours(WEB), echo_app, end=envoy.port, engine=engine
        ) as uproxy,
    ):  # fmt: skip
        uproxy.wait_until_ready()
        with dial(uproxy.port) as old:
            talk(old, b"before")
            envoy.admin("/healthcheck/fail", "POST")
            # GOAWAY comes with the answer to the next CONNECT
            assert ask(uproxy.port) == b"hello\n"
            for _ in range(5):
                assert ask(uproxy.port) == b"hello\n"
            assert envoy.statistics("downstream_cx_total")["http.tunnels.downstream_cx_total"] > 1
            talk(old, b"still there")
        wait_until(lambda: len(uproxy.accesses) == 7, "all lines")
        assert {line["outcome"] for line in uproxy.accesses} == {"closed"}


# Envoy in between.


def test_a_waypoint_between_two_uproxies_is_who_calls_the_second(
    folder: Path, file_world: FileWorld, echo_app: int, engine: str
) -> None:
    with TunnelsIn(
        folder, file_world.ours(ORDERS), echo_app, engine=engine, allow=[WAYPOINT]
    ) as inbound:
        inbound.wait_until_ready()
        with (
            Waypoint(
                folder, file_world.theirs(WAYPOINT), target=inbound.port, allow=[WEB],
                authority=f"127.0.0.1:{echo_app}", expect=[ORDERS],
            ) as envoy,
            TunnelsOut(
                folder, file_world.ours(WEB), echo_app, end=envoy.port, engine=engine,
                expect=[WAYPOINT],
            ) as outbound,
        ):  # fmt: skip
            outbound.wait_until_ready()
            with ended(inbound, "closed") as lines, ended(outbound, "closed") as ours:
                asyncio.run(traffic.exchange(outbound.port, 4 * MIB + 1))
            assert only(lines)["src.identity"] == WAYPOINT
            assert only(ours)["dst.identity"] == WAYPOINT
            assert asyncio.run(crowds.gather(outbound.port, 150)) == Crowd(150, 0)
