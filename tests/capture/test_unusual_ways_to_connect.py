"""What a kernel offers beside plain connect() leads to the proxy too, or nowhere."""

from __future__ import annotations

import pytest

from tests.helpers.capture_world import HOST, HOST6, POD, POD6, SECOND, World, run

BOTH_WAYS = 0x403
"""net.ipv4.tcp_fastopen: clients and all listeners."""


def setting(namespace: str, name: str, value: int) -> None:
    run("ip", "netns", "exec", namespace, "sysctl", "-qw", f"{name}={value}")


@pytest.mark.parametrize("address", [HOST, HOST6])
def test_a_cookie_for_the_destination_opens_nothing_at_the_proxy(
    either: World, address: str
) -> None:
    """A client that knows the destination's TCP Fast Open cookie sends its data with the SYN."""
    setting(either.host, "net.ipv4.tcp_fastopen", BOTH_WAYS)
    with either.service(either.host, 80):
        seen = [either.connect(address, 80, "fastopen") for _ in range(2)]
    assert [each["early"] for each in seen] == [False, True]
    either.attach()
    with either.proxy(), either.service(either.host, 80):
        captured = either.connect(address, 80, "fastopen")
        assert (captured["answer"]["original"], captured["early"]) == ([address, 80], False)


@pytest.mark.parametrize("address", [HOST, HOST6])
def test_data_in_the_syn_reaches_a_proxy_that_takes_it(either: World, address: str) -> None:
    setting(either.pod, "net.ipv4.tcp_fastopen", BOTH_WAYS)
    either.attach()
    with either.proxy():
        seen = [either.connect(address, 80, "fastopen") for _ in range(2)]
        assert [each["early"] for each in seen] == [False, True]
        assert [each["answer"]["original"] for each in seen] == [[address, 80]] * 2


@pytest.mark.parametrize("address", [HOST, HOST6])
@pytest.mark.parametrize("option", ["uring", "uring=async"])
def test_a_ring_connects_to_the_proxy_like_everybody(
    either: World, option: str, address: str
) -> None:
    """io_uring, also where a kernel thread of the application connects for it."""
    with either.server(either.host, 80):
        assert either.connect(address, 80, option)["answer"] == "real"
        either.attach()
        with either.proxy():
            seen = either.connect(address, 80, option)
    assert (seen["answer"]["original"], seen["peername"]) == ([address, 80], [address, 80])


@pytest.mark.parametrize("option", ["mptcp", "fastopen", "uring", "uring=async"])
def test_it_is_refused_at_once_without_the_proxy(either: World, option: str) -> None:
    either.attach()
    with either.server(either.host, 80):
        assert either.connect(HOST, 80, option)["error"] == "ECONNREFUSED"


@pytest.mark.parametrize("address", [HOST, HOST6])
def test_several_paths_at_once_are_one_to_the_proxy(either: World, address: str) -> None:
    for namespace in (either.pod, either.host):
        run("ip", "netns", "exec", namespace, "ip", "mptcp", "limits", "set", "subflow", "8",
            "add_addr_accepted", "8")  # fmt: skip
        run(
            "ip",
            "netns",
            "exec",
            namespace,
            "ip",
            "mptcp",
            "endpoint",
            "add",
            POD if namespace == either.pod else SECOND,
            "dev",
            "eth0",
            "subflow",
            "signal",
        )
    either.attach()
    with either.proxy(), either.server(either.host, 80):
        seen = either.connect(address, 80, "mptcp")
        assert seen["answer"] == {
            "door": "outbound", "original": [address, 80], "peer": seen["sockname"]
        }  # fmt: skip
        assert seen["peername"] == [address, 80]


@pytest.mark.parametrize("address", [HOST, HOST6])
def test_cookies_instead_of_a_queue_lead_to_the_proxy_too(either: World, address: str) -> None:
    """As under a flood of SYNs, which every listener meets with cookies."""
    for namespace in (either.pod, either.host):
        setting(namespace, "net.ipv4.tcp_syncookies", 2)
    either.attach("--inbound", "8080")
    with either.proxy():
        seen = either.connect(address, 80)
        assert seen["answer"]["original"] == [address, 80]
        own = POD if address == HOST else POD6
        assert either.call(own, 8080)["answer"]["original"] == [own, 8080]


@pytest.mark.parametrize("is_captured_first", [True, False])
def test_a_socket_that_connects_again_is_captured_by_where_it_connects_then(
    either: World, *, is_captured_first: bool
) -> None:
    either.attach("--exclude", SECOND)
    first, second = (HOST, SECOND) if is_captured_first else (SECOND, HOST)
    with either.proxy(), either.server(either.host, 80):
        answer = either.connect(first, 80, f"again={second}")["answer"]
    if is_captured_first:
        assert answer == "real"
    else:
        assert answer["original"] == [HOST, 80]
