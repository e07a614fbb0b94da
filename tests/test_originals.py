"""What the kernel knows of connections that were brought to a listener of ours."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from tests.helpers.captured import inside, network
from uproxy import originals, sockets
from uproxy.model import TcpAddress


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "::"])
def test_loopback_is_this_host(address: str) -> None:
    assert originals.is_own(ip_address(address))


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_addresses_for_documentation_are_not_this_host(address: str) -> None:
    assert not originals.is_own(ip_address(address))


def test_nobody_steers_a_connection_to_a_unix_socket() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert originals.of(one, 0) is None


def test_a_connection_that_nobody_steered_was_made_to_the_listener_itself() -> None:
    with sockets.listen(TcpAddress("::", 0)) as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port)):
                listener.setblocking(True)
                accepted, _ = listener.accept()
                with accepted:
                    assert originals.of(accepted, port) == TcpAddress(host, port)


def test_a_socket_that_is_gone_has_no_original_destination() -> None:
    accepted = socket.socket()
    accepted.close()
    assert originals.of(accepted, 1) is None


def test_addresses_of_an_interface_are_this_host_as_soon_as_they_are_there() -> None:
    assert inside(__name__).split() == ["True", "True", "False", "False", "True"]


def _main() -> None:
    network()
    for address in ("192.0.2.1", "2001:db8::1", "192.0.2.2", "198.51.100.7"):
        print(originals.is_own(ip_address(address)))  # noqa: T201
    with sockets.listen(TcpAddress("::", 15001)) as listener:
        print(originals.make_transparent(listener))  # noqa: T201


if __name__ == "__main__":
    _main()
