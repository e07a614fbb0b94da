"""Addresses as the kernel writes them."""

from __future__ import annotations

import ctypes
import socket
from pathlib import Path

import pytest

from uproxy import sockaddr
from uproxy.model import Address, TcpAddress, UnixAddress

_LIBC = ctypes.CDLL(None, use_errno=True)


def connects(family: int, address: Address) -> bool:
    """By the C library's own connect, as the engine's threads do it."""
    packed = sockaddr.pack(address)
    with socket.socket(family) as connection:
        return int(_LIBC.connect(connection.fileno(), packed, len(packed))) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_kernel_connects_to_a_packed_host(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    there = socket.create_server((host, 0), family=family)
    with there:
        port = there.getsockname()[1]
        assert connects(family, TcpAddress(host, port))
    assert not connects(family, TcpAddress(host, port))


def test_the_kernel_connects_to_a_packed_path(tmp_path: Path) -> None:
    path = str(tmp_path / "there.sock")
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(path)
        there.listen()
        assert connects(socket.AF_UNIX, UnixAddress(path))


def test_a_zone_is_an_interface() -> None:
    index = socket.if_nametoindex("lo")
    by_name = sockaddr.pack(TcpAddress("fe80::1%lo", 80))
    assert by_name == sockaddr.pack(TcpAddress(f"fe80::1%{index}", 80))
    assert by_name[-4:] == index.to_bytes(4, "little") or by_name[-4:] == index.to_bytes(4, "big")
    with pytest.raises(OSError, match="no interface of this name"):
        sockaddr.pack(TcpAddress("fe80::1%nowhere", 80))


def test_a_path_that_no_socket_can_have_is_an_error() -> None:
    longest = "/" + 106 * "x"
    assert len(sockaddr.pack(UnixAddress(longest))) == 110
    with pytest.raises(OSError, match="File name too long"):
        sockaddr.pack(UnixAddress(longest + "x"))


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "::1", "::"])
def test_a_packed_host_reads_as_it_was_written(host: str) -> None:
    packed = (
        socket.inet_pton(socket.AF_INET6, host)
        if ":" in host
        else bytes(10) + b"\xff\xff" + socket.inet_pton(socket.AF_INET, host)
    )
    assert sockaddr.host_of(packed) == host


def test_a_packed_host_with_its_port_is_an_address() -> None:
    packed = bytes(10) + b"\xff\xff" + socket.inet_pton(socket.AF_INET, "192.0.2.7")
    assert sockaddr.address_of(packed, 80) == TcpAddress("192.0.2.7", 80)
