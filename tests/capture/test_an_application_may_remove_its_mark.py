"""SO_MARK on a captured socket: who may set it leaves an eBPF capture, as documented; by nft there
is nothing to remove."""

from __future__ import annotations

import json

import pytest

from tests.helpers.capture_talk import app
from tests.helpers.capture_world import HOST, HOST6, World, run

SEEN = """table inet seen {
    counter clear { }
    chain before {
        type filter hook prerouting priority raw; policy accept;
        tcp dport 80 counter name clear
    }
}"""


def only(capabilities: str) -> list[str]:
    return ["setpriv", f"--bounding-set=-all{capabilities}", "--inh-caps=-all"]


def arrived(world: World) -> int:
    """How many segments have come to the host in clear."""
    words = ("ip", "netns", "exec", world.host, "nft", "--json", "list", "counters")
    [counter] = [
        each["counter"] for each in json.loads(run(*words))["nftables"] if "counter" in each
    ]
    return int(counter["packets"])


@pytest.mark.parametrize(("capability", "address"), [("net_admin", HOST), ("net_raw", HOST6)])
def test_who_may_remove_the_mark_goes_on_in_clear(
    either: World, capability: str, address: str
) -> None:
    run("ip", "netns", "exec", either.host, "nft", SEEN)
    either.attach()
    prefix = only(f",+{capability}")
    with (
        either.proxy(),
        app(either, either.pod, either.app, address, 80, "hold", "unmark", prefix=prefix) as client,
    ):
        assert client.seen()["answer"]["original"] == [address, 80]
        assert arrived(either) == 0
        client.say("still there")
        heard = client.hear()
    if either.mode == "ebpf":
        assert (heard, arrived(either) > 0) == ("ECONNRESET", True)
    else:
        assert (heard, arrived(either)) == ("still there", 0)


def test_without_a_capability_the_mark_stays(world: World) -> None:
    world.attach()
    with (
        world.proxy(),
        app(world, world.pod, world.app, HOST, 80, "unmark", prefix=only("")) as client,
    ):
        assert client.seen()["error"] == "EPERM"
