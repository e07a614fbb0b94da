"""Errors of sockets in words, beyond those that the tests of `sockets` make happen."""

from __future__ import annotations

import errno
import os

import pytest

from uproxy import socketwords
from uproxy.model import TcpAddress, UnixAddress


@pytest.mark.parametrize(
    ("host", "instead"), [("::", "0.0.0.0:8443"), ("::1", "127.0.0.1:8443"), ("fd00::1", "0.0.0.0")]
)
def test_a_kernel_without_ipv6_names_the_address_and_the_way_out(host: str, instead: str) -> None:
    no = OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    words = str(socketwords.cannot_listen(TcpAddress(host, 8443), no))
    assert words.startswith(f"[{host}]:8443 can't be opened: this kernel has no IPv6; ")
    assert f"listen at {instead}" in words


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errno.ENODEV, "its zone is no interface of this machine"),
        (errno.EAFNOSUPPORT, "this kernel has no IPv6"),
        (errno.EAGAIN, "the queue of [fe80::1%eth0]:80 is full: the proxy of db doesn't accept"),
        (errno.ECONNREFUSED, "is the proxy of db running?"),
        (errno.ENOENT, "is the proxy of db running?"),
        (errno.EPROTO, "protocol error"),
    ],
)
def test_a_failure_to_connect_names_its_cause(error: int, words: str) -> None:
    assert words in socketwords.explain(error, TcpAddress("fe80::1%eth0", 80), "the proxy of db")


def test_an_address_that_is_not_ours_asks_whether_ipv6_is_on() -> None:
    no = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    words = str(socketwords.cannot_listen(TcpAddress("::1", 80), no))
    assert words == "[::1]:80 is no address of this machine; is IPv6 switched off here?"
    words = str(socketwords.cannot_listen(TcpAddress("192.0.2.1", 80), no))
    assert words == "192.0.2.1:80 is no address of this machine"


def test_a_unix_socket_that_can_not_be_made_says_why() -> None:
    no = OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    words = str(socketwords.cannot_listen(UnixAddress("/a"), no))
    assert words == "unix:///a can't be made: file name too long"
