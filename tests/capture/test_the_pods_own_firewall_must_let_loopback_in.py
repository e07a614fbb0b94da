"""Rules of the pod's own at input: what they must let in for capture, and what becomes without."""

from __future__ import annotations

import pytest

from tests.helpers.capture_talk import app
from tests.helpers.capture_world import HOST, HOST6, IN, POD, POD6, World, run

ENDS = ("EPIPE", "ECONNRESET")


def firewall(world: World, rules: str, policy: str = "drop") -> None:
    table = f"""table inet firewall {{
        chain input {{
            type filter hook input priority 0; policy {policy};
            {rules}
        }}
    }}"""
    run("ip", "netns", "exec", world.pod, "nft", table)


def rules_for(world: World) -> str:
    """What a server's firewall has, without a word about loopback."""
    # nft has changed the port by then
    port = 8080 if world.mode == "ebpf" else IN
    return f"""
        ct state established,related accept
        meta l4proto ipv6-icmp accept
        tcp dport {port} accept
    """


@pytest.mark.parametrize(("remote", "own"), [(HOST, POD), (HOST6, POD6)])
def test_with_loopback_let_in_everything_is_captured(either: World, remote: str, own: str) -> None:
    firewall(either, f'{rules_for(either)}; iifname "lo" accept')
    either.attach("--inbound", "8080")
    with either.proxy(), either.server(either.pod, 8080, either.app):
        assert either.connect(remote, 80)["answer"]["original"] == [remote, 80]
        assert either.call(own, 8080)["answer"]["original"] == [own, 8080]
        again = either.run_app(either.pod, either.proxy_cgroup, own, 8080)
        assert again["answer"] == "real"


def test_without_it_connections_wait_in_vain_and_none_goes_out(either: World) -> None:
    firewall(either, rules_for(either))
    either.attach("--inbound", "8080")
    with either.proxy(), either.server(either.host, 80):
        assert either.connect(HOST, 80)["error"] == "timeout"
        assert either.call(POD, 8080)["answer"]["original"] == [POD, 8080]


def test_by_nft_the_port_to_let_in_is_the_proxys(either: World) -> None:
    firewall(either, 'iifname "lo" accept; tcp dport 8080 accept')
    either.attach("--inbound", "8080")
    with either.proxy():
        seen = either.call(POD, 8080)
    if either.mode == "ebpf":
        assert seen["answer"]["original"] == [POD, 8080]
    else:
        assert seen["error"] == "timeout"


@pytest.mark.parametrize("address", [HOST, HOST6])
def test_conntrack_finds_nothing_invalid_on_loopback(either: World, address: str) -> None:
    """From the first segment to the reset that a dead proxy's kernel sends."""
    firewall(either, "ct state invalid counter drop", "accept")
    either.attach()
    with (
        either.proxy() as proxy,
        app(either, either.pod, either.app, address, 80, "hold") as client,
    ):
        assert client.seen()["answer"]["original"] == [address, 80]
        client.say("x" * 60_000)
        assert client.hear()
        client.say("and on")
        while "and on" not in client.hear():
            client.say("and on")
        proxy.stop()
        for _ in range(3):
            client.say("is it there")
            heard = client.hear()
        assert heard in ENDS
